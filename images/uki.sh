#!/bin/bash
# Makes plinth.efi of vmlinuz, initrd.img and cmdline in OUT: one file that UEFI starts. Usage: uki.sh OUT OS-RELEASE
set -euo pipefail
out=${1:?} release=${2:?}
stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
align=0x$(objdump -p "$stub" | awk '$1 == "SectionAlignment" { print $2 }')
at=0
while read -r size start; do (( 0x$size + 0x$start <= at )) || at=$((0x$size + 0x$start)); done < <(objdump -h "$stub" | awk 'NF == 7 && $1 ~ /^[0-9]+$/ { print $3, $4 }')
sections=()
add() {
  at=$(((at + align - 1) / align * align))
  sections+=(--add-section "$1=$2" --change-section-vma "$1=$(printf 0x%x $at)")
  at=$((at + $(stat -Lc %s "$2")))
}
add .osrel "$release"
add .cmdline "$out/cmdline"
add .initrd "$out/initrd.img"
add .linux "$out/vmlinuz"
objcopy "${sections[@]}" "$stub" "$out/plinth.efi"
# objcopy puts the hour of the build into the PE header: the commit's instead, little-endian, 8 bytes behind the header's begin.
header=$(od -An -tu4 -j60 -N4 "$out/plinth.efi" | tr -d ' ')
printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((SOURCE_DATE_EPOCH & 255)) $((SOURCE_DATE_EPOCH >> 8 & 255)) $((SOURCE_DATE_EPOCH >> 16 & 255)) $((SOURCE_DATE_EPOCH >> 24 & 255)))" |
  dd of="$out/plinth.efi" bs=1 seek=$((header + 8)) conv=notrunc status=none
# Its checksum was over that hour; firmware takes none for an answer.
printf '\0\0\0\0' | dd of="$out/plinth.efi" bs=1 seek=$((header + 88)) conv=notrunc status=none
