"""Pods that the tests put in the overlay."""

SLEEP = "trap 'exit 0' TERM; while :; do sleep 1; done"


def pod(name, script=SLEEP, *, image="docker.io/library/busybox:1.35", restart="Always", resources="{limits: {memory: 16Mi}}", notes="{}"):
    """One container on the node's own network."""
    return f"""apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {notes}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  restartPolicy: {restart}
  containers:
  - name: c
    image: {image}
    resources: {resources}
    command: [sh, -c, "{script}"]
"""
