"""A machine in QEMU: its disk, its power, its console, and a pod of it that answers.

The image under test is as it is built, beside its pods: one of them (`witness`) runs what is asked over a virtio-serial
port, in the machine's own root, and says how it ended. Nothing here knows a test."""

import base64, contextlib, json, os, pathlib, re, socket, subprocess, tempfile, time

KERNEL_ALONE_S = 5
# Long enough for a machine on a build host with other things to do; what is there is seen at once.
BOOT_S = 300
# Emulated, and beside other builds, everything may take so many times as long before it counts as hung.
EMULATED_PATIENCE = 4

# Without cmpxchg16b: QEMU's leaves wrong flags behind now and then, and the kernel's allocator dies of that.
EMULATED = ["-accel", "tcg", "-cpu", "max,-cx16"]


class Failed(AssertionError):
    """What was expected, and the end of the console."""


def works(out):
    """Whether KVM runs a kernel here: one without a root gets as far as its panic within 5 s."""
    cmd = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
           "-kernel", f"{out}/vmlinuz", "-append", "console=ttyS0 panic=-1"]
    if not os.access("/dev/kvm", os.W_OK):
        return False
    try:
        done = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, timeout=KERNEL_ALONE_S)
    except subprocess.TimeoutExpired:
        return False
    return b"Kernel panic" in done.stdout


