//! Process 1 of a pod's shared PID namespace, as the kubelet's pause container is: it takes in orphans and does nothing else.
//!
//! This very program, started anew under the name `/pause`. The containers beside it may be root and trace what they see, so it gives
//! up everything before it counts as started: the file system (an empty one of its own), descriptors, capabilities, uid 0; and its
//! program can be read through /proc/1/exe but not written.
//!
//! Who started it may die at once after: it writes down which process it is before it says that it stands, and ends if nobody hears.
#![expect(unsafe_code, reason = "descriptors come by number over an exec, and execveat has no safe form after a fork")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{Gid, Uid, UnshareFlags};

/// What containers of the pod see in their process list, as beside a kubelet.
const NAME: &CStr = c"/pause";
/// Names the descriptors it is given: of the file it writes itself down in, and of its report.
const FDS: &str = "PLINTH_PAUSE";
/// The user and group of the kubelet's pause image.
const NOBODY: u32 = 65535;
/// A killed process is gone within milliseconds.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Everything its start needs, made before the fork: between fork and exec nothing can be allocated.
pub(super) struct Start {
    program: OwnedFd,
    mark: File,
    fds: CString,
}

impl Start {
    /// `mark` is the file it writes itself down in; `report`, where it says eight bytes once it stands.
    pub(super) fn prepare(mark: &Path, report: RawFd) -> io::Result<Start> {
        let mark = File::create(mark)?;
        let fds = CString::new(format!("{FDS}={} {report}", mark.as_raw_fd()))?;
        Ok(Start { program: super::spawn::own_program()?, mark, fds })
    }

    /// Becomes it. Only for the child of a fork; comes back only with what went wrong.
    pub(super) fn exec(&self, report: &OwnedFd) -> rustix::io::Errno {
        let kept = rustix::io::FdFlags::empty();
        let inherited = rustix::io::fcntl_setfd(&self.mark, kept).and_then(|()| rustix::io::fcntl_setfd(report, kept));
        if let Err(e) = inherited {
            return e;
        }
        let args = [NAME.as_ptr(), std::ptr::null()];
        let env = [self.fds.as_ptr(), std::ptr::null()];
        // SAFETY: both lists end with a null and hold pointers to texts that live across the call.
        unsafe { libc::fexecve(self.program.as_raw_fd(), args.as_ptr(), env.as_ptr()) };
        rustix::io::Errno::from_raw_os_error(nix::errno::Errno::last_raw())
    }
}

/// Whether this process was started to be one.
pub fn is_asked() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name.as_encoded_bytes() == NAME.to_bytes())
}

/// Is one, until it is killed.
pub fn run() -> ! {
    let given = std::env::var(FDS).unwrap_or_default();
    let mut fds = given.split(' ').filter_map(|n| n.parse::<RawFd>().ok());
    if let (Some(mark), Some(report)) = (fds.next(), fds.next()) {
        // SAFETY: who started this process opened them for it and nobody else in it knows of them.
        let (mark, report) = unsafe { (File::from_raw_fd(mark), OwnedFd::from_raw_fd(report)) };
        let errno = retire(mark, &report).err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
        if tell(&report, super::namespaces::PAUSE, errno).is_ok() && errno == 0 {
            drop(report);
            loop {
                nix::unistd::pause();
            }
        }
    }
    std::process::exit(1)
}

/// One message, whole or not at all.
pub(super) fn tell(report: &OwnedFd, at: u32, errno: i32) -> rustix::io::Result<()> {
    let mut message = [0u8; 8];
    let (a, b) = message.split_at_mut(4);
    a.copy_from_slice(&at.to_ne_bytes());
    b.copy_from_slice(&errno.to_ne_bytes());
    rustix::io::write(report, &message).map(drop)
}

/// Writes itself down and gives up everything.
fn retire(mut mark: File, report: &OwnedFd) -> io::Result<()> {
    // The host's /proc still, so these are the host's numbers.
    let pid = std::fs::read_link("/proc/self")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    write!(mark, "{} {}", pid.display(), started(&stat).ok_or(io::ErrorKind::InvalidData)?)?;
    drop(mark);
    rustix::thread::set_name(c"pause")?;
    // Ignored, the kernel reaps those it takes in by itself.
    // SAFETY: no handler is installed.
    unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }?;
    empty_root()?;
    close_all_but(report.as_raw_fd())?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::from_raw(NOBODY), Gid::from_raw(NOBODY), Gid::from_raw(NOBODY))?;
    rustix::thread::set_thread_res_uid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY))?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// A root with nothing in it, and no way back.
fn empty_root() -> io::Result<()> {
    // SAFETY: this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", "/proc", "tmpfs", flags, c"mode=0555,size=4k,nr_inodes=1")?;
    mount_remount("/proc", flags | MountFlags::RDONLY, c"")?;
    rustix::process::chdir("/proc")?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The root of an initramfs cannot be left like that.
        Err(_) => rustix::mount::mount_move(".", "/").and_then(|()| rustix::process::chroot("."))?,
    }
    Ok(rustix::process::chdir("/")?)
}

fn close_all_but(kept: RawFd) -> io::Result<()> {
    let kept = kept.cast_unsigned();
    let close = |from: u32, to: u32| {
        // SAFETY: nothing of this process uses a descriptor from here on but the one that is kept.
        let done = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    if kept > 0 {
        close(0, kept - 1)?;
    }
    close(kept + 1, u32::MAX)
}

/// Start time in ticks since the boot: the twentieth word after the name in brackets.
fn started(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)
}

/// The one written down there, if it lives.
fn marked(mark: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(mark).ok()?;
    let (pid, start) = text.split_once(' ')?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    (started(&stat) == Some(start) && !is_zombie).then(|| pid.parse().ok().and_then(Pid::from_raw)).flatten()
}

/// Whether the one written down there lives.
pub fn is_alive(mark: &Path) -> bool {
    marked(mark).is_some()
}

/// Kills the one written down there, and with it everything in its namespace; waits until it is gone. None is fine.
pub async fn end(mark: &Path) -> io::Result<()> {
    let Some(pid) = marked(mark) else { return Ok(()) };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return Ok(()) };
    // The number may have gone to another process in between: asked again once it is held.
    if marked(mark) != Some(pid) {
        return Ok(());
    }
    pidfd_send_signal(&fd, Signal::KILL)?;
    let fd = super::readable(fd)?;
    let gone = tokio::time::timeout(GONE_WITHIN, fd.readable()).await;
    gone.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not end after SIGKILL"))?.map(drop)
}
