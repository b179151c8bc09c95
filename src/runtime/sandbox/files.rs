//! A sandbox's files: what the pod was made from, that it is complete, and the texts its containers see in /etc.
//!
//! Each but etc-hosts is written beside its place and renamed, so it is there whole or not at all.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::{Deserialize, Serialize};

use super::super::dns;
use super::super::hosts::{self, Names};
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

/// hostname and resolv.conf, as containerd's CRI writes them. On the host's network they are the node's.
pub fn write_texts(settings: &Settings, paths: &Paths, pod: &WantedPod, names: &Names) -> Result<(), SandboxError> {
    let hostname =
        if pod.host_network { format!("{}\n", rustix::system::uname().nodename().to_string_lossy()) } else { hosts::hostname_text(names) };
    write(&paths.hostname(&pod.uid), hostname.as_bytes())?;
    let Some(spec) = &pod.object.spec else { return Ok(()) };
    write(&paths.resolv_conf(&pod.uid), resolv(settings, pod, spec)?.resolv.text().as_bytes())
}

/// etc-hosts, anew for each container, as the kubelet writes it: whoever runs in the pod may have written to it. In place, since it is
/// mounted in those that run.
pub fn write_hosts(settings: &Settings, paths: &Paths, pod: &WantedPod, ips: &[IpAddr]) -> Result<(), SandboxError> {
    let aliases = pod.object.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    let text = if pod.host_network {
        hosts::hosts_text_host_network(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases)
    } else {
        hosts::hosts_text(&hosts::names(&pod.object, &settings.cluster_domain)?, ips, aliases)
    };
    let path = paths.etc_hosts(&pod.uid);
    if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    std::fs::write(&path, text).map_err(file("write", &path))
}

fn resolv(settings: &Settings, pod: &WantedPod, spec: &PodSpec) -> Result<dns::Made, SandboxError> {
    let node = node_resolv(&settings.resolv_conf)?;
    let from = dns::Sources { node: node.as_deref(), cluster_dns: &settings.cluster_dns, cluster_domain: &settings.cluster_domain };
    Ok(dns::resolv_conf(spec, &pod.key.namespace, from))
}

/// What is wrong with a pod's resolv.conf, under the kubelet's reasons. Without a cluster there is no cluster DNS, and ClusterFirst is the
/// default: that is how it should be on such a node.
pub fn name_service(settings: &Settings, pod: &WantedPod) -> Vec<(&'static str, String)> {
    let made = pod.object.spec.as_ref().and_then(|spec| resolv(settings, pod, spec).ok());
    let warnings = made.map(|m| m.warnings).unwrap_or_default();
    warnings.into_iter().filter(|(reason, _)| *reason != "MissingClusterDNS" || settings.kubeconfig.is_some()).collect()
}

/// The node's resolver configuration; `None` when the setting names none.
fn node_resolv(path: &Path) -> Result<Option<String>, SandboxError> {
    match std::fs::read(path) {
        _ if path.as_os_str().is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // A node without one (no DHCP yet) must still be able to run its pods; what they look up fails as it does on the node.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(String::new())),
        Err(e) => Err(file("read", path)(e)),
    }
}
