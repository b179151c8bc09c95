"""What a machine does on any day: boots, takes changes, loses its daemons, reboots, is switched off."""

import re, socket, time, urllib.request

import overlay
from machine import Machine
from report import IMAGE_PODS, memory_mib, ok, table, timeline

OVERLAY = "/etc/plinth/manifests"


def a_day_of_a_machine(m):
    with m.on() as power:
        # The one pod on the pod network needs no network beyond the machine's own.
        ready = power.up()
        used, pods = memory_mib(power)
        print(f"boot: seconds since the kernel began\n{table(timeline(power, ready))}\n"
              f"boot: memory in use {used:.0f} MiB, of which the pods {pods:.0f} MiB", flush=True)
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        ok("boots with no network to every pod Ready")

        the_root_cannot_be_written_and_has_no_shell_to_log_in_to(power)
        plinth_killed_adopts_its_pods(power)
        containerd_killed_costs_no_pod(power)
        a_bad_manifest_in_the_overlay_costs_only_itself(power)
        a_sealed_pod_holds_against_the_overlay(power)

        power.put("50-kept.yaml", overlay.pod("kept"))
        power.until("the overlay's pod is there", 120, lambda: "kept" in power.pods())
        power.ready()
        ok("a file put in the overlay is a pod")

        power.later("/usr/lib/plinth/init reboot")
        power.says(r"web is done")
        power.up()
        assert set(power.pods()) == IMAGE_PODS | {"kept"}, power.pods().keys()
        ok("a file in the overlay survives a reboot")

    port = free_port()
    with m.on(network=port, append="plinth.ip=dhcp") as power:
        power.up()
        assert set(power.pods()) == IMAGE_PODS | {"kept"}, power.pods().keys()
        ok("a file in the overlay survives a power cut")
        page = fetch(power, port)
        assert "Static pods stand on it" in page, page
        ok("the web pod is reached from the host")
        power.monitor("system_powerdown")
        took, log = power.off(120), power.console()
        saw, done, off = (log.rfind(words) for words in ("web saw TERM", "web is done", "init: off"))
        assert 0 <= saw < done < off, power.fail("the pod was not asked to end, or not waited for")
        assert "/state" not in log[off - 500:], power.fail("the state was not let go of")
        # Its grace is 10 s, and it takes one of them.
        assert took < Machine.patience(60), power.fail(f"it took {took:.0f} s")
        ok(f"the power button stops the pods in order, each within its grace, then the machine ({took:.1f} s)")
    with m.on() as power:
        power.up()
        assert "repaired" not in power.console(), power.console()
        ok("what was switched off in order needs no repair")


def the_root_cannot_be_written_and_has_no_shell_to_log_in_to(power):
    for place in "/usr/x", "/usr/lib/plinth/manifests/x":
        status, said = power.ask(f"touch {place}")
        assert status != 0 and "ead-only" in said, said
    for name in "sh", "bash", "login", "apt", "dpkg", "sshd":
        assert power.ask(f"test -e /bin/{name} -o -e /sbin/{name}")[0] != 0, f"the image has {name}"
    mounts = power.said("cat /proc/self/mounts")
    for place in "/", "/usr/lib/plinth/manifests":
        assert re.search(rf"^/dev/(dm-|mapper/)\S* {place} erofs ro", mounts, re.M), mounts
    for place in "/tmp", "/run", "/state":
        line = re.search(rf"^\S+ {place} \S+ (\S+)", mounts, re.M)
        assert line and {"nosuid", "nodev"} <= set(line[1].split(",")), f"{place}: {line and line[0]}"
    ok("root and manifests are verified and read-only; nothing logs in")


def containers(power):
    """Each pod's container: which attempt it is, and since when."""
    statuses = {name: power.pod(name)["status"]["containerStatuses"] for name in power.pods()}
    return {name: [(c["containerID"], c["state"]["running"]["startedAt"], c["restartCount"]) for c in cs] for name, cs in statuses.items()}


def plinth_killed_adopts_its_pods(power):
    before, old = containers(power), power.said("pidof plinth").split()
    power.said("kill -9 $(pidof plinth)")
    power.until("another plinth runs", 60, lambda: power.ask("pidof plinth")[1].split() not in (old, []))
    power.ready()
    assert containers(power) == before, f"containers were started anew: {before} {containers(power)}"
    ok("plinth killed comes back and adopts its pods")


