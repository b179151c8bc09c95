#!/bin/bash
# Installs what plinth's build, tests and demo need, asking apt only for what is missing. Usage: packages.sh build|test|image
# Mirrors and suites are the machine's own apt configuration; nothing is written to it.
set -euo pipefail

build=(protobuf-compiler libprotobuf-dev gcc libc6-dev)
test=(runc crun containernetworking-plugins busybox-static iproute2 iptables python3 jq mount util-linux)
image=(erofs-utils cryptsetup-bin fdisk mtools e2fsprogs cpio binutils kmod xz-utils zstd python3 systemd-boot-efi qemu-system-x86)

case ${1:-} in
build) want=("${build[@]}") ;;
test) want=("${build[@]}" "${test[@]}") ;;
image) want=("${build[@]}" "${image[@]}") ;;
*) echo "usage: $0 build|test|image" >&2; exit 2 ;;
esac

missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
  # Debian 13 has rustup; Debian 12's own Rust is too old and it has no rustup.
  if [ -z "$(apt-cache search --names-only '^rustup$' 2>/dev/null)" ] && ! { [ "$(id -u)" = 0 ] && apt-get update -q >/dev/null && [ -n "$(apt-cache search --names-only '^rustup$')" ]; }; then
    echo "packages.sh: find cargo: it is not installed, and apt has no rustup; install Rust 1.90 or newer with rustup, then run this again" >&2
    exit 1
  fi
  missing+=(rustup)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" != 0 ]; then
  echo "packages.sh: missing ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "packages.sh: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
}
if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
  rustup toolchain install stable --profile minimal
fi
