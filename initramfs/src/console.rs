//! Lines for whoever watches the console. Never fails; and from PID 1 on it never waits: what a slow serial line does not take is kept up
//! to a bound, then thrown away. The files have it all.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// That much may wait for the console.
const QUEUE_BYTES: usize = 64 << 10;

thread_local! {
    /// `None`: the console is written to at once, however long that takes.
    static QUEUE: RefCell<Option<VecDeque<u8>>> = const { RefCell::new(None) };
}

/// Milliseconds since the kernel began: the boot timeline is read from these.
pub fn since_boot_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)).unwrap_or(0)
}

/// One line, opened with the time since boot and our name.
pub fn line(text: &str) -> String {
    stamped("init", text)
}

fn stamped(who: &str, text: &str) -> String {
    let ms = since_boot_ms();
    format!("[{:5}.{:03}] {who}: {text}\n", ms / 1000, ms % 1000)
}

/// Writes one line of our own.
pub fn say(text: &str) {
    put(line(text).as_bytes());
}

/// Writes one line of a service's.
pub fn relay(who: &str, text: &str) {
    put(stamped(who, text).as_bytes());
}

/// From here on nothing waits for the console.
pub fn never_wait() {
    let err = io::stderr();
    let flags = fcntl_getfl(&err).and_then(|flags| fcntl_setfl(&err, flags | OFlags::NONBLOCK));
    if flags.is_ok() {
        QUEUE.set(Some(VecDeque::new()));
    }
}

fn put(text: &[u8]) {
    QUEUE.with_borrow_mut(|queue| match queue {
        // One write a line, so that the kernel's and ours do not mix within it.
        None => drop(io::stderr().write_all(text)),
        Some(queue) => {
            if queue.len() + text.len() <= QUEUE_BYTES {
                queue.extend(text);
            }
        }
    });
    flush();
}

/// Writes what the console takes now; whether something waits.
pub fn flush() -> bool {
    QUEUE.with_borrow_mut(|queue| {
        let Some(queue) = queue else { return false };
        while !queue.is_empty() {
            match rustix::io::write(io::stderr(), queue.as_slices().0) {
                Ok(n) if n > 0 => drop(queue.drain(..n)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                // No console: nobody reads.
                _ => queue.clear(),
            }
        }
        false
    })
}
