"""Resources where they are real: the groups of control group v2, what the kernel makes of them, and who is killed for memory."""

import re, time

import overlay
from report import ok

MI = 1 << 20
# Processes and threads of a pod.
PIDS = 4096
SPIN = "trap 'exit 0' TERM; for n in $(seq $(nproc)); do while :; do :; done & done; wait"
PODS = {
    "guaranteed": overlay.pod("guaranteed", resources="{limits: {cpu: 100m, memory: 32Mi}}"),
    "burstable": overlay.pod("burstable", resources="{requests: {cpu: 50m, memory: 20Mi}, limits: {memory: 40Mi}}"),
    "besteffort": overlay.pod("besteffort", resources="{}"),
    # One of its containers has no limit, so the pod has none.
    "half": overlay.pod("half", resources="{limits: {memory: 24Mi}, requests: {memory: 8Mi}}")
            + "  - {name: d, image: 'docker.io/library/busybox:1.35', command: [sleep, infinity]}\n",
    # The pod's own, and none of its container's.
    "whole": overlay.pod("whole", resources="{}") + "  resources: {requests: {cpu: 100m, memory: 24Mi}, limits: {cpu: 200m, memory: 48Mi}}\n",
    # Root inside is nobody outside: mounts are mapped by this kernel and made by crun.
    "private": overlay.pod("private", f"echo mine >/v/file; {overlay.SLEEP}").replace(
        "hostNetwork: true", "hostUsers: false\n  volumes: [{name: v, emptyDir: {}}]") + "    volumeMounts: [{name: v, mountPath: /v}]\n",
    "huge": overlay.pod("huge", resources="{limits: {cpu: 10m, memory: 16Mi, hugepages-2Mi: 4Mi}}").replace(
        "hostNetwork: true", "hostNetwork: true\n  volumes: [{name: h, emptyDir: {medium: HugePages}}]") + "    volumeMounts: [{name: h, mountPath: /h}]\n",
}


def shares_to_weight(shares):
    """The kubelet's."""
    return 1 + (shares - 2) * 9999 // 262142


def group(power, name):
    """The pod's control group: its own files, and each container's."""
    uid = power.pods()[name]["uid"]
    path = power.said(f"cd /sys/fs/cgroup && find . -type d -name pod{uid}").strip()
    text = power.said(f"cd /sys/fs/cgroup/{path} && grep -H '' pids.max cpu.weight */cpu.weight cpu.max */cpu.max memory.max */memory.max */memory.swap.max"
                      " */memory.oom.group */pids.max hugetlb.2MB.max */hugetlb.2MB.max; for c in */; do for p in $(head -n1 $c/cgroup.procs); do"
                      " echo $c/oom_score_adj:$(cat /proc/$p/oom_score_adj); done; done || true")
    files = dict(line.split(":", 1) for line in text.splitlines())
    own, containers = {k: v for k, v in files.items() if "/" not in k}, {}
    for name, value in files.items():
        if "/" in name:
            container, file = re.fullmatch(r"[0-9a-f]+-(.*)-\d+/+([^/]+)", name).groups()
            containers.setdefault(container, {})[file] = value
    return path.removeprefix("./").replace(uid, "UID"), own, containers


def the_kernel_holds_pods_to_their_resources(m):
    with m.on(append=f"hugepages=8 plinth.podPidsLimit={PIDS}") as power:
        power.up()
        for name, manifest in PODS.items():
            power.put(f"50-{name}.yaml", manifest)
        power.until("all of them are there", 240, lambda: set(PODS) <= set(power.pods()))
        power.ready()
        total = int(re.search(r"MemTotal: +(\d+)", power.said("cat /proc/meminfo"))[1]) * 1024
        the_groups_are_the_kubelets(power, total)
        root_in_a_pod_of_its_own_users_is_nobody_outside(power)
        a_limit_throttles_and_weights_share(power)
        one_that_eats_memory_is_killed_whole(power)
        one_that_eats_again_and_again_backs_off(power)
        nobody_else_was_harmed(power)


