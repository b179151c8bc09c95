#!/bin/bash
# Unpacks the packages of images/packages, each into a directory of its own: DIR/<package>. Nothing is installed.
# DIR/versions gets a line a package: name, version, suite, SHA-256 of the .deb. Usage: fetch.sh LIST DIR
# The mirror is the one the machine's apt already uses, and apt verifies the suites' signatures as always. What was
# fetched stays as it is until the list changes or DIR is removed.
set -euo pipefail
list=$(realpath "${1:?list}") dir=$(realpath -m "${2:?directory}")
wanted=$(sed 's/#.*//' "$list" | awk 'NF { print $1, $2 }' | LC_ALL=C sort -u)
[ "$(cat "$dir/wanted" 2>/dev/null)" != "$wanted" ] || exit 0

found=$("$(dirname "$0")/mirror.sh")
read -r mirror keyring _ <<<"$found"

rm -rf "$dir"
mkdir -p "$dir"/apt/{lists/partial,cache/archives/partial} "$dir/deb"
trap 'rm -rf "$dir/apt" "$dir/deb"' EXIT
: >"$dir/apt/status"
cut -d' ' -f2 <<<"$wanted" | sort -u | while read -r suite; do echo "deb [arch=amd64 signed-by=$keyring] $mirror $suite main"; done >"$dir/apt/sources.list"
apt=(-o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache"
  -o Dir::State::status="$dir/apt/status" -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none -o APT::Sandbox::User=)
apt-get "${apt[@]}" -qq update

while read -r package suite; do
  real=$package
  # The kernel's package of no version depends on the one with.
  case $package in linux-image-*) real=$(apt-cache "${apt[@]}" show "$package/$suite" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -1) ;; esac
  (cd "$dir/deb" && apt-get "${apt[@]}" -qq download "$real/$suite")
  deb=$(echo "$dir"/deb/*.deb)
  dpkg-deb -x "$deb" "$dir/$package"
  echo "$package $(dpkg-deb -f "$deb" Version) $suite $(sha256sum "$deb" | cut -d' ' -f1) $real" >>"$dir/versions"
  rm "$deb"
done <<<"$wanted"
echo "$wanted" >"$dir/wanted"
