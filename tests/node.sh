#!/bin/bash
# A private node: mount and network namespaces of its own, containerd of its own in them. The machine's network,
# mounts, cgroups and processes are left alone; `down` says what a test left behind.
#
#   node.sh up DIR CONTAINERD-DIR     make namespaces, start containerd; DIR gets `holder.pid`, `containerd.pid`, `containerd.sock`
#   node.sh exec DIR CMD...           run CMD inside
#   node.sh containerd DIR start|stop|kill|wipe
#   node.sh leaks DIR [stopped]       print what of pods is still there; exit 1 if anything is. `stopped`: after a shutdown, when
#                                     records and data of pods that are still wanted stay
#   node.sh reboot DIR               what a power cut does: processes, mounts, /run; a new boot id
#   node.sh down DIR                  end every process inside, remove the namespaces and DIR's state
#
# CONTAINERD_CONFIG: a configuration for containerd 2.x instead of images/containerd.toml.
# DIR: root (containerd's data), state, data, run (tmpfs), logs, cni (conf), work. Cgroups under /plinth-<basename DIR>.
set -euo pipefail
verb=${1:?verb} dir=$(realpath -m "${2:?directory}")
here=$(realpath "$0") here=${here%/*}
cgroup=plinth-${dir##*/}

holder() { cat "$dir/holder.pid" 2>/dev/null; }
inside() { nsenter --target "$(holder)" --mount --net -- env -C "$PWD" "$@"; }
# Every process of the node, whoever started it, by the namespaces it is in: a shim outlives its starter. No process is begun to look at one:
# this is half of what all tests on nodes would cost.
members() {
  local h p
  h=$(holder) || return 0
  [ -e "/proc/$h/ns/mnt" ] || return 0
  for p in /proc/[0-9]*; do
    if [ "$p/ns/mnt" -ef "/proc/$h/ns/mnt" ] || [ "$p/ns/net" -ef "/proc/$h/ns/net" ]; then
      p=${p#/proc/}
      [ "$p" = "$h" ] || [ "$p" = $$ ] || [ "$p" = "$BASHPID" ] || echo "$p"
    fi
  done
}
# Containers have namespaces of their own: they are found by their cgroups.
contained() {
  local c
  for c in $(cgroups); do find "$c" -name cgroup.procs -exec cat {} + 2>/dev/null; done | sort -u
}
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup" 2>/dev/null; }

start_containerd() {
  local config=${CONTAINERD_CONFIG:-$here/../images/containerd.toml}
  case $("$dir/containerd/usr/bin/containerd" --version) in *" 1."*) config=$here/../images/containerd-1.7.toml ;; esac
  # A test's own.
  [ ! -f "$dir/containerd.toml" ] || config=$dir/containerd.toml
  mkdir -p "$dir/root" "$dir/state"
  # The shim beside this containerd must win over one of the machine's: its folder is first in PATH.
  # Not by `inside`: the shell of a function in the background would be who is killed later, and containerd would live on.
  nsenter --target "$(holder)" --mount --net -- env -C "$PWD" PATH="$dir/containerd/usr/bin:$PATH" setsid "$dir/containerd/usr/bin/containerd" --config "$config" --root "$dir/root" \
    --state "$dir/state" --address "$dir/containerd.sock" --log-level info >>"$dir/containerd.log" 2>&1 </dev/null &
  echo $! >"$dir/containerd.pid"
  SECONDS=0
  while [ $SECONDS -lt 60 ]; do
    [ -S "$dir/containerd.sock" ] && inside "$dir/containerd/usr/bin/ctr" -a "$dir/containerd.sock" version >/dev/null 2>&1 && return
    kill -0 "$(cat "$dir/containerd.pid")" 2>/dev/null || break
    sleep 0.05
  done
  echo "node.sh: start containerd: it does not answer; its log $dir/containerd.log ends:" >&2
  tail -5 "$dir/containerd.log" >&2
  exit 1
}
stop_containerd() {
  local p
  p=$(cat "$dir/containerd.pid" 2>/dev/null) || return 0
  kill "-$1" "$p" 2>/dev/null || true
  while [ -d "/proc/$p" ] && ! grep -q '^State:.Z' "/proc/$p/status" 2>/dev/null; do sleep 0.02; done
  rm -f "$dir/containerd.pid"
}

