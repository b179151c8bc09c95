#!/bin/bash
# Builds the image with the pods of tests/boot/pods, twice, and boots it: run.py has the tests. Usage: run.sh [PART-OF-A-NAME]…
# Needs no root but for installing what is missing. A machine it cannot run on is named in PLINTH_SKIPPED.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() {
  echo "boot: skipped: $1"
  [ -z "${PLINTH_SKIPPED:-}" ] || echo "boot tests: $1" >>"$PLINTH_SKIPPED"
  exit 0
}
[ "$(uname -m)" = x86_64 ] || skip "the image is for x86_64, this machine is not"
tests/packages.sh image || skip "packages are missing, see above"
export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" cargo build -q --release --locked --target "$host" -p plinth -p plinth-init
bin=target/$host/release out=target/boot
images/fetch.sh images/packages .cache/image
# Images that are imported when a pod asks for them, beside the one that every boot takes.
mkdir -p $out/images
cp .cache/busybox.tar $out/images/
for n in 1 2 3; do [ -s $out/images/cargo-$n.tar ] || tests/boot/cargo.py .cache/busybox.tar $out/images/cargo-$n.tar $n; done
build() { MANIFESTS=$1 IMAGES=$out/images CMDLINE=$3 images/build.sh "$bin/plinth" "$bin/plinth-init" .cache/image "$2"; }

build tests/boot/pods $out/image ""
build tests/boot/pods $out/again "" >/dev/null
for f in "$out"/image/*; do
  cmp "$f" "$out/again/$(basename "$f")" || { echo "FAILED two builds of the same inputs differ"; exit 1; }
done
rm -rf "$out/again"
echo "ok  two builds of the same inputs are the same bytes"

for most in initrd.img:8 root.erofs:90; do
  [ "$(stat -c %s "$out/image/${most%:*}")" -le "${most#*:}000000" ] || { echo "FAILED ${most%:*} is larger than ${most#*:} MB"; exit 1; }
done

mkdir -p $out/bad
sed 's/busybox:1.35/busybox:9.99/' tests/boot/pods/web.yaml >$out/bad/web.yaml
! said=$(build $out/bad $out/none "" 2>&1) && grep -q 'web.yaml:[0-9]*: image `docker.io/library/busybox:9.99`' <<<"$said" ||
  { echo "FAILED an image that no archive holds is built in: $said"; exit 1; }
sed 's/containerPort: 8080/containerPort: eighty/' tests/boot/pods/web.yaml >$out/bad/web.yaml
! said=$(build $out/bad $out/none "" 2>&1) && grep -q 'web.yaml:[0-9]*:[0-9]*' <<<"$said" ||
  { echo "FAILED a bad manifest is built in: $said"; exit 1; }
echo "ok  a bad manifest and a missing image fail the build with their line"

exec tests/boot/run.py $out/image "$@"
