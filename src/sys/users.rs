//! User namespaces for pods, and mounts through whose mapping a pod sees files as its own.
//!
//! A namespace is made by a short-lived child and mapped from here: only who is root outside may map a range of ids. An id-mapped mount
//! is a copy of a mount in which every id is read as the namespace maps it, so that files keep the ids they have inside.
#![expect(unsafe_code, reason = "fork and _exit have no safe form")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::net::unix::pipe::Receiver;

use super::spawn::Child;
use super::{mounts, namespaces, pause};

/// So many ids a pod has, as with the kubelet.
pub const LENGTH: u32 = 65536;

/// Why pods cannot have users of their own here; `None`: they can.
pub fn missing() -> Option<String> {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match most.trim().parse::<u64>() {
        Err(_) => Some("this kernel has no user namespaces (CONFIG_USER_NS)".into()),
        Ok(0) => Some("user namespaces are switched off: set sysctl user.max_user_namespaces".into()),
        // An overlay of id-mapped layers.
        Ok(_) if version < (5, 19) => Some(format!("it takes Linux 5.19 for an id-mapped root, this is {release}")),
        Ok(_) => None,
    }
}

/// A user namespace in which ids from 0 on are these from `base` on outside. It lives as long as the descriptor, or what is pinned of it.
pub async fn make(base: u32) -> io::Result<OwnedFd> {
    let (report, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let report = Receiver::from_owned_fd(report)?;
    let (mut child, pid) = fork(&tell)?;
    drop(tell);
    let (_, errno) = namespaces::answer_in_time(&report).await?;
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let of = |file: &str| format!("/proc/{}/{file}", pid.as_raw_pid());
    let map = format!("0 {base} {LENGTH}\n");
    for file in ["uid_map", "gid_map"] {
        std::fs::write(of(file), &map)?;
    }
    let users = rustix::fs::open(of("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    child.kill();
    child.wait().await?;
    Ok(users)
}

fn fork(tell: &OwnedFd) -> io::Result<(Child, Pid)> {
    // SAFETY: the child only makes system calls, allocates nothing and leaves by _exit or a signal.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            // SAFETY: the child has one thread and nothing else uses its namespaces.
            let errno = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.err().map_or(0, rustix::io::Errno::raw_os_error);
            if pause::tell(tell, 0, errno).is_ok() && errno == 0 {
                nix::unistd::pause();
            }
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?;
            Ok((Child::adopt(pid, false)?, pid))
        }
    }
}

/// Mounts what is at `source`, and all below it, at `target` as the users of that namespace see it.
pub fn mount_mapped(source: &Path, target: &Path, users: BorrowedFd<'_>) -> io::Result<()> {
    let cut_off = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let copy = open_tree(CWD, source, cut_off)?;
    mounts::set_attributes(copy.as_fd(), libc::MOUNT_ATTR_IDMAP, Some(users))?;
    Ok(move_mount(copy, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
