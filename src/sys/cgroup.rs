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
