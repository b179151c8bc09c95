//! Signals as something to await: blocked, and read from a signalfd. Nothing runs in a handler.
//!
//! Blocked signals are inherited over fork and exec; `spawn` clears the mask of what it starts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

/// Signals this process awaits.
#[derive(Debug)]
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Blocks these signals for the (only) thread and begins to collect them.
    pub fn new(signals: &[Signal]) -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for s in signals {
            set.add(*s);
        }
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals(super::readable(fd.as_fd().try_clone_to_owned()?)?))
    }

    /// The next one.
    pub async fn next(&self) -> io::Result<Signal> {
        loop {
            let mut ready = self.0.readable().await?;
            // A signalfd_siginfo is 128 bytes and opens with the signal's number.
            let mut info = [0u8; 128];
            match rustix::io::read(self.0.get_ref(), &mut info) {
                Ok(_) => {
                    let number = info.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
                    return Signal::try_from(number).map_err(Into::into);
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_blocked_signal_is_awaited_and_does_not_kill() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let signals = Signals::new(&[Signal::SIGUSR1]).unwrap();
            // To this thread alone: a test harness has others, which do not block it.
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            assert_eq!(signals.next().await.unwrap(), Signal::SIGUSR1);
        });
    }
}
