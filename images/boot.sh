#!/bin/bash
# Boots an image in QEMU on this terminal: serial console, the guest's port 8080 on the host's loopback. Ctrl-a x leaves.
# The disk is a copy: what the machine writes is kept in OUT/boot.img and gone with the next `make image`. It is not worth this machine's
# own syncs (cache=unsafe).
# Usage: boot.sh OUT     PORT=8080  MEMORY=512 (MiB)  APPEND="words"
set -euo pipefail
out=${1:?} port=${PORT:-8080}
[ -s "$out/plinth.img" ] || { echo "boot.sh: find $out/plinth.img: run make image first" >&2; exit 1; }
[ "$out/boot.img" -nt "$out/plinth.img" ] || cp --sparse=always "$out/plinth.img" "$out/boot.img"

# /dev/kvm may be there and yet run nothing: a kernel without a root must get as far as its panic within 5 s.
# Emulated, a machine has one processor and no cmpxchg16b: with two, or with QEMU's cmpxchg16b, which leaves wrong flags behind now and then, kernels died.
accel=tcg cpu=max,-cx16 smp=1
if [ -w /dev/kvm ] && timeout -s KILL 5 qemu-system-x86_64 -accel kvm -cpu host -m 128 -nodefaults -display none -no-reboot \
  -serial stdio -kernel "$out/vmlinuz" -append "console=ttyS0 panic=-1" </dev/null 2>/dev/null | grep -aq 'Kernel panic'; then
  accel=kvm cpu=host smp=2
else
  echo "boot.sh: no KVM that works here: emulating (TCG), about ten times slower" >&2
fi
echo "boot.sh: http://127.0.0.1:$port/ is the web pod once it is Ready; Ctrl-a x leaves" >&2
exec qemu-system-x86_64 -machine q35 -accel $accel -cpu $cpu -smp $smp -m "${MEMORY:-512}" -nodefaults -display none \
  -chardev stdio,id=c,mux=on,signal=off -serial chardev:c -mon chardev=c \
  -kernel "$out/vmlinuz" -initrd "$out/initrd.img" -append "$(cat "$out/cmdline") ${APPEND:-}" \
  -drive "file=$out/boot.img,if=virtio,format=raw,discard=unmap,cache=unsafe" -device virtio-rng-pci -device i6300esb -action watchdog=reset \
  -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:8080" -device virtio-net-pci,netdev=net
