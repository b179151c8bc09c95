//! The only room with unsafe: system calls that rustix and nix do not wrap safely, and what is one step above them.

pub mod asked;
pub mod cgroup;
mod conntrack;
pub mod enter;
pub mod fifo;
pub mod interfaces;
pub mod kmsg;
pub mod memory;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod notify;
pub mod pause;
pub mod pidfd;
pub mod session;
pub mod signal;
pub mod spawn;
pub mod users;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be awaited for reading.
#[expect(unsafe_code, reason = "tokio asks its caller to vouch that the descriptor stays the same one")]
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor from its making to its drop.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A descriptor that can be awaited for writing.
#[expect(unsafe_code, reason = "tokio asks its caller to vouch that the descriptor stays the same one")]
pub fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor from its making to its drop.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?)
}

/// As `readable`, of a descriptor that is shared.
#[expect(unsafe_code, reason = "tokio asks its caller to vouch that the descriptor stays the same one")]
pub fn readable_shared(fd: Rc<OwnedFd>) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    // SAFETY: the AsyncFd holds a share of the OwnedFd, which nobody can close or exchange while a share lives.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}