case $verb in
up)
  containerd=$(realpath "${3:?containerd directory}")
  mkdir -p "$dir"/{root,state,data,run,logs,cni,work} /run/containerd
  rm -f "$dir/holder.pid"
  ln -sfn "$containerd" "$dir/containerd"
  # --propagation private: nothing mounted here shows outside, nothing unmounted here is unmounted outside.
  setsid unshare --mount --net --propagation private -- sh -c "
    mount -t tmpfs -o mode=755 run '$dir/run' && mount -t tmpfs -o mode=711 shims /run/containerd &&
    { ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; } &&
    ip link set lo up && echo \$\$ >'$dir/holder.pid' && exec sleep infinity" </dev/null >"$dir/holder.log" 2>&1 &
  SECONDS=0
  while [ ! -s "$dir/holder.pid" ] && kill -0 $! 2>/dev/null && [ $SECONDS -lt 60 ]; do sleep 0.02; done
  [ -s "$dir/holder.pid" ] || { echo "node.sh: make namespaces: $(cat "$dir/holder.log")" >&2; exit 1; }
  cat >"$dir/cni/10-pods.conflist" <<J
{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"plinth0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$dir/data/ipam","ranges":[[{"subnet":"10.88.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}},
 {"type":"loopback"}]}
J
  start_containerd
  ;;
exec)
  shift 2
  inside "$@"
  ;;
containerd)
  case ${3:?start|stop|kill|wipe} in
  start) start_containerd ;;
  stop) stop_containerd TERM ;;
  kill) stop_containerd KILL ;;
  wipe) stop_containerd KILL; rm -rf "$dir/root" "$dir/state" ;;
  esac
  ;;
leaks)
  what=${3:-}
  out=$(
    inside cat /proc/self/mountinfo | awk -v d="$dir/" 'index($5, d) == 1 && $5 != d "run" { print "mount " $5 }'
    inside ip -o link | awk -F': ' '$2 ~ /^veth/ { print "veth " $2 }'
    find "$dir/data/ipam" -type f 2>/dev/null | grep -vE '/(lock|last_reserved_ip\.[0-9]+)$' | sed 's/^/address /' || true
    for p in $(members); do
      case $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null) in
      *containerd-shim*) echo "shim $p" ;;
      esac
    done
    for c in $(cgroups); do find "$c" -mindepth 1 -type d -name 'pod*' | sed 's/^/cgroup /'; done
    find "$dir/run/pods" -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/directory /' || true
    [ "$what" = stopped ] || find "$dir/data/pods" -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/directory /' || true
    [ "$what" = stopped ] || find "$dir/logs/pods" "$dir/logs/containers" -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/log /' || true
    if [ -s "$dir/containerd.pid" ]; then
      ctr() { inside "$dir/containerd/usr/bin/ctr" -a "$dir/containerd.sock" -n plinth "$@"; }
      [ "$what" = stopped ] || ctr containers list -q | sed 's/^/record /'
      ctr tasks list -q | sed 's/^/task /'
      ctr snapshots list | awk 'NR > 1 && ($3 == "Active" || $3 == "View") { print "snapshot " $1 }'
      ctr leases list -q | grep -v '^plinth' | sed 's/^/lease /' || true
    fi
  )
  [ -z "$out" ] || { echo "$out"; exit 1; }
  ;;
reboot)
  # All that a power cut takes: processes, mounts, /run, containerd's state. containerd starts anew on its data.
  p="$(members) $(contained)"
  # shellcheck disable=SC2086
  [ "$p" = " " ] || kill -KILL $p 2>/dev/null || true
  SECONDS=0
  while [ -n "$(members)" ] && [ $SECONDS -lt 60 ]; do sleep 0.02; done
  echo "$(cat /proc/sys/kernel/random/uuid)" >"$dir/work/boot-id"
  inside sh -c "
    awk -v d='$dir/' 'index(\$5, d) == 1 && \$5 != d \"run\" { print \$5 }' /proc/self/mountinfo | sort -r | while read -r m; do umount -l \"\$m\"; done
    rm -rf '$dir'/run/* '$dir/state'
    umount -l /run/containerd; mount -t tmpfs -o mode=711 shims /run/containerd
    ip -o link | awk -F'[:@ ]+' '{ print \$2 }' | grep -v '^lo$' | while read -r l; do ip link del \"\$l\" 2>/dev/null; done
    mount --bind '$dir/work/boot-id' /proc/sys/kernel/random/boot_id"
  for c in $(cgroups); do find "$c" -depth -mindepth 1 -type d -exec rmdir {} + 2>/dev/null || true; done
  start_containerd
  ;;
down)
  for sig in TERM KILL; do
    p="$(members) $(contained)"
    [ "$p" != " " ] || p=
    [ -n "$p" ] || break
    # shellcheck disable=SC2086
    kill -$sig $p 2>/dev/null || true
    for _ in $(seq 50); do [ -n "$(members)" ] || break; sleep 0.04; done
  done
  h=$(holder || true)
  [ -z "$h" ] || kill -KILL "$h" 2>/dev/null || true
  for c in $(cgroups); do
    for _ in $(seq 50); do find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true; [ -d "$c" ] || break; sleep 0.04; done
  done
  rm -f "$dir"/{holder.pid,containerd.pid,containerd.sock*}
  rm -rf "$dir"/{root,state,data,run,logs,cni,work,containerd}
  rmdir /run/containerd 2>/dev/null || true
  ;;
*)
  sed -n '5,13s/^# //p' "$0" >&2
  exit 2
  ;;
esac
