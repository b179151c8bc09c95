"""The power goes at any moment; the next boot is whole: every pod Ready, nothing lost that was said to be on the disk.

The disk has a cache, which goes with the power."""

import os, re, time

import cargo, overlay
from machine import Machine
from report import IMAGE_PODS, ok

# The power goes when the console has said that, and so many seconds have passed (of an emulated machine).
# On a disk that nothing was ever on: the file system is made, the image is imported.
NEW = [(r"init: manifests are", 0.15), (r"PrepareImage", 0.8), (r"made a file system", 0), (r"PrepareImage", 0.2), (r"init: manifests are", 0.4),
       (r"containerd: ready", 0), (r"PrepareImage", 2), (r"witness began", 0)]
# On one that has been lived on.
IMPORTED = r"PrepareImage \S+cargo:"
LIVED_ON = [("writes", r"turn 3 is", 0.1), ("imports", IMPORTED, 0.3), ("boots", r"init: manifests are", 0.2), ("imports", IMPORTED, 1),
            ("writes", r"turn 2 is", 0.35), ("ends", r"ending: the pods first", 0.2), ("boots", r"containerd: ready", 0.1), ("imports", IMPORTED, 0),
            ("writes", r"turn 5 is", 0.22), ("boots", r"CreateSandbox", 0.5), ("ends", r"web is done", 0), ("boots", r"witness began", 0)]

# A pod that is changed again and again; a number is told when it is on the disk.
WRITER = """mkdir -p /etc/plinth/manifests; cd /etc/plinth/manifests; n=0
while :; do
  n=$((n + 1)); sed "s/TURN/$n/" /run/turning >.new && sync .new && mv .new 70-turning.yaml && sync . && echo "turn $n is on the disk" >/dev/ttyS0
  sleep 0.3
done"""


def some(moments):
    """The first of them, so many that it makes CUTS of all twenty."""
    return moments[:max(1, round(len(moments) * min(int(os.environ.get("CUTS") or 6), 20) / 20))]


class Life:
    """A machine through many cuts: what it must still have."""

    def __init__(self, m):
        self.m, self.pods, self.turn, self.cargo = m, set(IMAGE_PODS), 0, 0

    def whole(self, power):
        """What has to hold of every boot."""
        power.up()
        pods = power.pods()
        assert set(pods) == self.pods, f"{pods.keys()} and not {self.pods}"
        assert power.ask("test -e /run/init/degraded")[0] != 0, power.said("cat /run/init/degraded")
        if "turning" in self.pods:
            turn = int(power.said("sed -n 's/.*turn: \"\\(.*\\)\"}/\\1/p' /etc/plinth/manifests/70-turning.yaml"))
            assert self.turn <= turn <= self.turn + 1, f"turn {self.turn} was on the disk, and now it is {turn}"
            shown = power.pod("turning")["metadata"]["annotations"]["turn"]
            assert shown == str(turn), f"the file is at {turn}, its pod at {shown}"

    def cut(self, doing, mark, secs):
        """One cut, and the boot after it."""
        self.m.layer()
        with self.m.on(append="plinth.debug") as power:
            if doing != "boots":
                self.whole(power)
                getattr(self, doing)(power)
            power.says(mark)
            time.sleep(secs if Machine.accel == "tcg" else secs / 10)
            power.cut()
            self.turn = max([self.turn, *(int(n) for n in re.findall(r"turn (\d+) is on the disk", power.console()))])
            last = power.console().splitlines()[-1]
        self.m.layer()
        with self.m.on() as power:
            self.whole(power)
        print(f"      it {doing}, the power goes at `{last[:100]}`: whole again\n", end="", flush=True)

    def writes(self, power):
        self.pods.add("turning")
        self.turn = 0
        # From one again: what is there is of an earlier life.
        turning = overlay.pod("turning", notes='{turn: "TURN"}')
        power.said(f"cat >/run/turning <<'END'\n{turning}END")
        power.said(f"cat >/run/writer <<'END'\n{WRITER}\nEND\n/bin/busybox sh /run/writer >/dev/null 2>&1 &")

    def imports(self, power):
        self.cargo += 1
        self.pods.add(f"cargo-{self.cargo}")
        script = f"echo {cargo.digest(self.cargo)} /cargo | sha256sum -c && {overlay.SLEEP}"
        power.put(f"80-cargo-{self.cargo}.yaml", overlay.pod(f"cargo-{self.cargo}", script, image=f"docker.io/library/cargo:{self.cargo}"))

    def ends(self, power):
        power.said("/usr/lib/plinth/init poweroff")


def a_power_cut_on_a_new_disk_leaves_it_whole(m):
    untouched = m.disk, m.format
    for mark, secs in some(NEW):
        m.disk, m.format = untouched
        Life(m).cut("boots", mark, secs)
    ok(f"{len(some(NEW))} power cuts on a new disk: whole each time")


def a_power_cut_in_the_middle_of_a_life_leaves_it_whole(m):
    life = Life(m)
    for doing, mark, secs in some(LIVED_ON):
        life.cut(doing, mark, secs)
    ok(f"{len(some(LIVED_ON))} power cuts on a disk that is lived on: nothing lost that was on it")


TESTS = [a_power_cut_in_the_middle_of_a_life_leaves_it_whole, a_power_cut_on_a_new_disk_leaves_it_whole]
