#!/usr/bin/env python3
"""Boots the image and looks. Few boots, shared by many tests; each test is a sentence.

Usage: run.py OUT [PART-OF-A-NAME]…   OUT is an image built with tests/boot/pods as its pods (see run.sh)."""

import pathlib, re, shutil, socket, sys, tempfile, time, urllib.request

from machine import Failed, Machine

IMAGE_PODS = {"witness", "web", "small"}
OVERLAY_POD = """apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  restartPolicy: {restart}
  containers:
  - name: c
    image: docker.io/library/busybox:1.35
    resources: {{limits: {{memory: 16Mi}}}}
    command: [sh, -c, "{script}"]
"""


def put(power, file, text):
    """Writes a file of the overlay beside its place, and renames it in: on the disk when this returns."""
    there = "/etc/plinth/manifests"
    power.said(f"mkdir -p {there} && cat >{there}/.new <<'END'\n{text}END\nsync {there}/.new && mv {there}/.new {there}/{file} && sync")


def sleeper(name):
    return OVERLAY_POD.format(name=name, restart="Always", script="trap 'exit 0' TERM; while :; do sleep 1; done")


def containers(power):
    """Process ids of the containers' first processes, by container."""
    text = power.said("for p in /proc/[0-9]*; do case $(cat $p/cgroup 2>/dev/null) in *kubepods*) echo ${p#/proc/} $(tr '\\0' ' ' <$p/cmdline); esac; done")
    return {line.split(" ", 1)[0] for line in text.splitlines() if "httpd -f" in line}


def boots_with_no_network_to_every_pod_ready(m, work):
    with m.on() as power:
        # The one pod on the pod network needs no network beyond the machine's own.
        power.says(r"witness began ([0-9.]+)", 150)
        ready = power.ready()
        timeline(power, ready)
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()

        the_root_cannot_be_written_and_has_no_shell_to_log_in_to(power)
        limits_are_the_kernels_and_an_oom_kill_is_told(power)
        plinth_killed_adopts_its_pods(power)
        containerd_killed_costs_no_pod(power)
        a_bad_manifest_in_the_overlay_costs_only_itself(power)

        put(power, "50-kept.yaml", sleeper("kept"))
        power.until("the overlay's pod is Ready", 60, lambda: "kept" in power.pods())
        power.ready()
        ok("a file put in the overlay is a pod")

        power.ask("/usr/lib/plinth/init reboot >/dev/null 2>&1 &", 10)
        power.says(r"web is done", 60)
        power.says(r"witness began ([0-9.]+)", 150, times=2)
        power.port = None
        power.ready()
        assert set(power.pods()) == IMAGE_PODS | {"kept"}, power.pods().keys()
        ok("a file in the overlay survives a reboot")
        put(power, "60-late.yaml", sleeper("late"))
        power.cut()

    with m.on(network=free_port(), append="plinth.ip=dhcp") as power:
        power.says(r"witness began ([0-9.]+)", 150)
        power.until("the pods of the overlay are there", 90, lambda: {"kept", "late"} <= set(power.pods()))
        power.ready()
        assert set(power.pods()) == IMAGE_PODS | {"kept", "late"}, power.pods().keys()
        ok("a file in the overlay survives a power cut")
        assert "Static pods stand on it" in fetch(power), power.fail("another page")
        ok("the web pod is reached from the host")
        power.monitor("system_powerdown")
        took = power.off(45)
        log = power.console()
        assert "web saw TERM" in log and "web is done" in log, power.fail("the pod was not asked to end, or not waited for")
        ok(f"the power button stops the pods in order, then the machine ({took:.1f} s)")


def the_root_cannot_be_written_and_has_no_shell_to_log_in_to(power):
    status, said = power.ask("touch /usr/x")
    assert status != 0 and "ead-only" in said, said
    status, said = power.ask("touch /usr/lib/plinth/manifests/x")
    assert status != 0 and "ead-only" in said, said
    for name in "sh", "bash", "login", "apt", "dpkg", "sshd":
        assert power.ask(f"test -e /bin/{name} -o -e /sbin/{name}")[0] != 0, f"the image has {name}"
    mounts = power.said("cat /proc/self/mounts")
    assert re.search(r"^/dev/(dm-|mapper/)\S* / erofs ro", mounts, re.M), mounts
    assert re.search(r"^/dev/(dm-|mapper/)\S* /usr/lib/plinth/manifests erofs ro", mounts, re.M), mounts
    for place in "/tmp", "/run", "/state":
        line = re.search(rf"^\S+ {place} \S+ (\S+)", mounts, re.M)
        assert line and {"nosuid", "nodev"} <= set(line[1].split(",")), f"{place}: {line and line[0]}"
    ok("root and manifests are verified and read-only; nothing logs in")


def limits_are_the_kernels_and_an_oom_kill_is_told(power):
    power.said("test \"$(cat /sys/fs/cgroup/cgroup.controllers | tr ' ' '\\n' | grep -cE '^(cpu|memory|pids)$')\" = 3")
    group = power.said("find /sys/fs/cgroup -name memory.max -exec grep -lx 25165824 {} +").split()
    assert group, "no memory.max of 24Mi"
    assert "25000 100000" in power.said(f"cat {' '.join(g.replace('memory.max', 'cpu.max') for g in group)}")
    put(power, "70-hungry.yaml", OVERLAY_POD.format(name="hungry", restart="Never", script="tail /dev/zero"))

    power.until("the eater is ended", 60, lambda: power.pods().get("hungry", {}).get("status") == "OOMKilled")
    power.said("rm /etc/plinth/manifests/70-hungry.yaml")
    power.until("the eater is gone", 30, lambda: "hungry" not in power.pods())
    ok("limits are in the kernel, and an OOM kill is called one")


