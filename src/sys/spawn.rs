//! Children: started by posix_spawn, watched by pidfd, never waited for by blocking.
//!
//! One thread, so no tokio::process (its reaper) and no SIGCHLD: a child's end is its pidfd becoming readable. Whoever
//! starts a child here also reaps it; nobody may call wait(-1) in this process. Never runs a shell.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::unistd::ForkResult;
use rustix::fs::{Access, MemfdFlags, SeekFrom, access, memfd_create, seek};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open, waitid};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// A child of ours that was not reaped yet. Dropped unreaped, it is killed.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    fd: AsyncFd<OwnedFd>,
    leads_group: bool,
    reaped: bool,
}

impl Child {
    /// Takes over a child of this process that nobody else waits for. One that cannot be watched, for want of descriptors, is ended.
    pub fn adopt(pid: Pid, leads_group: bool) -> io::Result<Child> {
        // Safe against pid reuse: an unreaped child keeps its pid.
        let watched = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).and_then(super::readable);
        let fd = watched.inspect_err(|_| {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        })?;
        Ok(Child { pid, fd, leads_group, reaped: false })
    }

    /// Waits for its end and reaps it.
    pub async fn wait(&mut self) -> io::Result<Ended> {
        loop {
            let mut ready = self.fd.readable().await?;
            match waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
                Some(status) => {
                    self.reaped = true;
                    let code = status.exit_status().map(Ended::Exited);
                    return Ok(code.unwrap_or_else(|| Ended::Signalled(status.terminating_signal().unwrap_or(9))));
                }
                None => ready.clear_ready(),
            }
        }
    }

    /// SIGKILL to it, and to its process group if it leads one: before it is reaped the group's id is surely its own.
    pub fn kill(&self) {
        if self.reaped {
            return;
        }
        if self.leads_group {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// A program to run to its end.
#[derive(Debug)]
pub struct Exec<'a> {
    /// Absolute path.
    pub program: &'a Path,
    /// What follows its name on the command line.
    pub args: &'a [&'a str],
    /// The whole environment.
    pub env: &'a [(String, String)],
    /// What it reads.
    pub stdin: &'a [u8],
    /// Open in it as descriptor 3: a lock in there is held until its end, even if we end before.
    pub hold: Option<&'a OwnedFd>,
    /// More than that of either stream is thrown away.
    pub cap_bytes: usize,
    /// Killed after that, its process group with it.
    pub timeout: Duration,
}

/// What became of it.
#[derive(Debug)]
pub struct Output {
    /// How it ended; `None`: killed at the timeout.
    pub ended: Option<Ended>,
    /// What it wrote, up to the cap.
    pub stdout: Vec<u8>,
    /// What it complained, up to the cap.
    pub stderr: Vec<u8>,
}

impl Exec<'_> {
    /// Runs it. The end of the child ends the wait, not the end of its pipes: a grandchild that holds them costs nothing.
    pub async fn run(&self) -> io::Result<Output> {
        let stdin = memory(self.stdin)?;
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut child = spawn(self, [&stdin, &out_write, &err_write].into_iter().chain(self.hold))?;
        drop((stdin, out_write, err_write));
        let (out, err) = (Receiver::from_owned_fd(out_read)?, Receiver::from_owned_fd(err_read)?);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = tokio::select! {
            ended = child.wait() => Some(ended?),
            () = tokio::time::sleep(self.timeout) => None,
            never = async { futures_util::join!(fill(&out, &mut stdout, self.cap_bytes), fill(&err, &mut stderr, self.cap_bytes)).0 } => match never {},
        };
        if ended.is_none() {
            child.kill();
            child.wait().await?;
        }
        drain(&out, &mut stdout, self.cap_bytes);
        drain(&err, &mut stderr, self.cap_bytes);
        Ok(Output { ended, stdout, stderr })
    }
}

/// Starts a program in a process group of its own, with default signals and these as its stdin, stdout, stderr and so on.
fn spawn<'f>(exec: &Exec<'_>, fds: impl Iterator<Item = &'f OwnedFd>) -> io::Result<Child> {
    Child::adopt(leave(exec.program, exec.program, exec.args, exec.env.iter().map(|(k, v)| (k.into(), v.into())), fds)?, true)
}

