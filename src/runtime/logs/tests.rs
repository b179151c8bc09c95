//! The pump against real FIFOs, writers in threads, real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use super::*;

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

const LONG: Duration = Duration::from_secs(10);

#[test]
fn what_is_written_is_in_the_log_when_finish_returns() {
    let root = Root::new();
    let logs = root.logs();
    let target = target("a");
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        assert_eq!(logs.open(&target).unwrap(), paths);
        let text = numbered(100_000);
        let (out, err) = (text.clone(), text.clone());
        let started = Instant::now();
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
        logs.finish(&target, LONG).await;
        assert!(started.elapsed() < LONG, "the end of the writers was not seen");
        let want = [&text[..], b"the end"].concat();
        assert!(text_of(&logs.log_path(&target), Which::Stdout) == want);
        assert!(text_of(&logs.log_path(&target), Which::Stderr) == want);
        assert!(!logs.is_open(&target.id));
        assert!(!root.0.join("run/pods/0123456789abcdef0123456789abcdef/io/a").exists());
    });
}
