//! What failed, on what, and why, as one line for a console; and what the machine does about it.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cmdline::Fallback;
use crate::console::say;
use rustix::system::{RebootCommand, reboot};

/// Time to read a console by.
const READ_BY: Duration = Duration::from_secs(10);

/// One failure. `what` opens with a verb and names the object.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    what: String,
    why: String,
}

/// What most of this program returns.
pub type Done<T = ()> = Result<T, Failure>;

impl Failure {
    /// Of these words.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Failure {
        Failure { what: what.into(), why: why.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Names what was attempted.
pub trait Doing<T> {
    /// The words are made only for a failure.
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Done<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Done<T> {
        self.map_err(|why| Failure::new(what(), why))
    }
}

/// Says it, and goes the way that was chosen. Never returns: PID 1 that ends is a kernel panic.
pub fn fall_back(failure: &Failure, fallback: Fallback) -> ! {
    say(&format!("cannot boot: {failure}"));
    match fallback {
        Fallback::Shell => shell(),
        Fallback::Reboot => {
            say("rebooting in 10 s (plinth.fallback=shell stays here)");
            std::thread::sleep(READ_BY);
        }
        Fallback::PowerOff => end(RebootCommand::PowerOff),
        Fallback::Halt => end(RebootCommand::Halt),
    }
    end(RebootCommand::Restart)
}

fn shell() {
    say("plinth.fallback=shell: a shell; its end reboots");
    // PID 1 has blocked some.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let ended = Command::new(busybox.unwrap_or("/bin/sh")).args(["sh", "-i"]).env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").status();
    if let Err(e) = ended {
        say(&format!("start a shell: {e}; rebooting in 10 s"));
        std::thread::sleep(READ_BY);
    }
}

/// The last thing a machine does. What is on disk is safe, whoever calls.
pub fn end(command: RebootCommand) -> ! {
    rustix::fs::sync();
    stop(command)
}

/// The same without a look at the disks: one that is dead has been waited for.
pub fn stop(command: RebootCommand) -> ! {
    if rustix::process::getpid().is_init() {
        let refused = reboot(command);
        say(&format!("reboot(2): {refused:?}"));
    }
    // Only a halted or a refusing machine comes here, or somebody who is not PID 1.
    std::process::exit(1)
}

/// PID 1 that panics says its last words and reboots. A crash that gets past this is a kernel panic, which reboots by `kernel.panic`.
pub fn last_words() {
    std::panic::set_hook(Box::new(|info| {
        let words = crate::console::line(&format!("died of a fault of its own, rebooting: {info}"));
        for console in ["/dev/console", "/dev/kmsg"] {
            let _ =
                std::fs::OpenOptions::new().write(true).open(console).and_then(|mut c| std::io::Write::write_all(&mut c, words.as_bytes()));
        }
        if rustix::process::getpid().is_init() {
            std::thread::sleep(Duration::from_secs(2));
            end(RebootCommand::Restart);
        }
    }));
}
