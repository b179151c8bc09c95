//! This terminal and the standard streams, for the two verbs that hold a connection: raw and back, its size, reading and writing
//! without a thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::unix::AsyncFd;

/// A terminal that passes every key on, until this is dropped.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Standard input's.
    pub fn stdin() -> io::Result<Raw> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Whether standard input is a terminal.
pub fn is_stdin() -> bool {
    isatty(io::stdin())
}

/// Columns and rows of the terminal, if there is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Standard input, awaited. Its flags are left alone: others share it.
pub struct Input {
    fd: OwnedFd,
    ready: Option<AsyncFd<OwnedFd>>,
}

impl Input {
    /// Within an event loop's runtime.
    pub fn stdin() -> io::Result<Input> {
        let fd = io::stdin().as_fd().try_clone_to_owned()?;
        // A regular file cannot be awaited, and need not be.
        let ready = match crate::sys::readable(fd.try_clone()?) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
            ready => Some(ready?),
        };
        Ok(Input { fd, ready })
    }

    /// What is there now; nothing: its end.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(ready) = &self.ready else {
            tokio::task::yield_now().await;
            return Ok(rustix::io::read(&self.fd, buf)?);
        };
        loop {
            let mut guard = ready.readable().await?;
            // It may block, so it is read once only, and only when that will not.
            if is_ready(self.fd.as_fd(), PollFlags::IN, Some(&Timespec::default()))? {
                match rustix::io::read(&self.fd, &mut *buf) {
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    // A terminal that hung up.
                    Err(rustix::io::Errno::IO) => return Ok(0),
                    read => return Ok(read?),
                }
            }
            guard.clear_ready();
        }
    }
}

/// All of it to a stream that may or may not block.
pub fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(rustix::io::Errno::AGAIN) => drop(is_ready(to.as_fd(), PollFlags::OUT, None)?),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, within: Option<&Timespec>) -> io::Result<bool> {
    match poll(&mut [PollFd::new(&fd, what)], within) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
