//! Under a service manager, which the test plays: readiness, status, watchdog, the end, and the log pipes it keeps.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::node::{FOREVER, Node, can_run, pod, put, script};

/// The service manager. It listens in a thread of its own, as a real one does: plinth waits for nobody's test.
struct Manager(Arc<Mutex<Heard>>);

/// What it was told and when, and what it keeps.
#[derive(Default)]
struct Heard {
    said: Vec<(Instant, String)>,
    store: BTreeMap<String, OwnedFd>,
}

impl Heard {
    /// Takes one message in.
    fn take(&mut self, text: String, fds: Vec<OwnedFd>) {
        let name = text.lines().find_map(|l| l.strip_prefix("FDNAME=")).map(str::to_owned);
        for fd in fds {
            assert!(text.contains("FDSTORE=1"), "descriptors come with FDSTORE: {text}");
            let twice = self.store.insert(name.clone().unwrap(), fd);
            assert!(twice.is_none(), "parked twice: {text}");
        }
        if text.contains("FDSTOREREMOVE=1") {
            self.store.remove(&name.unwrap());
        }
        self.said.push((Instant::now(), text));
    }
}

/// One message, if there is one before the socket's patience ends.
fn receive(socket: &UnixDatagram) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let fds = control.drain().flat_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.collect() } else { vec![] });
    Some((String::from_utf8(bytes[..got.bytes].to_vec()).unwrap(), fds.collect()))
}

impl Manager {
    /// Listens beside the node; plinth started there from now on knows it.
    fn of(n: &mut Node, watchdog_ms: Option<u64>) -> Manager {
        let path = n.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        n.env.push(("NOTIFY_SOCKET".into(), path));
        n.env.extend(watchdog_ms.map(|ms| ("WATCHDOG_USEC".into(), (ms * 1000).to_string())));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let here = Arc::downgrade(&heard);
        std::thread::spawn(move || {
            while let Some(heard) = here.upgrade() {
                if let Some((text, fds)) = receive(&socket) {
                    heard.lock().unwrap().take(text, fds);
                }
            }
        });
        Manager(heard)
    }

    fn said(&self) -> Vec<(Instant, String)> {
        self.0.lock().unwrap().said.clone()
    }

    /// Copies of what it keeps.
    fn kept(&self) -> BTreeMap<String, OwnedFd> {
        self.0.lock().unwrap().store.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().store.keys().cloned().collect()
    }

    /// Whether one of the messages has this line.
    fn heard(&self, line: &str) -> bool {
        self.said().iter().any(|(_, text)| text.lines().any(|l| l == line))
    }

    /// Whether one message has this line, and a later one that.
    fn heard_after(&self, this: &str, that: &str) -> bool {
        let has = |text: &str, line: &str| text.lines().any(|l| l == line);
        self.said().iter().skip_while(|(_, t)| !has(t, this)).any(|(_, t)| has(t, that))
    }

    /// As `heard`, of what was said by now but perhaps not taken in.
    fn heard_soon(&self, line: &str) -> bool {
        (0..400).any(|_| {
            sleep(Duration::from_millis(50));
            self.heard(line)
        })
    }

    /// The last STATUS.
    fn status(&self) -> String {
        self.said().iter().rev().find_map(|(_, t)| t.lines().find_map(|l| l.strip_prefix("STATUS="))).unwrap_or_default().to_owned()
    }

    /// When it was told that plinth lives.
    fn beats(&self) -> Vec<Instant> {
        self.said().iter().filter(|(_, t)| t.contains("WATCHDOG=1")).map(|(at, _)| *at).collect()
    }
}

#[test]
fn readiness_comes_when_the_socket_serves_and_status_follows_the_pods() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let m = Manager::of(&mut n, None);
    n.containerd("stop");
    n.put("a.yaml", &script("a", FOREVER));
    n.launch();
    n.until("it says READY without containerd", 10, |_| m.heard("READY=1"));
    assert!(n.get("/healthz").is_some(), "the socket serves from then on");
    assert!(n.pod("a").is_some(), "the layers were read before");
    n.until("the status says what it waits for", 10, |_| m.status().starts_with("waiting for containerd: "));
    n.containerd("start");
    n.until("the status says the pod is ready", 30, |_| m.status() == "1 of 1 pods ready");
    n.put("b.yaml", &script("b", "sleep 2; exit 1"));
    n.until("the status counts the second, and the crash of it", 30, |_| {
        m.heard_after("STATUS=2 of 2 pods ready", "STATUS=1 of 2 pods ready")
    });
    n.remove("b.yaml");
    n.until("and its end", 30, |_| m.status() == "1 of 1 pods ready");
    assert!(!m.heard("STOPPING=1"));
    assert_eq!(m.said().iter().filter(|(_, t)| t.contains("READY=1")).count(), 1);
    n.said(&["shutdown", "--grace", "10s"]);
    n.ended();
    assert!(m.heard_soon("STOPPING=1"), "{:?}", m.said());
    n.assert_stopped();
}

