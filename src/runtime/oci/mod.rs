//! The OCI runtime specification of one container of a pod, as the kubelet and containerd's CRI together would write it.
//!
//! Pure: everything from the host, containerd or the image is handed in, so `plinth render` is the same code as `plinth run`.
//! It opens nothing and checks no path; who calls has made the files, directories and pins named in `Input`.
//!
//! ```text
//!  pod ─┬─ env.rs ── args, env        caps.rs, security.rs ── privileges, masks, apparmor
//!       ├─ mounts.rs ── mounts        seccomp.rs ── system calls
//!       └─ resources.rs ── cgroup     user.rs ── uid, gids (asked before, with the image's /etc/passwd in hand)
//! ```

mod caps;
mod env;
mod envfile;
mod error;
mod input;
mod mounts;
mod resources;
pub mod seccomp;
mod security;
pub mod types;
pub mod user;

pub use env::expand;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use super::qos;
use crate::pod::WantedPod;
pub use env::files_wanted;
pub use error::OciError;
pub use input::{Input, NodeFacts, SandboxFacts, Support, VolumeSource};
pub use mounts::{image_volumes, sub_paths};
pub use types::Spec;
use types::{IdMapping, Linux, Namespace, OCI_VERSION, Process, Root};

/// The annotation by which containerd's shim puts a pod's containers under one shim process.
pub const GROUP_ANNOTATION: &str = "io.containerd.runc.v2.group";

/// The specification of a container.
pub fn spec(input: &Input<'_>) -> Result<Spec, OciError> {
    let c = input.container()?;
    security::check_non_root(input)?;
    let vars = env::own(input)?;
    let args = env::args(input, &vars)?;
    let mounted = mounts::mounts(input)?;
    let capabilities = caps::capabilities(input);
    let seccomp = seccomp::of(input, &capabilities.bounding)?;
    let hostname = if input.pod.host_network { &input.node.hostname } else { &input.sandbox.hostname };
    let tty = c.tty.unwrap_or(false);
    let process = Process {
        terminal: tty,
        user: input.user.clone(),
        args,
        env: env::process_env(&input.image.config, tty, hostname, vars),
        cwd: cwd(input, c),
        no_new_privileges: input.security().and_then(|s| s.allow_privilege_escalation) == Some(false),
        apparmor_profile: security::apparmor(input)?,
        oom_score_adj: qos::oom_score_adj(input.pod, c, input.node.memory_bytes, input.node.oom_score_adj_floor),
        capabilities,
    };
    let ids: Vec<IdMapping> = input.sandbox.users.into_iter().collect();
    let linux = Linux {
        uid_mappings: ids.clone(),
        gid_mappings: ids,
        namespaces: namespaces(input)?,
        devices: if input.privileged() { input.node.devices.clone() } else { Vec::new() },
        cgroups_path: input.cgroups_path.to_owned(),
        resources: resources::resources(input)?,
        rootfs_propagation: mounted.rootfs_propagation,
        seccomp,
        masked_paths: security::masked_paths(input),
        readonly_paths: security::readonly_paths(input),
    };
    Ok(Spec {
        oci_version: OCI_VERSION,
        process,
        root: Root { path: "rootfs".into(), readonly: input.read_only_root() },
        mounts: mounted.mounts,
        annotations: BTreeMap::from([(GROUP_ANNOTATION.to_owned(), input.pod.uid.to_string())]),
        linux,
    })
}

fn cwd(input: &Input<'_>, c: &Container) -> String {
    let image = Some(input.image.config.working_dir.as_str());
    let own = c.working_dir.as_deref();
    [own, image].into_iter().flatten().find(|d| !d.is_empty()).unwrap_or("/").to_owned()
}

/// The host's namespaces are joined by these paths and not left out: it means the same, and reads as what it is. `self` is the
/// OCI runtime, a child of the shim, which lives in containerd's namespaces.
const HOST_NS: &str = "/proc/self/ns";

fn namespaces(input: &Input<'_>) -> Result<Vec<Namespace>, OciError> {
    let spec = input.pod_spec()?;
    let sandbox = input.sandbox;
    let host = |kind: &str| format!("{HOST_NS}/{kind}");
    let pin = |on_host: bool, kind: &str, path: &str| if on_host { host(kind) } else { path.to_owned() };
    let host_network = input.pod.host_network;
    let pid = if spec.host_pid.unwrap_or(false) {
        host("pid")
    } else if spec.share_process_namespace.unwrap_or(false) {
        sandbox.pid.clone()
    } else {
        String::new()
    };
    let mut all = vec![
        Namespace { kind: "pid", path: pid },
        Namespace { kind: "ipc", path: pin(spec.host_ipc.unwrap_or(false), "ipc", &sandbox.ipc) },
        Namespace { kind: "uts", path: pin(host_network, "uts", &sandbox.uts) },
        Namespace { kind: "mount", path: String::new() },
        Namespace { kind: "network", path: pin(host_network, "net", &sandbox.net) },
    ];
    if spec.host_users == Some(false) {
        all.push(Namespace { kind: "user", path: sandbox.user.clone() });
    }
    // containerd: on v1, and for privileged containers, the host's cgroup tree stays in sight.
    if input.node.cgroup_v2 && !input.privileged() {
        all.push(Namespace { kind: "cgroup", path: String::new() });
    }
    Ok(all)
}

/// The Localhost seccomp profile the container asks for, relative to the directory of profiles: the caller reads it into
/// `Input::seccomp_profile`.
pub fn localhost_seccomp<'a>(pod: &'a WantedPod, container: &str) -> Option<&'a str> {
    let own = pod.container(container)?.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let pods = pod.object.spec.as_ref()?.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    own.or(pods).filter(|p| p.type_ == "Localhost")?.localhost_profile.as_deref()
}

#[cfg(test)]
mod tests;