class Machine:
    """One disk, switched on and off. `with machine.on(...)`: powered; leaving cuts the power."""

    accel = None

    @classmethod
    def prove(cls, out):
        """Looks once what runs machines here."""
        cls.accel = "kvm" if works(out) else "tcg"
        print("boot: by KVM" if cls.accel == "kvm" else "boot: no KVM that works here: emulated (TCG)", flush=True)

    @classmethod
    def processors(cls):
        """Of a machine. An emulated one has a single one: with two, kernels died of QEMU's flaws."""
        return 2 if cls.accel == "kvm" else 1

    @classmethod
    def patience(cls, secs):
        """How long that is waited for here."""
        return secs * EMULATED_PATIENCE if cls.accel == "tcg" else secs

    def __init__(self, out, work):
        self.out, self.work = pathlib.Path(out), pathlib.Path(work)
        self.work.mkdir(exist_ok=True)
        self.disk, self.format, self.layers = self.work / "disk.img", "raw", 0
        subprocess.run(["cp", "--sparse=always", self.out / "plinth.img", self.disk], check=True)

    def cmdline(self):
        return (self.out / "cmdline").read_text().strip()

    def layer(self):
        """From here on the disk has a cache that a power cut loses: a qcow2 layer whose index is written when the machine flushes."""
        below, self.layers = (self.disk, self.format), self.layers + 1
        self.disk, self.format = self.work / f"layer{self.layers}.qcow2", "qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below[0], "-F", below[1], self.disk], check=True)

    @contextlib.contextmanager
    def on(self, cmdline=None, network=None, memory=512, append="", initrd=None, drive=None, firmware=None):
        """`network`: a port of this host that leads to the machine's 8080; none: no network card. `drive`: a file that is its second disk.
        `firmware`: finds on the disk what to boot; none: QEMU hands over kernel, initrd and command line."""
        run = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        cpu = ["-accel", "kvm", "-cpu", "host"] if Machine.accel == "kvm" else EMULATED
        net = ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{network}-:8080", "-device", "virtio-net-pci,netdev=net"] if network else ["-nic", "none"]
        more = ["-drive", f"file={drive},if=virtio,format=raw,read-only=on"] if drive else []
        handed = ["-kernel", self.out / "vmlinuz", "-initrd", initrd or self.out / "initrd.img", "-append", f"{cmdline or self.cmdline()} {append}"]
        qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35", *cpu, "-smp", str(Machine.processors()), "-m", str(memory), "-nodefaults", "-display", "none",
             *(["-bios", firmware] if firmware else handed),
             "-drive", f"file={self.disk},if=virtio,format={self.format}", "-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
             "-chardev", f"file,id=con,path={run}/console", "-serial", "chardev:con",
             "-device", "virtio-serial-pci", "-chardev", f"socket,id=w,path={run}/witness,server=on,wait=off", "-device", "virtserialport,chardev=w,name=witness",
             "-qmp", f"unix:{run}/qmp,server=on,wait=off", *more, *net],
            stdin=subprocess.DEVNULL, stdout=open(run / "qemu.log", "w"), stderr=subprocess.STDOUT)
        power = Power(qemu, run)
        try:
            yield power
        finally:
            power.cut()

    def partition(self, name):
        """Offset and size in bytes."""
        table = json.loads(subprocess.run(["sfdisk", "--json", self.disk], capture_output=True, check=True).stdout)["partitiontable"]
        found = next(p for p in table["partitions"] if p.get("name") == name)
        return found["start"] * 512, found["size"] * 512

    def overwrite(self, name, data, at=0, times=1):
        """Writes over a partition, at most to its end."""
        start, size = self.partition(name)
        with open(self.disk, "r+b") as disk:
            disk.seek(start + at)
            for _ in range(min(times, (size - at) // len(data))):
                disk.write(data)


class Power:
    """A machine that is on."""

    def __init__(self, qemu, run):
        self.qemu, self.run, self.port, self.asked, self.boots = qemu, run, None, None, 0

    def console(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.run / "console").read_bytes().decode(errors="replace").replace("\r", "")
        return ""

    def fail(self, what):
        tail = "\n".join(self.console().splitlines()[-40:])
        raise Failed(f"{what}\n--- the console ends\n{tail}\n--- qemu: {(self.run / 'qemu.log').read_text()[-500:]}")

    def until(self, what, secs, holds):
        secs = Machine.patience(secs)
        end = time.monotonic() + secs
        while True:
            found = holds()
            if found:
                return found
            if time.monotonic() > end:
                self.fail(f"not within {secs} s: {what}")
            if self.qemu.poll() is not None and not holds():
                self.fail(f"the machine went off before: {what}")
            time.sleep(0.05)

    def says(self, pattern, secs=BOOT_S, times=1):
        """Waits for a line of the console."""
        found = self.until(f"the console says /{pattern}/", secs, lambda: len(found := re.findall(pattern, self.console())) >= times and found)
        return found[-1]

    def up(self):
        """Waits for every pod of the next boot; seconds from the kernel's first instruction to that."""
        self.boots += 1
        self.says(r"witness began", times=self.boots)
        return self.ready()

    def off(self, secs):
        """Waits until it went off by itself; how long that took."""
        start, secs = time.monotonic(), Machine.patience(secs)
        try:
            self.qemu.wait(secs)
        except subprocess.TimeoutExpired:
            self.fail(f"not off within {secs} s")
        return time.monotonic() - start

    def cut(self):
        """The power is gone at once."""
        self.qemu.kill()
        self.qemu.wait()

    def monitor(self, command, **arguments):
        """Tells QEMU."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.run / "qmp"))
            lines = s.makefile("rw")
            lines.readline()
            for execute, args in ("qmp_capabilities", {}), (command, arguments):
                lines.write(json.dumps({"execute": execute, "arguments": args}) + "\n")
                lines.flush()
                while "return" not in (answer := json.loads(lines.readline())):
                    if "error" in answer:
                        raise Failed(f"{command}: {answer}")
            return answer["return"]

    # The witness.

    def ask(self, command, secs=120):
        """Runs a shell command in the machine's root: exit status and output."""
        asked, secs = base64.b64encode(command.encode()).decode(), Machine.patience(secs)
        end = time.monotonic() + secs
        while time.monotonic() < end:
            if self.qemu.poll() is not None:
                self.fail(f"the machine went off before it answered: {command}")
            try:
                if self.port is None:
                    self.port = socket.socket(socket.AF_UNIX)
                    self.port.connect(str(self.run / "witness"))
                    self.port.settimeout(0.5)
                    self.text, self.serial, self.sent = "", int(time.monotonic() * 1000), 0
                # A line sent before the witness listens may be lost or not: it is sent again, and each has a number.
                if time.monotonic() - self.sent > 3 or self.asked != asked:
                    if self.sent == 0 or self.asked != asked:
                        self.serial += 1
                    self.asked, self.sent = asked, time.monotonic()
                    self.port.sendall(f"{self.serial} {asked}\n".encode())
                self.text += self.port.recv(1 << 16).decode(errors="replace")
            except TimeoutError:
                continue
            except OSError:
                self.port = None
                time.sleep(0.2)
                continue
            if found := re.search(rf"^{self.serial} (\d+) ([A-Za-z0-9+/=]*)\n", self.text, re.M):
                self.text, self.asked = self.text[found.end():], None
                return int(found[1]), base64.b64decode(found[2]).decode(errors="replace")
        self.fail(f"the witness does not answer within {secs} s: {command}")

    def said(self, command, secs=120):
        """The same for what has to work: its output."""
        status, text = self.ask(command, secs)
        if status != 0:
            self.fail(f"`{command}` ended with {status}: {text}")
        return text

    def later(self, command):
        """For what ends the witness too: it has answered before."""
        self.said(f"(sleep 1; {command}) >/dev/null 2>&1 &")

    def put(self, file, text, there="/etc/plinth/manifests"):
        """Writes a file of the overlay, or another layer, beside its place and renames it in: on the disk when this returns."""
        self.said(f"mkdir -p {there} && cd {there} && cat >.new <<'END' && sync .new && mv .new {file} && sync\n{text}END\n")

    def pods(self):
        """Every pod the machine has, by short name: its row of `plinth status`."""
        # 3: not all of them are Ready, which is for the test to judge.
        status, text = self.ask("plinth status -o json")
        if status not in (0, 3):
            self.fail(f"`plinth status` ended with {status}: {text}")
        return {row["name"].removesuffix("-plinth"): row for row in json.loads(text)["pods"]}

    def pod(self, name):
        """One pod as Kubernetes would show it."""
        return json.loads(self.said(f"plinth status -o json {name} || [ $? = 3 ]"))

    def ready(self, secs=BOOT_S):
        """Waits until every pod is Ready; seconds of the machine's own clock since its kernel began."""
        status, text = self.ask(f"plinth status --wait={Machine.patience(secs)}s; s=$?; cut -d' ' -f1 /proc/uptime; exit $s", secs + 60)
        if status != 0:
            self.fail(f"not all Ready:\n{text}\n{self.ask('plinth events')[1]}")
        return float(text.split()[-1])
