#!/bin/bash
# The demo of joining: an API server (the tests' own), a node that is nobody there yet, and kubectl, which nobody here wrote.
# Usage: demo-cluster.sh PLINTH CONTAINERD-DIR KUBECTL-DIR APISERVER      as root; everything lives in namespaces and a directory of its own
set -euo pipefail
plinth=$(realpath "${1:?plinth binary}") containerd=$(realpath "${2:?containerd directory}")
kubectl=$(realpath "${3:?kubectl directory}")/usr/bin/kubectl server=$(realpath "${4:?test API server}")
here=$(dirname "$(realpath "$0")")
node=$(mktemp -d /tmp/plinth-demo.XXXX)
inside() { "$here/../tests/node.sh" exec "$node" "$@"; }
say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; inside "$@"; }
fail() { echo "demo-cluster.sh: $*" >&2; exit 1; }
# Waits until a command answers well; says what it waited for when it does not.
await() {
  local what=$1; shift
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "not within 30 s: $what"
}

down() {
  status=$?
  if [ "$status" != 0 ] && [ -s "$node/plinth.log" ]; then
    echo "demo-cluster.sh: failed; plinth's log ends:" >&2
    tail -20 "$node/plinth.log" >&2
  fi
  for pid in ${agent:-} ${api:-}; do kill "$pid" 2>/dev/null || true; done
  "$here/../tests/node.sh" down "$node"
  rm -rf "$node"
  exit "$status"
}
trap down EXIT

"$here/../tests/node.sh" up "$node" "$containerd"
mkdir -p "$node"/work/{image,archives,bin}
cp "$here"/demo/image/* "$node/work/image/"
cp "$here/../.cache/busybox.tar" "$node/work/archives/"
ln -s "$plinth" "$node/work/bin/plinth"
ln -s "$kubectl" "$node/work/bin/kubectl"
export PATH=$node/work/bin:$PATH PLINTH_SOCKET=$node/plinth.sock KUBECONFIG=$node/work/pki/admin KUBECACHEDIR=$node/work/kubectl
cat >"$node/config.yaml" <<C
apiVersion: plinth.dev/v1alpha1
kind: PlinthConfiguration
nodeName: demo
layers: [$node/work/image]
imageDirs: [$node/work/archives]
bootstrapKubeconfig: $node/work/pki/bootstrap
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
port: 10250
clientCAFile: $node/work/pki/ca.pem
serverTLSBootstrap: true
C
"$server" --pki "$node/work/pki" --init
inside setsid "$server" --pki "$node/work/pki" >"$node/apiserver.log" 2>&1 </dev/null &
api=$!
await "the API server answers" inside kubectl get --raw /version

say "a node that is nobody at its API server yet: its pods run, and it says what it waits for"
inside setsid "$plinth" run --config "$node/config.yaml" >"$node/plinth.log" 2>&1 </dev/null &
agent=$!
await "plinth asks for its identity" inside sh -c "kubectl get csr -o name | grep -q ."
show plinth status --wait=60s
show kubectl get csr

say "somebody lets it in"
request=$(inside kubectl get csr -o name | head -1)
show kubectl certificate approve "${request#*/}"
await "the node is Ready" inside sh -c "kubectl get nodes | grep -q ' Ready '"
await "its pods are shown" inside sh -c "[ \$(kubectl get pods -A | grep -c Running) = 4 ]"
show kubectl get nodes
show kubectl get pods -A

say "a mirror that is deleted comes back; the pod never noticed"
uid() { inside kubectl get pod web-demo -o "jsonpath={.metadata.uid}" 2>/dev/null; }
old=$(uid)
show kubectl delete pod web-demo --wait=false
another() { local now; now=$(uid) && [ -n "$now" ] && [ "$now" != "$old" ]; }
await "the mirror is back" another
show kubectl get pod web-demo
show plinth status web

say "its events are there"
show kubectl get events --field-selector involvedObject.name=web-demo

say "kubectl logs and exec, through the API server to the node"
serving() { inside kubectl get csr | grep kubelet-serving | grep -o '^[^ ]*'; }
await "the certificate of its own API is asked for" serving
show kubectl certificate approve "$(serving)"
await "its own API answers" inside kubectl logs pair-demo -c counter --tail 1
show kubectl logs pair-demo -c counter --tail 3
show kubectl exec web-demo -- busybox uname -n

say "stop everything"
show plinth shutdown
wait "$agent" || true
agent=
"$here/../tests/node.sh" leaks "$node" stopped && echo "left behind: nothing"