/// This program by a read-only mount of its own, which is nowhere to be seen. Without it (Linux before 5.12) by its own name.
pub fn own_program() -> io::Result<OwnedFd> {
    use rustix::fs::OFlags;
    use rustix::mount::{OpenTreeFlags, open_tree};
    let cut_off = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(rustix::fs::CWD, c"/proc/self/exe", cut_off).ok().filter(|fd| super::mounts::seal(fd.as_fd()).is_ok());
    match clone {
        Some(fd) => Ok(fd),
        None => Ok(rustix::fs::open(c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())?),
    }
}

/// The same for a program that outlives this one: nobody waits for it here. `name` is what it is called on its command line.
pub fn leave<'f>(
    program: &Path,
    name: &Path,
    args: &[&str],
    env: impl Iterator<Item = (OsString, OsString)>,
    fds: impl IntoIterator<Item = &'f OwnedFd>,
) -> io::Result<Pid> {
    let path = c_path(program)?;
    let args: Vec<CString> = std::iter::once(c_path(name)).chain(args.iter().map(|a| Ok(CString::new(*a)?))).collect::<io::Result<_>>()?;
    let env: Vec<CString> = env.map(|(k, v)| CString::new([k.as_bytes(), b"=", v.as_bytes()].concat())).collect::<Result<_, _>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    for (at, fd) in (0..).zip(fds) {
        // In order, so no source is overwritten before its turn: 0 to 2 are always open here, ours lie above. Onto itself clears close-on-exec.
        actions.add_dup2(fd.as_raw_fd(), at)?;
    }
    let mut attr = PosixSpawnAttr::init()?;
    attr.set_pgroup(nix::unistd::Pid::from_raw(0))?;
    // SIGPIPE is ignored in a Rust process, and what is ignored stays so over exec; signals read by signalfd are blocked.
    attr.set_sigdefault(&SigSet::from(NixSignal::SIGPIPE))?;
    attr.set_sigmask(&SigSet::empty())?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
    attr.set_flags(flags)?;
    let pid = posix_spawn(path.as_c_str(), &actions, &attr, &args, &env)?;
    Ok(Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?)
}

/// Where a program is: by its path, or along PATH.
pub fn find(name: &str) -> io::Result<PathBuf> {
    let is_program = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    let path = Path::new(name);
    if path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    let along = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&along).map(|dir| dir.join(name)).find(is_program);
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("find {name}: no directory of PATH has it")))
}

/// Starts a program that is killed when this one ends, with this environment but for what is only between this one and the service manager.
/// Who calls reaps it.
#[expect(unsafe_code, reason = "fork, exec and _exit have no safe form, and posix_spawn has no PR_SET_PDEATHSIG")]
pub fn dependent(program: &Path, args: &[OsString], stdio: [&OwnedFd; 3]) -> io::Result<Pid> {
    let path = c_path(program)?;
    let args: Vec<CString> =
        std::iter::once(Ok(path.clone())).chain(args.iter().map(|a| CString::new(a.as_bytes()))).collect::<Result<_, _>>()?;
    let env = std::env::vars_os().filter(|(k, _)| k != "NOTIFY_SOCKET");
    let env: Vec<CString> = env.map(|(k, v)| CString::new([k.as_bytes(), b"=", v.as_bytes()].concat())).collect::<Result<_, _>>()?;
    let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (pointers(&args), pointers(&env));
    let (failed, fails) = pipe_with(PipeFlags::CLOEXEC)?;
    let parent = nix::unistd::getpid();
    // SAFETY: the child makes system calls on what was prepared here, and ends in exec or _exit.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let e = match become_dependent(parent, stdio) {
                Ok(()) => {
                    // SAFETY: lists of texts that live, each ended by a null.
                    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
                    nix::errno::Errno::last_raw()
                }
                Err(e) => e as i32,
            };
            let _ = rustix::io::write(&fails, &e.to_ne_bytes());
            // SAFETY: ends this process and nothing else.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop(fails);
            let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?;
            let mut errno = [0u8; 4];
            // Ends at its exec, a moment from now.
            match rustix::io::retry_on_intr(|| rustix::io::read(&failed, &mut errno)) {
                Ok(4) => {
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                    Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
                }
                _ => Ok(pid),
            }
        }
    }
}

