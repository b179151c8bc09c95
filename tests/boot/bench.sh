#!/bin/bash
# Builds an image of the demo's pods and a floor beside it, and measures: bench.py. Usage: bench.sh PLINTH INIT PACKAGES-DIR OUT
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin:/sbin
plinth=${1:?} init=${2:?} cache=${3:?} out=${4:?}
rm -rf "$out"
mkdir -p "$out"/{pods,images}
cp .cache/busybox.tar "$out/images/"
cp images/demo/image/*.yaml "$out/pods/"
MANIFESTS=$out/pods IMAGES=$out/images CMDLINE= images/build.sh "$plinth" "$init" "$cache" "$out/image"
cp tests/boot/pods/witness.yaml "$out/pods/"
MANIFESTS=$out/pods IMAGES=$out/images CMDLINE= images/build.sh "$plinth" "$init" "$cache" "$out/asked" >/dev/null

images/initrd.sh "$cache" "$init" "$out/floor"
mkdir -p "$out/floor"/{proc,sys,dev,root}
install -m 755 tests/boot/floor.init "$out/floor/init"
(cd "$out/floor" && find . -mindepth 1 -printf '%P\n' | cpio --quiet -o -H newc -R +0:+0 | zstd -q -19 -f -o ../floor.img)
exec tests/boot/bench.py "$out/image" "$out/asked" "$out/floor.img" "$plinth" "$init"
