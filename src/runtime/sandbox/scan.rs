//! What is there of sandboxes: read from the disk, the mounts, the CNI records and the cgroups. Synchronous and cheap.
//!
//! Changes nothing. Names that are no uid of ours are not ours and are not looked into.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use super::super::paths::Paths;
use super::super::{cgroup, net};
use super::{files, kinds};
use crate::plan::world::Sandbox;
use crate::pod::{Uid, WantedPod};
use crate::sys::mounts;
use crate::sys::namespaces::Kind;
use crate::sys::pause;

/// What is there of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scanned {
    /// What it was made from, if that is still on disk.
    pub made_from: Option<Rc<WantedPod>>,
    /// Its sandbox; `Absent` with only a data directory left.
    pub sandbox: Sandbox,
}

/// Whether a name is a pod uid of ours: 32 lower-case hex digits.
pub fn is_uid(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Every pod with anything left on this host.
pub fn scan(paths: &Paths) -> BTreeMap<Uid, Scanned> {
    let mut uids = listed(&paths.pods());
    uids.extend(listed(&paths.run_pods()));
    uids.extend(net::cache::scan(&paths.cni_results()));
    uids.extend(cgroup::scan(paths));
    uids.into_iter().filter_map(|uid| Some((uid.clone(), scan_one(paths, &uid)?))).collect()
}

fn listed(dir: &Path) -> BTreeSet<Uid> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| is_uid(n)).map(|n| Uid(n.into())).collect()
}

/// One pod; `None` if nothing is left of it.
pub fn scan_one(paths: &Paths, uid: &Uid) -> Option<Scanned> {
    let sandbox = state(paths, uid);
    if sandbox == Sandbox::Absent && !paths.pod(uid).exists() {
        return None;
    }
    Some(Scanned { made_from: files::read_pod(paths, uid), sandbox })
}

/// Ready only if it was committed in this boot and everything it stands on is still mounted.
pub fn state(paths: &Paths, uid: &Uid) -> Sandbox {
    if let Some((ips, since)) = files::committed(paths, uid)
        && stands(paths, uid)
    {
        return Sandbox::Ready { ips, since };
    }
    let left = paths.run_pod(uid).exists() || net::cache::holds(&paths.cni_results(), uid) || cgroup::exists(paths, uid);
    if left { Sandbox::Partial } else { Sandbox::Absent }
}

/// The pins the pod should have, its /dev/shm, and the first process of its PID namespace.
fn stands(paths: &Paths, uid: &Uid) -> bool {
    let Some(pod) = files::read_pod(paths, uid) else { return false };
    let whole = |kind| match kind {
        Kind::Ipc => mounts::is_mount_point(&paths.shm(uid)),
        Kind::Pid => pause::is_alive(&paths.pause(uid)),
        Kind::Net | Kind::Uts | Kind::User => true,
    };
    kinds(&pod).into_iter().all(|kind| mounts::is_pin(&paths.namespace(uid, kind.name())) && whole(kind))
}
