//! The machine as a Node object shows it: who it is, and whether it is short of something. Small reads of /proc, /sys and /etc.

use std::fs;
use std::path::Path;

use crate::settings::reserve::Reserve;

/// All tasks of the machine waited for memory this part of the last minute, percent: it does nothing else any more.
const MEMORY_STALL_PERCENT: f64 = 20.0;

/// `status.nodeInfo`, what does not change while a machine runs.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Pods can have users of their own.
    pub own_users: bool,
}

/// Reads it.
pub fn machine() -> Machine {
    let machine_id = first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let uuid = first(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid"]);
    let release = first(&["/etc/os-release", "/usr/lib/os-release"]);
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    Machine {
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        os_image: pretty.trim_matches(['"', '\'']).to_owned(),
        own_users: crate::sys::users::missing().is_none(),
    }
}

/// What the machine is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// Looks: less than hard eviction leaves is pressure.
pub fn pressure(reserve: &Reserve, data_dir: &Path, images_dir: Option<&Path>) -> Pressure {
    let full = |dir: &Path, signals: [&str; 2]| {
        let Some(s) = dir.ancestors().find_map(|d| rustix::fs::statvfs(d).ok()) else { return false };
        // Some file systems count no inodes.
        let counts = [(s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)), (s.f_favail, s.f_files)];
        signals.into_iter().zip(counts).any(|(signal, (left, whole))| whole > 0 && is_short(reserve, signal, left, whole))
    };
    Pressure {
        memory: memory(reserve, &read("/proc/meminfo"), &read("/proc/pressure/memory")),
        disk: full(data_dir, ["nodefs.available", "nodefs.inodesFree"])
            || images_dir.is_some_and(|dir| full(dir, ["imagefs.available", "imagefs.inodesFree"])),
        pids: pids(reserve, &read("/proc/loadavg"), &read("/proc/sys/kernel/pid_max")),
    }
}

fn is_short(reserve: &Reserve, signal: &str, left: u64, whole: u64) -> bool {
    reserve.least(signal).is_some_and(|least| left < least.of(whole))
}

fn memory(reserve: &Reserve, meminfo: &str, psi: &str) -> bool {
    let line = |name: &str| meminfo.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    let bytes = |name: &str| line(name).map_or(0, |kib| kib.saturating_mul(1024));
    let stalled = psi.lines().find_map(|l| l.strip_prefix("full ")?.split("avg60=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let is_looked_at = reserve.least("memory.available").is_some();
    let few = line("MemAvailable:").is_some() && is_short(reserve, "memory.available", bytes("MemAvailable:"), bytes("MemTotal:"));
    few || is_looked_at && stalled.is_some_and(|p| p > MEMORY_STALL_PERCENT)
}

fn pids(reserve: &Reserve, loadavg: &str, most: &str) -> bool {
    let used = loadavg.split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)?.parse::<u64>().ok());
    match (used, most.parse::<u64>()) {
        (Some(used), Ok(most)) => is_short(reserve, "pid.available", most.saturating_sub(used), most),
        _ => false,
    }
}

fn first(paths: &[&str]) -> String {
    paths.iter().map(|p| read(p)).find(|t| !t.is_empty()).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim_matches(['\0', '\n', ' ']).to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn with(hard: &str) -> Reserve {
        let flags = ["--eviction-hard".to_owned(), hard.to_owned()];
        crate::settings::Settings::load(&[&flags[..], &["--config".into(), "/dev/null".into()]].concat(), "").unwrap().0.reserve
    }

    #[test]
    fn memory_is_short_when_little_is_left_or_all_wait_for_it() {
        let calm = "some avg10=0.00 avg60=9.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=1";
        let memory = |reserve: &Reserve, meminfo, psi: &str| super::memory(reserve, meminfo, psi);
        let (plain, much) = (Reserve::default(), "MemTotal: 409600 kB\nMemAvailable: 204800 kB");
        assert!(!memory(&plain, much, calm));
        assert!(memory(&plain, "MemAvailable: 1024 kB", calm));
        assert!(memory(&plain, much, &calm.replace("0.50", "61.20")));
        assert!(!memory(&plain, "", ""));
        for (set, is) in [("memory.available<201Mi", true), ("memory.available<51%", true), ("memory.available<49%", false)] {
            assert_eq!(memory(&with(set), much, calm), is, "{set}");
        }
        let none = with("pid.available<1");
        assert!(!memory(&none, "MemAvailable: 1 kB", &calm.replace("0.50", "61.20")), "one threshold replaces them all");
    }

    #[test]
    fn pids_are_short_when_few_are_left() {
        let plain = Reserve::default();
        assert!(!pids(&plain, "0.1 0.2 0.3 2/900 4711", "32768"));
        assert!(pids(&plain, "0.1 0.2 0.3 2/32000 4711", "32768"));
        assert!(!pids(&plain, "", ""));
        assert!(pids(&with("pid.available<31900"), "0.1 0.2 0.3 2/900 4711", "32768"));
    }

    #[test]
    fn a_disk_is_as_short_as_its_thresholds_say() {
        let here = std::env::temp_dir();
        let disk = |set: &str| pressure(&with(set), &here, Some(&here)).disk;
        assert!(disk("nodefs.available<8Ei") && disk("imagefs.available<8Ei"));
        assert!(!disk("nodefs.available<1") && !disk("memory.available<1"));
    }
}
