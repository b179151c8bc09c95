#!/bin/bash
# The demo: a read-only layer of three pods, an overlay over it, plinth on a private containerd; looked at, then gone.
# Usage: demo.sh PLINTH CONTAINERD-DIR [--keep]      as root; everything lives in namespaces and a directory of its own
set -euo pipefail
plinth=$(realpath "${1:?plinth binary}") containerd=$(realpath "${2:?containerd directory}") keep=${3:-}
here=$(dirname "$(realpath "$0")")
node=$(mktemp -d /tmp/plinth-demo.XXXX)
inside() { "$here/../tests/node.sh" exec "$node" "$@"; }
say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; PLINTH_SOCKET=$node/plinth.sock inside "$@"; }

down() {
  status=$?
  if [ "$status" != 0 ] && [ -s "$node/plinth.log" ]; then
    echo "demo.sh: failed; plinth's log ends:" >&2
    tail -20 "$node/plinth.log" >&2
  fi
  [ -z "${agent:-}" ] || kill "$agent" 2>/dev/null || true
  "$here/../tests/node.sh" down "$node"
  rm -rf "$node"
  exit "$status"
}
trap down EXIT

say "a containerd of its own ($("$containerd/usr/bin/containerd" --version | grep -o '[0-9]*\.[0-9]*\.[0-9]*' | head -1)) in namespaces of its own"
"$here/../tests/node.sh" up "$node" "$containerd"
mkdir -p "$node"/work/{image,overlay,archives,bin}
cp "$here"/demo/image/* "$node/work/image/"
cp "$here"/demo/overlay/* "$node/work/overlay/"
cp "$here/../.cache/busybox.tar" "$node/work/archives/"
ln -s "$plinth" "$node/work/bin/plinth"
inside mount --bind "$node/work/image" "$node/work/image"
inside mount -o remount,bind,ro "$node/work/image"
cat >"$node/config.yaml" <<C
apiVersion: plinth.dev/v1alpha1
kind: PlinthConfiguration
nodeName: demo
layers: [$node/work/image, $node/work/overlay]
imageDirs: [$node/work/archives]
containerRuntimeEndpoint: unix://$node/containerd.sock
dataDir: $node/data
runDir: $node/run
socket: $node/plinth.sock
podLogsDir: $node/logs/pods
containerLinksDir: $node/logs/containers
cniConfDir: $node/cni
cniBinDirs: [/usr/lib/cni]
cniCacheDir: $node/data/cni
cgroupRoot: /plinth-$(basename "$node")
C
PATH=$node/work/bin:$PATH
inside setsid "$plinth" run --config "$node/config.yaml" >"$node/plinth.log" 2>&1 </dev/null &
agent=$!
for _ in $(seq 100); do [ -S "$node/plinth.sock" ] && break; kill -0 $agent; sleep 0.05; done

say "all Ready?"
show plinth status --wait=60s
show plinth status -o wide
ip_of_web() { PLINTH_SOCKET=$node/plinth.sock inside plinth status web -o json 2>/dev/null | jq -r '.status.podIP // empty' || true; }
ip=$(ip_of_web)

say "the web page by pod IP: the overlay's file won"
show busybox wget -qO- "http://$ip:8080/"

say "logs"
show plinth logs pair -c counter --tail 3

say "an edit in the overlay takes effect"
echo "\$ sed s/overlay/edited/ 10-web.yaml   # written beside, then renamed in"
sed "s|the overlay's page|the edited page|" "$node/work/overlay/10-web.yaml" >"$node/work/overlay/.new"
mv "$node/work/overlay/.new" "$node/work/overlay/10-web.yaml"
for _ in $(seq 100); do
  ip=$(ip_of_web)
  if inside timeout 1 busybox wget -qO- "http://$ip:8080/" 2>/dev/null | grep -q edited; then break; fi
  sleep 0.1
done
show busybox wget -qO- "http://$ip:8080/"

say "a bad edit costs nothing, and says where"
sed "s|containerPort: 8080|containerPort: eighty|" "$node/work/overlay/10-web.yaml" >"$node/work/overlay/.new"
mv "$node/work/overlay/.new" "$node/work/overlay/10-web.yaml"
sleep 0.5
show plinth status
show plinth why web

if [ "$keep" = --keep ]; then
  cat <<K

Left running. Look at it:
  export PLINTH_SOCKET=$node/plinth.sock PATH=$node/work/bin:\$PATH
  plinth status -w                       # the socket works from outside the namespaces
  plinth logs pair -c counter -f
  tests/node.sh exec $node busybox wget -qO- http://$ip:8080/
  \$EDITOR $node/work/overlay/10-web.yaml   # its log: $node/plinth.log
End it:
  tests/node.sh exec $node $plinth shutdown --socket $node/plinth.sock; tests/node.sh down $node; rm -rf $node
K
  trap - EXIT
  exit 0
fi

say "stop everything"
show plinth shutdown
wait "$agent" || true
agent=
inside umount "$node/work/image"
"$here/../tests/node.sh" leaks "$node" stopped && echo "left behind: nothing"
