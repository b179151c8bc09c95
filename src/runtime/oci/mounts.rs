//! A container's mounts: containerd's defaults, then the pod's and the sandbox's own by depth, each replacing a default of
//! its path. The order and every option are those containerd's CRI writes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::types::Mount;
use super::{Input, OciError, Support, VolumeSource, env};
use crate::runtime::image_config::ImageConfig;

/// Mounts, and what they ask of the root's propagation.
pub struct Mounted {
    pub mounts: Vec<Mount>,
    pub rootfs_propagation: Option<&'static str>,
}

/// Every mount of the container.
pub fn mounts(input: &Input<'_>) -> Result<Mounted, OciError> {
    let c = input.container()?;
    let mut own = Vec::new();
    let mut rootfs_propagation = None;
    for mount in c.volume_mounts.iter().flatten() {
        own.push(volume_mount(input, c, mount)?);
        rootfs_propagation = match mount.mount_propagation.as_deref() {
            Some("Bidirectional") => Some("rshared"),
            Some("HostToContainer") => rootfs_propagation.or(Some("rslave")),
            _ => rootfs_propagation,
        };
    }
    sandbox_files(input, c, &mut own);
    let places: Vec<String> = own.iter().map(|m| clean(&m.destination)).collect();
    let taken = |path: &str| places.iter().any(|p| p == path);
    let dev = taken("/dev");
    let mut all: Vec<Mount> = defaults(input);
    all.retain(|m| !(taken(&m.destination) || dev && m.destination.starts_with("/dev/")));
    own.sort_by_key(|m| clean(&m.destination).matches('/').count());
    all.append(&mut own);
    Ok(Mounted { mounts: all, rootfs_propagation })
}

fn mount(destination: &'static str, kind: &'static str, source: &'static str, options: &[&'static str]) -> Mount {
    let options = options.iter().map(|o| Cow::Borrowed(*o)).collect();
    Mount { destination: destination.into(), kind: kind.into(), source: source.into(), options }
}

fn defaults(input: &Input<'_>) -> Vec<Mount> {
    // Privileged: writable sysfs and cgroups.
    let mode = if input.privileged() { "rw" } else { "ro" };
    let mut cgroup = mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", mode]);
    if !input.node.cgroup_v2 || input.privileged() {
        cgroup.options.extend(input.node.cgroup_options.iter().cloned().map(Cow::Owned));
    }
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode]),
        cgroup,
    ]
}

fn bind(destination: String, source: &str, propagation: &'static str, mode: &'static str) -> Mount {
    let options = ["rbind", propagation, mode].map(Cow::Borrowed).to_vec();
    Mount { destination: destination.into(), kind: "bind".into(), source: source.to_owned().into(), options }
}

fn volume_mount(input: &Input<'_>, c: &Container, wish: &VolumeMount) -> Result<Mount, OciError> {
    let volume = || wish.name.clone();
    let container = || c.name.clone();
    let source = input.volumes.get(&wish.name).ok_or_else(|| OciError::NoVolume { container: container(), volume: volume() })?;
    let path = match has_sub_path(wish) {
        false => &source.path,
        true => input.sub_paths.get(&wish.mount_path).ok_or_else(|| OciError::NoSubPath {
            container: container(),
            volume: volume(),
            path: wish.mount_path.clone(),
        })?,
    };
    let propagation = match wish.mount_propagation.as_deref() {
        Some("Bidirectional") => "rshared",
        Some("HostToContainer") => "rslave",
        _ => "rprivate",
    };
    let mode =
        read_only_mode(input, source, wish).ok_or_else(|| OciError::NoRecursiveReadOnly { container: container(), volume: volume() })?;
    let mut made = bind(absolute(&wish.mount_path), path, propagation, mode);
    made.options.extend(source.options.iter().cloned().map(Cow::Owned));
    Ok(made)
}

