#!/usr/bin/env python3
"""Measures plinth on a private node and prints the reference table with ours beside it.

bench.py PLINTH CONTAINERD-DIR [--quick]     as root; ../shared/bench/podbench.py does the timing from outside
The floor, `ctr run -d`, is measured in the same run against the same containerd, before and after ours.
"""
import json, os, re, shutil, statistics, subprocess, sys, tempfile, time

here = os.path.dirname(os.path.abspath(__file__))
plinth, containerd = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
quick = "--quick" in sys.argv
podbench = os.path.join(here, "..", "..", "shared", "bench", "podbench.py")
IMAGE = "docker.io/library/busybox:1.35"
ROUNDS, BATCH, IDLE_S, LOG_S = (3, 20, 5, 5) if quick else (10, 20, 30, 30)
node = tempfile.mkdtemp(prefix="plbench-", dir="/tmp")
marks = node + "-marks"
sh = os.path.join(here, "node.sh")


def inside(*cmd, **kw):
    return subprocess.run([sh, "exec", node, *cmd], check=True, **kw)


def ctr(*a, ns="floor", **kw):
    return inside(f"{node}/containerd/usr/bin/ctr", "-a", f"{node}/containerd.sock", "-n", ns, *a, **kw)


def holder():
    return open(f"{node}/holder.pid").read().strip()


def ctr_cmd(*a, ns="floor"):
    # nsenter by itself, without a shell before it: the floor is ctr's own time.
    return ["nsenter", "-t", holder(), "-m", "-n", f"{node}/containerd/usr/bin/ctr", "-a", f"{node}/containerd.sock", "-n", ns, *a]


def run_args(i):
    script = f"touch /m/{i}; trap 'exit 0' TERM; : tag-{i}; while :; do sleep 1; done"
    return ctr_cmd("run", "-d", "--net-host", "--mount", f"type=bind,src={marks},dst=/m,options=rbind:rw", IMAGE, i, "sh", "-c", script)


def wait_mark(i):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return os.stat(f"{marks}/{i}").st_mtime_ns
        except FileNotFoundError:
            time.sleep(0.001)
    sys.exit(f"bench.py: container {i} of `ctr run -d` never started")


def drop(ids):
    for i in ids:
        subprocess.run(ctr_cmd("task", "kill", "-s", "KILL", i), capture_output=True)
    for i in ids:
        for _ in range(100):
            if subprocess.run(ctr_cmd("task", "delete", i), capture_output=True).returncode == 0:
                break
            time.sleep(0.02)
        subprocess.run(ctr_cmd("container", "delete", i), capture_output=True)


def floor(tag, n):
    times, ids = [], []
    for k in range(n):
        i = f"floor-{tag}-{k}"
        t = time.time_ns()
        subprocess.run(run_args(i), check=True, capture_output=True)
        times.append((wait_mark(i) - t) / 1e6)
        ids.append(i)
        drop([i])
        time.sleep(0.2)
    return times


def floor_batch(n):
    ids = [f"floor-batch-{k}" for k in range(n)]
    t, running = time.time_ns(), []
    for i in ids:
        while len(running) >= 2:
            running = [p for p in running if p.poll() is None]
            time.sleep(0.002)
        running.append(subprocess.Popen(run_args(i), stdout=subprocess.DEVNULL))
    for p in running:
        p.wait()
    ms = max(wait_mark(i) for i in ids) / 1e6 - t / 1e6
    drop(ids)
    return ms


def cpu_s(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def pss_kb(pid):
    return int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M).group(1))


def shims():
    ns = os.readlink(f"/proc/{holder()}/ns/mnt")
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{p}/ns/mnt") == ns and b"containerd-shim" in open(f"/proc/{p}/cmdline", "rb").read():
                yield p
        except OSError:
            pass


