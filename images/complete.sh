#!/bin/bash
# Refuses a tree in which a program lacks a library or its loader, or a link leads nowhere. Usage: complete.sh DIR
set -euo pipefail
root=${1:?}
lacks=$(find "$root" -type f ! -name '*.ko' -print0 | while IFS= read -r -d '' file; do
  [ "$(head -c4 "$file" | tr -d '\0')" = $'\x7fELF' ] || continue
  readelf -dl "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/usr\/lib\/x86_64-linux-gnu\/\1/p; s/.*program interpreter: \/\(.*\)\]/\1/p' | while read -r needs; do
    [ -e "$root/$needs" ] || [ -e "$root/usr/${needs}" ] || echo "  ${file#"$root"} needs $needs"
  done
done)
lacks+=$(find "$root" -type l ! -lname '*../run*' ! -lname '*/.images' | while read -r link; do
  case $(readlink "$link") in /*) to=$root$(readlink "$link") ;; *) to=$(dirname "$link")/$(readlink "$link") ;; esac
  [ -e "$to" ] || printf '\n  %s leads nowhere' "${link#"$root"}"
done)
[ -z "$lacks" ] || { printf 'complete.sh: these are not complete; name what they need in images/packages:\n%s\n' "$lacks" >&2; exit 1; }
