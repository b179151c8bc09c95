#!/bin/bash
# Makes an OCI image archive from Debian's busybox-static: no registry, no daemon. Same input, same bytes.
# Usage: busybox-archive.sh OUT.tar REFERENCE [CONFIG-JSON [PROGRAM]...]
# CONFIG-JSON is the image configuration's `config` object; default {"Cmd":["sh"],"Env":["PATH=…"]}. Each PROGRAM of this machine is put
# into /bin, with the libraries it is linked to.
set -euo pipefail
out=${1:?output file} ref=${2:?reference} config=${3:-'{"Cmd":["sh"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}'}

busybox=$(command -v busybox) || { echo "busybox-archive.sh: find busybox: install busybox-static" >&2; exit 1; }
case $(dpkg --print-architecture 2>/dev/null || uname -m) in
amd64 | x86_64) arch=amd64 ;;
arm64 | aarch64) arch=arm64 ;;
*) echo "busybox-archive.sh: no OCI architecture name known for this machine" >&2; exit 1 ;;
esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root blobs=$tmp/oci/blobs/sha256
mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,root,var/www,home} "$blobs"
chmod 1777 "$root/tmp"
install -m 755 "$busybox" "$root/bin/busybox"
for a in $("$busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$root/bin/$a"; done
ln -s bin "$root/sbin"
mkdir -p "$root/usr" && ln -s ../bin "$root/usr/bin" && ln -s ../bin "$root/usr/sbin"
printf 'root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nwww:x:33:\nlogs:x:44:www\nnogroup:x:65534:\n' >"$root/etc/group"
printf '<!doctype html><title>plinth</title><p>Static pods stand on it.\n' >"$root/var/www/index.html"

for program in "${@:4}"; do
  install -m 755 "$program" "$root/bin/"
  { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r lib; do install -D -m 755 "$lib" "$root$lib"; done
done

same=(--sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=ustar)
digest() { sha256sum "$1" | cut -d' ' -f1; }
blob() { local d; d=$(digest "$1"); mv "$1" "$blobs/$d"; echo "$d"; }

tar "${same[@]}" -C "$root" -cf "$tmp/layer" .
layer_size=$(stat -c %s "$tmp/layer") layer=$(blob "$tmp/layer")
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"busybox-archive.sh"}]}' \
  "$arch" "$config" "$layer" >"$tmp/config"
config_size=$(stat -c %s "$tmp/config") config_digest=$(blob "$tmp/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
  "$config_digest" "$config_size" "$layer" "$layer_size" >"$tmp/manifest"
manifest_size=$(stat -c %s "$tmp/manifest") manifest=$(blob "$tmp/manifest")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
  "$manifest" "$manifest_size" "$arch" "$ref" "${ref##*:}" >"$tmp/oci/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$tmp/oci/oci-layout"
mkdir -p "$(dirname "$out")"
# oci-layout and index.json first: a reader finds the names without reading past the blobs.
tar "${same[@]}" -C "$tmp/oci" -cf "$out.part" oci-layout index.json blobs
mv "$out.part" "$out"
