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
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::net::unix::pipe::Receiver;

use super::pause;
use super::spawn::{Child, c_path};

/// A kind of namespace that can outlive its processes usefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum Kind {
    Net,
    Ipc,
    Uts,
    /// Lives as long as its first process, `pause`, which is started with it.
    Pid,
    /// Whose root owns the others.
    User,
}

impl Kind {
    /// Its file name in /proc/<pid>/ns, and in the pod's `ns` directory.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Pid => "pid",
            Kind::User => "user",
        }
    }

    /// Its file in /proc/<pid>/ns of who made it: that process never enters the PID namespace it makes, its children do.
    fn file(self) -> &'static str {
        if self == Kind::Pid { "pid_for_children" } else { self.name() }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Kind::Net => UnshareFlags::NEWNET,
            Kind::Ipc => UnshareFlags::NEWIPC,
            Kind::Uts => UnshareFlags::NEWUTS,
            Kind::Pid => UnshareFlags::NEWPID,
            // Made before, and entered.
            Kind::User => UnshareFlags::empty(),
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
    Enter(RawFd),
    Unshare(UnshareFlags),
    Hostname(Vec<u8>),
    LoopbackUp,
    Write {
        file: CString,
        value: Vec<u8>,
        required: bool,
    },
    Pause(pause::Start),
    Pin {
        from: CString,
        to: CString,
    },
    /// Stays, for others to pin: who entered a user namespace may no longer mount.
    Hold,
}

/// The first process of a PID namespace that is to be made.
#[derive(Clone, Debug)]
pub struct Pause {
    /// The file it writes itself down in.
    pub mark: PathBuf,
    /// It is put into these cgroups, where it can be.
    pub cgroups: Vec<PathBuf>,
}

/// What is made of a pod's namespaces.
#[derive(Clone, Debug)]
pub struct Pins<'a> {
    /// Which, and the path each is pinned on, which must not be a pin yet.
    pub places: &'a [(Kind, &'a Path)],
    /// Host name of a UTS namespace.
    pub hostname: &'a str,
    /// Written inside.
    pub sysctls: &'a [Sysctl],
    /// The user namespace they belong to, if it is not the host's.
    pub users: Option<BorrowedFd<'a>>,
    /// Goes with a PID namespace.
    pub pause: Option<Pause>,
}

/// Makes these namespaces, sets them up (host name, loopback, sysctls, first process) and pins each on its path.
pub async fn pin(pins: &Pins<'_>) -> Result<(), PinError> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |source| PinError { doing, source }
    };
    let (report, tell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| failed("make a pipe")(e.into()))?;
    let report = Receiver::from_owned_fd(report).map_err(failed("make a pipe"))?;
    let steps = prepare(pins, &tell).map_err(failed("prepare namespaces"))?;
    let (mut child, pid) = fork(&steps, &tell).map_err(failed("start a process to make namespaces"))?;
    drop(tell);
    if pins.users.is_none() {
        child.wait().await.map_err(failed("wait for the process that makes namespaces"))?;
    }
    let mut awaited = vec![DONE];
    awaited.extend(pins.pause.as_ref().map(|_| PAUSE));
    while !awaited.is_empty() {
        let (at, errno) = answer_in_time(&report).await.map_err(failed("make namespaces"))?;
        if errno != 0 {
            let doing = steps.get(at as usize).map(describe).unwrap_or_else(|| "shut the pod's first process off from the host".into());
            return Err(PinError { doing, source: io::Error::from_raw_os_error(errno) });
        }
        awaited.retain(|a| *a != at);
    }
    let Some(users) = pins.users else { return Ok(()) };
    let bind = |from: &str, to: &Path| rustix::mount::mount_bind(from, to).map_err(|e| failed("pin a namespace")(e.into()));
    for (kind, path) in pins.places {
        match kind {
            Kind::User => bind(&format!("/proc/self/fd/{}", users.as_raw_fd()), path)?,
            kind => bind(&format!("/proc/{}/ns/{}", pid.as_raw_pid(), kind.file()), path)?,
        }
    }
    child.kill();
    child.wait().await.map_err(failed("wait for the process that makes namespaces"))?;
    Ok(())
}

/// In place of a step's index: all done.
const DONE: u32 = u32::MAX;
/// Likewise: the first process of the PID namespace stands.
pub(super) const PAUSE: u32 = u32::MAX - 1;
/// What containerd's CRI gives a pause container.
const SANDBOX_OOM_SCORE_ADJ: &str = "-998";
/// It has a few mounts to make.
const ANSWER: Duration = Duration::from_secs(20);

