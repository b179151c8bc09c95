//! The machine as a Node object shows it: who it is, and whether it is short of something. Small reads of /proc, /sys and /etc.

use std::fs;
use std::path::Path;

/// As the kubelet's default of hard eviction has it: less is pressure.
const MEMORY_LEFT_BYTES: u64 = 100 << 20;
/// All tasks of the machine waited for memory this part of the last minute, percent: it does nothing else any more.
const MEMORY_STALL_PERCENT: f64 = 20.0;
/// As the kubelet's defaults `nodefs.available`, `imagefs.available`, and `inodesFree` of both, percent.
const DISK_LEFT_PERCENT: u64 = 10;
const IMAGES_LEFT_PERCENT: u64 = 15;
const INODES_LEFT_PERCENT: u64 = 5;
/// Of the ids a task may have, percent.
const PIDS_LEFT_PERCENT: u64 = 5;

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

/// Looks.
pub fn pressure(data_dir: &Path, images_dir: Option<&Path>) -> Pressure {
    let full = |dir: &Path, percent: u64| {
        dir.ancestors()
            .find_map(|d| rustix::fs::statvfs(d).ok())
            .is_some_and(|s| less(s.f_bavail, s.f_blocks, percent) || (s.f_files > 0 && less(s.f_favail, s.f_files, INODES_LEFT_PERCENT)))
    };
    Pressure {
        memory: memory(&read("/proc/meminfo"), &read("/proc/pressure/memory")),
        disk: full(data_dir, DISK_LEFT_PERCENT) || images_dir.is_some_and(|dir| full(dir, IMAGES_LEFT_PERCENT)),
        pids: pids(&read("/proc/loadavg"), &read("/proc/sys/kernel/pid_max")),
    }
}

fn less(left: u64, whole: u64, percent: u64) -> bool {
    left.saturating_mul(100) < whole.saturating_mul(percent)
}

fn memory(meminfo: &str, psi: &str) -> bool {
    let available = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok());
    let stalled = psi.lines().find_map(|l| l.strip_prefix("full ")?.split("avg60=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    available.is_some_and(|kib| kib.saturating_mul(1024) < MEMORY_LEFT_BYTES) || stalled.is_some_and(|p| p > MEMORY_STALL_PERCENT)
}

fn pids(loadavg: &str, most: &str) -> bool {
    let used = loadavg.split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)?.parse::<u64>().ok());
    match (used, most.parse::<u64>()) {
        (Some(used), Ok(most)) => less(most.saturating_sub(used), most, PIDS_LEFT_PERCENT),
        _ => false,
    }
}

/// Recursive read-only mounts: `mount_setattr`, since Linux 5.12.
pub fn can_mount_recursively_read_only(kernel: &str) -> bool {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(12))
}

fn first(paths: &[&str]) -> String {
    paths.iter().map(|p| read(p)).find(|t| !t.is_empty()).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim_matches(['\0', '\n', ' ']).to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_when_little_is_left_or_all_wait_for_it() {
        let calm = "some avg10=0.00 avg60=9.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=1";
        assert!(!memory("MemTotal: 9 kB\nMemAvailable: 204800 kB", calm));
        assert!(memory("MemAvailable: 1024 kB", calm));
        assert!(memory("MemAvailable: 204800 kB", &calm.replace("0.50", "61.20")));
        assert!(!memory("", ""));
    }

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(can_mount_recursively_read_only("5.12.0") && can_mount_recursively_read_only("6.1.0-25-amd64"));
        assert!(
            !can_mount_recursively_read_only("5.9.1") && !can_mount_recursively_read_only("4.19") && !can_mount_recursively_read_only("")
        );
    }

    #[test]
    fn pids_are_short_when_few_are_left() {
        assert!(!pids("0.1 0.2 0.3 2/900 4711", "32768"));
        assert!(pids("0.1 0.2 0.3 2/32000 4711", "32768"));
        assert!(!pids("", ""));
    }
}
