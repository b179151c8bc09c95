//! System calls that may wait for somebody else, a server, a program behind a file system or a disk: made in a child, with a deadline.
//!
//! The child makes one system call (or two) on what was prepared before the fork, and leaves with its error for an exit status. One that hangs
//! is killed; the kernel lets such calls be killed (`TASK_KILLABLE`), and where it does not, the child is reaped whenever it ends.
#![expect(unsafe_code, reason = "fork and _exit have no safe form")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx, syncfs};
use rustix::mount::MountFlags;
use rustix::process::Pid;

use super::spawn::{Child, Ended, c_path};

/// What is to be mounted where.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The file system's own name for it.
    pub source: &'a str,
    /// A directory.
    pub target: &'a Path,
    /// The file system.
    pub kind: &'a str,
    /// Read-only.
    pub read_only: bool,
    /// The file system's options.
    pub options: &'a str,
}

/// Mounts it, or gives up.
pub async fn mount(wish: Wish<'_>, within: Duration) -> io::Result<()> {
    let (source, target) = (CString::new(wish.source)?, c_path(wish.target)?);
    let (kind, options) = (CString::new(wish.kind)?, CString::new(wish.options)?);
    let flags = if wish.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    in_child(within, || rustix::mount::mount(source.as_c_str(), target.as_c_str(), kind.as_c_str(), flags, options.as_c_str())).await
}

/// Whether what is mounted there answers.
pub async fn answers(path: &Path, within: Duration) -> io::Result<()> {
    let path = c_path(path)?;
    in_child(within, || statx(CWD, path.as_c_str(), AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS).map(drop)).await
}

/// Writes out all that is dirty of the file system this is on. As that may take minutes, the child keeps nothing else of ours open.
pub async fn sync(path: &Path, within: Duration) -> io::Result<()> {
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    in_child(within, || {
        keep_only(&fd);
        syncfs(&fd)
    })
    .await
}

/// Writes out what is dirty of one file, or of a directory's names.
pub async fn fsync(path: &Path, within: Duration) -> io::Result<()> {
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    in_child(within, || {
        keep_only(&fd);
        rustix::fs::fsync(&fd)
    })
    .await
}

fn keep_only(fd: &OwnedFd) {
    let own = fd.as_raw_fd().unsigned_abs();
    // SAFETY: called in a child that uses no descriptor but this one any more.
    unsafe {
        if own > 0 {
            libc::close_range(0, own - 1, 0);
        }
        libc::close_range(own + 1, libc::c_uint::MAX, 0);
    }
}

async fn in_child(within: Duration, call: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
    // SAFETY: the child makes one system call on memory prepared before, allocates nothing and leaves by _exit.
    let mut child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let status = call().err().map_or(0, rustix::io::Errno::raw_os_error);
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => Child::adopt(Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?, false)?,
    };
    match tokio::time::timeout(within, child.wait()).await {
        Ok(ended) => match ended? {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(errno) => Err(io::Error::from_raw_os_error(errno)),
            Ended::Signalled(_) => Err(io::Error::other("the process that waited for it was killed")),
        },
        Err(_) => {
            child.kill();
            tokio::task::spawn_local(async move { child.wait().await });
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", within.as_secs())))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&rt, future)
    }

    #[test]
    fn the_kernels_answer_comes_back() {
        run(async {
            assert!(answers(Path::new("/proc"), Duration::from_secs(5)).await.is_ok());
            let gone = answers(Path::new("/no/such/path"), Duration::from_secs(5)).await.unwrap_err();
            assert_eq!(gone.kind(), io::ErrorKind::NotFound);
            sync(&std::env::temp_dir(), Duration::from_secs(60)).await.unwrap();
            let wish = Wish { source: "none", target: Path::new("/proc"), kind: "nosuchfs", read_only: false, options: "" };
            if rustix::process::geteuid().is_root() {
                assert_eq!(mount(wish, Duration::from_secs(5)).await.unwrap_err().raw_os_error(), Some(libc::ENODEV));
            }
        });
    }

    /// With a directory in which `deaf` is a FUSE file system whose program never answers: as deaf as a dead server. In a thread's
    /// own mount namespace, so that nothing of it is ever seen outside.
    pub fn beside_a_deaf_one(name: &str, test: impl AsyncFnOnce(&Path)) {
        let program = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let Ok(program) = program.as_ref().map_err(|e| crate::skip::skip(&format!("src/sys/asked.rs: /dev/fuse: {e}"))) else { return };
        super::super::namespaces::leave_for_test(rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS);
        rustix::mount::mount_change("/", rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE)
            .unwrap();
        let dir = std::env::temp_dir().join(format!("pltest-{name}-{}", std::process::id()));
        let deaf = dir.join("deaf");
        std::fs::create_dir_all(&deaf).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", program.as_raw_fd());
        run(async {
            let wish = Wish { source: "deaf", target: &deaf, kind: "fuse", read_only: false, options: &options };
            mount(wish, Duration::from_secs(5)).await.unwrap();
            test(&dir).await;
            super::super::mounts::detach(&deaf).unwrap();
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_deaf_file_system_is_given_up_in_time() {
        beside_a_deaf_one("deaf", async |dir| {
            let deaf = dir.join("deaf");
            let began = std::time::Instant::now();
            let said = answers(&deaf, Duration::from_millis(300)).await.unwrap_err();
            assert_eq!(said.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() < Duration::from_secs(5));
            // What only looks at the mount itself does not wait for it.
            assert!(super::super::mounts::is_mount_point(&deaf));
            super::super::mounts::detach(&deaf).unwrap();
            assert!(!super::super::mounts::is_mount_point(&deaf));
        });
    }
}