/// `rw`, `ro`, or `rro`; `None` when the last is demanded and cannot be had.
fn read_only_mode(input: &Input<'_>, source: &VolumeSource, wish: &VolumeMount) -> Option<&'static str> {
    let read_only = source.read_only || wish.read_only.unwrap_or(false);
    match (read_only, wish.recursive_read_only.as_deref(), input.node.recursive_read_only) {
        (false, ..) => Some("rw"),
        (true, Some("Enabled"), Support::No) => None,
        (true, Some("Enabled"), _) | (true, Some("IfPossible"), Support::Yes) => Some("rro"),
        _ => Some("ro"),
    }
}

fn has_sub_path(mount: &VolumeMount) -> bool {
    let set = |p: &Option<String>| p.as_deref().is_some_and(|p| !p.is_empty());
    set(&mount.sub_path) || set(&mount.sub_path_expr)
}

/// The sub path of each mount that has one, variables expanded, by its mountPath: what the caller opens for `Input::sub_paths`.
pub fn sub_paths(input: &Input<'_>) -> Result<BTreeMap<String, String>, OciError> {
    let c = input.container()?;
    let mut vars = None;
    let mut found = BTreeMap::new();
    for mount in c.volume_mounts.iter().flatten().filter(|m| has_sub_path(m)) {
        let path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            None => mount.sub_path.clone().unwrap_or_default(),
            Some(expr) => {
                let vars = match &vars {
                    Some(vars) => vars,
                    None => vars.insert(env::own(input)?),
                };
                expanded(c, expr, vars)?
            }
        };
        found.insert(mount.mount_path.clone(), path);
    }
    Ok(found)
}

/// In a path an unknown variable is an error, not text.
fn expanded(c: &Container, expr: &str, vars: &[(String, String)]) -> Result<String, OciError> {
    let unknown = std::cell::RefCell::new(None);
    let path = env::expand(expr, |name| {
        let found = env::lookup(vars, name);
        if found.is_none() {
            unknown.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    match unknown.into_inner() {
        None => Ok(path),
        Some(name) => Err(OciError::SubPathVariable { container: c.name.clone(), expr: expr.to_owned(), name }),
    }
}

/// What kubelet (hosts, termination log: always writable) and containerd (the rest: like the root) add, unless the pod mounts
/// something there itself.
fn sandbox_files(input: &Input<'_>, c: &Container, own: &mut Vec<Mount>) {
    let like_root = if input.read_only_root() { "ro" } else { "rw" };
    let host_ipc = input.pod.object.spec.as_ref().and_then(|s| s.host_ipc).unwrap_or(false);
    let sandbox = input.sandbox;
    let shm = if host_ipc { "/dev/shm" } else { &sandbox.shm };
    let message = c.termination_message_path.as_deref().filter(|p| !p.is_empty()).map_or_else(String::new, absolute);
    let log = input.termination_log.filter(|_| !message.is_empty()).unwrap_or_default();
    let files = [
        ("/etc/hosts", sandbox.etc_hosts.as_str(), "rw"),
        (message.as_str(), log, "rw"),
        ("/etc/hostname", sandbox.hostname_file.as_str(), like_root),
        ("/etc/resolv.conf", sandbox.resolv_conf.as_str(), like_root),
        ("/dev/shm", shm, "rw"),
    ];
    let volumes = input.image_volumes.iter().map(|(to, from)| (to.as_str(), from.as_str(), "rw"));
    for (to, from, mode) in files.into_iter().chain(volumes) {
        let place = clean(to);
        if !from.is_empty() && !own.iter().any(|m| clean(&m.destination) == place) {
            own.push(bind(to.to_owned(), from, "rprivate", mode));
        }
    }
}

/// The image's VOLUMEs the pod mounts nothing at, by their path in the container: containerd gives each a directory of its own,
/// filled with what the image has there. The caller makes those directories and hands them back as `Input::image_volumes`.
pub fn image_volumes(c: &Container, image: &ImageConfig) -> Vec<String> {
    let mounted: Vec<String> = c.volume_mounts.iter().flatten().map(|m| clean(&m.mount_path)).collect();
    image.config.volumes.keys().map(|p| clean(p)).filter(|p| !mounted.contains(p)).collect()
}

/// As it is written, but from the root: the runtime tidies it up itself.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// An absolute path without `.`, `..` and double slashes, as Go's `filepath.Clean` of it under `/`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
