#!/bin/bash
# Unpacks one Debian package into a directory of ours, without installing it. Usage: fetch-deb.sh PACKAGE SUITE DIR
# SUITE `-` is the machine's own. The mirror is the one the machine's apt already uses, and apt verifies the
# suite's signature as always; the machine's package lists and packages stay as they are.
set -euo pipefail
package=${1:?package} suite=${2:?suite} dir=${3:?directory}
[ -d "$dir/usr" ] && exit 0

IFS='|' read -r mirror keyring own < <(apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)|$(RELEASE)' 'Created-By: Packages' |
  awk -F'|' '$1 == "Debian" && $2 == "main" { print $3 "|" $4 "|" $5; exit }') || true
if [ -z "${mirror:-}" ]; then
  echo "fetch-deb.sh: find a Debian mirror in apt's configuration: no index has label Debian and component main; run apt-get update first" >&2
  exit 1
fi
[ "$suite" != - ] || suite=$own
case ${keyring:-} in /*) ;; *) keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;; esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{lists/partial,cache/archives/partial,deb}
echo "deb [signed-by=$keyring] $mirror $suite main" >"$tmp/sources.list"
opts=(-o Dir::Etc::SourceList="$tmp/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$tmp/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$tmp/cache"
  -o APT::Sandbox::User=root -o Acquire::Languages=none)
apt-get "${opts[@]}" -qq update
(cd "$tmp/deb" && apt-get "${opts[@]}" -qq download "$package")
rm -rf "$dir" "$dir.part"
mkdir -p "$(dirname "$dir")"
dpkg-deb -x "$tmp"/deb/*.deb "$dir.part"
mv "$dir.part" "$dir"
