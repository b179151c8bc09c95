//! A pod's sandbox: what is there before its first container and after its last. No pause container: namespaces are pinned,
//! and only a shared PID namespace has a process in it (`sys::pause`).
//!
//! - `files`: `pod.json` (first written, last removed) and `sandbox.json` (the commit mark), host name and its kin
//! - `scan`: what is there, read from the disk, the mounts, the CNI records and the cgroups
//! - `sysctl`: which kernel settings a pod may have, and where they are written
//! - `remove`: emptying a directory a container may have filled with anything
//!
//! ```text
//!  create:  pod.json > directories > cgroup > volumes > namespaces > /dev/shm > text files > CNI ADD > sandbox.json
//!  delete:  sandbox.json > CNI DEL > first process > unpin, unmount all below > cgroup > run directory ( > data directory > pod.json )
//! ```
//! Each step may be repeated. A crash anywhere leaves something `scan` sees (`Partial`), and `delete` undoes whatever was done.

mod error;
mod files;
pub(super) mod remove;
mod scan;
mod sysctl;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PodSpec;

use super::oci::SandboxFacts;
use super::paths::Paths;
use super::{cgroup, hosts, net, node, userns, volume};
use crate::clock;
use crate::plan::world::Sandbox;
use crate::pod::{Uid, WantedPod};
use crate::settings::Settings;
use crate::sys::mounts;
use crate::sys::namespaces::{self, Kind, Pause, Pins};
use crate::sys::pause;

pub use error::SandboxError;
use error::file;
pub use files::{name_service, write_hosts};
pub use scan::{Scanned, is_uid, scan, scan_one};

/// /dev/shm of a pod, as containerd's CRI makes it.
const SHM_BYTES: u64 = 64 << 20;

/// Makes the sandbox, or finds it made. After a failure nothing is left but the data directory.
pub async fn create(settings: &Settings, paths: &Paths, pod: &WantedPod) -> Result<Sandbox, SandboxError> {
    match scan::state(paths, &pod.uid) {
        ready @ Sandbox::Ready { .. } => return Ok(ready),
        // Half of a sandbox is no use: its namespaces may be of another boot, its address of another network.
        Sandbox::Partial => delete(settings, paths, &pod.uid, true).await?,
        Sandbox::Absent => {}
    }
    match make(settings, paths, pod).await {
        Ok(sandbox) => Ok(sandbox),
        Err(e) => {
            if let Err(undo) = delete(settings, paths, &pod.uid, true).await {
                log::warn!("pod={} undo a half-made sandbox: {}", pod.key, super::error::chain(&undo));
            }
            Err(e)
        }
    }
}

async fn make(settings: &Settings, paths: &Paths, pod: &WantedPod) -> Result<Sandbox, SandboxError> {
    let sysctls = sysctl::of_pod(pod)?;
    let names = hosts::names(&pod.object, &settings.cluster_domain)?;
    directory(&paths.pod(&pod.uid))?;
    files::write_pod(paths, pod)?;
    let lock = net::lock::take(settings, paths, &pod.uid).await?;
    let run = paths.run_pod(&pod.uid);
    for dir in [paths.pod(&pod.uid).join("volumes"), paths.pod(&pod.uid).join("containers"), run.join("ns"), run.join("io")] {
        directory(&dir)?;
    }
    cgroup::create(settings, paths, pod);
    volume::set_up(paths, pod, &node::allocatable(settings)).await?;
    pin(paths, pod, &names.hostname, &sysctls).await?;
    if kinds(pod).contains(&Kind::Ipc) {
        shm(&paths.shm(&pod.uid))?;
    }
    let ips = if pod.host_network {
        let known = settings.node_ips.clone();
        if known.is_empty() { net::default_address().into_iter().collect() } else { known }
    } else {
        net::attach(settings, paths, pod, &cgroup::pod_group(paths, pod), &lock).await?
    };
    files::write_texts(settings, paths, pod, &names)?;
    files::commit(paths, &pod.uid, ips, clock::now().wall)
}

/// 0750, as the kubelet's pod directories.
fn directory(dir: &Path) -> Result<(), SandboxError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(file("make directory", dir))
}

/// The namespaces the pod does not share with the host. With the host's network containerd leaves the UTS namespace too.
fn kinds(pod: &WantedPod) -> Vec<Kind> {
    let is = |field: fn(&PodSpec) -> Option<bool>| pod.object.spec.as_ref().and_then(field).unwrap_or(false);
    let own_pids = is(|s| s.share_process_namespace) && !is(|s| s.host_pid);
    let own_ipc = !is(|s| s.host_ipc);
    let (own_users, own_net) = (userns::own(pod), !pod.host_network);
    let all = [(Kind::User, own_users), (Kind::Net, own_net), (Kind::Ipc, own_ipc), (Kind::Uts, own_net), (Kind::Pid, own_pids)];
    all.into_iter().filter(|(_, own)| *own).map(|(kind, _)| kind).collect()
}

