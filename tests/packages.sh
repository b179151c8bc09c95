#!/bin/bash
# Installs what plinth's build, tests and demo need, asking apt only for what is missing. Usage: packages.sh build|test|image
# Mirrors and suites are the machine's own apt configuration; nothing is written to it, and no package is removed.
set -euo pipefail
cd "$(dirname "$0")/.."

build=(protobuf-compiler libprotobuf-dev gcc libc6-dev)
test=(curl runc crun containernetworking-plugins busybox-static iproute2 iptables nftables procps python3 jq mount util-linux zsh fish man-db groff)
image=(erofs-utils cryptsetup-bin fdisk mtools e2fsprogs cpio binutils kmod xz-utils zstd python3 systemd-boot-efi qemu-system-x86 qemu-utils ovmf)

case ${1:-} in
build) want=("${build[@]}") ;;
test) want=("${build[@]}" "${test[@]}") ;;
image) want=("${build[@]}" "${image[@]}") ;;
*) echo "usage: $0 build|test|image" >&2; exit 2 ;;
esac

fail() { echo "packages.sh: $*" >&2; exit 1; }
export PATH=$PATH:$HOME/.cargo/bin
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# Whether version $1 is at least what Cargo.toml asks for.
enough() { [ -n "$1" ] && printf '%s\n' "$rust" "$1" | sort -VC; }
cargo_version() { cargo --version 2>/dev/null | cut -d" " -f2 || true; }
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([0-9][0-9.]*\).*/\1/p'; }
# Debian's newest Rust comes as *-web beside its own, for what is built with it in a stable release; that has all we need.
debian_rust() {
  enough "$(candidate cargo-web)" && echo cargo-web rustc-web && return
  enough "$(candidate cargo)" && echo cargo rustc && return
  [ -n "$(candidate rustup)" ] && echo rustup
}

missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
has=$(cargo_version)
if ! enough "$has"; then
  if [ -n "$has" ]; then
    fail "cargo is $has and must be $rust or newer: rustup update stable, or apt's cargo-web instead of cargo"
  elif ! command -v rustup >/dev/null; then
    [ -n "$(debian_rust)" ] || [ "$(id -u)" != 0 ] || apt-get update -qq
    found=$(debian_rust) || fail "find Rust $rust or newer: apt has none (the security suites of Debian 12 and 13 have cargo-web); https://rustup.rs has"
    read -ra found <<<"$found"
    missing+=("${found[@]}")
  fi
fi

log=$(mktemp) private=$(mktemp -d)
trap 'rm -rf "$log" "$private"' EXIT
export DEBIAN_FRONTEND=noninteractive
get() { apt-get "$@" -qq -y --no-install-recommends --no-remove </dev/null >"$log" 2>&1; }
# Lists that are old or were never fetched are fetched, once.
install() { get install "${missing[@]}" || { apt-get update -qq && get install "${missing[@]}"; } || install_beside_backports; }
# QEMU's packages are of one version. Where its tools came from the backports and apt knows these no more, the rest comes from there too, by lists of
# this run's own beside the machine's.
install_beside_backports() {
  dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null | grep -q '~bpo' || return 1
  local mirror keyring suite own found
  found=$(images/mirror.sh) || return 1
  read -r mirror keyring suite <<<"$found"
  mkdir -p "$private"/{lists/partial,parts}
  cp /etc/apt/sources.list.d/* "$private/parts/"
  [ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$private/parts/own.list"
  echo "deb [signed-by=$keyring] $mirror $suite-backports main" >"$private/parts/backports.list"
  printf 'Package: src:qemu src:seabios\nPin: release n=%s-backports\nPin-Priority: 600\n' "$suite" >"$private/pins"
  own=(-o Dir::Etc::Preferences="$private/pins" -o APT::Sandbox::User=root -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$private/parts" -o Dir::State::Lists="$private/lists")
  apt-get "${own[@]}" -qq update && get "${own[@]}" install "${missing[@]}"
}
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}; run this as root, or install them"
  echo "packages.sh: installing ${missing[*]}"
  install || { tail -20 "$log" >&2; fail "install ${missing[*]}: see above"; }
fi
# rustup without a toolchain: the user's, or what apt had.
if [ -z "$(cargo_version)" ]; then
  echo "packages.sh: installing Rust by rustup"
  rustup default stable >"$log" 2>&1 || { tail -5 "$log" >&2; fail "install Rust by rustup: see above"; }
fi
