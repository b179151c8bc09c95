//! Lines for whoever watches the console. Never fails, and never waits once PID 1 has set its console to non-blocking.

use std::io::Write;

/// Milliseconds since the kernel began: the boot timeline is read from these.
pub fn since_boot_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec.saturating_mul(1000).saturating_add(t.tv_nsec / 1_000_000)).unwrap_or(0)
}

/// One line, opened with the time since boot and our name.
pub fn line(text: &str) -> String {
    let ms = since_boot_ms();
    format!("[{:5}.{:03}] init: {text}\n", ms / 1000, ms % 1000)
}

/// Writes one line.
pub fn say(text: &str) {
    // One write a line, so that the kernel's and ours do not mix within it.
    let _ = std::io::stderr().write_all(line(text).as_bytes());
}