async fn pin(paths: &Paths, pod: &WantedPod, hostname: &str, sysctls: &[namespaces::Sysctl]) -> Result<(), SandboxError> {
    let places: Vec<_> = kinds(pod).into_iter().map(|k| (k, paths.namespace(&pod.uid, k.name()))).collect();
    let pins: Vec<_> = places.iter().map(|(kind, path)| (*kind, path.as_path())).collect();
    if pins.is_empty() {
        return Ok(());
    }
    let has_pause = pins.iter().any(|(kind, _)| *kind == Kind::Pid);
    let pause = has_pause.then(|| Pause { mark: paths.pause(&pod.uid), cgroups: cgroup::create_pause(paths, pod) });
    let users = match userns::own(pod) {
        true => Some(userns::make(paths, &pod.uid).await.map_err(SandboxError::Users)?),
        false => None,
    };
    let users = users.as_ref().map(AsFd::as_fd);
    Ok(namespaces::pin(&Pins { places: &pins, hostname, sysctls, users, pause }).await?)
}

/// One tmpfs a pod: sharing the IPC namespace does not share /dev/shm. With the host's IPC it is the host's, as in containerd's CRI.
fn shm(dir: &Path) -> Result<(), SandboxError> {
    directory(dir)?;
    if mounts::is_mount_point(dir) {
        return Ok(());
    }
    mounts::tmpfs(dir, Some(SHM_BYTES), 0o1777, false).map_err(file("mount a tmpfs on", dir))
}

/// What the specification of a container needs to know of its pod's sandbox.
pub fn facts(settings: &Settings, paths: &Paths, pod: &WantedPod, ips: &[IpAddr]) -> Result<SandboxFacts, SandboxError> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let own = kinds(pod);
    let pin = |kind: Kind| if own.contains(&kind) { text(paths.namespace(&pod.uid, kind.name())) } else { String::new() };
    // The kubelet gives a pod network without an address no /etc/hosts.
    let hosts_file = pod.host_network || !ips.is_empty();
    Ok(SandboxFacts {
        net: pin(Kind::Net),
        ipc: pin(Kind::Ipc),
        uts: pin(Kind::Uts),
        pid: pin(Kind::Pid),
        user: pin(Kind::User),
        users: userns::base(paths, &pod.uid).filter(|_| own.contains(&Kind::User)).map(userns::mapping),
        shm: if own.contains(&Kind::Ipc) { text(paths.shm(&pod.uid)) } else { "/dev/shm".into() },
        etc_hosts: if hosts_file { text(paths.etc_hosts(&pod.uid)) } else { String::new() },
        hostname_file: text(paths.hostname(&pod.uid)),
        resolv_conf: text(paths.resolv_conf(&pod.uid)),
        hostname: hosts::names(&pod.object, &settings.cluster_domain)?.hostname,
        ips: ips.to_vec(),
    })
}

/// Undoes all of a sandbox that is there; nothing there is success. With `keep` the data directory stays (its pod will be made anew,
/// and an emptyDir on disk lives as long as its pod), but nothing mounted.
pub async fn delete(settings: &Settings, paths: &Paths, uid: &Uid, keep: bool) -> Result<(), SandboxError> {
    let (data, run) = (paths.pod(uid), paths.run_pod(uid));
    files::uncommit(paths, uid)?;
    // What a crash left running for the pod ends first; the children made for it below hold this too.
    let lock = net::lock::take(settings, paths, uid).await?;
    net::detach(settings, paths, uid, &lock).await?;
    let mark = paths.pause(uid);
    pause::end(&mark).await.map_err(file("end the process written down in", &mark))?;
    for mount in mounts::below(&[&run, &data]).map_err(file("read", Path::new("/proc/thread-self/mountinfo")))? {
        mounts::detach(&mount).map_err(file("unmount", &mount))?;
    }
    cgroup::delete(paths, uid).await.map_err(|source| SandboxError::Cgroup { uid: uid.clone(), source })?;
    remove::tree(&run, None).await.map_err(file("remove", &run))?;
    if keep {
        return Ok(());
    }
    remove::tree(&data, Some("pod.json")).await.map_err(file("remove", &data))
}

/// Success if it was not there.
fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
