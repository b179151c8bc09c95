"""What is kept, and what is verified: a partition that is wiped, broken, full or missing, and images that were changed."""

import os, re

import overlay
from report import IMAGE_PODS, ok


def a_wiped_state_boots_to_exactly_the_images_pods(m):
    with m.on() as power:
        power.up()
        power.put("50-kept.yaml", overlay.pod("kept"))
        power.until("the overlay's pod is there", 120, lambda: "kept" in power.pods())
    m.overwrite("plinth-state", bytes(1 << 20), times=1 << 20)
    # And the first of the two partition tables with it.
    with open(m.disk, "r+b") as disk:
        disk.seek(512)
        disk.write(bytes(512))
    with m.on() as power:
        power.up()
        for told in "the partition table is broken, its copy at the end of the disk is used", "partition table mended from its copy":
            assert told in power.console(), power.console()
        ok("where the partition table is broken its copy is used, and mends it")
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        assert power.ask("test -e /run/init/degraded")[0] != 0, power.said("cat /run/init/degraded")
        ok("with the state wiped, exactly the image's pods")


def a_broken_state_partition_degrades_and_says_so(m):
    # Noise and no superblock anywhere: whatever has one of its superblocks left, e2fsck mends.
    m.overwrite("plinth-state", b"\xa5" * 4096, times=1 << 20)
    with m.on() as power:
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        why = power.said("cat /run/init/degraded")
        assert "nothing is kept beyond this boot" in why and "/dev/vda5" in why, why
        assert "nothing is kept beyond this boot" in power.console(), power.console()
        assert "nothing is kept beyond this boot" in power.ask("plinth status")[1], power.ask("plinth status")[1]
        ok("a broken state partition degrades to a machine that says so, and runs exactly the image's pods")


def a_file_system_whose_making_was_cut_short_is_made_anew(m):
    # Some of its blocks are there and others are not; behind it, what says so.
    _, size = m.partition("plinth-state")
    m.overwrite("plinth-state", b"\xa5" * 4096, times=1 << 8)
    m.overwrite("plinth-state", b"plinth: no file system here yet, it is being made", at=size - (64 << 10))
    with m.on() as power:
        power.says(r"/dev/vda5: blank, made a file system")
        power.up()
        assert power.ask("test -e /run/init/degraded")[0] != 0, power.said("cat /run/init/degraded")
        power.later("/usr/lib/plinth/init reboot")
        power.up()
        assert power.console().count("made a file system") == 1, power.console()
        ok("a file system whose making was cut short is made anew, once")


def a_damaged_state_partition_is_mended(m):
    with m.on() as power:
        power.up()
        power.put("50-kept.yaml", overlay.pod("kept"))
        power.until("the overlay's pod is there", 120, lambda: "kept" in power.pods())
        power.later("/usr/lib/plinth/init poweroff")
        power.off(120)
    # Its first superblock, and the group descriptors behind it; and its disk is larger now.
    m.overwrite("plinth-state", b"\x5a" * 8192)
    os.truncate(m.disk, m.disk.stat().st_size + (256 << 20))
    with m.on() as power:
        power.up()
        for grown in "/dev/vda5: partition grown from 512 to 768 MiB", "/dev/vda5: grown from 511 to 767 MiB":
            assert grown in power.console(), power.console()
        assert int(power.said("df -m /state | tail -1").split()[1]) > 650, power.said("df -m /state")
        ok("partition and file system grow to the disk's end")
        assert "/dev/vda5: repaired" in power.console(), power.console()
        assert set(power.pods()) == IMAGE_PODS | {"kept"}, power.pods().keys()
        assert power.ask("test -e /run/init/degraded")[0] != 0, power.said("cat /run/init/degraded")
        ok("a state partition that lost its first superblock is mended, with what it kept")


def a_missing_state_partition_degrades_and_says_so(m):
    with m.on(append="plinth.state=plinth-nowhere plinth.wait=1") as power:
        power.says(r"nothing is kept beyond this boot.*plinth-nowhere")
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        ok("a missing state partition degrades, and it is said which")


