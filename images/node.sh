#!/bin/bash
# The image's own root, init and services in namespaces of this machine, without QEMU: its PID 1 on this terminal. Ctrl-c powers it off in
# order. Nothing of it is left then: mounts and network are its own, its control groups are removed.
#
#   node.sh OUT                   boot what build.sh made in OUT
#   node.sh OUT COMMAND ARG…      boot it, run a command inside once PID 1 is up, power it off; the command's exit status
#   node.sh exec COMMAND ARG…     run a command inside the node that runs, from another terminal
#
# A directory as OUT is taken as the root itself. ADD=DIR: files put over it. WORDS="…": of its kernel command line.
# Needs root. What belongs to the machine is out of its reach: clock, modules, kernel settings but the network's, devices, disks. Its state is
# memory, its network has no way out.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
name=plinth-node

# Inside: mounts, then PID 1. Everything it could reach of the machine is covered.
if [ "${1:-}" = inside ]; then
  dir=$2
  # Of one tree's group that is divided, no process may be a member: unshare(1) is taken out of it first.
  until [ -e "$dir.go" ]; do sleep 0.02; done
  mount --make-rprivate /
  mount -t tmpfs -o mode=0755 node "$dir"
  mkdir "$dir/upper" "$dir/work" "$dir/root"
  mount -t overlay -o "lowerdir=$NODE_ROOT,upperdir=$dir/upper,workdir=$dir/work" node "$dir/root"
  cd "$dir/root"
  [ -z "${ADD:-}" ] || cp -a "$ADD/." .
  if [ -n "${NODE_MANIFESTS:-}" ]; then mount --bind -o ro "$NODE_MANIFESTS" usr/lib/plinth/manifests; fi
  mkdir -p state
  mount -t tmpfs -o mode=0755,nosuid,nodev state state
  for d in containerd plinth log; do mkdir state/$d; done
  mkdir -p var/lib/containerd var/lib/plinth var/log
  mount --bind state/containerd var/lib/containerd
  mount --bind state/plinth var/lib/plinth
  mount --bind state/log var/log
  mount -t proc -o nosuid,nodev,noexec proc proc
  mount --bind proc/sys proc/sys
  mount --bind proc/sys/net proc/sys/net
  mount -o remount,bind,ro proc/sys
  echo "plinth.hostname=node ${WORDS:-}" >"$dir/cmdline"
  mount --bind "$dir/cmdline" proc/cmdline
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
  mount -t tmpfs -o mode=0755 run run
  mount -t tmpfs -o mode=0755,nosuid,noexec dev dev
  for d in null zero full urandom random tty; do touch dev/$d && mount --bind /dev/$d dev/$d; done
  # Its own part of the control groups, as the machine has them: one tree, or one a controller.
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
  else
    mount -t tmpfs -o mode=0755,nosuid,nodev,noexec cgroup sys/fs/cgroup
    for tree in $NODE_TREES; do
      mkdir "sys/fs/cgroup/$tree"
      mount -t cgroup -o "nosuid,nodev,noexec,${tree/#systemd/none,name=systemd}" cgroup "sys/fs/cgroup/$tree"
    done
  fi
  [ ! -e usr/lib/plinth/modules ] || mount --bind dev/null usr/lib/plinth/modules
  exec setpriv --bounding-set -sys_module,-sys_time,-syslog chroot . /usr/lib/plinth/init
fi

[ "$(id -u)" = 0 ] || { echo "node.sh: make namespaces, mounts and control groups: run it as root" >&2; exit 1; }
trees() { # the machine's own, each with a directory for this node
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then echo /sys/fs/cgroup; else
    awk '$3 == "cgroup" { print $2 }' /proc/self/mounts | grep ^/sys/fs/cgroup/
  fi
}
enter() { # PID COMMAND…: in that PID 1's namespaces and root
  local pid=$1
  shift
  nsenter --target "$pid" --mount --pid --net --uts --ipc --cgroup --root --wd=/ -- "$@"
}

if [ "${1:-}" = exec ]; then
  shift
  for run in /run/$name.*/pid; do
    [ ! -e "/proc/$(cat "$run" 2>/dev/null)/root" ] || { enter "$(cat "$run")" "$@"; exit; }
  done
  echo "node.sh: find a node that runs: there is none; start one with: make node" >&2
  exit 1
fi

out=$(realpath "${1:?OUT}")
shift
if [ -e "$out/root.erofs" ]; then
  export NODE_ROOT=$out/node/root NODE_MANIFESTS=$out/node/manifests
  if [ ! -e "$out/node/done" ] || [ "$out/root.erofs" -nt "$out/node/done" ]; then
    rm -rf "$out/node"
    mkdir -p "$out/node"
    for part in root manifests; do fsck.erofs --extract="$out/node/$part" --preserve "$out/$part.erofs" >/dev/null; done
    touch "$out/node/done"
  fi
else
  export NODE_ROOT=$out
fi
run=$(mktemp -d /run/$name.XXXXXX)
group=$(basename "$run")
NODE_TREES=$(trees | sed 's|.*/||' | tr '\n' ' ')
export NODE_TREES
unshare=
end() {
  # However this came to its end: with unshare(1) goes its PID 1, and with that everybody in there.
  if [ -n "$unshare" ]; then kill -KILL "$unshare" 2>/dev/null && wait "$unshare" 2>/dev/null || true; fi
  for tree in $(trees); do
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      find "$tree/$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -e "$tree/$group" ] || break
      sleep 0.1
    done
  done
  rm -rf "$run"
}
trap end EXIT
for tree in $(trees); do
  mkdir "$tree/$group"
  case $tree in */cpuset) for f in cpuset.cpus cpuset.mems; do cat "$tree/$f" >"$tree/$group/$f"; done ;; esac
done
# Each tree has a group for it, which is the root of what it sees. Its processes are born there; ours never are.
born=$(trees | sed "s|\$|/$group/cgroup.procs|")
trap '' INT
(
  trap - INT
  for file in $born; do echo "$BASHPID" >"$file"; done
  mkdir "$run/dir"
  exec unshare --fork --kill-child --pid --mount --net --uts --ipc --cgroup "$0" inside "$run/dir"
) &
unshare=$!
# What unshare(1) forked is PID 1 in there.
until pid=$(tr -d ' ' <"/proc/$unshare/task/$unshare/children" && kill -0 $unshare) 2>/dev/null && [ -n "$pid" ] || [ ! -e /proc/$unshare ]; do sleep 0.05; done
echo "${pid:-0}" >"$run/pid"
for tree in $(trees); do echo $unshare >"$tree/cgroup.procs" 2>/dev/null || true; done
touch "$run/dir.go"
if [ $# -gt 0 ]; then
  code=1
  for _ in $(seq 600); do
    [ ! -e "/proc/$pid/root/run/init/notify" ] || { code=0; break; }
    kill -0 $unshare 2>/dev/null || break
    sleep 0.1
  done
  [ $code != 0 ] || { enter "$pid" "$@" || code=$?; }
  kill -TERM "$pid" 2>/dev/null || true
fi
# Asked once it ends in order, asked twice at once.
asked=
trap '[ -z "$asked" ] && kill -INT "$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null; asked=yes' INT TERM
status=0
while kill -0 $unshare 2>/dev/null; do wait $unshare && status=0 || status=$?; done
# A power-off in a PID namespace is SIGINT to whoever waits for its PID 1, a reboot SIGHUP (reboot(2)).
case $status in 130 | 129) status=0 ;; esac
exit ${code:-$status}
