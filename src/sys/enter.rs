//! A TCP socket inside another network namespace: made there by a short-lived child and handed over.
//!
//! A socket stays in the namespace it was made in, wherever its owner is. This process, which has one thread, never leaves its own:
//! a step that failed on the way back would leave it in the pod's network for good.
#![expect(unsafe_code, reason = "fork and _exit have no safe form")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::spawn::{Child, Ended};

/// It makes four system calls.
const ANSWER: Duration = Duration::from_secs(10);

/// A stream socket of that family in the network namespace that is pinned there; non-blocking, not connected.
pub async fn tcp_socket(namespace: &Path, family: AddressFamily) -> io::Result<OwnedFd> {
    let namespace = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    // SAFETY: the child only makes system calls on what was made here, allocates nothing and leaves by _exit.
    let mut child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let code = make(namespace.as_fd(), family, theirs.as_fd()).map_or_else(Errno::raw_os_error, |()| 0);
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => Child::adopt(Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?, false)?,
    };
    drop(theirs);
    match tokio::time::timeout(ANSWER, child.wait()).await {
        Ok(Ok(Ended::Exited(0))) => received(&ours),
        Ok(Ok(Ended::Exited(errno))) => Err(io::Error::from_raw_os_error(errno)),
        Ok(Ok(Ended::Signalled(signal))) => Err(io::Error::other(format!("the process that makes a socket died of signal {signal}"))),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// In the child.
fn make(namespace: BorrowedFd<'_>, family: AddressFamily, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    rights.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(to, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL).map(drop)
}

fn received(from: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut [0])], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = rights.drain().filter_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { Some(fds) } else { None }).flatten();
    sockets.next().ok_or_else(|| io::Error::other("the process that makes a socket sent none"))
}
