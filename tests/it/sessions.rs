//! exec and attach with real containers: what goes in and comes out, how each side's end ends the other, and what is left behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::node::{FOREVER, Node, container, pod, script};

/// Whoever says nothing for so long will say nothing more, also on a busy machine.
const SILENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
const PLINTH: &str = env!("CARGO_BIN_EXE_plinth");

impl Node {
    fn client(&self, args: &[&str]) -> Command {
        let mut c = Command::new(PLINTH);
        c.args(args).env("PLINTH_SOCKET", self.path("plinth.sock")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    /// `plinth exec`; its exit status, output and error output.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.client(&[&["exec"], args].concat()).output().unwrap();
        told(out)
    }

    /// Nothing of any session is there: no exec in the container, no FIFOs beside it.
    fn until_no_sessions(&mut self) {
        let (ctr, sock) = (self.path("containerd/usr/bin/ctr"), self.path("containerd.sock"));
        self.until("nothing is left of any session", 20, |n| {
            let left = n.exec(&["find", &n.path("run/pods"), "-name", "exec-*"]);
            // A task may end between the two.
            let processes =
                |id: &str| n.exec(&["sh", "-c", "\"$@\" 2>/dev/null || true", "sh", &ctr, "-a", &sock, "-n", "plinth", "tasks", "ps", id]);
            left.is_empty() && !n.ctr(&["tasks", "list", "-q"]).lines().any(|id| processes(id).contains("exec-"))
        });
    }

    /// Processes of these words on the node's own network: other tests have theirs elsewhere.
    fn processes(&self, words: &str) -> usize {
        let script = "own=$(readlink /proc/self/ns/net)
            for p in /proc/[0-9]*; do [ \"$(readlink $p/ns/net)\" = \"$own\" ] && { tr '\\0' ' ' <$p/cmdline; echo; }; done 2>/dev/null; :";
        let all = self.exec(&["sh", "-c", script]);
        all.lines().filter(|l| l.trim() == words).count()
    }
}

pub fn told(out: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// The exit status of a client, which must come.
pub fn code(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < end, "the client does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
}

/// Reads until it has seen the words.
pub fn until_said(from: &mut (impl Read + AsFd), words: &str) -> String {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&seen).contains(words) {
        let said = poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&SILENCE)).unwrap();
        assert!(said > 0, "silent for {} s before {words:?}: {}", SILENCE.tv_sec, String::from_utf8_lossy(&seen));
        assert!(from.read(&mut byte).unwrap_or(0) > 0, "it ended before {words:?}: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_command_runs_as_the_container_does_and_its_code_and_streams_come_back() {
    let Some(mut n) = Node::started() else { return };
    let spec = "hostNetwork: true\n  securityContext: {runAsUser: 1234, runAsGroup: 77}";
    let fields = "    workingDir: /var\n    env: [{name: WHAT, value: cake}]\n";
    n.put("a.yaml", &(pod("a", spec, FOREVER) + fields));
    n.until_ready("a");
    let (code, out, err) = n.run(&["a", "--", "sh", "-c", "id -u; id -g; pwd; echo $WHAT; echo oops >&2; exit 7"]);
    assert_eq!((code, out.as_str(), err.as_str()), (7, "1234\n77\n/var\ncake\n", "oops\n"));
    // What is not asked for is not there: input ends at once.
    assert_eq!(n.run(&["a", "--", "cat"]), (0, String::new(), String::new()));

    let (code, _, err) = n.run(&["a", "--", "no-such-command"]);
    assert!(code == 1 && err.contains("no-such-command") && err.contains("not found"), "{code} {err}");
    let (code, _, err) = n.run(&["nobody", "--", "true"]);
    assert!(code == 3 && err.contains("there is none of that name"), "{code} {err}");
    let (code, _, err) = n.run(&["a", "-c", "zzz", "--", "true"]);
    assert!(code == 3 && err.contains("find container \"zzz\" in pod default/a-it: it has c"), "{code} {err}");
    let (code, _, err) = n.run(&["a"]);
    assert!(code == 2 && err.contains("CMD is missing"), "{code} {err}");

    // The socket's group may read it and enter nothing.
    let mut reader = Command::new("setpriv");
    reader.args(["--reuid=65534", "--regid=0", "--clear-groups", PLINTH, "exec", "a", "--", "true"]);
    let (code, _, err) = told(reader.env("PLINTH_SOCKET", n.path("plinth.sock")).stdin(Stdio::null()).output().unwrap());
    assert!(code == 1 && err.contains("only uid 0 may"), "{code} {err}");

    // Ten megabytes there and back, and a checksum made there.
    let (big, back) = (n.dir.join("big"), n.dir.join("back"));
    n.exec(&["dd", "if=/dev/urandom", &format!("of={}", big.display()), "bs=1M", "count=10", "status=none"]);
    let mut cat = n.client(&["exec", "-i", "a", "--", "cat"]);
    let status = cat.stdin(File::open(&big).unwrap()).stdout(File::create(&back).unwrap()).status().unwrap();
    assert!(status.success());
    assert!(fs::read(&big).unwrap() == fs::read(&back).unwrap(), "it came back otherwise");
    let mut through_a_pipe = Command::new("cat").arg(&big).stdout(Stdio::piped()).spawn().unwrap();
    let mut sum = n.client(&["exec", "-i", "a", "--", "sha256sum"]);
    let sum = told(sum.stdin(through_a_pipe.stdout.take().unwrap()).output().unwrap()).1;
    through_a_pipe.wait().unwrap();
    assert_eq!(sum.split(' ').next(), n.exec(&["sha256sum", big.to_str().unwrap()]).split(' ').next());

    // A process that reads no more does not hold its client up.
    let mut head = n.client(&["exec", "-i", "a", "--", "head", "-c", "3"]);
    assert_eq!(told(head.stdin(File::open(&big).unwrap()).output().unwrap()).0, 0);
    // What a command leaves running with its output open does not, either.
    let begun = Instant::now();
    assert_eq!(n.run(&["a", "--", "sh", "-c", "sleep 77 & echo done"]).1, "done\n");
    assert!(begun.elapsed() < Duration::from_secs(70));

    for i in 0..50 {
        assert_eq!(n.run(&["a", "--", "sh", "-c", &format!("exit {i}")]).0, i);
    }
    n.until_no_sessions();
    n.shutdown();
}

/// A terminal of the test's own, and what is typed and read at its other end.
pub struct Terminal {
    pub master: File,
    slave: OwnedFd,
}

impl Terminal {
    pub fn new(columns: u16, rows: u16) -> Terminal {
        let pair = openpty(&Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }, None).unwrap();
        Terminal { master: File::from(pair.master), slave: pair.slave }
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    pub fn is_raw(&self) -> bool {
        !tcgetattr(self.slave.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    pub fn is_used_by(&self, mut command: Command) -> Child {
        let side = || Stdio::from(self.slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap()
    }
}

#[test]
fn a_terminal_has_its_size_passes_keys_on_and_is_given_back() {
    let Some(mut n) = Node::started() else { return };
    n.put("t.yaml", &script("t", FOREVER));
    n.until_ready("t");
    let mut terminal = Terminal::new(101, 41);
    let mut child = terminal.is_used_by(n.client(&["exec", "-it", "t", "--", "sh", "-c", "tty; echo $TERM; stty size; exec sh"]));
    until_said(&mut terminal.master, "xterm\r\n41 101");
    assert!(terminal.is_raw());
    terminal.resize(90, 30);
    signal(&child, "WINCH");
    n.until("the new size is there", 10, |_| {
        terminal.master.write_all(b"stty size\n").unwrap();
        let seen = until_said(&mut terminal.master, "\r\n");
        seen.contains("30 90") || until_said(&mut terminal.master, "\r\n").contains("30 90")
    });
    // Ctrl-C is the command's to deal with, not the client's.
    terminal.master.write_all(b"sleep 1000\n").unwrap();
    n.until("sleep runs", 10, |n| n.processes("sleep 1000") == 1);
    terminal.master.write_all(&[3]).unwrap();
    terminal.master.write_all(b"exit 42\n").unwrap();
    assert_eq!(code(&mut child), Some(42));
    assert!(!terminal.is_raw(), "the terminal is left raw");

    // A client that is told to end gives the terminal back, too, and its command does not outlive it.
    let mut child = terminal.is_used_by(n.client(&["exec", "-it", "t", "--", "sleep", "2000"]));
    n.until("it runs", 10, |n| n.processes("sleep 2000") == 1 && terminal.is_raw());
    signal(&child, "TERM");
    assert_eq!(code(&mut child), Some(128 + 15));
    assert!(!terminal.is_raw(), "the terminal is left raw");
    n.until("its command is gone", 10, |n| n.processes("sleep 2000") == 0);
    n.until_no_sessions();
    n.shutdown();
}

#[test]
fn whichever_side_ends_a_session_nothing_is_left_of_it() {
    let Some(mut n) = Node::started() else { return };
    n.put("e.yaml", &script("e", FOREVER));
    n.until_ready("e");

    // Signals are passed on.
    let heeds = "trap 'echo heard; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = n.client(&["exec", "e", "--", "sh", "-c", heeds]).spawn().unwrap();
    until_said(child.stdout.as_mut().unwrap(), "ready");
    signal(&child, "TERM");
    assert_eq!(until_said(child.stdout.as_mut().unwrap(), "heard"), "\nheard");
    assert_eq!(code(&mut child), Some(9));

    // The client is killed.
    let mut child = n.client(&["exec", "-i", "e", "--", "sh", "-c", "trap '' HUP; sleep 3333 & sleep 3333"]).spawn().unwrap();
    n.until("both run", 10, |n| n.processes("sleep 3333") == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    n.until("neither does any more", 20, |n| n.processes("sleep 3333") == 0);
    n.until_no_sessions();

    // plinth is killed: its next start ends what it left.
    let mut child = n.client(&["exec", "e", "--", "sleep", "4444"]).spawn().unwrap();
    n.until("it runs", 10, |n| n.processes("sleep 4444") == 1);
    n.kill();
    assert_eq!(code(&mut child), Some(1));
    n.start();
    n.until("it is gone", 20, |n| n.processes("sleep 4444") == 0);
    n.until_no_sessions();
    assert_eq!(n.restarts("e"), 0, "its container runs on");

    // plinth is asked to end: it ends its sessions first.
    let mut child = n.client(&["exec", "e", "--", "sleep", "5555"]).spawn().unwrap();
    n.until("it runs", 10, |n| n.processes("sleep 5555") == 1);
    n.term();
    assert_eq!(code(&mut child), Some(1));
    n.until("its session is over", 10, |n| n.processes("sleep 5555") == 0);
    n.start();
    n.until_ready("e");

    // containerd is killed and comes back: the session goes on.
    let mut child = n.client(&["exec", "-i", "e", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"before\n").unwrap();
    until_said(child.stdout.as_mut().unwrap(), "before\n");
    n.containerd("kill");
    n.containerd("start");
    n.until("plinth is linked again", 20, |n| n.get("/readyz").is_some());
    child.stdin.as_mut().unwrap().write_all(b"after\n").unwrap();
    until_said(child.stdout.as_mut().unwrap(), "after\n");
    drop(child.stdin.take());
    assert_eq!(code(&mut child), Some(0));
    n.until_no_sessions();

    // The container ends.
    let mut child = n.client(&["exec", "e", "--", "sleep", "6666"]).spawn().unwrap();
    n.until("it runs", 10, |n| n.processes("sleep 6666") == 1);
    n.remove("e.yaml");
    assert_eq!(code(&mut child), Some(137));
    n.until("the pod is gone", 20, |n| n.gone("e"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_client_attached_to_a_container_hears_it_and_types_into_it() {
    let Some(mut n) = Node::started() else { return };
    let echo = "echo begun; while read -r line; do echo \"heard $line\"; done; echo over; exit 5";
    let once = |name: &str, fields: &str| pod(name, "hostNetwork: true\n  restartPolicy: Never", echo) + fields;
    n.put("stays.yaml", &once("stays", "    stdin: true\n"));
    n.put("once.yaml", &once("once", "    stdin: true\n    stdinOnce: true\n"));
    n.put("tty.yaml", &once("tty", "    stdin: true\n    tty: true\n"));
    n.put("deaf.yaml", &once("deaf", ""));
    for name in ["stays", "once", "tty"] {
        n.until_ready(name);
    }
    let attach = |n: &Node, pod: &str| n.client(&["attach", "-i", pod]).stdin(Stdio::piped()).spawn().unwrap();
    for word in ["one", "two"] {
        let mut child = attach(&n, "stays");
        child.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
        until_said(child.stdout.as_mut().unwrap(), &format!("heard {word}\n"));
        signal(&child, "INT");
        assert_eq!(code(&mut child), Some(130));
    }
    assert!(n.said(&["logs", "stays"]).ends_with("heard one\nheard two\n"), "the log has it, too");
    assert!(n.ready("stays"));

    let mut child = attach(&n, "once");
    child.stdin.as_mut().unwrap().write_all(b"last\n").unwrap();
    until_said(child.stdout.as_mut().unwrap(), "heard last\n");
    drop(child.stdin.take());
    assert!(until_said(child.stdout.as_mut().unwrap(), "over\n").ends_with("over\n"));
    assert_eq!(code(&mut child), Some(0));
    n.until("it has ended with its input", 10, |n| {
        n.pod("once").is_some_and(|p| container(&p, "c")["state"]["terminated"]["exitCode"] == 5)
    });

    let mut terminal = Terminal::new(80, 24);
    let mut child = terminal.is_used_by(n.client(&["attach", "-i", "tty"]));
    n.until("the terminal is the container's", 10, |_| terminal.is_raw());
    terminal.master.write_all(b"typed\n").unwrap();
    until_said(&mut terminal.master, "heard typed\r\n");
    terminal.master.write_all(&[0x10, 0x11]).unwrap();
    assert_eq!(code(&mut child), Some(0));
    assert!(!terminal.is_raw());

    let (code, _, err) = told(n.client(&["attach", "-i", "deaf"]).output().unwrap());
    assert!(code == 3 && (err.contains("does not set `stdin: true`") || err.contains("does not run now")), "{code} {err}");
    n.shutdown();
}
