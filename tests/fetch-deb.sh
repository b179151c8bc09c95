#!/bin/bash
# Unpacks one Debian package into a directory of ours, without installing it. Usage: fetch-deb.sh PACKAGE SUITE DIR
# SUITE `-` is the machine's own. The mirror is the one the machine's apt already uses, and apt verifies the
# suite's signature as always; the machine's package lists and packages stay as they are.
set -euo pipefail
package=${1:?package} suite=${2:?suite} dir=${3:?directory}
[ -d "$dir/usr" ] && exit 0

found=$("$(dirname "$0")/../images/mirror.sh")
read -r mirror keyring own <<<"$found"
[ "$suite" != - ] || suite=$own

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
