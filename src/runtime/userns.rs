//! Pods with users of their own (`hostUsers: false`): which ids they get, their namespace, and mounts as they see them.
//!
//! A pod's ids are written down beside it, as the kubelet does, and stay while it is there: over restarts, reboots and our own end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::oci::SandboxFacts;
use super::oci::types::{IdMapping, Spec};
use super::paths::Paths;
use crate::pod::{Uid, WantedPod};
use crate::sys::users::{self, LENGTH};
use crate::sys::{mounts, namespaces::Kind};

/// The first id a pod can have on the host: those before it are the host's own.
pub const FIRST: u32 = LENGTH;

/// `userns` in a pod's directory, in the kubelet's form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// Whether a pod has users of its own.
pub fn own(pod: &WantedPod) -> bool {
    pod.object.spec.as_ref().and_then(|s| s.host_users) == Some(false)
}

/// The first id of a pod's on the host, if it has one.
pub fn base(paths: &Paths, uid: &Uid) -> Option<u32> {
    let text = std::fs::read(paths.userns(uid)).ok()?;
    let written: Written = serde_json::from_slice(&text).ok()?;
    written.uid_mappings.first().map(|m| m.host_id).filter(|base| *base >= LENGTH && base % LENGTH == 0)
}

/// A namespace of the pod's ids, which are the lowest no other pod has where it has none yet.
pub async fn make(paths: &Paths, uid: &Uid) -> io::Result<OwnedFd> {
    let base = match base(paths, uid) {
        Some(base) => base,
        None => take(paths, uid)?,
    };
    users::make(base).await
}

fn take(paths: &Paths, uid: &Uid) -> io::Result<u32> {
    let names = std::fs::read_dir(paths.pods())?.flatten().filter_map(|e| e.file_name().into_string().ok());
    let taken: BTreeSet<u32> = names.filter_map(|name| base(paths, &Uid(name.into()))).collect();
    // The last id of all is nobody's.
    let free = (FIRST / LENGTH..u32::MAX / LENGTH).map(|n| n * LENGTH).find(|base| !taken.contains(base));
    let host_id = free.ok_or_else(|| io::Error::other("all ids are given to pods"))?;
    let map = vec![Mapping { host_id, container_id: 0, length: LENGTH }];
    let text = serde_json::to_vec(&Written { uid_mappings: map.clone(), gid_mappings: map })?;
    let (path, new) = (paths.userns(uid), paths.userns(uid).with_extension("new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &path)?;
    Ok(host_id)
}

/// What the OCI runtime and the snapshotter are told of a pod's ids: from 0 on inside, from `base` on outside.
pub fn mapping(base: u32) -> IdMapping {
    IdMapping { container_id: 0, host_id: base, size: LENGTH }
}

/// Labels by which the snapshotter gives the root file system the pod's ids.
pub fn snapshot_labels(base: u32) -> [(String, String); 2] {
    ["uidmapping", "gidmapping"].map(|kind| (format!("containerd.io/snapshot/{kind}"), format!("0:{base}:{LENGTH}")))
}

/// Why a volume cannot be shown to a pod as its own.
#[derive(Debug, thiserror::Error)]
#[error(
    "show {path} to the pod as its own (hostUsers: false): its file system, or one below it, cannot be id-mapped by this kernel; use another volume, or leave hostUsers out"
)]
pub struct NotMapped {
    path: String,
    #[source]
    source: io::Error,
}

/// Exchanges the source of each bind for one that shows the pod's ids. What the sandbox itself hands in can be used without.
pub fn map(paths: &Paths, uid: &Uid, spec: &mut Spec, sandbox: &SandboxFacts, log: Option<&str>) -> Result<(), NotMapped> {
    unmap(paths, uid);
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| NotMapped { path, source }
    };
    let pin = paths.namespace(uid, Kind::User.name());
    let users = std::fs::File::open(&pin).map_err(failed(&pin))?;
    let dir = paths.mapped(uid);
    std::fs::create_dir_all(&dir).map_err(failed(&dir))?;
    let ours = [&sandbox.etc_hosts, &sandbox.hostname_file, &sandbox.resolv_conf, &sandbox.shm].map(String::as_str);
    for (at, mount) in spec.mounts.iter_mut().enumerate().filter(|(_, m)| m.kind == "bind") {
        let (source, target) = (PathBuf::from(&*mount.source), dir.join(at.to_string()));
        match shown(&source, &target, &users) {
            Ok(()) => {
                mount.source = target.display().to_string().into();
                mount.options.extend(locked(&target).map(Into::into));
            }
            Err(_) if ours.contains(&&*mount.source) || log == Some(&*mount.source) => {}
            Err(e) => return Err(failed(&source)(e)),
        }
    }
    Ok(())
}

/// What a mount forbids stays forbidden in a user namespace: the OCI runtime, which sets options anew, must say it again.
fn locked(target: &Path) -> impl Iterator<Item = &'static str> {
    use rustix::fs::StatVfsMountFlags as Flags;
    let set = rustix::fs::statvfs(target).map_or(Flags::empty(), |s| s.f_flag);
    let words = [
        (Flags::RDONLY, "ro"),
        (Flags::NOSUID, "nosuid"),
        (Flags::NODEV, "nodev"),
        (Flags::NOEXEC, "noexec"),
        (Flags::NOATIME, "noatime"),
        (Flags::NODIRATIME, "nodiratime"),
    ];
    words.into_iter().filter(move |(flag, _)| set.contains(*flag)).map(|(_, word)| word)
}

fn shown(source: &Path, target: &Path, users: &std::fs::File) -> io::Result<()> {
    match source.is_dir() {
        true => std::fs::create_dir(target),
        false => std::fs::File::create(target).map(drop),
    }?;
    users::mount_mapped(source, target, users.as_fd())
}

/// Takes away what `map` mounted: the container has its own by then.
pub fn unmap(paths: &Paths, uid: &Uid) {
    let dir = paths.mapped(uid);
    for mount in mounts::below(&[&dir]).unwrap_or_default() {
        let _ = mounts::detach(&mount);
    }
    // Not what is mounted there, should one have stayed.
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir(entry.path()));
    }
}
