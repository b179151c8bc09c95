//! The kernel's side of control groups: which hierarchies there are, marks on a group, killing what is in one.
//!
//! Knows no pod. Never touches a process outside the group it was given.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr, statfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// `statfs` type of a v2 tree (linux/magic.h, CGROUP2_SUPER_MAGIC).
const CGROUP2: u64 = 0x6367_7270;
/// `statfs` type of a v1 hierarchy (CGROUP_SUPER_MAGIC).
const CGROUP1: u64 = 0x0027_e0eb;
/// Where everybody mounts them.
const MOUNT: &str = "/sys/fs/cgroup";
/// Says that a group is plinth's: a kubelet's static pods have the same kind of name.
const MARK: &str = "trusted.plinth";

/// One mounted tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where.
    pub root: PathBuf,
    /// The only tree, with every controller in it (v2); else one of the v1 ones.
    pub unified: bool,
}

/// The trees a runtime would use: the v2 one if /sys/fs/cgroup is it, else every v1 hierarchy below (runc's and crun's rule).
pub fn hierarchies() -> Vec<Hierarchy> {
    if magic(Path::new(MOUNT)) == CGROUP2 {
        return vec![Hierarchy { root: MOUNT.into(), unified: true }];
    }
    let entries = std::fs::read_dir(MOUNT).into_iter().flatten().flatten();
    // Links (`cpu` -> `cpu,cpuacct`) are second names.
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    let mut found: Vec<_> = dirs.filter(|p| magic(p) == CGROUP1).map(|root| Hierarchy { root, unified: false }).collect();
    found.sort_by(|a, b| a.root.cmp(&b.root));
    found
}

fn magic(path: &Path) -> u64 {
    statfs(path).ok().and_then(|s| u64::try_from(s.f_type).ok()).unwrap_or(0)
}

/// What a group uses, with every group below it. What the kernel does not count is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, user and system, of all processors.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

/// Of memory, bytes. Working set: what is used but for the inactive file cache, which is what the kubelet measures by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Memory {
    pub used_bytes: u64,
    pub working_set_bytes: u64,
    pub anonymous_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap_bytes: Option<u64>,
    pub swap_limit_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
}

/// Reads a group's counters; its path is from the root of a hierarchy, which is the node.
pub fn usage(hierarchies: &[Hierarchy], group: &Path) -> Usage {
    let mut all = Usage::default();
    for h in hierarchies {
        let dir = h.root.join(group.strip_prefix("/").unwrap_or(group));
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        if h.unified {
            all.cpu_ns = read("cpu.stat").and_then(|t| field(&t, "usage_usec")).map(|us| us.saturating_mul(1000));
            all.memory = read("memory.stat").map(|stat| {
                // The root has no memory.current.
                let used = number("memory.current").unwrap_or_else(|| of(&stat, "anon") + of(&stat, "file"));
                let own = memory(&stat, used, ["inactive_file", "anon", "pgfault", "pgmajfault"]);
                let (swap_bytes, swap_limit_bytes) = (number("memory.swap.current"), number("memory.swap.max"));
                Memory { swap_bytes, swap_limit_bytes, limit_bytes: number("memory.max"), ..own }
            });
            all.processes = number("pids.current");
        } else {
            // Mounted under the names of its controllers: `cpu,cpuacct`.
            let has = |controller: &str| {
                h.root.file_name().and_then(|n| n.to_str()).is_some_and(|names| names.split(',').any(|n| n == controller))
            };
            if has("cpuacct") {
                all.cpu_ns = number("cpuacct.usage");
            }
            if has("pids") {
                all.processes = number("pids.current");
            }
            if !has("memory") {
                continue;
            }
            if let (Some(used), Some(stat)) = (number("memory.usage_in_bytes"), read("memory.stat")) {
                // Without a limit it is the largest number of pages there is.
                let limit = field(&stat, "hierarchical_memory_limit").filter(|l| *l < 1 << 62);
                let names = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"];
                let own = memory(&stat, used, names);
                all.memory = Some(Memory { swap_bytes: field(&stat, "total_swap"), limit_bytes: limit, ..own });
            }
        }
    }
    all
}

fn memory(stat: &str, used: u64, [inactive, anonymous, faults, major]: [&str; 4]) -> Memory {
    Memory {
        used_bytes: used,
        working_set_bytes: used.saturating_sub(of(stat, inactive)),
        anonymous_bytes: of(stat, anonymous),
        page_faults: of(stat, faults),
        major_page_faults: of(stat, major),
        ..Memory::default()
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn of(text: &str, name: &str) -> u64 {
    field(text, name).unwrap_or(0)
}

/// Marks a group as plinth's. A kernel that cannot is no failure: such a group is only found through its pod.
pub fn mark(group: &Path) {
    let _ = setxattr(group, MARK, b"1", XattrFlags::empty());
}

/// Whether a group is plinth's.
pub fn is_marked(group: &Path) -> bool {
    let mut value = [0u8; 1];
    getxattr(group, MARK, &mut value).is_ok()
}

/// SIGKILL to every process of this one group (not those below it); how many there were.
pub fn kill(group: &Path) -> io::Result<usize> {
    let pids = members(group)?;
    for some in pids.chunks(128) {
        // The pidfds come first, then the look whether they are still in the group: a reused pid is not.
        let held: Vec<_> = some.iter().filter_map(|p| Some((*p, pidfd_open(*p, PidfdFlags::empty()).ok()?))).collect();
        let still: HashSet<Pid> = members(group)?.into_iter().collect();
        for (_, fd) in held.iter().filter(|(p, _)| still.contains(p)) {
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
    }
    Ok(pids.len())
}

fn members(group: &Path) -> io::Result<Vec<Pid>> {
    match std::fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)).collect()),
        // A group that goes between the open and the read is ENODEV.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn group(files: &[(&str, &str)]) -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("plinth-usage-{}-{n}/cpuacct,memory,pids", std::process::id()));
        std::fs::create_dir_all(root.join("g")).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(root.join("g").join(name), text).unwrap());
        root
    }

    #[test]
    fn both_versions_are_read_alike() {
        let v2 = group(&[
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.current", "5000\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "7\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 300\nfile 4000\ninactive_file 1000\npgfault 11\npgmajfault 2\n"),
            ("pids.current", "3\n"),
        ]);
        let v1 = group(&[
            ("cpuacct.usage", "1500000\n"),
            ("memory.usage_in_bytes", "5000\n"),
            (
                "memory.stat",
                "inactive_file 9\nhierarchical_memory_limit 9223372036854771712\ntotal_rss 300\ntotal_inactive_file 1000\ntotal_pgfault 11\ntotal_pgmajfault 2\ntotal_swap 7\n",
            ),
            ("pids.current", "3\n"),
        ]);
        let memory = Memory {
            used_bytes: 5000,
            working_set_bytes: 4000,
            anonymous_bytes: 300,
            page_faults: 11,
            major_page_faults: 2,
            swap_bytes: Some(7),
            swap_limit_bytes: None,
            limit_bytes: None,
        };
        let expected = Usage { cpu_ns: Some(1_500_000), memory: Some(memory), processes: Some(3) };
        for (root, unified) in [(v2, true), (v1, false)] {
            assert_eq!(usage(&[Hierarchy { root: root.clone(), unified }], Path::new("/g")), expected);
            assert_eq!(usage(&[Hierarchy { root: root.clone(), unified }], Path::new("/none")), Usage::default());
            std::fs::remove_dir_all(root.parent().unwrap()).unwrap();
        }
    }
}