#[test]
fn watchdog_is_fed_at_half_its_time_and_starves_when_the_loop_stands() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let m = Manager::of(&mut n, Some(2000));
    n.start();
    n.until("it is fed eight times", 10, |_| m.beats().len() >= 8);
    let mut gaps: Vec<_> = m.beats().windows(2).map(|w| w[1] - w[0]).collect();
    gaps.sort();
    // A busy machine makes one of them late, not half of them.
    let median = gaps[gaps.len() / 2];
    assert!((700..1900).contains(&median.as_millis()), "every second: {gaps:?}");
    n.signal("STOP");
    let stat = format!("/proc/{}/stat", n.pid());
    n.until("it stands", 5, |_| fs::read_to_string(&stat).is_ok_and(|s| s.contains(") T ")));
    // What it had said before may be on its way.
    sleep(Duration::from_millis(1500));
    let before = m.beats().len();
    sleep(Duration::from_millis(3500));
    assert_eq!(m.beats().len(), before, "a stopped loop says nothing");
    n.signal("CONT");
    n.until("it is fed again", 10, |_| m.beats().len() > before);
    sleep(Duration::from_millis(300));
    let after = m.beats().split_off(before);
    let at_once = after.iter().filter(|at| **at - after[0] < Duration::from_millis(300)).count();
    assert!(at_once <= 2, "what was missed is not made up for: {at_once}");
    assert!(!m.heard("STOPPING=1"));
    n.term();
    assert!(m.heard_soon("STOPPING=1"), "{:?}", m.said());
}

/// A service manager that is busy with itself, as PID 1 while it re-executes, must not hold plinth up.
#[test]
fn a_deaf_service_manager_stops_nothing() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let socket = UnixDatagram::bind(n.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    n.env.extend([("NOTIFY_SOCKET".into(), n.path("notify")), ("WATCHDOG_USEC".into(), "100000".into())]);
    n.start();
    // Its queue is full by now: some dozen messages at most.
    sleep(Duration::from_secs(2));
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    let names = || receive(&socket).map(|(text, _)| text);
    let mut heard = String::new();
    n.until("it hears of the pod's pipes and state after all", 5, |_| {
        heard.extend(names());
        heard.contains("FDNAME=plinth-log.stdout.") && heard.contains("STATUS=1 of 1 pods ready")
    });
    assert!(heard.starts_with("READY=1\n") || heard.contains("\nREADY=1\n"), "{heard}");
    n.shutdown();
}

#[test]
fn sighup_sees_what_inotify_cannot() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["rescan=1h"]);
    let m = Manager::of(&mut n, None);
    let (low, empty) = (n.dir.join("work/low"), n.dir.join("work/empty"));
    fs::create_dir_all(&low).unwrap();
    fs::create_dir_all(&empty).unwrap();
    put(&low, "a.yaml", &script("a", FOREVER));
    let dirs = format!("lowerdir={}:{}", low.display(), empty.display());
    n.exec(&["mount", "-t", "overlay", "overlay", "-o", &dirs, n.manifests.to_str().unwrap()]);
    n.start();
    n.until_ready("a");
    fs::write(low.join("a.yaml"), script("changed", FOREVER)).unwrap();
    sleep(Duration::from_secs(1));
    assert!(n.pod("changed").is_none(), "nothing tells of a change below an overlay");
    n.signal("HUP");
    n.until_ready("changed");
    n.until("the old one is gone", 10, |n| n.gone("a"));
    assert!(!m.heard("STOPPING=1"));
    n.said(&["shutdown", "--grace", "10s"]);
    n.ended();
    n.exec(&["umount", n.manifests.to_str().unwrap()]);
    n.assert_stopped();
}

#[test]
fn memory_that_only_the_start_needed_is_given_back() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    let kb = |n: &Node, what: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", n.pid())).unwrap();
        status.lines().find_map(|l| l.strip_prefix(what)?.split_whitespace().nth(1)?.parse().ok()).unwrap()
    };
    n.until("a quarter of the most it held is given back", 10, |n| kb(n, "VmRSS") * 4 < kb(n, "VmHWM") * 3);
    assert_eq!(n.restarts("a"), 0);
    n.shutdown();
}