/// The next message, which is not waited for without end.
pub(super) async fn answer_in_time(report: &Receiver) -> io::Result<(u32, i32)> {
    tokio::time::timeout(ANSWER, answer(report)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The next message: a step, and the error that ended it or 0.
pub(super) async fn answer(report: &Receiver) -> io::Result<(u32, i32)> {
    let mut message = [0u8; 8];
    loop {
        report.readable().await?;
        match report.try_read(&mut message) {
            Ok(8) => break,
            Ok(_) => return Err(io::Error::other("the process that makes them died")),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    let (at, errno) = message.split_at(4);
    let number = |b: &[u8]| b.try_into().map(u32::from_ne_bytes).unwrap_or(0);
    Ok((number(at), number(errno).cast_signed()))
}

fn prepare(pins: &Pins<'_>, tell: &OwnedFd) -> io::Result<Vec<Step>> {
    let flags = pins.places.iter().fold(UnshareFlags::empty(), |all, (kind, _)| all | kind.flag());
    let mut steps = Vec::new();
    if let Some(wish) = &pins.pause {
        let optional = |file: &Path, value: &str| -> io::Result<Step> {
            Ok(Step::Write { file: c_path(file)?, value: value.into(), required: false })
        };
        for group in &wish.cgroups {
            steps.push(optional(&group.join("cgroup.procs"), "0")?);
        }
        steps.push(optional(Path::new("/proc/self/oom_score_adj"), SANDBOX_OOM_SCORE_ADJ)?);
    }
    steps.extend(pins.users.map(|users| Step::Enter(users.as_raw_fd())));
    steps.push(Step::Unshare(flags));
    let has = |kind| pins.places.iter().any(|(k, _)| *k == kind);
    if has(Kind::Uts) {
        steps.push(Step::Hostname(pins.hostname.as_bytes().to_vec()));
    }
    if has(Kind::Net) {
        steps.push(Step::LoopbackUp);
    }
    for s in pins.sysctls {
        let file = c_path(&Path::new("/proc/sys").join(&s.file))?;
        steps.push(Step::Write { file, value: s.value.clone().into_bytes(), required: s.required });
    }
    if let Some(wish) = &pins.pause {
        steps.push(Step::Pause(pause::Start::prepare(&wish.mark, tell.as_raw_fd())?));
    }
    for (kind, path) in pins.places {
        // A file to mount on; a plain file of an earlier try is as good.
        std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        if pins.users.is_none() {
            steps.push(Step::Pin { from: CString::new(format!("/proc/self/ns/{}", kind.file()))?, to: c_path(path)? });
        }
    }
    steps.extend(pins.users.map(|_| Step::Hold));
    Ok(steps)
}

/// Forks the child, which tells what came of it.
fn fork(steps: &[Step], tell: &OwnedFd) -> io::Result<(Child, Pid)> {
    // SAFETY: the child only makes system calls on memory prepared here, allocates nothing and leaves by _exit.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let (at, errno) = run(steps, tell).err().map_or((DONE, 0), |(at, errno)| (at, errno.raw_os_error()));
            let _ = pause::tell(tell, at, errno);
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?;
            Ok((Child::adopt(pid, false)?, pid))
        }
    }
}

fn run(steps: &[Step], tell: &OwnedFd) -> Result<(), (u32, rustix::io::Errno)> {
    // Nobody would know of pins made after our end.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    for (at, step) in (0..).zip(steps) {
        let done = match step {
            Step::Enter(users) => enter(*users),
            // SAFETY: the child has one thread and nothing else uses its namespaces.
            Step::Unshare(flags) => unsafe { unshare_unsafe(*flags) },
            Step::Hostname(name) => rustix::system::sethostname(name),
            Step::LoopbackUp => loopback_up(),
            Step::Write { file, value, required } => match write(file, value) {
                Err(_) if !required => Ok(()),
                other => other,
            },
            Step::Pause(start) => pause_beside(start, tell, at),
            Step::Pin { from, to } => rustix::mount::mount_bind(from.as_c_str(), to.as_c_str()),
            Step::Hold => pause::tell(tell, DONE, 0).map(|()| nix::unistd::pause()),
        };
        done.map_err(|errno| (at, errno))?;
    }
    Ok(())
}

/// Root in another user namespace, whose root owns what is made from now on. The death signal is lost with the old ids.
fn enter(users: RawFd) -> rustix::io::Result<()> {
    use rustix::thread::{Gid, LinkNameSpaceType, Uid};
    // SAFETY: the descriptor was inherited over the fork and stays open.
    let users = unsafe { BorrowedFd::borrow_raw(users) };
    rustix::thread::move_into_link_name_space(users, Some(LinkNameSpaceType::User))?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Forks the first process of the new PID namespace. Nobody's child once this one ends, it is no business of ours to reap.
fn pause_beside(start: &pause::Start, tell: &OwnedFd, at: u32) -> rustix::io::Result<()> {
    // SAFETY: as in `fork`: its child makes system calls alone, and leaves by exec or _exit.
    match unsafe { nix::unistd::fork() }.map_err(|e| rustix::io::Errno::from_raw_os_error(e as i32))? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            let errno = start.exec(tell);
            let _ = pause::tell(tell, at, errno.raw_os_error());
            // SAFETY: as in `fork`.
            unsafe { libc::_exit(0) }
        }
    }
}

fn write(file: &CStr, value: &[u8]) -> rustix::io::Result<()> {
    let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, value).map(drop)
}

fn loopback_up() -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
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
        Step::Enter(_) => "enter the pod's user namespace".into(),
        Step::Unshare(_) => "make new namespaces (needs CAP_SYS_ADMIN)".into(),
        Step::Hostname(name) => format!("set host name `{}`", String::from_utf8_lossy(name)),
        Step::LoopbackUp => "bring up the loopback interface".into(),
        Step::Write { file, value, .. } => format!("write `{}` to {}", String::from_utf8_lossy(value), file.to_string_lossy()),
        Step::Pause(_) => "start the pod's first process".into(),
        Step::Pin { to, .. } => format!("pin a namespace on {}", to.to_string_lossy()),
        Step::Hold => "wait to be pinned".into(),
    }
}

/// Takes the calling test's thread away from the machine's own namespaces.
#[cfg(test)]
pub fn leave_for_test(flags: UnshareFlags) {
    // SAFETY: the thread was made for this and shares nothing that depends on where it is.
    assert_eq!(unsafe { unshare_unsafe(flags) }, Ok(()));
}
