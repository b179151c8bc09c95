#!/usr/bin/env python3
"""What a boot of the demo's pods costs, beside its floor: the same kernel booting to a containerd that answers, in turns.

Nothing is asked of the machines that are timed: what they say on the console counts. ASKED is the same image with the pod that answers.
Usage: bench.py OUT ASKED FLOOR-INITRD PLINTH INIT   BOOTS=N of each [3]   IDLE=SECONDS [60]"""

import os, pathlib, re, shutil, statistics, sys, tempfile

from machine import Machine
from report import memory_mib, table, timeline

BOOTS, IDLE = int(os.environ.get("BOOTS") or 3), int(os.environ.get("IDLE") or 60)
# One of the demo's pods counts, to its log and its volume: not idle.
MASK = "mkdir -p /etc/plinth/manifests && ln -s /dev/null /etc/plinth/manifests/20-pair.yaml"
# Field 7 of a disk's statistics: sectors of 512 bytes written; and who has written, by name.
LOOK = "awk '{ print $7 }' /sys/block/vda/stat"
QUIET = f"sync; {LOOK}; sleep 15; {LOOK}"
WROTE = f"look() {{ {LOOK}; }}\n" + r"""who() { for p in /proc/[0-9]*; do echo "$(cat $p/comm 2>/dev/null) $(sed -n 's/^write_bytes: //p' $p/io 2>/dev/null)"; done | sort; }
sync; who >/run/before; a=$(look); sleep %d; b=$(look); who >/run/after; echo "$a $b"; diff /run/before /run/after | sed -n 's/^+\([^+]\)/\1/p'"""


def floor(m, initrd):
    with m.on(cmdline="console=ttyS0 quiet", initrd=initrd) as power:
        power.off(300)
        log = power.console()
    return float(re.search(r"floor: answers ([0-9.]+)", log)[1]), int(re.search(r"floor: memory (\d+)", log)[1])


def boot(m):
    with m.on() as power:
        ready = float(power.says(r"\[ *([0-9.]+)\] plinth: ([1-9]\d*) of \2 pods ready")[0])
        marks, in_initrd = timeline(power, ready), int(re.search(r"(\d+) ms after the kernel was done", power.console())[1])
        power.monitor("system_powerdown")
        power.off(300)
        return marks, in_initrd


def idle(m):
    """Memory in use, the pods' part of it, bytes written while nothing happens, and who says that it wrote."""
    with m.on() as power:
        power.up()
        memory = memory_mib(power)
        power.said(MASK)
        power.until("the pod that counts is gone", 120, lambda: "pair" not in power.pods())
        # What a boot and a pod's end leave to do takes as long as the machine is slow: three commit intervals of the journal without a write.
        power.until("what a boot leaves to write is written", 120, lambda: len(set(power.said(QUIET, 60).split())) == 1)
        first, *who = power.said(WROTE % IDLE, IDLE + 120).splitlines()
        a, b = map(int, first.split())
        return memory, (b - a) * 512, who


def main(out, asked, floor_initrd, plinth, init):
    Machine.prove(out)
    work = pathlib.Path(tempfile.mkdtemp(prefix="plinth-boot."))
    try:
        floors, firsts, laters = [], [], []
        for n in range(BOOTS):
            m = Machine(out, work / str(n))
            floors.append(floor(m, floor_initrd))
            firsts.append(boot(m))
            laters.append(boot(m))
        (used, pods), written, who = idle(Machine(asked, work / "idle"))
    finally:
        shutil.rmtree(work)
    middle = lambda boots, get: statistics.median(get(b) for b in boots)
    ready = lambda b: b[0]["every pod is Ready"]
    answers = middle(floors, lambda f: f[0])
    for name, boots in ("first boot, the state is blank", firsts), ("later boot, after an orderly end", laters):
        chosen = sorted(boots, key=ready)[len(boots) // 2]
        print(f"{name}: seconds since the kernel began, the middle one of {BOOTS}\n{table(chosen[0])}")
    size = lambda path: pathlib.Path(path).stat().st_size / 1e6
    ratio, used = middle(laters, ready) / answers, used - pods
    rows = [
        ("floor: containerd answers", "", f"{answers:.2f} s", True),
        ("first boot -> all pods Ready", "", f"{middle(firsts, ready):.2f} s ({middle(firsts, ready) / answers:.2f} x)", True),
        ("boot -> all pods Ready", "<= 1.6 x", f"{middle(laters, ready):.2f} s ({ratio:.2f} x)", ratio <= 1.6),
        ("init in the initrd", "<= 150 ms", f"{middle(laters, lambda b: b[1]):.0f} ms", middle(laters, lambda b: b[1]) <= 150),
        ("init in the initrd, first boot", "", f"{middle(firsts, lambda b: b[1]):.0f} ms", True),
        ("plinth-init", "<= 1.5 MB", f"{size(init):.1f} MB", size(init) <= 1.5),
        ("initrd", "<= 8 MB", f"{size(f'{out}/initrd.img'):.1f} MB", size(f"{out}/initrd.img") <= 8),
        ("root image", "<= 90 MB", f"{size(f'{out}/root.erofs'):.1f} MB", size(f"{out}/root.erofs") <= 90),
        ("memory beside the pods", "<= 100 MiB", f"{used:.0f} MiB (floor {middle(floors, lambda f: f[1]):.0f})", used <= 100),
        (f"written in {IDLE} s idle", "0 blocks", f"{written // 4096} blocks of 4 KiB", written == 0),
    ]
    print(f"\n| by {Machine.accel.upper()}, {Machine.processors()} processor(s) | must reach | here | ok |\n|---|---|---|---|")
    for what, must, here, held in rows:
        print(f"| {what} | {must} | {here} | {'' if not must else 'yes' if held else 'NO'} |")
    if who:
        print("who wrote: " + "; ".join(who))
    sys.exit(any(not held for *_, held in rows))


main(*sys.argv[1:])
