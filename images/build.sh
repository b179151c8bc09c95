#!/bin/bash
# Builds the image: kernel, initrd, verified root, manifests, disk and UKI, and prints what it weighs. As an ordinary user.
# Same inputs, same bytes: nothing of the build's time, place or user gets in.
#
# Usage: build.sh PLINTH INIT PACKAGES-DIR OUT-DIR
#   MANIFESTS=DIR  pods of the read-only partition        [the demo's]
#   IMAGES=DIR     OCI archives beside them               [the demo's busybox]
#   STATE=SIZE     of the empty state partition           [512M]
#   CMDLINE=WORDS  appended to the kernel command line    [plinth.ip=dhcp]
#   SIGNED=1       keep the modules' signatures           [stripped: see modules.sh]
#   SOURCE_DATE_EPOCH                                     [the commit's time]
set -euo pipefail
plinth=$(realpath "${1:?plinth binary}") init=$(realpath "${2:?init binary}") cache=$(realpath "${3:?packages}") out=$(realpath -m "${4:?out}")
here=$(dirname "$(realpath "$0")")
export LC_ALL=C TZ=UTC PATH=$PATH:/usr/sbin:/sbin
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 1735689600)}
umask 022
say() { printf 'image: %s\n' "$*"; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Names of file systems and partitions: fixed, so that two builds agree and an update finds what it replaces.
id() { printf '706c696e-7468-4000-8000-%012d' "$1"; }
salt=$(printf plinth | sha256sum | cut -d' ' -f1)

# Everything below DIR is as old as the source: a checkout's hour is nobody's business, and mkfs.erofs only ever makes files older.
dated() { find "$1" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +; }
# DIR to a compressed, read-only FILE.
erofs() { dated "$1" && mkfs.erofs --quiet -zlz4hc -C65536 --all-root -T "$SOURCE_DATE_EPOCH" -U "$(id "$3")" "$2" "$1" >/dev/null; }
# FILE to a hash tree in TREE from OFFSET on; prints the root hash.
verity() { veritysetup format "$1" "$2" --salt="$salt" --uuid="$(id "$3")" --hash-offset="${4:-0}" | sed -n 's/^Root hash:[[:space:]]*//p'; }

# What the user gives is looked at before anything is built from it.
manifests=$(realpath "${MANIFESTS:-$here/demo/image}") images=$(realpath "${IMAGES:-$here/../.cache}")
"$here/pods.py" "$plinth" "$manifests" "$images"
mkdir -p "$tmp/manifests/.images" "$out"
cp -rL "$manifests/." "$tmp/manifests/"
find "$images" -maxdepth 1 -name '*.tar' -exec cp -L {} "$tmp/manifests/.images/" \;
chmod -R u=rwX,go=rX "$tmp/manifests"
erofs "$tmp/manifests" "$out/manifests.erofs" 1
manifests_bytes=$(stat -c %s "$out/manifests.erofs")
manifests_hash=$(verity "$out/manifests.erofs" "$out/manifests.erofs" 2 "$manifests_bytes")

"$here/root.sh" "$cache" "$plinth" "$init" "$SOURCE_DATE_EPOCH" "$tmp/root"
"$here/spdx.py" "$here/packages" "$cache/versions" "$plinth" "$init" "$SOURCE_DATE_EPOCH" >"$out/plinth.spdx.json"
install -D -m 644 "$out/plinth.spdx.json" "$tmp/root/usr/share/doc/plinth/plinth.spdx.json"
erofs "$tmp/root" "$out/root.erofs" 3
# A larger one of an earlier build would keep its end.
rm -f "$out/root.verity"
root_hash=$(verity "$out/root.erofs" "$out/root.verity" 4)
echo "$root_hash" >"$out/root.hash"

"$here/initrd.sh" "$cache" "$init" "$tmp/initrd"
dated "$tmp/initrd"
(cd "$tmp/initrd" && find . -mindepth 1 -printf '%P\n' | sort |
  cpio --quiet -o -H newc -R +0:+0 --reproducible | zstd -q -19 -T1 -f -o "$out/initrd.img")
cp "$cache"/linux-image-cloud-amd64/boot/vmlinuz-* "$out/vmlinuz"
# cryptomgr.notests: the kernel's tests of its own ciphers are a fifth of all instructions of a boot, and say the same every time.
# jent_mod_init: the jitter generator measures itself, for ciphers that ask the kernel for keys; nobody here does, and /dev/random has a source of its own.
# ftrace_check_for_weak_functions: names each function of the kernel that could be traced, for a list nobody here reads.
# plinth.layers: what is sealed here stays so; settings of the overlay come after the command line.
# rcu_expedited: modules, rules, namespaces and control groups each wait for a grace period, and a boot makes dozens of them.
echo "console=ttyS0 quiet panic=10 cgroup_favordynmods=true rcupdate.rcu_expedited=1 cryptomgr.notests initcall_blacklist=jent_mod_init,ftrace_check_for_weak_functions plinth.layers=/usr/lib/plinth/manifests,/run/plinth/manifests,/etc/plinth/manifests plinth.roothash=$root_hash plinth.manifestshash=$manifests_hash ${CMDLINE-plinth.ip=dhcp}" >"$out/cmdline"
"$here/uki.sh" "$out" "$tmp/root/etc/os-release"
"$here/disk.sh" "$out" "${STATE:-512M}"

say "root hash $root_hash"
size() { printf '  %-28s %8.1f MB\n' "$1" "$(awk -v b="$(stat -c %s "$2")" 'BEGIN { print b / 1e6 }')"; }
for f in vmlinuz initrd.img root.erofs root.verity manifests.erofs plinth.efi; do size "$f" "$out/$f"; done
size 'plinth (in the root)' "$plinth"
size 'plinth-init (root, initrd)' "$init"
printf '  %-28s %8.1f MB\n' 'plinth.img on the disk' "$(du -k "$out/plinth.img" | awk '{ print $1 * 1024 / 1e6 }')"
