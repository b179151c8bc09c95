//! PID 1 for real: as `make node` runs it (images/node.sh), over this machine's root instead of the image's, with services that say what
//! happens to them. Needs root, python3, unshare(1) and overlayfs; where they are missing it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../tests/skip/mod.rs"]
mod skip;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HEAD: &str = r#"#!/usr/bin/python3
import array, os, signal, socket, sys, time
def tell(text, fds=[]):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect(os.environ["NOTIFY_SOCKET"])
    s.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
def say(text):
    print(text, flush=True)
"#;

const CONTAINERD: &str = r#"
say("host name " + os.uname().nodename)
say("session " + str(os.getsid(0) == os.getpid()))
signal.signal(signal.SIGTERM, lambda *_: (say("saw TERM"), os._exit(0)))
for stubborn in [False, True]:
    if os.fork() == 0:
        os.setsid()
        if stubborn:
            signal.signal(signal.SIGTERM, lambda *_: say("orphan saw TERM"))
            if os.fork() == 0:
                # Somebody who pretends to be the service.
                tell("READY=1")
                while True: time.sleep(1)
        elif os.fork() == 0:
            time.sleep(0.2)
        os._exit(0)
def states():
    for p in os.listdir("/proc"):
        try:
            if p.isdigit(): yield open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[0:2]
        except FileNotFoundError: pass
time.sleep(0.6)
for _ in range(600):
    zombies = sum(s == ["Z", "1"] for s in states())
    if zombies == 0: break
    time.sleep(0.05)
say("zombies of PID 1: %d" % zombies)
tell("READY=1")
while True: signal.pause()
"#;

const PLINTH: &str = r#"
if sys.argv[1] == "shutdown":
    os.kill(int(open("/run/plinth.pid").read()), signal.SIGUSR1)
    while os.path.exists("/run/plinth.pid"): time.sleep(0.01)
    sys.exit(0)
open("/run/plinth.pid", "w").write(str(os.getpid()))
def stop(*_):
    say("pods stopped")
    os.unlink("/run/plinth.pid")
    os._exit(0)
signal.signal(signal.SIGUSR1, stop)
runs = int(open("/run/runs").read()) + 1 if os.path.exists("/run/runs") else 1
open("/run/runs", "w").write(str(runs))
say("run %d watchdog %s pid %s" % (runs, os.environ["WATCHDOG_USEC"], os.environ["WATCHDOG_PID"] == str(os.getpid())))
if runs == 1:
    for name in ["plinth-log.a", "gone", "plinth-log.b"]:
        r, w = os.pipe()
        os.write(w, name.encode())
        tell("FDSTORE=1\nFDNAME=%s\nFDPOLL=0" % name, [r])
    tell("FDSTOREREMOVE=1\nFDNAME=gone")
    tell("READY=1\nSTATUS=0 of 0 pods ready")
    os.kill(os.getpid(), signal.SIGKILL)
fds = [os.read(3 + i, 99).decode() for i in range(int(os.environ["LISTEN_FDS"]))]
say("handed %s as %s pid %s" % (fds, os.environ["LISTEN_FDNAMES"], os.environ["LISTEN_PID"] == str(os.getpid())))
if runs == 2:
    tell("READY=1")
    tell("WATCHDOG=trigger")
    while True: time.sleep(1)
for i, name in enumerate(["plinth-log.a", "plinth-log.b"]):
    r, w = os.pipe()
    os.write(w, b"again")
    tell("FDSTOREREMOVE=1\nFDNAME=" + name)
tell("READY=1")
os.spawnv(os.P_WAIT, "/usr/lib/plinth/init", ["init", "poweroff"])
while True: signal.pause()
"#;

#[test]
fn services_live_and_end_as_the_table_says() {
    let missing = ["unshare", "python3"].iter().find(|p| Command::new(p).arg("--version").output().is_err());
    if !rustix::process::geteuid().is_root() || missing.is_some() {
        return skip::skip(&format!("initramfs/tests/pid1.rs: needs root and {}", missing.unwrap_or(&"python3")));
    }
    let dir = std::env::temp_dir().join(format!("plinth-init-{}", std::process::id()));
    let put = |path: &str, content: &[u8]| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    put("usr/lib/plinth/init", &std::fs::read(env!("CARGO_BIN_EXE_plinth-init")).unwrap());
    put("usr/bin/containerd", format!("{HEAD}{CONTAINERD}").as_bytes());
    put("usr/bin/plinth", format!("{HEAD}{PLINTH}").as_bytes());
    let mut node = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../images/node.sh"))
        .arg("/")
        .env("ADD", &dir)
        .env("WORDS", "plinth.hostname=node-under-test")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(dir.with_extension("console")).unwrap())
        .stderr(std::fs::File::options().append(true).create(true).open(dir.with_extension("console")).unwrap())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(180);
    let ended = loop {
        match node.try_wait().unwrap() {
            Some(ended) => break Some(ended),
            None if Instant::now() > until => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if ended.is_none() {
        // Its own end clears up.
        let _ = Command::new("kill").arg(node.id().to_string()).status();
        let _ = node.wait();
    }
    let console = std::fs::read_to_string(dir.with_extension("console")).unwrap();
    let _ = std::fs::remove_file(dir.with_extension("console"));
    let _ = std::fs::remove_dir_all(&dir);

    assert_eq!(ended.and_then(|e| e.code()), Some(0), "{console}");
    in_order(
        &console,
        &[
            "init: up",
            "containerd: host name node-under-test",
            "containerd: session True",
            "containerd: zombies of PID 1: 0",
            "init: containerd: ready after",
            "plinth: run 1 watchdog 30000000 pid True",
            "plinth: 0 of 0 pods ready",
            "init: plinth: killed by signal 9; starts again in 200 ms",
            "plinth: run 2",
            "plinth: handed ['plinth-log.a', 'plinth-log.b'] as plinth-log.a:plinth-log.b pid True",
            "init: plinth: says that it is broken: aborting it",
            "init: plinth: killed by signal 6; starts again in 400 ms",
            "plinth: run 3",
            "init: ending: the pods first",
            "plinth: pods stopped",
            "init: plinth: exit status 0",
            "containerd: saw TERM",
            "init: containerd: exit status 0",
            "containerd: orphan saw TERM",
            "init: off",
        ],
    );
    assert_eq!(console.matches("plinth: run ").count(), 3, "{console}");
    // The child of containerd that said READY before it was not heard.
    assert_eq!(console.matches("init: containerd: ready").count(), 1, "{console}");
    assert!(!console.contains("died of a fault"), "{console}");
}

fn in_order(console: &str, lines: &[&str]) {
    let mut rest = console;
    for line in lines {
        let Some(at) = rest.find(line) else { panic!("`{line}` is not there, or too early:\n{console}") };
        rest = rest.get(at + line.len()..).unwrap();
    }
}