def containerd_killed_costs_no_pod(power):
    before, old = containers(power), power.said("pidof containerd").split()
    power.said("kill -9 $(pidof containerd)")
    power.until("another containerd runs", 60, lambda: power.ask("pidof containerd")[1].split() not in (old, []))
    # It is used, not only there: a pod starts.
    power.put("45-fresh.yaml", overlay.pod("fresh"))
    power.until("a new pod is Ready", 180, lambda: power.pods().get("fresh", {}).get("ready"))
    power.said(f"rm {OVERLAY}/45-fresh.yaml")
    power.until("it is gone", 120, lambda: "fresh" not in power.pods())
    power.ready()
    assert containers(power) == before, f"containers were started anew: {before} {containers(power)}"
    ok("containerd killed costs no pod")


def a_bad_manifest_in_the_overlay_costs_only_itself(power):
    before = containers(power)
    power.put("40-bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: 3}\n")
    power.until("the bad file is named", 60, lambda: "40-bad.yaml:4" in power.ask("plinth status")[1])
    assert containers(power) == before
    power.said(f"rm {OVERLAY}/40-bad.yaml && sync")
    power.ready()
    ok("a bad manifest in the overlay costs only itself, and is shown with its line")


def a_sealed_pod_holds_against_the_overlay(power):
    before = containers(power)
    other = overlay.pod("witness").replace("name: witness\n", "name: witness\n  namespace: kube-system\n")
    refused = lambda file, does: power.until(f"it is shown that {file} is refused", 60, lambda: any(
        file in line and "sealed" in line and does in line for line in power.ask("plinth status -o wide")[1].splitlines()))
    power.put("30-other.yaml", other)
    refused("30-other.yaml", "is refused")
    power.put("witness.yaml", other)
    refused("witness.yaml", "may not override it")
    power.said(f"ln -sf /dev/null {OVERLAY}/witness.yaml")
    refused("witness.yaml", "may not mask it")
    power.said(f"rm {OVERLAY}/30-other.yaml {OVERLAY}/witness.yaml")
    power.until("nothing is refused any more", 60, lambda: "sealed" not in power.ask("plinth status -o wide")[1])
    # Nor by settings that leave its layer out.
    power.said("echo 'layers: [/etc/plinth/manifests]' >/etc/plinth/config.yaml && kill -9 $(pidof plinth)")
    power.ready()
    assert containers(power) == before, containers(power)
    ok("a sealed pod is not replaced, overridden, masked or left out from the overlay, and trying is shown")
    power.said("echo 'layers: [' >/etc/plinth/config.yaml && kill -9 $(pidof plinth)")
    power.ready()
    assert "/etc/plinth/config.yaml" in power.ask("plinth status")[1], power.ask("plinth status")[1]
    assert containers(power) == before, containers(power)
    power.said("rm /etc/plinth/config.yaml && kill -9 $(pidof plinth)")
    power.ready()
    assert "degraded" not in power.ask("plinth status")[1], power.ask("plinth status")[1]
    ok("settings in the overlay that cannot be read cost only themselves, and it is said")


def the_firmware_boots_the_disk_alone(m):
    # UEFI finds the one file with kernel, initrd and command line on the first partition.
    with m.on(firmware="/usr/share/ovmf/OVMF.fd") as power:
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        assert power.said("cat /proc/cmdline").split() == m.cmdline().split()
        ok("UEFI boots the disk by itself, with the command line that is sealed with the kernel")


def twenty_pods(m):
    with m.on(memory=1024) as power:
        power.up()
        for n in range(17):
            power.put(f"{n:02}.yaml", overlay.pod(f"pod-{n}"))
        power.until("twenty pods are there", 240, lambda: len(power.pods()) == 20)
        power.ready()
        before = containers(power)
        rss = int(re.search(r"VmRSS:\s+(\d+)", power.said("cat /proc/$(pidof plinth)/status"))[1])
        assert rss <= 8 << 10, f"plinth uses {rss} KiB with twenty pods"
        power.said("kill -9 $(pidof plinth)")
        power.ready()
        assert containers(power) == before, "containers were started anew"
        ok(f"twenty pods are Ready and adopted; plinth uses {rss / 1024:.1f} MiB")
        power.later("/usr/lib/plinth/init reboot")
        ready = power.up()
        assert len(power.pods()) == 20, power.pods().keys()
        ok(f"twenty pods are Ready again after a reboot ({ready:.0f} s)")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(power, port):
    """The web pod's page, once the DHCP client has an address."""
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                return page.read().decode()
        except OSError as why:
            if time.monotonic() > end:
                power.fail(f"the web pod is not reached: {why}")
            time.sleep(0.5)


TESTS = [a_day_of_a_machine, twenty_pods, the_firmware_boots_the_disk_alone]
