#!/bin/bash
# Fills a directory with what the root file system holds. Usage: root.sh PACKAGES-DIR PLINTH INIT BUILD-TIME DIR
# Only files that images/packages and images/modules name, the skeleton, plinth and its init: no shell login, no package manager.
set -euo pipefail
cache=${1:?} plinth=${2:?} init=${3:?} build_time=${4:?} root=${5:?}
here=$(dirname "$(realpath "$0")")

mkdir -p "$root"/{dev,proc,sys,run,tmp,state,etc,var/{lib/{containerd,plinth},log,tmp},usr/{bin,sbin,lib,lib64,lib/plinth/manifests}}
for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
ln -s ../run "$root/var/run"
cp -a --no-preserve=ownership "$here/skeleton/." "$root/"
find "$root" -name .keep -delete

while read -r package files; do
  "$here/take.sh" "$cache/$package" "$root" $files
  copyright=usr/share/doc/$package/copyright
  [ -L "$cache/$package/$copyright" ] || [ ! -e "$cache/$package/$copyright" ] || install -D -m 644 "$cache/$package/$copyright" "$root/$copyright"
done < <(sed 's/#.*//; s/@initrd//' "$here/packages" | awk '$3 && $3 != "@kernel" { $2 = ""; print }')

# The kernel asks for modules by this name; the rest of busybox is reached by its own.
ln -s ../bin/busybox "$root/usr/sbin/modprobe"
ln -s manifests/.images "$root/usr/lib/plinth/images"
mkdir -p "$root/etc/ssl/certs"
LC_ALL=C cat "$cache"/ca-certificates/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root/usr/share/ca-certificates"

install -m 755 "$plinth" "$root/usr/bin/plinth"
install -m 755 "$init" "$root/usr/lib/plinth/init"
install -D -m 644 "$here/containerd.toml" "$root/etc/containerd/config.toml"
echo "BUILD_TIME=$build_time" >"$root/etc/plinth-release"

"$here/modules.sh" "$cache" root "$root"
"$here/complete.sh" "$root"
# A checkout has the modes its user's umask left.
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp" "$root/var/tmp"
