//! The pump against real FIFOs, writers in threads, real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use super::*;

mod crash;
mod disk;
mod flood;
mod follow;
mod parked;

/// A private root, removed at the end.
pub struct Root(pub PathBuf);

impl Root {
    pub fn new() -> Root {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("plinth-logs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir).unwrap();
        Root(dir)
    }

    pub fn settings(&self) -> Settings {
        Settings {
            run_dir: self.0.join("run"),
            data_dir: self.0.join("data"),
            pod_logs_dir: self.0.join("logs"),
            container_links_dir: Some(self.0.join("links")),
            ..Settings::default()
        }
    }

    pub fn logs(&self) -> Logs {
        Logs::new(&self.settings()).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn target(id: &str) -> LogTarget {
    let key = PodKey { namespace: "default".into(), name: "web-node".into() };
    LogTarget { key, uid: Uid("0123456789abcdef0123456789abcdef".into()), container: "app".into(), attempt: 0, id: id.into() }
}

/// A root, the room in it, and a container of that.
pub fn one() -> (Root, Logs, LogTarget) {
    let root = Root::new();
    let logs = root.logs();
    (root, logs, target("a"))
}

/// Runs `test` on a loop such as ours, beside `Logs::run`.
pub fn in_loop<T>(logs: &Logs, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            () = logs.run() => unreachable!(),
            out = test => out,
        }
    })
}

/// As a shim does: opens for writing and for reading, so that a reader that dies is no EPIPE.
pub fn writer(path: &Path) -> (File, File) {
    let keep = File::from(fifo::open(path).unwrap());
    (File::options().write(true).open(path).unwrap(), keep)
}

/// What the container wrote to one stream, as the log has it.
pub fn text_of(log: &Path, which: Which) -> Vec<u8> {
    let mut text = Vec::new();
    let mut files = rotate::rotated(log).unwrap();
    files.push(log.to_path_buf());
    for file in files {
        for line in fs::read(file).unwrap().split_inclusive(|c| *c == b'\n') {
            let entry = line::parse(line).unwrap_or_else(|| panic!("no log line: {:?}", String::from_utf8_lossy(line)));
            if entry.which == which {
                text.extend_from_slice(entry.text);
                text.extend_from_slice(if entry.full { b"\n" } else { b"" });
            }
        }
    }
    text
}

pub fn numbered(count: u32) -> Vec<u8> {
    let mut text = Vec::new();
    for n in 0..count {
        writeln!(text, "{n} the quick brown fox jumps over the lazy dog, and then some more of the same to make it a line").unwrap();
    }
    text
}

/// What is not there after so long does not come.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn what_is_written_is_in_the_log_when_finish_returns() {
    let (root, logs, target) = one();
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        assert_eq!(logs.open(&target).unwrap(), paths);
        let text = numbered(100_000);
        let (out, err) = (text.clone(), text.clone());
        let threads = [(paths.stdout, out), (paths.stderr, err)].map(|(path, text)| {
            thread::spawn(move || {
                let mut fds = writer(&path);
                text.chunks(4096).for_each(|c| fds.0.write_all(c).unwrap());
                fds.0.write_all(b"the end").unwrap();
            })
        });
        while !threads.iter().all(|t| t.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let done = Instant::now();
        logs.finish(&target, LONG).await;
        assert!(done.elapsed() < LONG, "the end of the writers was not seen");
        let want = [&text[..], b"the end"].concat();
        assert!(text_of(&logs.log_path(&target), Which::Stdout) == want);
        assert!(text_of(&logs.log_path(&target), Which::Stderr) == want);
        assert!(!logs.is_open(&target.id));
        assert!(!root.0.join("run/pods/0123456789abcdef0123456789abcdef/io/a").exists());
    });
}

#[test]
fn two_streams_are_kept_apart_and_in_order() {
    let (_root, logs, target) = one();
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let (mut out, mut err) = (writer(&paths.stdout), writer(&paths.stderr));
        for n in 0..20 {
            let (fd, at) = if n % 2 == 0 { (&mut out.0, 0) } else { (&mut err.0, 1) };
            writeln!(fd, "{n} {at}").unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop((out, err));
        logs.finish(&target, LONG).await;
    });
    let text = fs::read(logs.log_path(&target)).unwrap();
    let lines: Vec<_> = text.split_inclusive(|c| *c == b'\n').map(|l| line::parse(l).unwrap()).collect();
    let order: Vec<_> = lines.iter().map(|e| String::from_utf8_lossy(e.text).into_owned()).collect();
    assert_eq!(order, (0..20).map(|n| format!("{n} {}", n % 2)).collect::<Vec<_>>());
    assert!(lines.iter().all(|e| (e.which == Which::Stderr) == e.text.ends_with(b"1")));
    assert!(lines.is_sorted_by_key(|e| e.time));
}

