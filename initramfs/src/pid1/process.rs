//! Processes: how one ended, what one is at, whether any is left, and signals to all of them.

use std::fs;

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};

/// kill(-1): as PID 1 that is everybody else in this machine, or in this PID namespace, and nobody outside.
pub fn everybody(signal: Signal) {
    if rustix::process::getpid().is_init() {
        let _ = kill_process_group(Pid::INIT, signal);
    }
}

/// How a process ended.
pub fn how(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
    }
}

/// What a process that does not answer is at, as the kernel sees it: the only trace a hang leaves on a machine without a shell.
pub fn where_it_is(pid: Pid) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap_or_default();
    let state = read("stat").rsplit(')').next().and_then(|s| s.split_whitespace().next().map(str::to_owned)).unwrap_or_default();
    let call = read("syscall").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let stack = read("stack").lines().take(6).filter_map(|l| l.split_whitespace().nth(1)).collect::<Vec<_>>().join(" < ");
    format!("process {}: state {state}, system call {call}, in {}: {stack}", pid.as_raw_nonzero(), read("wchan").trim())
}

/// Whether no process is left but us and the kernel's own threads.
pub fn alone() -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).filter(|p| *p != 1);
    let mut stats = pids.filter_map(|p| fs::read_to_string(format!("/proc/{p}/stat")).ok());
    !stats.any(|stat| is_alive(&stat))
}

/// From a line of /proc/PID/stat: behind the last parenthesis come the state and, six words on, the flags.
fn is_alive(stat: &str) -> bool {
    let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = words.next().unwrap_or("X");
    // PF_KTHREAD of linux/sched.h.
    let kernels = words.nth(5).and_then(|f| f.parse::<u64>().ok()).is_some_and(|f| f & 0x20_0000 != 0);
    !matches!(state, "Z" | "X") && !kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_threads_and_zombies_are_nobody() {
        assert!(is_alive("7 (a) b) S 1 7 7 0 -1 4194560 118 0"));
        assert!(!is_alive("7 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0"));
        assert!(!is_alive("7 (gone) Z 1 7 7 0 -1 4227084 118 0"));
    }
}
