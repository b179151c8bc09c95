//! Starting a service. PID 1 never forks: it starts itself again as `exec`, which arranges what only the new process can (its cgroup, session,
//! limits, descriptors, its own number in LISTEN_PID) and becomes the service.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::SigSet;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, getpid, setrlimit, setsid};

use super::setup::service_group;
use super::store::Store;
use super::table::Entry;
use crate::failure::{Doing, Done, Failure};

/// What a service sees of the environment, beside its own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts it; its process and the end of the pipe it writes to.
pub fn start(entry: &Entry, store: &Store) -> io::Result<(Pid, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let (numbers, names) = store.handed();
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    let mut command = Command::new("/proc/self/exe");
    command.args(["exec", entry.spec.name, &entry.oom.to_string(), &entry.files.to_string(), &numbers.join(",")]).args(&entry.argv);
    command.env_clear().env("PATH", PATH).current_dir("/");
    if entry.spec.notifies {
        command.env("NOTIFY_SOCKET", super::notify::SOCKET);
    }
    if let Some(ms) = entry.spec.watchdog_ms {
        command.env("WATCHDOG_USEC", (ms * 1000).to_string());
    }
    if !numbers.is_empty() {
        command.env("LISTEN_FDNAMES", names);
    }
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
    // One thread: nobody else starts anything between these two.
    inherit(store.fds(), FdFlags::empty());
    let child = command.spawn();
    inherit(store.fds(), FdFlags::CLOEXEC);
    let pid = i32::try_from(child?.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok((pid, read))
}

fn inherit<'f>(fds: impl Iterator<Item = BorrowedFd<'f>>, flags: FdFlags) {
    for fd in fds {
        let _ = fcntl_setfd(fd, flags);
    }
}

/// `exec NAME OOM FILES NUMBERS PROGRAM ARG…`: becomes the service. Returns only the reason why not.
pub fn exec(args: &[String]) -> Done {
    let [name, oom, files, numbers, program, rest @ ..] = args else {
        return Err(Failure::new("exec", "wants NAME OOM FILES NUMBERS PROGRAM"));
    };
    let _ = setsid();
    // What PID 1 reads from a descriptor is blocked, and would stay so: std passes the mask on.
    complain("unblock its signals", SigSet::empty().thread_set_mask());
    let group = service_group(name);
    // None of these is worth a service that does not run.
    complain("join its cgroup", fs::create_dir_all(&group).and_then(|()| fs::write(group.join("cgroup.procs"), "0")));
    complain("set oom_score_adj", fs::write("/proc/self/oom_score_adj", oom));
    let limit = files.parse().ok();
    complain("set RLIMIT_NOFILE", setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }));
    let numbers: Vec<i32> = numbers.split(',').filter_map(|n| n.parse().ok()).collect();
    let mut command = Command::new(program);
    command.args(rest);
    let me = getpid().as_raw_nonzero().to_string();
    if std::env::var_os("WATCHDOG_USEC").is_some() {
        command.env("WATCHDOG_PID", &me);
    }
    if !numbers.is_empty() {
        crate::sys::place_from_3(&numbers).doing(|| format!("hand descriptors over to {program}"))?;
        command.env("LISTEN_FDS", numbers.len().to_string()).env("LISTEN_PID", me);
    }
    Err(Failure::new(format!("start {program}"), command.exec()))
}

fn complain<E: std::fmt::Display>(what: &str, done: Result<(), E>) {
    if let Err(e) = done {
        eprintln!("{what}: {e}");
    }
}

/// Runs a program to its end without waiting for it, under a name of its own; the reaper tells.
pub fn aside(name: &str, argv: &[&str]) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    let child = command.args(["exec", name, "0", "1024", ""]).args(argv).env_clear().env("PATH", PATH).stdin(Stdio::null()).spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::NotFound.into())
}