def a_pod_that_fills_the_disk_costs_nobody_else(m):
    # As root, and to the last block it can have.
    fill = "dd if=/dev/zero of=/fill/boulder bs=1M; dd if=/dev/zero of=/fill/crumbs bs=1k; sync; sleep infinity"
    filler = overlay.pod("filler", fill, resources="{}") + "    volumeMounts: [{name: fill, mountPath: /fill}]\n  volumes: [{name: fill, emptyDir: {}}]\n"
    full = lambda power: power.ask("touch /state/x && dd if=/dev/zero of=/state/x bs=64k count=1 2>/dev/null; df -k /state | tail -1; rm -f /state/x")[1].split()
    with m.on() as power:
        power.up()
        power.put("50-kept.yaml", overlay.pod("kept"))
        power.put("60-filler.yaml", filler)
        power.until("the disk is full", 300, lambda: full(power)[3] == "0")
        power.said("kill -9 $(pidof plinth)")
        power.ready()
        ok("when a pod fills the disk the others go on, and plinth comes back")

        # The overlay is on that disk; the layer of this boot is not.
        power.put("70-late.yaml", overlay.pod("late"), there="/run/plinth/manifests")
        power.until("it is said why a new pod cannot start", 120, lambda: "is full: free space there" in power.ask("plinth why late")[1])
        assert power.pods()["late"]["restarts"] == 0, power.pods()["late"]
        power.said("rm /etc/plinth/manifests/60-filler.yaml")
        power.until("a new pod starts once there is room", 240, lambda: power.pods().get("late", {}).get("ready"))
        ok("a new pod on a full disk says so in `why`, and starts when there is room")

        # Every inode, and the blocks that are reserved for the daemons too.
        power.said("mkdir /state/many && cd /state/many && seq 1 40000 | xargs touch 2>/dev/null; sync; true", 300)
        assert power.ask("touch /state/one-more")[0] != 0
        power.said("dd if=/dev/zero of=/state/boulder bs=1M 2>/dev/null; dd if=/dev/zero of=/state/crumbs bs=1k 2>/dev/null; sync; true", 300)
        power.later("/usr/lib/plinth/init poweroff")
        power.says(r"init: off")
        power.off(60)
        ok("a machine with no block left on its disk can be switched off")
    with m.on() as power:
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        assert "it holds as many files as it can" in power.ask("plinth status")[1], power.ask("plinth status")[1]
        ok("and with no inode left either it boots to the image's pods, and says so")


def a_root_that_does_not_match_its_hash_is_refused(m):
    for word, device, refused in ("roothash", "vda2", "a wrong root hash is refused"), ("manifestshash", "vda4", "and a wrong one of the manifests"):
        line = re.sub(rf"plinth\.{word}=\S+", f"plinth.{word}=" + "0" * 64, m.cmdline())
        with m.on(cmdline=line, append="plinth.fallback=poweroff") as power:
            power.off(120)
            log = power.console()
            assert re.search(rf"cannot boot: verify /dev/{device} .*it does not match, refused", log) and "init: up" not in log, log[-2000:]
            ok(refused)
    line = re.sub(r"plinth\.roothash=\S+", "plinth.roothash=0123x", m.cmdline())
    with m.on(cmdline=line, append="plinth.fallback=halt") as power:
        power.says(r"cannot boot: verify the root: `plinth\.roothash=0123x` is no hash in hexadecimal")
        ok("a hash with a typing error boots nothing")
    # Some of containerd: the root is mounted, and what was changed is not given out.
    m.overwrite("plinth-root", bytes(4096), at=2 << 20, times=4096)
    with m.on(append="plinth.fallback=poweroff") as power:
        power.says(r"verity: .*data block \d+ is corrupted")
        assert "witness began" not in power.console()
        ok("a block of the root that was changed is not read")


TESTS = [a_pod_that_fills_the_disk_costs_nobody_else, a_wiped_state_boots_to_exactly_the_images_pods, a_damaged_state_partition_is_mended,
         a_file_system_whose_making_was_cut_short_is_made_anew,
         a_broken_state_partition_degrades_and_says_so, a_missing_state_partition_degrades_and_says_so,
         a_root_that_does_not_match_its_hash_is_refused]