#[test]
fn a_container_that_closes_its_output_costs_nothing_and_ends_well() {
    let (_root, logs, target) = one();
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let mut fds = writer(&paths.stdout);
        fds.0.write_all(b"bye").unwrap();
        drop(fds);
        let cpu = thread_cpu();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(thread_cpu() - cpu < Duration::from_millis(50), "it is waited for busily");
        assert_eq!(text_of(&logs.log_path(&target), Which::Stdout), b"bye");
        // Created again under the same id: another writer comes, more than once.
        for n in 0..3 {
            let mut fds = writer(&paths.stdout);
            writeln!(fds.0, " again {n}").unwrap();
            drop(fds);
            tokio::time::sleep(Duration::from_millis(n * 10)).await;
        }
        // And its FIFOs were cleared away: they are made again.
        fs::remove_dir_all(paths.stdout.parent().unwrap()).unwrap();
        logs.open(&target).unwrap();
        let mut fds = writer(&paths.stdout);
        fds.0.write_all(b"anew").unwrap();
        drop(fds);
        logs.finish(&target, Duration::from_millis(100)).await;
        assert_eq!(text_of(&logs.log_path(&target), Which::Stdout), b"bye again 0\n again 1\n again 2\nanew");
    });
}

#[test]
fn a_writer_that_goes_between_the_wake_and_the_look_stalls_nobody() {
    let (_root, logs, target) = one();
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        for _ in 0..50 {
            let mut fds = writer(&paths.stdout);
            fds.0.write_all(b"line\n").unwrap();
            // The reactor has seen the line and not the end; half the time this side goes on before the pump does.
            tokio::task::yield_now().await;
            drop(fds);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        logs.finish(&target, LONG).await;
    });
    assert_eq!(text_of(&logs.log_path(&target), Which::Stdout), b"line\n".repeat(50));
}

#[test]
fn a_child_that_keeps_the_output_open_holds_finish_no_longer_than_the_deadline() {
    let (_root, logs, target) = one();
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let mut fds = writer(&paths.stdout);
        fds.0.write_all(b"one\ntwo").unwrap();
        let started = Instant::now();
        logs.finish(&target, Duration::from_millis(100)).await;
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(text_of(&logs.log_path(&target), Which::Stdout), b"one\ntwo");
    });
}

#[test]
fn links_and_logs_go_with_their_container_and_pod() {
    let root = Root::new();
    let logs = root.logs();
    let old = target("a");
    let new = LogTarget { attempt: 1, id: "b".into(), container: old.container.clone(), ..target("b") };
    in_loop(&logs, async {
        logs.open(&old).unwrap();
        logs.open(&new).unwrap();
    });
    let link = |id: &str| root.0.join(format!("links/web-node_default_app-{id}.log"));
    assert_eq!(fs::read_link(link("a")).unwrap(), logs.log_path(&old));
    logs.remove_container(&old).unwrap();
    assert!(link("a").symlink_metadata().is_err() && !logs.log_path(&old).exists());
    assert!(link("b").exists());
    logs.remove_pod(&new.key, &new.uid).unwrap();
    logs.remove_pod(&new.key, &new.uid).unwrap();
    assert!(link("b").symlink_metadata().is_err() && !logs.log_path(&new).exists());
}

#[test]
fn a_link_is_never_longer_than_a_name_may_be() {
    let root = Root::new();
    let logs = root.logs();
    let key = PodKey { namespace: "n".repeat(63).into(), name: "p".repeat(200).into() };
    let long = LogTarget { key, ..target("a") };
    in_loop(&logs, async { logs.open(&long).unwrap() });
    let link = fs::read_dir(root.0.join("links")).unwrap().next().unwrap().unwrap();
    assert_eq!(link.file_name().len(), 255);
    // The directory of its logs cannot be made either: it has none, and is removed all the same.
    logs.remove_container(&long).unwrap();
    logs.remove_pod(&long.key, &long.uid).unwrap();
    assert_eq!(fs::read_dir(root.0.join("links")).unwrap().count(), 0);
}

pub fn thread_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.try_into().unwrap(), t.tv_nsec.try_into().unwrap())
}
