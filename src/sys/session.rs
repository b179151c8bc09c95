//! Ends every process of one session: what a command left behind, in whatever process group.
//!
//! An OCI runtime makes the command it runs the leader of a session of its own. One look through /proc, for a command that is late.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, getsid, pidfd_open, pidfd_send_signal};

/// SIGKILL to the processes whose session leader is, or was, `leader`. One that is 0 or 1 has none.
pub fn kill(leader: u32) {
    let Some(leader) = i32::try_from(leader).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) else { return };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| getsid(Some(*pid)) == Ok(leader)) else { continue };
        // The number may have gone to another process in between: asked again once it is held.
        if let Ok(held) = pidfd_open(pid, PidfdFlags::empty())
            && getsid(Some(pid)) == Ok(leader)
        {
            let _ = pidfd_send_signal(held, Signal::KILL);
        }
    }
}