def the_groups_are_the_kubelets(power, total):
    def is_(name, path, own, **containers):
        found, had, each = group(power, name)
        assert found == path, f"{name}: {found} and not {path}"
        own = {"pids.max": str(PIDS), **own}
        assert {k: had.get(k) for k in own} == own, f"{name}: {had} and not {own}"
        assert set(each) == set(containers), f"{name}: {each}"
        for container, files in containers.items():
            # All of it is in memory that may not be swapped, and dies together.
            files = {"memory.oom.group": "1", "pids.max": "max", **files}
            assert {k: each[container].get(k) for k in files} == files, f"{name}/{container}: {each[container]} and not {files}"
            # A kernel without swap has no such file.
            assert each[container].get("memory.swap.max", "0") == "0", f"{name}/{container}: {each[container]}"

    score = lambda bytes: str(min(999, max(3, 1000 - 1000 * bytes // total)))
    unlimited = {"cpu.max": "max 100000", "memory.max": "max"}
    weight = lambda milli: str(shares_to_weight(max(2, milli * 1024 // 1000)))
    no_huge = {"hugetlb.2MB.max": "0"}
    is_("guaranteed", "kubepods/podUID", {"cpu.weight": weight(100), "cpu.max": "10000 100000", "memory.max": str(32 * MI)},
        c={"cpu.weight": weight(100), "cpu.max": "10000 100000", "memory.max": str(32 * MI), "oom_score_adj": "-997", **no_huge})
    is_("burstable", "kubepods/burstable/podUID", {"cpu.weight": weight(50), "cpu.max": "max 100000", "memory.max": str(40 * MI)},
        c={"cpu.weight": weight(50), "cpu.max": "max 100000", "memory.max": str(40 * MI), "oom_score_adj": score(20 * MI), **no_huge})
    is_("besteffort", "kubepods/besteffort/podUID", {"cpu.weight": "1", **unlimited, **no_huge},
        c={"cpu.weight": "1", **unlimited, "oom_score_adj": "1000", **no_huge})
    is_("half", "kubepods/burstable/podUID", {"cpu.weight": "1", **unlimited},
        c={"memory.max": str(24 * MI), "oom_score_adj": score(8 * MI)}, d={"memory.max": "max", "oom_score_adj": "999"})
    is_("whole", "kubepods/burstable/podUID", {"cpu.weight": weight(100), "cpu.max": "20000 100000", "memory.max": str(48 * MI)},
        c={"cpu.max": "20000 100000", "memory.max": str(48 * MI), "oom_score_adj": score(24 * MI)})
    is_("huge", "kubepods/podUID", {"memory.max": str(16 * MI), "hugetlb.2MB.max": str(4 * MI)}, c={"hugetlb.2MB.max": str(4 * MI), "oom_score_adj": "-997"})
    mounted = power.said("plinth exec huge -- grep ' /h ' /proc/mounts")
    assert all(word in mounted for word in (" hugetlbfs ", "pagesize=2M", f"size={4 * MI}")), mounted
    ok("groups, limits, weights, huge pages and OOM scores are the kubelet's")

    read = lambda path: power.said(f"cat /sys/fs/cgroup/kubepods/{path}").strip()
    pods = [int(w) for w in power.said("cat /sys/fs/cgroup/kubepods/burstable/pod*/cpu.weight").split()]
    together = int(read("burstable/cpu.weight"))
    assert abs(together - sum(pods)) <= len(pods) and together > max(pods), f"burstable pods weigh {pods}, their class {together}"
    assert read("besteffort/cpu.weight") == "1"
    daemons = power.said("for p in plinth containerd; do cat /proc/$(pidof $p)/oom_score_adj; done").split()
    assert daemons == ["-999", "-999"], daemons
    ok("a class weighs what its pods weigh; the daemons go last")


def root_in_a_pod_of_its_own_users_is_nobody_outside(power):
    first, outside, count = (int(word) for word in power.said("plinth exec private -- cat /proc/self/uid_map").split())
    assert first == 0 and outside >= 65536 and count == 65536, (first, outside, count)
    seen = power.said("plinth exec private -- stat -c %u:%g /v/file /etc/hosts /bin").split()
    assert seen == ["0:0"] * 3, seen
    uid = power.pods()["private"]["uid"]
    held = power.said(f"stat -c %u:%g /var/lib/plinth/pods/{uid}/volumes/kubernetes.io~empty-dir/v/file").strip()
    assert held == "0:0", f"what it wrote is {held}'s outside"
    running = power.said(f"for p in $(cat $(find /sys/fs/cgroup/kubepods -name pod{uid})/*/cgroup.procs); do grep ^Uid: /proc/$p/status; done").split()
    assert running[1] == str(outside), running
    ok(f"root in a pod of its own users is {outside} outside, and what it writes is its own")


def a_limit_throttles_and_weights_share(power):
    for name, resources in ("light", "{requests: {cpu: 50m}}"), ("heavy", "{requests: {cpu: 200m}}"), ("capped", "{limits: {cpu: 50m, memory: 16Mi}}"):
        power.put(f"60-{name}.yaml", overlay.pod(name, SPIN, resources=resources))
    power.until("they run", 120, lambda: {"light", "heavy", "capped"} <= set(power.pods()))
    power.ready()
    uid = {name: power.pods()[name]["uid"] for name in ("light", "heavy", "capped")}
    look = lambda: {name: dict(line.split() for line in power.said(f"cat $(find /sys/fs/cgroup/kubepods -name pod{u})/cpu.stat").splitlines())
                    for name, u in uid.items()}
    since = lambda: float(power.said("cut -d' ' -f1 /proc/uptime"))
    before, began = look(), since()
    time.sleep(10)
    after, secs = look(), since() - began
    used = {name: (int(after[name]["usage_usec"]) - int(before[name]["usage_usec"])) / 1e6 for name in uid}
    assert int(after["capped"]["nr_throttled"]) > int(before["capped"]["nr_throttled"]), after["capped"]
    assert used["capped"] <= secs * 0.05 * 1.5, f"a twentieth of a processor in {secs:.1f} s: {used['capped']:.2f} s"
    # 50m and 200m weigh 2 and 8 to the kernel.
    assert used["heavy"] > 2 * used["light"], used
    power.said("rm /etc/plinth/manifests/60-*.yaml")
    power.until("they are gone", 120, lambda: not set(uid) & set(power.pods()))
    ok(f"a limit throttles, and requests share the processor ({used['heavy'] / used['light']:.1f} to 1 for 4 to 1)")


def one_that_eats_memory_is_killed_whole(power):
    # Only its child eats: the container ends because its group dies together.
    power.put("70-hungry.yaml", overlay.pod("hungry", "tail /dev/zero; while :; do sleep 1; done", restart="Never"))
    power.until("the eater is ended", 120, lambda: power.pods().get("hungry", {}).get("status") == "OOMKilled")
    ended = power.pod("hungry")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137), ended
    why = power.said("plinth why hungry || [ $? = 3 ]")
    assert "OOMKilled" in why, why
    power.said("rm /etc/plinth/manifests/70-hungry.yaml")
    power.until("the eater is gone", 120, lambda: "hungry" not in power.pods())
    ok("an OOM kill takes the container whole, and is called one: OOMKilled, 137")


def one_that_eats_again_and_again_backs_off(power):
    power.put("70-greedy.yaml", overlay.pod("greedy", "tail /dev/zero"))
    backs_off = lambda: "CrashLoopBackOff" in power.pods().get("greedy", {}).get("status", "")
    power.until("it backs off", 180, backs_off)
    status = power.pod("greedy")["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1 and status["lastState"]["terminated"]["reason"] == "OOMKilled", status
    power.until("the back-off is an event", 60, lambda: "BackOff" in power.said("plinth events greedy"))
    power.said("rm /etc/plinth/manifests/70-greedy.yaml")
    power.until("it is gone", 120, lambda: "greedy" not in power.pods())
    ok("one that eats again and again backs off, and its last end is shown")


def nobody_else_was_harmed(power):
    power.ready()
    harmed = {name: row["restarts"] for name, row in power.pods().items() if row["restarts"]}
    assert not harmed, harmed
    assert "oom_score_adj=" not in power.said("dmesg | grep -c 'Out of memory' || true")
    ok("nobody else was harmed")


TESTS = [the_kernel_holds_pods_to_their_resources]