def main():
    subprocess.run([sh, "up", node, containerd], check=True)
    os.makedirs(marks, exist_ok=True)
    archive = f"{node}/work/busybox.tar"
    subprocess.run([os.path.join(here, "..", "images", "busybox-archive.sh"), archive, IMAGE], check=True)
    for ns in ("floor", "plinth"):
        ctr("images", "import", archive, ns=ns, stdout=subprocess.DEVNULL)
    manifests = f"{node}/work/manifests"
    os.makedirs(manifests)
    log = open(f"{node}/plinth.log", "w")
    agent = subprocess.Popen(
        ["nsenter", "-t", holder(), "-m", "-n", plinth, "run", *settings(manifests)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    pid = agent.pid
    time.sleep(1)
    if agent.poll() is not None:
        sys.exit(f"bench.py: plinth ended: {open(log.name).read()[-2000:]}")
    try:
        report(pid, manifests)
    finally:
        agent.terminate()
        agent.wait()


def settings(manifests):
    name = os.path.basename(node)
    return ["--manifests", manifests, "--node-name", "bench", "--container-runtime-endpoint", f"unix://{node}/containerd.sock",
            "--set", f"dataDir={node}/data", "--set", f"runDir={node}/run", "--set", f"podLogsDir={node}/logs/pods",
            "--set", f"containerLinksDir={node}/logs/containers", "--set", f"socket={node}/plinth.sock",
            "--set", f"cniConfDir={node}/cni", "--set", "cniBinDirs=/usr/lib/cni", "--set", f"cniCacheDir={node}/data/cni", "--set", f"cgroupRoot=/plinth-{name}"]


def bench(pid, manifests, net):
    r = subprocess.run([sys.executable, podbench, "--manifests", manifests, "--pid", str(pid), "--n", str(ROUNDS), "--batch", str(BATCH),
                        "--idle", str(IDLE_S), "--net", net, "--marks", marks + "-pod"], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"bench.py: podbench ({net}): {r.stderr}")
    return json.loads(r.stdout)


def log_rate(pid, manifests):
    """20,000 lines a second from one pod: lines lost, and plinth's CPU a byte."""
    n, line = 20000 * LOG_S, "x" * 87
    script = f'i=0; while [ $i -lt {LOG_S} ]; do yes {line} | head -n 20000; i=$((i+1)); sleep 0.6; done; echo end'
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "flood"}, "spec": {"hostNetwork": True, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
           "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}}
    c0, t0 = cpu_s(pid), time.monotonic()
    json.dump(pod, open(f"{manifests}/.flood", "w"))
    os.rename(f"{manifests}/.flood", f"{manifests}/flood.json")
    root, lines, size, ended = f"{node}/logs/pods", 0, 0, False
    seen = {}
    end = time.monotonic() + 6 * LOG_S + 30
    while time.monotonic() < end and not ended:
        time.sleep(0.5)
        # Rotation deletes the oldest files: hold every file open once it is seen, so nothing escapes the count.
        for d, _, fs in os.walk(root):
            if "flood-bench" not in d:
                continue
            for f in fs:
                st = os.stat(os.path.join(d, f))
                if st.st_ino not in seen:
                    seen[st.st_ino] = open(os.path.join(d, f), "rb")
        for f in seen.values():
            f.seek(-min(64, os.fstat(f.fileno()).st_size), 2)
            ended = ended or f.read().endswith(b" end\n")
    secs, cpu = time.monotonic() - t0, cpu_s(pid) - c0
    for f in seen.values():
        f.seek(0)
        for l in f:
            lines += l.rstrip(b"\n").endswith(line.encode())
            size += len(l)
    os.unlink(f"{manifests}/flood.json")
    return {"sent": n, "kept": lines, "rate": n / secs, "cpu_s": cpu, "bytes": n * (len(line) + 1), "ended": ended}


def report(pid, manifests):
    before = floor("a", ROUNDS)
    host = bench(pid, manifests, "host")
    cni = bench(pid, manifests, "cni")
    after = floor("b", ROUNDS)
    batch_floor = floor_batch(BATCH)
    fl = statistics.median(before + after)
    log = log_rate(pid, manifests)
    ms_per_524mb = log["cpu_s"] * 1000 * 524e6 / log["bytes"]
    size_mb = os.path.getsize(plinth) / 1e6
    idle = host["idle"]

    rows = [("measure", "kubelet 1.36.2", "floor", "must reach", "plinth", "ok")]

    def row(name, kubelet, base, limit, ours, unit, ok):
        rows.append((name, kubelet, base, limit, f"{ours:.{0 if unit == 'ms' else 2}f} {unit}".strip(), "yes" if ok else "NO"))

    def timed(name, kubelet, base, factor, ours):
        if ours is None:
            rows.append((name, kubelet, f"{base:.0f} ms", f"≤ {base * factor:.0f} ms", "lost", "NO"))
        else:
            row(name, kubelet, f"{base:.0f} ms", f"≤ {base * factor:.0f} ms", ours, f"ms ({ours / base:.2f} ×)", ours <= base * factor)

    timed("start, host network, median", "432 ms", fl, 1.1, host["start_ms"].get("median"))
    timed("start, bridge network, median", "511 ms", fl + 13, 1.1, cni["start_ms"].get("median"))
    stop = host["stop_ms"].get("median", 1e9)
    row("manifest removed -> process gone, median", "66–1,500 ms", "", "≤ 60 ms", stop, "ms", stop <= 60)
    timed("crash -> first restart, median", "552 ms", fl, 1.1, host["restart_ms"].get("median"))
    timed(f"{BATCH} pods at once -> all running", "2.2 s", batch_floor, 1.2, host["batch_ms"].get("max"))
    row(f"resident memory, {BATCH} pods", "84 MB", "", "≤ 8 MB", idle["Rss"] / 1024, "MB", idle["Rss"] <= 8192)
    row(f"idle CPU, {BATCH} pods", "1.6–2.1 %", "", "≤ 0.05 %", idle["cpu_pct"], "%", idle["cpu_pct"] <= 0.05)
    row("idle context switches", "230–360 /s", "0", "≤ 2 /s", idle["switches_per_s"], "/s", idle["switches_per_s"] <= 2)
    row("threads", "11", "1", "1", idle["threads"], "", idle["threads"] == 1)
    row("binary", "84 MB", "", "≤ 8 MB", size_mb, "MB", size_mb <= 8)
    row("log lines lost of 20,000 /s", "", "0", "0", log["sent"] - log["kept"], "", log["sent"] == log["kept"])
    row("log CPU for 524 MB", "", "310 ms (shim's copy)", "≤ 310 ms", ms_per_524mb, "ms", ms_per_524mb <= 310)
    lost = sum(r[k]["lost"] for r in (host, cni) for k in ("start_ms", "stop_ms", "restart_ms", "batch_ms"))
    row("starts, stops and restarts lost", "", "0", "0", lost, "", lost == 0)
    widths = [max(len(r[i]) for r in rows) for i in range(6)]
    for k, r in enumerate(rows):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |")
        if k == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    cpu = next(l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
    print(f"\n{os.cpu_count()} cores ({cpu}), Linux {os.uname().release}; log: {log['rate']:.0f} lines/s over {LOG_S} s"
          f"{'' if log['ended'] else ' (never ended)'}; {subprocess.run([containerd + '/usr/bin/containerd', '--version'], capture_output=True, text=True).stdout.strip()}")
    print("raw: " + json.dumps({"floor_ms": [round(x) for x in before + after], "floor_batch_ms": round(batch_floor), "host": host, "cni": cni, "log": log}))


try:
    main()
finally:
    subprocess.run([sh, "down", node])
    for d in (node, marks, marks + "-pod"):
        shutil.rmtree(d, ignore_errors=True)
