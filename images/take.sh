#!/bin/bash
# Copies files of an unpacked package, by their names in images/packages. Usage: take.sh FROM TO GLOB…
# A name that fits nothing is an error: the package changed, or the list is wrong.
set -euo pipefail
from=${1:?} to=${2:?}
shift 2
for glob; do
  found=
  # shellcheck disable=SC2086
  for file in "$from"/$glob; do
    [ -e "$file" ] || [ -L "$file" ] || continue
    found=yes
    mkdir -p "$to/$(dirname "${file#"$from"/}")"
    cp -d --preserve=mode,timestamps "$file" "$to/${file#"$from"/}"
  done
  [ -n "$found" ] || { echo "take.sh: find $glob in package $(basename "$from"): there is none; correct images/packages" >&2; exit 1; }
done