/// In the child: dies with its parent, hears signals as any program does, and has these three descriptors.
#[expect(unsafe_code, reason = "signal() takes a handler, which the default is not")]
fn become_dependent(parent: nix::unistd::Pid, stdio: [&OwnedFd; 3]) -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(NixSignal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Err(nix::errno::Errno::ESRCH);
    }
    // SAFETY: the default disposition runs nothing of ours.
    unsafe { nix::sys::signal::signal(NixSignal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
    SigSet::empty().thread_set_mask()?;
    for (at, fd) in (0..).zip(stdio) {
        // 0 to 2 are always open in the parent, so these lie above; the copy has no close-on-exec.
        // SAFETY: takes two numbers.
        nix::errno::Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), at) })?;
    }
    Ok(())
}

/// A descriptor handed over by its number to this program, which nobody else here has.
#[expect(unsafe_code, reason = "a number becomes an owned descriptor")]
pub fn handed_over(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: only looked at: whether there is one of that number.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, and who started this program gave it to it; called once, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// A file of memory to be read from its beginning.
pub fn memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"stdin", MemfdFlags::CLOEXEC)?;
    write_all(&fd, bytes)?;
    seek(&fd, SeekFrom::Start(0))?;
    Ok(fd)
}

/// Writes all of it to a regular or memory file.
fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::write(fd, bytes)?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// What a pipe of ours holds (pipe(7)).
const PIPE_BYTES: usize = 64 << 10;

enum Never {}

/// Reads for as long as it is polled.
async fn fill(from: &Receiver, into: &mut Vec<u8>, cap: usize) -> Never {
    loop {
        if from.readable().await.is_err() || drain(from, into, cap) {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }
}

/// Reads what is there now, at most what a pipe holds: whoever writes without end would keep it here for ever. True at the end of the stream.
fn drain(from: &Receiver, into: &mut Vec<u8>, cap: usize) -> bool {
    let mut chunk = [0u8; 4096];
    for _ in 0..PIPE_BYTES / chunk.len() {
        match from.try_read(&mut chunk) {
            Ok(0) => return true,
            Ok(n) => {
                let room = cap.saturating_sub(into.len()).min(n);
                into.extend_from_slice(chunk.get(..room).unwrap_or_default());
            }
            Err(e) => return e.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// A path as the kernel takes it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_has_its_arguments_its_environment_and_its_input() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let exec = Exec {
            program: Path::new("/bin/sh"),
            args: &["-c", "read line; echo \"$line $1 $THERE\"; echo no >&2; exit 3", "sh", "two words"],
            env: &[("THERE".into(), "here".into())],
            stdin: b"in\n",
            hold: None,
            cap_bytes: 100,
            timeout: Duration::from_secs(60),
        };
        let output = rt.block_on(exec.run()).unwrap();
        assert_eq!((output.ended, &*output.stdout, &*output.stderr), (Some(Ended::Exited(3)), &b"in two words here\n"[..], &b"no\n"[..]));
    }

    #[test]
    fn who_writes_without_end_is_read_a_pipe_at_a_time() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            rustix::pipe::fcntl_setpipe_size(&write, 4 * PIPE_BYTES).unwrap();
            write_all(&write, &[1; 3 * PIPE_BYTES]).unwrap();
            let (read, mut into) = (Receiver::from_owned_fd(read).unwrap(), Vec::new());
            read.readable().await.unwrap();
            assert!(!drain(&read, &mut into, usize::MAX));
            assert_eq!(into.len(), PIPE_BYTES);
            drop(write);
            // All of it comes in the end, and then nothing.
            let filled = tokio::time::timeout(Duration::from_millis(200), fill(&read, &mut into, usize::MAX)).await;
            assert!(filled.is_err());
            assert_eq!(into.len(), 3 * PIPE_BYTES);
        });
    }
}
