//! A log on a file system that is full: on a tmpfs of its own, in a mount namespace of the test's own thread.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::super::sink::{HOLD, Written};
use super::*;
use crate::clock::{Moment, Now};

/// A mount, undone at the end.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Mounts a tmpfs of `bytes` at `dir` that this thread and its children alone see; `None`: not root.
fn tiny_disk(dir: &Path, bytes: usize) -> Option<Disk> {
    if !rustix::process::geteuid().is_root() {
        crate::skip::skip("logs on a full disk: mounting a tmpfs needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    fs::create_dir_all(dir).unwrap();
    mount(none, dir, Some("tmpfs"), MsFlags::empty(), Some(format!("size={bytes}").as_str())).unwrap();
    Some(Disk(dir.into()))
}

#[test]
fn a_short_shortage_of_space_loses_nothing() {
    let root = Root::new();
    let disk = root.0.join("logs");
    let Some(_mounted) = tiny_disk(&disk, 1 << 20) else { return };
    let logs = root.logs();
    let target = target("a");
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        fs::write(disk.join("ballast"), vec![0; (1 << 20) - (64 << 10)]).unwrap();
        let text = numbered(3_000);
        let sent = text.clone();
        let flood = thread::spawn(move || writer(&paths.stdout).0.write_all(&sent).unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!flood.is_finished(), "the disk was not full");
        let log = logs.log_path(&target);
        assert!(text.starts_with(&text_of(&log, Which::Stdout)), "half a chunk is in the log");
        fs::remove_file(disk.join("ballast")).unwrap();
        while !flood.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        logs.finish(&target, LONG).await;
        assert!(text_of(&log, Which::Stdout) == text);
    });
}

#[test]
fn a_log_that_cannot_be_made_does_not_keep_a_container_from_starting() {
    let root = Root::new();
    fs::write(root.0.join("logs"), "a file where the directory should be").unwrap();
    let logs = root.logs();
    let target = target("a");
    in_loop(&logs, async {
        let paths = logs.open(&target).unwrap();
        let mut fds = writer(&paths.stdout);
        fds.0.write_all(b"one\n").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        fs::remove_file(root.0.join("logs")).unwrap();
        drop(fds);
        logs.finish(&target, LONG).await;
        assert_eq!(text_of(&logs.log_path(&target), Which::Stdout), b"one\n");
    });
}

#[test]
fn a_long_shortage_drops_and_counts_and_blocks_nobody_for_ever() {
    let root = Root::new();
    let disk = root.0.join("logs");
    let Some(_mounted) = tiny_disk(&disk, 64 << 10) else { return };
    let at = |ms: u64| Now { mono: Moment(5_000 + ms), ..clock::now() };
    let hold_ms = u64::try_from(HOLD.as_millis()).unwrap();
    let bounds = Bounds { max_bytes: 10 << 20, max_files: 5 };
    let (mut sink, _) = Sink::open(disk.join("pod/app/0.log"), &root.0.join("mark"), bounds, at(0));
    let chunk = vec![b'x'; 40 << 10];
    assert_eq!(sink.write(&chunk, 1, at(1)), Written::Done);
    assert_eq!(sink.write(&chunk, 1, at(2)), Written::Held);
    assert_eq!(fs::metadata(sink.path()).unwrap().len(), 40 << 10, "half a chunk is in the log");
    assert_eq!(sink.write(&chunk, 1, at(1 + hold_ms)), Written::Held);
    assert_eq!(sink.write(&chunk, 1, at(2 + hold_ms)), Written::Done);
    assert_eq!(sink.write(&chunk, 2, at(3 + hold_ms)), Written::Done);
    assert_eq!(sink.lost_lines(), 3);
    assert_eq!(sink.write(b"short\n", 1, at(4 + hold_ms)), Written::Done);
    assert_eq!(sink.lost_lines(), 0, "the trouble is over");
    assert_eq!(fs::metadata(sink.path()).unwrap().len(), (40 << 10) + 6);
    assert_eq!(sink.write(&chunk, 1, at(5 + hold_ms)), Written::Held, "a new trouble has a hold of its own");
    sink.lose_patience();
    assert_eq!(sink.write(&chunk, 1, at(6 + hold_ms)), Written::Done);
}
