"""A kernel that panics, a PID 1 that dies or hangs: each ends in a reboot, and the next boot is whole."""

from report import IMAGE_PODS, ok

# x86-64. Undefined; and pause(2) for ever.
DIE = b"\x0f\x0b"
HANG = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"


def put_in_pid_1(power, code):
    """Writes instructions where PID 1 comes back from its wait: it does them at the next thing that happens."""
    asleep_at = int(power.said("cat /proc/1/syscall").split()[-1], 16)
    octal = "".join(f"\\0{b:03o}" for b in code)
    power.later(f"printf '%b' '{octal}' | dd of=/proc/1/mem bs=1 seek={asleep_at} conv=notrunc && kill -CHLD 1")


def the_kernel_or_pid_1_fails_and_the_machine_reboots(m):
    with m.on() as power:
        power.up()
        power.later("echo c >/proc/sysrq-trigger")
        power.says(r"Kernel panic - not syncing: sysrq triggered crash")
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        ok("a kernel that panics ends in a reboot")

        put_in_pid_1(power, DIE)
        power.says(r"Kernel panic - not syncing: Attempted to kill init")
        power.up()
        ok("a PID 1 that dies ends in a reboot")

        # 60 s after it was last fed the watchdog resets the machine.
        put_in_pid_1(power, HANG)
        power.up()
        assert set(power.pods()) == IMAGE_PODS, power.pods().keys()
        assert power.console().count("Kernel panic") == 2, "it was a panic and not the watchdog"
        ok("a PID 1 that hangs ends in a reboot by the watchdog")


TESTS = [the_kernel_or_pid_1_fails_and_the_machine_reboots]
