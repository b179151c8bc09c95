//! Ends every process of one session: what a command left behind, in whatever process group.
//!
//! An OCI runtime makes the command it runs the leader of a session of its own. One look through /proc, for a command that is late.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// SIGKILL to the processes whose session leader is, or was, `leader`. One that is 0 or 1 has none.
pub fn kill(leader: u32) {
    let Some(leader) = i32::try_from(leader).ok().filter(|pid| *pid > 1) else { return };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if session(number) != Some(leader) {
            continue;
        }
        // The number may have gone to another process in between: asked again once it is held.
        let held = Pid::from_raw(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(held) = held.filter(|_| session(number) == Some(leader)) {
            let _ = pidfd_send_signal(held, Signal::KILL);
        }
    }
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
        let left = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        assert!(
            left.filter(|pid| super::session(*pid) == Some(leader.id().cast_signed()))
                .all(|pid| { std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z")) })
        );
    }
}
