"""What the tests print."""

import re

IMAGE_PODS = {"witness", "web", "small"}


def ok(sentence):
    """One sentence that holds. A write of its own: several machines are tested at a time."""
    print(f"ok  {sentence}\n", end="", flush=True)


def timeline(power, ready):
    """Seconds from the kernel's first instruction to each mark of a boot."""
    marks = {
        "root, manifests and state are mounted": r"\[ *([0-9.]+)\] init: root, manifests and state are mounted",
        "PID 1 begins its services": r"\[ *([0-9.]+)\] init: up",
        "containerd is ready": r"\[ *([0-9.]+)\] init: containerd: ready",
        "plinth is ready": r"\[ *([0-9.]+)\] init: plinth: ready",
        "the first pod is Ready": r"\[ *([0-9.]+)\] plinth: [1-9]\d* of \d+ pods ready",
        "first instruction of a container": r"\bbegan ([0-9.]+)",
    }
    log = power.console()
    found = {mark: float(m[1]) for mark, pattern in marks.items() if (m := re.search(pattern, log))}
    # The kernel hands over when it is done; /init says how long ago that was.
    if mounted := re.search(r"\[ *([0-9.]+)\] init: root, manifests.* (\d+) ms after the kernel was done", log):
        found = {"the kernel is done": float(mounted[1]) - int(mounted[2]) / 1000} | found
    return found | {"every pod is Ready": ready}


def table(marks):
    """As lines."""
    return "\n".join(f"    {at:8.3f}  {mark}" for mark, at in marks.items())


def memory_mib(power):
    """In use, and the pods' part of it."""
    free = dict(re.findall(r"^(\w+): +(\d+) kB", power.said("cat /proc/meminfo"), re.M))
    pods = int(power.said("cat /sys/fs/cgroup/kubepods/memory.current 2>/dev/null || echo 0"))
    return (int(free["MemTotal"]) - int(free["MemAvailable"])) / 1024, pods / (1 << 20)
