#!/bin/bash
# Fills a directory with what the initrd holds: /init, its modules, the checker and maker of the state file system, a
# rescue shell. Usage: initrd.sh PACKAGES-DIR INIT DIR
set -euo pipefail
cache=${1:?} init=${2:?} root=${3:?}
here=$(dirname "$(realpath "$0")")
mkdir -p "$root"/{dev,proc,sys,run,etc,usr/{bin,sbin,lib,lib64}}
for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
while read -r package files; do
  # shellcheck disable=SC2086
  "$here/take.sh" "$cache/$package" "$root" $files
done < <(sed 's/#.*//' "$here/packages" | awk '$3 == "@initrd" { $2 = $3 = ""; print }')
install -m 755 "$init" "$root/init"
# mke2fs wants its table of kinds; ours is one line of defaults.
cp "$here/skeleton/etc/mke2fs.conf" "$root/etc/"
"$here/modules.sh" "$cache" initrd "$root"
"$here/complete.sh" "$root"
# A checkout has the modes its user's umask left.
chmod -R u=rwX,go=rX "$root"
