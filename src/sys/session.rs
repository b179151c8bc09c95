//! Ends every process of one session: what a command left behind, in whatever process group.
//!
//! An OCI runtime makes the command it runs the leader of a session of its own. A few looks through /proc, for a command that is late.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Looks through /proc at most.
const LOOKS: u32 = 3;

/// SIGKILL to the processes whose session leader is, or was, `leader`. One that is 0 or 1 has none.
pub fn kill(leader: u32) {
    let Some(leader) = i32::try_from(leader).ok().filter(|pid| *pid > 1) else { return };
    // One that was forking when it was looked for is found by the next look; the killed ones may be found again, as zombies.
    for _ in 0..LOOKS {
        if !kill_found(leader) {
            return;
        }
    }
}

fn kill_found(leader: i32) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let mut found = false;
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if session(number) != Some(leader) {
            continue;
        }
        // The number may have gone to another process in between: asked again once it is held.
        let held = Pid::from_raw(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(held) = held.filter(|_| session(number) == Some(leader)) {
            found |= pidfd_send_signal(held, Signal::KILL).is_ok();
        }
    }
    found
}

/// The session of a process: the fourth word after the command's name. getsid(2) is no help: kernel threads have none, and rustix
/// takes that for impossible.
fn session(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_session_ends_with_all_its_processes() {
        let mut leader = Command::new("setsid").args(["sh", "-c", "sleep 7777 & exec sleep 7777"]).stdin(Stdio::null()).spawn().unwrap();
        while super::session(leader.id().cast_signed()) != Some(leader.id().cast_signed()) {
            std::thread::yield_now();
        }
        super::kill(leader.id());
        assert_eq!(leader.wait().unwrap().signal(), Some(9));
        let lives = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            super::session(pid) == Some(leader.id().cast_signed()) && !stat.is_empty() && !stat.contains(") Z")
        };
        // A killed process dies at once, but not at the very instant.
        let late = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
            if !pids.into_iter().any(lives) {
                break;
            }
            assert!(std::time::Instant::now() < late, "a process of the session lives on");
            std::thread::yield_now();
        }
    }
}