#[test]
fn network_plugins_know_nothing_of_the_service_manager() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let bin = n.path("work/bin");
    fs::create_dir_all(&bin).unwrap();
    for plugin in ["bridge", "portmap", "loopback"] {
        let wrapper = format!("#!/bin/sh\nenv >>{bin}/env\nls -l /proc/self/fd >>{bin}/fds\nexec /usr/lib/cni/{plugin}\n");
        fs::write(format!("{bin}/{plugin}"), wrapper).unwrap();
        fs::set_permissions(format!("{bin}/{plugin}"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    n.extra.extend([format!("cniBinDirs={bin},/usr/lib/cni"), "cniBuiltIn=false".into()]);
    let _m = Manager::of(&mut n, Some(60_000));
    n.env.extend(["LISTEN_FDNAMES", "WATCHDOG_PID_OF_OLD"].map(|name| (name.into(), "x".into())));
    n.start();
    n.put("a.yaml", &pod("a", "hostname: a", FOREVER));
    n.until_ready("a");
    let env = fs::read_to_string(format!("{bin}/env")).unwrap();
    assert!(env.contains("CNI_COMMAND=ADD") && env.contains("PATH="), "{env}");
    for word in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"] {
        assert!(!env.contains(word), "{word} leaks into a plugin:\n{env}");
    }
    let fds = fs::read_to_string(format!("{bin}/fds")).unwrap();
    assert!(!fds.contains("/io/") && !fds.contains("plinth.sock"), "a log pipe leaks into a plugin:\n{fds}");
    n.shutdown();
}

#[test]
fn parked_pipes_keep_the_last_lines_of_a_container_that_ends_while_plinth_is_down() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let m = Manager::of(&mut n, None);
    // Two lines each 20 ms until the file is there, then as fast as it can, and the end.
    let script = "i=0; until [ -e /w/last ]; do i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.02; done
for k in $(seq 200); do i=$((i+1)); echo out $i; echo err $i >&2; done
echo out end; echo err end >&2; exit 0";
    let spec = format!("hostNetwork: true\n  restartPolicy: Never\n  volumes: [{{name: w, hostPath: {{path: {}}}}}]", n.path("work"));
    let manifest = pod("talk", &spec, script).replace("    command:", "    volumeMounts: [{name: w, mountPath: /w}]\n    command:");
    n.put("talk.yaml", &manifest);
    n.start();
    n.until("it talks", 30, |n| n.said_or_nothing(&["logs", "talk"]).contains("out 20\n"));
    n.until("both ends are parked", 5, |_| m.names().len() == 2);
    let names = m.names();
    assert!(names.iter().all(|n| !n.contains(':') && n.len() < 256), "names the service manager takes: {names:?}");
    assert!(m.heard("FDPOLL=0"), "a hung-up pipe must be kept");
    // A restart in between: what is parked is claimed, not parked again.
    n.kill();
    n.start_with(&m.kept());
    n.until("it goes on", 10, |n| n.said_or_nothing(&["logs", "talk"]).contains("out 60\n"));
    assert_eq!(m.names(), names);
    assert!(!m.heard("FDSTOREREMOVE=1"), "{:?}", m.said());

    n.kill();
    fs::write(n.path("work/last"), "").unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while !n.ctr(&["tasks", "list"]).contains("STOPPED") {
        assert!(Instant::now() < end, "the container did not end\n{}", n.log());
        sleep(Duration::from_millis(50));
    }
    // The shim has let go of the pipe by now, or soon: only the parked end holds the bytes.
    sleep(Duration::from_millis(300));
    n.start_with(&m.kept());
    n.until("its end is seen", 20, |n| n.pod("talk").is_some_and(|p| p["status"]["phase"] == "Succeeded"));
    n.until("nothing is parked any more", 10, |_| m.names().is_empty());
    let log = n.said(&["logs", "talk"]);
    for stream in ["out", "err"] {
        let lines: Vec<&str> = log.lines().filter_map(|l| l.strip_prefix(stream)).map(str::trim).collect();
        assert!(lines.len() > 250, "{} lines of {stream}", lines.len());
        let (last, counted) = lines.split_last().unwrap();
        assert_eq!(*last, "end", "the last line of {stream}");
        for (i, line) in counted.iter().enumerate() {
            assert_eq!(*line, (i + 1).to_string(), "no line of {stream} is lost or doubled");
        }
    }
    let left = Command::new("find").args([&n.path("run/pods"), "-type", "p"]).output().unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "", "no pipe is left");
    n.shutdown();
}
