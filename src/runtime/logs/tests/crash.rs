//! `kill -9` of the reader: nothing is lost, nothing stands in the log twice.
//!
//! The reader is this test program itself, started again as a child with the root in its environment.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::journal::Journal;
use super::*;

const ROOT: &str = "PLINTH_TEST_LOGS_ROOT";

/// Starts the test `name` of this file in a process of its own.
pub fn child(name: &str, root: &Root) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", name]).env(ROOT, &root.0).stdout(Stdio::null());
    command
}

pub fn root_of_child() -> Option<Root> {
    std::env::var_os(ROOT).map(|dir| Root(dir.into()))
}

#[test]
#[ignore = "the reader of the tests here, killed by them"]
fn reader() {
    let Some(root) = root_of_child() else { return };
    let logs = Logs::new(&Settings { log_max_bytes: 1 << 20, log_max_files: 200, ..root.settings() }).unwrap();
    in_loop(&logs, async {
        logs.open(&target("a")).unwrap();
        fs::write(root.0.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

fn start(root: &Root) -> Child {
    let _ = fs::remove_file(root.0.join("ready"));
    let child = child("runtime::logs::tests::crash::reader", root).spawn().unwrap();
    wait_for(|| root.0.join("ready").exists());
    child
}

pub fn wait_for(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONG, "waited too long");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_reader_killed_at_any_moment_loses_no_byte_and_doubles_none() {
    let root = Root::new();
    let mut reader = start(&root);
    let logs = Logs::new(&Settings { log_max_bytes: 1 << 20, log_max_files: 200, ..root.settings() }).unwrap();
    let target = target("a");
    let paths = logs.fifo_paths(&target);
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let flood = thread::spawn(move || {
        let (mut fds, mut sent) = (writer(&paths.stdout), Vec::new());
        for n in 0u32.. {
            let from = sent.len();
            // Repeated lines among the numbered ones: equal lines must not be taken for one another.
            (n * 40..n * 40 + 40).for_each(|n| write!(sent, "{n} the quick brown fox jumps over the lazy dog\ntick\ntick\n").unwrap());
            fds.0.write_all(&sent[from..]).unwrap();
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        sent
    });
    // What the service manager's fd store is for: the writer may end between two readers.
    let _parked = fifo::open(&logs.fifo_paths(&target).stdout).unwrap();
    let mut pause_us = 1_000;
    for _ in 0..60 {
        thread::sleep(Duration::from_micros(pause_us));
        pause_us = pause_us * 7 % 9_973 + 500;
        reader.kill().unwrap();
        assert_eq!(reader.wait().unwrap().signal(), Some(9));
        reader = start(&root);
    }
    enough.store(true, Ordering::Relaxed);
    let text = flood.join().unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
    in_loop(&logs, async {
        logs.open(&target).unwrap();
        logs.finish(&target, LONG).await;
    });
    let got = text_of(&logs.log_path(&target), Which::Stdout);
    let differ = got.iter().zip(&text).position(|(a, b)| a != b);
    assert!(got == text, "{} bytes of {}, first difference at {differ:?}", got.len(), text.len());
}

/// Log, journal and FIFO as a kill leaves them: lines written and not noted (or torn by `torn` bytes), or noted with their
/// chunk as about to be taken and not taken; then what stands in the FIFO.
fn after_a_kill(written: &[&str], torn: usize, noted: Option<(&str, &str)>, standing: &str) -> String {
    let root = Root::new();
    let target = target("a");
    let logs = root.logs();
    let log = logs.log_path(&target);
    let mut fds = in_loop(&logs, async {
        let mut fds = writer(&logs.open(&target).unwrap().stdout);
        fds.0.write_all(b"tick\nbegun").unwrap();
        while text_of(&log, Which::Stdout) != b"tick\n" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        fds
    });
    let journal = logs.journal_path(&target);
    drop(logs);
    fds.0.write_all(standing.as_bytes()).unwrap();
    let mut text: String = written.iter().map(|l| format!("2026-11-20T21:41:59.123456789Z stdout {l}\n")).collect();
    text.truncate(text.len() - torn);
    File::options().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    if let Some((chunk, carry)) = noted {
        let meta = fs::metadata(&log).unwrap();
        let (mut journal, note) = Journal::open(&journal);
        assert_eq!(note.unwrap().carries, [b"begun".to_vec(), Vec::new()]);
        journal.about_to_take((meta.ino(), meta.len()), Which::Stdout, chunk.as_bytes(), carry.as_bytes()).unwrap();
    }
    let logs = root.logs();
    in_loop(&logs, async {
        logs.open(&target).unwrap();
        drop(fds);
        logs.finish(&target, LONG).await;
    });
    String::from_utf8(text_of(&log, Which::Stdout)).unwrap()
}

#[test]
fn a_chunk_written_and_not_noted_is_written_once() {
    for torn in [0, 1, 3, 20, 47, 50, 90, 144] {
        let got = after_a_kill(&["F begun second", "F third", "F third"], torn, None, " second\nthird\r\nthird\npart");
        assert_eq!(got, "tick\nbegun second\nthird\nthird\npart", "torn {torn}");
    }
}

#[test]
fn a_chunk_noted_and_not_taken_is_written_once() {
    let got = after_a_kill(&["F begun second", "F third"], 0, Some((" second\nthird\nfou", "fou")), " second\nthird\nfourth\n");
    assert_eq!(got, "tick\nbegun second\nthird\nfourth\n");
    let got = after_a_kill(&["F begun second", "F third"], 0, Some((" second\nthird\nfou", "fou")), "rth\nfifth");
    assert_eq!(got, "tick\nbegun second\nthird\nfourth\nfifth", "it was taken, the kill came after");
}

#[test]
fn an_equal_line_that_comes_later_is_not_taken_for_the_same() {
    assert_eq!(after_a_kill(&[], 0, None, "tick\ntick\ntick\n"), "tick\nbeguntick\ntick\ntick\n");
}
