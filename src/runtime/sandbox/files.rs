//! A sandbox's files: what the pod was made from, that it is complete, and the texts its containers see in /etc.
//!
//! Each is written beside its place and renamed, so it is there whole or not at all.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::super::paths::Paths;
use super::error::file;
use super::{SandboxError, unless_absent};
use crate::clock::Wall;
use crate::plan::world::Sandbox;
use crate::pod::{Origin, Uid, WantedPod};
use crate::settings::Settings;

/// `pod.json`.
#[derive(Serialize, Deserialize)]
struct Saved<P> {
    pod: P,
    layer: String,
    path: PathBuf,
    line: u32,
}

/// Saves what the pod is made from, so that it can be stopped properly when no manifest has it any more.
pub fn write_pod(paths: &Paths, pod: &WantedPod) -> Result<(), SandboxError> {
    let origin = &pod.origin;
    let saved = Saved { pod: &*pod.object, layer: origin.layer.to_string(), path: origin.path.clone(), line: origin.line };
    write_json(&paths.pod_json(&pod.uid), &saved)
}

/// What a pod was made from; `None` if that was lost.
pub fn read_pod(paths: &Paths, uid: &Uid) -> Option<Rc<WantedPod>> {
    let saved: Saved<Pod> = serde_json::from_slice(&std::fs::read(paths.pod_json(uid)).ok()?).ok()?;
    let origin = Origin { layer: saved.layer.into(), path: saved.path, line: saved.line };
    WantedPod::from_object(saved.pod, origin).filter(|p| p.uid == *uid).map(Rc::new)
}

/// `sandbox.json`.
#[derive(Serialize, Deserialize)]
struct Mark {
    boot: String,
    ips: Vec<IpAddr>,
    since_ns: i64,
}

/// Says that the sandbox is complete: the last step of making it.
pub fn commit(paths: &Paths, uid: &Uid, ips: Vec<IpAddr>, since: Wall) -> Result<Sandbox, SandboxError> {
    let mark = Mark { boot: boot_id(), ips, since_ns: since.0 };
    write_json(&paths.sandbox_json(uid), &mark)?;
    Ok(Sandbox::Ready { ips: mark.ips, since })
}

/// The first step of undoing it.
pub fn uncommit(paths: &Paths, uid: &Uid) -> Result<(), SandboxError> {
    let path = paths.sandbox_json(uid);
    unless_absent(std::fs::remove_file(&path)).map_err(file("remove", &path))
}

/// Addresses and time of a sandbox completed in this boot.
pub fn committed(paths: &Paths, uid: &Uid) -> Option<(Vec<IpAddr>, Wall)> {
    let mark: Mark = serde_json::from_slice(&std::fs::read(paths.sandbox_json(uid)).ok()?).ok()?;
    (mark.boot == boot_id()).then_some((mark.ips, Wall(mark.since_ns)))
}

/// The run directory should be a tmpfs; where it is not, a mark of an earlier boot must not count.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), SandboxError> {
    let bytes = serde_json::to_vec(value).map_err(|e| file("write", path)(io::Error::other(e)))?;
    write(path, &bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SandboxError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).map_err(file("write", path))
}

/// The host name the kernel is told: at most 63 bytes, not ending in `-` or `.` (kubelet: `truncatePodHostnameIfNeeded`).
pub fn kernel_hostname(pod: &WantedPod) -> String {
    let spec = pod.object.spec.as_ref();
    let name = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty()).unwrap_or(&pod.key.name);
    name.get(..name.len().min(63)).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
}

/// hostname; etc-hosts and resolv.conf.
pub fn write_texts(settings: &Settings, paths: &Paths, pod: &WantedPod, ips: &[IpAddr]) -> Result<(), SandboxError> {
    let _ = (settings, ips);
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let hostname = if pod.host_network { host() } else { kernel_hostname(pod) };
    write(&paths.hostname(&pod.uid), format!("{hostname}\n").as_bytes())
}