def plinth_killed_adopts_its_pods(power):
    before, old = containers(power), power.said("pidof plinth").split()
    power.said("kill -9 $(pidof plinth)")
    power.until("another plinth runs", 30, lambda: power.ask("pidof plinth")[1].split() not in (old, []))
    power.ready()
    assert containers(power) == before, "containers were started anew"
    ok("plinth killed comes back and adopts its pods")


def containerd_killed_costs_no_pod(power):
    before = containers(power)
    power.said("kill -9 $(pidof containerd)")
    power.until("another containerd answers", 60, lambda: power.ask("pidof containerd")[0] == 0)
    power.ready()
    assert containers(power) == before, "containers were started anew"
    ok("containerd killed costs no pod")


def a_bad_manifest_in_the_overlay_costs_only_itself(power):
    put(power, "40-bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: 3}\n")
    power.until("the bad file is named", 30, lambda: "40-bad.yaml:4" in power.ask("plinth status")[1])
    assert set(power.pods()) >= IMAGE_PODS
    power.said("rm /etc/plinth/manifests/40-bad.yaml && sync")
    power.ready()
    ok("a bad manifest in the overlay costs only itself, and is shown with its line")


def a_wiped_state_boots_to_exactly_the_images_pods(m, work):
    m.overwrite("plinth-state", bytes(1 << 20), times=1 << 20)
    with m.on() as power:
        power.says(r"witness began", 150)
        power.ready()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        assert power.ask("test -e /run/init/degraded")[0] != 0, power.said("cat /run/init/degraded")
        ok("with the state wiped, exactly the image's pods")


def a_broken_state_partition_degrades_and_says_so(m, work):
    # Noise and no superblock anywhere: whatever has one of its superblocks left, e2fsck mends.
    m.overwrite("plinth-state", b"\xa5" * 4096, times=1 << 20)
    with m.on() as power:
        power.says(r"witness began", 150)
        power.ready()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        why = power.said("cat /run/init/degraded")
        assert "nothing is kept beyond this boot" in why and "/dev/vda5" in why, why
        assert "nothing is kept beyond this boot" in power.console(), power.console()
        ok("a broken state partition degrades to a machine that says so, and runs exactly the image's pods")


def a_missing_state_partition_degrades_and_says_so(m, work):
    with m.on(append="plinth.state=plinth-nowhere plinth.wait=1") as power:
        power.says(r"nothing is kept beyond this boot.*plinth-nowhere", 60)
        power.says(r"witness began", 150)
        ok("a missing state partition degrades, and it is said which")


def a_root_that_does_not_match_its_hash_is_refused(m, work):
    line = re.sub(r"plinth\.roothash=\S+", "plinth.roothash=" + "0" * 64, m.cmdline())
    with m.on(cmdline=line, append="plinth.fallback=poweroff") as power:
        power.off(60)
        log = power.console()
        assert re.search(r"cannot boot: .*it does not match, refused", log) and "init: up" not in log, log[-2000:]
        ok("a wrong root hash is refused")
    # Some of containerd: the root is mounted, and what was changed is not given out.
    m.overwrite("plinth-root", bytes(4096), at=2 << 20, times=4096)
    with m.on(append="plinth.fallback=poweroff") as power:
        power.says(r"verity: .*data block \d+ is corrupted", 60)
        assert "witness began" not in power.console()
        ok("a block of the root that was changed is not read")


def timeline(power, ready):
    log = power.console()
    print("boot: timeline, seconds since the kernel began")
    for line in log.splitlines():
        if re.search(r" init: |pods ready$", line):
            print("   ", line)
    print(f"    first instruction of a container {re.search(r'witness began ([0-9.]+)', log)[1]}")
    print(f"    every pod Ready {ready}")
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", power.said("cat /proc/meminfo"), re.M))
    pods = int(power.said("cat /sys/fs/cgroup/kubepods/memory.current").strip() or 0)
    used = (int(memory["MemTotal"]) - int(memory["MemAvailable"])) / 1024
    print(f"boot: memory in use {used:.0f} MiB, of which the pods {pods / (1 << 20):.0f} MiB", flush=True)
    ok("boots with no network to every pod Ready")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(power):
    """The web pod's page, once the DHCP client has an address."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{power.port_on_host}/", timeout=5) as page:
                return page.read().decode()
        except OSError as why:
            if time.monotonic() > end:
                power.fail(f"the web pod is not reached: {why}")
            time.sleep(0.5)


def ok(sentence):
    print(f"ok  {sentence}", flush=True)


TESTS = [boots_with_no_network_to_every_pod_ready, a_wiped_state_boots_to_exactly_the_images_pods,
         a_broken_state_partition_degrades_and_says_so, a_missing_state_partition_degrades_and_says_so,
         a_root_that_does_not_match_its_hash_is_refused]


def main(out, *parts):
    failed, began = [], time.monotonic()
    for test in TESTS:
        if parts and not any(p in test.__name__ for p in parts):
            continue
        work, start = tempfile.mkdtemp(prefix="plinth-boot."), time.monotonic()
        try:
            test(Machine(out, work), pathlib.Path(work))
        except (Failed, AssertionError, OSError) as why:
            failed.append(test.__name__)
            print(f"FAILED {test.__name__}: {str(why)[-4000:]}", flush=True)
        finally:
            shutil.rmtree(work)
        print(f"    ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"boot: {len(failed)} failed, {time.monotonic() - began:.0f} s")
    sys.exit(bool(failed))


main(*sys.argv[1:])
