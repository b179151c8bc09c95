#!/bin/bash
# Kernel modules of images/modules, unpacked from the kernel's package, with the lists that are loaded at boot.
# Usage: modules.sh PACKAGES-DIR initrd|root DIR
#   initrd: DIR/lib/modules/*.ko and DIR/etc/modules
#   root:   DIR/usr/lib/modules/<release>/ with everything the list names and its index, and DIR/usr/lib/plinth/modules
set -euo pipefail
cache=${1:?} when=${2:?} root=${3:?}
here=$(dirname "$(realpath "$0")")
kernel=$cache/linux-image-cloud-amd64
release=$(ls "$kernel/usr/lib/modules")
[ -s "$kernel/usr/lib/modules/$release/modules.dep" ] || depmod -b "$kernel/usr" "$release"

named() { sed 's/#.*//' "$here/modules" | awk -v when="$1" '$1 == when { for (i = 2; i <= NF; i++) print $i }'; }
# Each named module behind what it depends on, each once: paths below the release.
ordered() {
  for m in "$@"; do
    modprobe -d "$kernel/usr" -S "$release" --show-depends "$m" | sed -n "s|^insmod .*/$release/\(.*\)\.ko.*|\1|p" | sed "s|\$|.ko|"
  done | awk '!seen[$0]++'
}
# Their signatures go: root and initrd are verified as a whole, and checking each module again is most of the time of loading it. So do the
# names of their inner functions, the tables by which a backtrace leads through them, which the kernel sorts anew at each boot, and what the
# function tracer patches: most of the rest. A kernel under Secure Boot's lockdown wants the signatures: SIGNED=1 leaves all of it.
unpack() {
  mkdir -p "$(dirname "$2")"
  xz -dc "$kernel/usr/lib/modules/$release/$1.xz" >"$2"
  [ -z "${SIGNED:-}" ] || return 0
  "$here/untrace.py" "$2"
  local gone=(.BTF .orc_unwind .orc_unwind_ip .rela.orc_unwind_ip .orc_header {,.rela}{__mcount_loc,__patchable_function_entries})
  strip --strip-unneeded "${gone[@]/#/--remove-section=}" "$2"
}

case $when in
initrd)
  mkdir -p "$root/etc"
  # shellcheck disable=SC2046
  for path in $(ordered $(named initrd)); do
    unpack "$path" "$root/lib/modules/$(basename "$path")"
    basename "$path"
  done >"$root/etc/modules"
  ;;
root)
  base=$root/usr/lib/modules/$release
  # shellcheck disable=SC2046
  for path in $(ordered $(named initrd) $(named root) $(named demand)); do unpack "$path" "$base/$path"; done
  mkdir -p "$root/usr/lib/plinth"
  # shellcheck disable=SC2046
  ordered $(named root) | grep -vxF "$(ordered $(named initrd))" | sed "s|^|$release/|" >"$root/usr/lib/plinth/modules"
  cp "$kernel/usr/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$base/"
  depmod -b "$root/usr" "$release"
  # busybox reads the text forms; the binary ones are for another loader.
  rm -f "$base"/*.bin "$base"/modules.builtin* "$base/modules.order" "$base/modules.devname"
  ;;
*) echo "modules.sh: initrd or root, not $when" >&2; exit 2 ;;
esac
