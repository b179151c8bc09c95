//! Namespaces without a process in them: made in a short-lived child and pinned by bind mounts of its /proc/self/ns files.
//!
//! Why a child: unshare moves the caller, and this process must stay where it is. Why not a thread: there is only one. The
//! child runs nothing but system calls on what was prepared before the fork, so it could not deadlock on the allocator
//! even in a test harness with threads. It never leaves the mount namespace: the pins appear in ours.
//!
//! Propagation: a pin is a mount below the run directory. Where that lies on a shared mount (systemd makes all of them so)
//! it propagates to a containerd in a mount namespace of its own (slave or shared); where it is private (a bare init),
//! containerd has to share our mount namespace, as it then does. What does not work is plinth itself in a slave mount
//! namespace, as systemd's ProtectSystem=, PrivateTmp= and the like make it: its unit must not use them.
#![expect(unsafe_code, reason = "fork, ioctl and _exit have no safe form")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::spawn::{Child, c_path};

/// A kind of namespace that can outlive its processes usefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum Kind {
    Net,
    Ipc,
    Uts,
}

impl Kind {
    /// Its file name in /proc/<pid>/ns, and in the pod's `ns` directory.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Kind::Net => UnshareFlags::NEWNET,
            Kind::Ipc => UnshareFlags::NEWIPC,
            Kind::Uts => UnshareFlags::NEWUTS,
        }
    }
}

/// One kernel setting written inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Its file below /proc/sys.
    pub file: PathBuf,
    /// What is written.
    pub value: String,
    /// A failure is a failure; else a kernel without it is taken as it is.
    pub required: bool,
}

/// What went wrong in the child: what it was doing, and why it could not.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct PinError {
    /// The step, with its object.
    pub doing: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// A step of the child, prepared before the fork.
enum Step {
    Unshare(UnshareFlags),
    Hostname(Vec<u8>),
    LoopbackUp,
    Write { file: CString, value: Vec<u8>, required: bool },
    Pin { from: CString, to: CString },
}

/// Makes these namespaces, sets them up (host name, loopback, sysctls) and pins each on its path, which must not be a pin yet.
pub async fn pin(pins: &[(Kind, &Path)], hostname: &str, sysctls: &[Sysctl]) -> Result<(), PinError> {
    let steps = prepare(pins, hostname, sysctls).map_err(|source| PinError { doing: "prepare namespaces".into(), source })?;
    let (child, report) = fork(&steps).map_err(|source| PinError { doing: "start a process to make namespaces".into(), source })?;
    let mut child = child;
    child.wait().await.map_err(|source| PinError { doing: "wait for the process that makes namespaces".into(), source })?;
    let mut answer = [0u8; 8];
    let n = rustix::io::read(&report, &mut answer).unwrap_or(0);
    let (at, errno) = answer.split_at(4);
    let number = |b: &[u8]| b.try_into().map(u32::from_ne_bytes).unwrap_or(0);
    let (at, errno) = (number(at), number(errno));
    match (n, at) {
        (8, DONE) => Ok(()),
        (8, at) => {
            let doing = steps.get(at as usize).map(describe).unwrap_or_default();
            Err(PinError { doing, source: io::Error::from_raw_os_error(errno.cast_signed()) })
        }
        _ => Err(PinError { doing: "make namespaces".into(), source: io::Error::other("the process that makes them died") }),
    }
}

/// In place of a step's index: all done.
const DONE: u32 = u32::MAX;

fn prepare(pins: &[(Kind, &Path)], hostname: &str, sysctls: &[Sysctl]) -> io::Result<Vec<Step>> {
    let flags = pins.iter().fold(UnshareFlags::empty(), |all, (kind, _)| all | kind.flag());
    let mut steps = vec![Step::Unshare(flags)];
    let has = |kind| pins.iter().any(|(k, _)| *k == kind);
    if has(Kind::Uts) {
        steps.push(Step::Hostname(hostname.as_bytes().to_vec()));
    }
    if has(Kind::Net) {
        steps.push(Step::LoopbackUp);
    }
    for s in sysctls {
        let file = c_path(&Path::new("/proc/sys").join(&s.file))?;
        steps.push(Step::Write { file, value: s.value.clone().into_bytes(), required: s.required });
    }
    for (kind, path) in pins {
        // A file to mount on; a plain file of an earlier try is as good.
        std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        steps.push(Step::Pin { from: CString::new(format!("/proc/self/ns/{}", kind.name()))?, to: c_path(path)? });
    }
    Ok(steps)
}

/// Forks the child; the other end of the pipe tells what came of it.
fn fork(steps: &[Step]) -> io::Result<(Child, OwnedFd)> {
    let (report, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // SAFETY: the child only makes system calls on memory prepared here, allocates nothing and leaves by _exit.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let (at, errno) = match run(steps) {
                Ok(()) => (DONE, 0),
                Err((at, errno)) => (at, errno.raw_os_error().cast_unsigned()),
            };
            let mut answer = [0u8; 8];
            let (a, b) = answer.split_at_mut(4);
            a.copy_from_slice(&at.to_ne_bytes());
            b.copy_from_slice(&errno.to_ne_bytes());
            let _ = rustix::io::write(&tell, &answer);
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?;
            Ok((Child::adopt(pid, false)?, report))
        }
    }
}

fn run(steps: &[Step]) -> Result<(), (u32, rustix::io::Errno)> {
    // Nobody would know of pins made after our end.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    for (at, step) in (0..).zip(steps) {
        let done = match step {
            // SAFETY: the child has one thread and nothing else uses its namespaces.
            Step::Unshare(flags) => unsafe { unshare_unsafe(*flags) },
            Step::Hostname(name) => rustix::system::sethostname(name),
            Step::LoopbackUp => loopback_up(),
            Step::Write { file, value, required } => match write(file, value) {
                Err(_) if !required => Ok(()),
                other => other,
            },
            Step::Pin { from, to } => rustix::mount::mount_bind(from.as_c_str(), to.as_c_str()),
        };
        done.map_err(|errno| (at, errno))?;
    }
    Ok(())
}

fn write(file: &CStr, value: &[u8]) -> rustix::io::Result<()> {
    let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, value).map(drop)
}

fn loopback_up() -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    use std::os::fd::AsRawFd;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an ifreq is plain data; all zero is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done == 0 { Ok(()) } else { Err(rustix::io::Errno::from_raw_os_error(nix::errno::Errno::last_raw())) }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Unshare(_) => "make new namespaces (needs CAP_SYS_ADMIN)".into(),
        Step::Hostname(name) => format!("set host name `{}`", String::from_utf8_lossy(name)),
        Step::LoopbackUp => "bring up the loopback interface".into(),
        Step::Write { file, value, .. } => format!("write `{}` to {}", String::from_utf8_lossy(value), file.to_string_lossy()),
        Step::Pin { to, .. } => format!("pin a namespace on {}", to.to_string_lossy()),
    }
}

/// Takes the calling test's thread away from the machine's own namespaces.
#[cfg(test)]
pub fn leave_for_test(flags: UnshareFlags) {
    // SAFETY: the thread was made for this and shares nothing that depends on where it is.
    assert_eq!(unsafe { unshare_unsafe(flags) }, Ok(()));
}
