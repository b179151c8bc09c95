"""Volumes of an NFS server: the kernel's own, in the machine itself, and the image's client."""

import io, lzma, pathlib, re, subprocess, tarfile

import overlay
from report import ok

KERNEL = pathlib.Path(__file__).resolve().parents[2] / ".cache/image/linux-image-cloud-amd64"
# Of the newest version alone, with the root of what it gives at `/`. What a daemon (mountd) would answer the kernel is told beforehand: who the
# clients are, what they may have (writing, as root, at once), and where it is. For ten seconds it waits
# for who held anything of an earlier server.
SERVE = r"""cd /proc/net/rpc; never=2147483647
mkdir -p /state/export
grep -q " /proc/fs/nfsd " /proc/mounts || mount -t nfsd none /proc/fs/nfsd
echo -2 -3 +4 +4.1 +4.2 >/proc/fs/nfsd/versions
for time in lease grace; do echo 10 >/proc/fs/nfsd/nfsv4${time}time; done
echo "nfsd 127.0.0.1 $never all" >auth.unix.ip/channel
echo "all /state/export $never 25616 65534 65534 0" >nfsd.export/channel
echo "all 1 \\x00000000 $never /state/export" >nfsd.fh/channel
echo tcp 2049 >/proc/fs/nfsd/portlist
echo 2 >/proc/fs/nfsd/threads
"""


def server(m):
    """A disk with the modules of a server, which the image has not: an archive of them, in order."""
    release = next((KERNEL / "usr/lib/modules").iterdir()).name
    shown = subprocess.run(["modprobe", "-d", KERNEL / "usr", "-S", release, "--show-depends", "nfsd"], capture_output=True, text=True, check=True)
    disk = m.work / "server.tar"
    with tarfile.open(disk, "w") as tar:
        modules = [pathlib.Path(line.split()[1]) for line in shown.stdout.splitlines() if line.startswith("insmod ")]
        for at, module in enumerate(modules):
            data = lzma.decompress(module.read_bytes())
            member = tarfile.TarInfo(f"{at}-{module.stem}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return disk


def pod(name, script, how=""):
    return overlay.pod(name, f"{script}; {overlay.SLEEP}").replace(
        "hostNetwork: true", f"hostNetwork: true\n  volumes: [{{name: v, nfs: {{server: 127.0.0.1, path: /{how}}}}}]") + "    volumeMounts: [{name: v, mountPath: /v}]\n"


def a_volume_is_an_nfs_servers_and_waits_for_it(m):
    with m.on(drive=server(m)) as power:
        power.up()
        loaded = lambda: {line.split()[0] for line in power.said("cat /proc/modules").splitlines()}
        assert not {"nfs", "sunrpc"} & loaded(), loaded()
        # Some of them the image has as well, for its client.
        power.said("mkdir /run/server && cd /run/server && tar xf /dev/vdb && for m in *; do insmod $m 2>&1; done; grep -q ^nfsd /proc/modules")
        power.said(SERVE + "echo from the server >/state/export/file\n")
        mounted = lambda: [line for line in power.said("cat /proc/1/mounts").splitlines() if line.startswith("127.0.0.1:/ ")]
        logs = lambda name: power.said(f"plinth logs {name} || true")

        power.put("50-writes.yaml", pod("writes", "cat /v/file; echo from the pod >/v/back; stat -c %u:%a /v/back"))
        power.put("50-reads.yaml", pod("reads", "cat /v/file; touch /v/x 2>&1", ", readOnly: true"))
        power.until("both are there", 120, lambda: {"writes", "reads"} <= set(power.pods()))
        power.ready()
        assert "nfsv4" in loaded() and len(mounted()) == 2 and all(" nfs4 " in line and "vers=4.2" in line for line in mounted()), mounted()
        power.until("both have told", 60, lambda: "0:644" in logs("writes") and "touch" in logs("reads"))
        assert logs("writes").startswith("from the server\n"), logs("writes")
        assert logs("reads").startswith("from the server\n") and "Read-only file system" in logs("reads"), logs("reads")
        assert power.said("cat /state/export/back") == "from the pod"
        ok("a pod reads and writes what an NFS server gives, by NFS 4.2; one that may only read does")

        power.said("rm /etc/plinth/manifests/50-reads.yaml")
        power.until("it is gone", 120, lambda: "reads" not in power.pods())
        assert len(mounted()) == 1, mounted()
        power.said("echo 0 >/proc/fs/nfsd/threads")
        power.put("50-late.yaml", pod("late", "cat /v/file"))
        power.until("it waits, and says for what", 120, lambda: re.search("mount nfs export 127|reach the nfs server", power.said("plinth why late || true")))
        power.put("50-other.yaml", overlay.pod("other"))
        power.until("nobody else waits", 120, lambda: power.pods().get("other", {}).get("ready"))
        assert not power.pods()["late"]["ready"], power.pods()["late"]
        power.said(SERVE)
        power.until("the server is back, and so is what waited", 300, lambda: power.pods().get("late", {}).get("ready"))
        power.until("it reads", 120, lambda: logs("late") == "from the server")
        ok("while the server is away a new pod waits and says so, and nobody else does")

        power.said("rm /etc/plinth/manifests/50-*.yaml")
        power.until("they are gone", 240, lambda: not {"writes", "late", "other"} & set(power.pods()))
        assert mounted() == [], mounted()
        assert power.said("cat /state/export/back") == "from the pod"
        ok("what was mounted is given back, and what is on the server stays")


TESTS = [a_volume_is_an_nfs_servers_and_waits_for_it]
