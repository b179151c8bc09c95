#!/bin/bash
# Puts everything in OUT on one GPT disk, OUT/plinth.img: boots by UEFI alone, or with vmlinuz and initrd given from
# outside. The state partition is last and blank: /init makes its file system. Usage: disk.sh OUT STATE-SIZE
set -euo pipefail
out=${1:?} state=${2:?}
mib=1048576
id() { printf '706c696e-7468-4000-8001-%012d' "$1"; }
sized() { echo $((($(stat -c %s "$1") + mib - 1) / mib)); }

esp=$out/esp.img esp_mib=$(($(sized "$out/plinth.efi") + 4))
rm -f "$esp" "$out/plinth.img"
truncate -s ${esp_mib}M "$esp"
mformat -i "$esp" -N 706c696e -v PLINTH ::
mmd -i "$esp" ::/EFI ::/EFI/BOOT
touch -d "@$SOURCE_DATE_EPOCH" "$out/plinth.efi"
mcopy -m -i "$esp" "$out/plinth.efi" ::/EFI/BOOT/BOOTX64.EFI

at=1 n=0 table=
put() {
  n=$((n + 1))
  table+="start=$((at * 2048)), size=$(($3 * 2048)), type=$2, uuid=$(id $n), name=$1"$'\n'
  [ -z "${4:-}" ] || dd if="$4" of="$out/plinth.img" bs=1M seek=$at conv=notrunc,sparse status=none
  at=$((at + $3))
}
state_mib=$(($(numfmt --from=iec "$state") / mib))
truncate -s $((1 + esp_mib + $(sized "$out/root.erofs") + $(sized "$out/root.verity") + $(sized "$out/manifests.erofs") + state_mib + 1))M "$out/plinth.img"
put plinth-esp C12A7328-F81F-11D2-BA4B-00A0C93EC93B $esp_mib "$esp"
put plinth-root 4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709 "$(sized "$out/root.erofs")" "$out/root.erofs"
put plinth-root-verity 2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5 "$(sized "$out/root.verity")" "$out/root.verity"
put plinth-manifests 0FC63DAF-8483-4772-8E79-3D69D8477DE4 "$(sized "$out/manifests.erofs")" "$out/manifests.erofs"
put plinth-state 0FC63DAF-8483-4772-8E79-3D69D8477DE4 $state_mib
sfdisk --quiet --wipe-partitions never --no-reread --no-tell-kernel "$out/plinth.img" <<<"label: gpt
label-id: $(id 0)
first-lba: 2048
$table" >/dev/null
rm "$esp"
