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
mod mounts;
mod resources;
pub mod seccomp;
mod security;
pub mod types;
pub mod user;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext};

use super::image_config::ImageConfig;
use super::paths::Paths;
use super::qos;
use crate::pod::WantedPod;
use crate::quantity::Amount;
pub use env::files_wanted;
pub use mounts::{image_volumes, sub_paths};
pub use types::Spec;
use types::{Device, Linux, Namespace, OCI_VERSION, Process, Root, User};

/// The annotation by which containerd's shim puts a pod's containers under one shim process.
pub const GROUP_ANNOTATION: &str = "io.containerd.runc.v2.group";

/// Everything a specification depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a WantedPod,
    /// Name of the container in it.
    pub container: &'a str,
    /// Its image's configuration.
    pub image: &'a ImageConfig,
    /// The machine.
    pub node: &'a NodeFacts,
    /// What was made for the pod.
    pub sandbox: &'a SandboxFacts,
    /// Volumes that are ready, by name.
    pub volumes: &'a BTreeMap<String, VolumeSource>,
    /// Host path of each mount with a subPath, by its mountPath as written; safely opened by the caller. See `sub_paths`.
    pub sub_paths: &'a BTreeMap<String, String>,
    /// Host path of each VOLUME of the image that is to be mounted, by its path in the container. See `image_volumes`.
    pub image_volumes: &'a BTreeMap<String, String>,
    /// Text of the files `fileKeyRef`s ask for, by (volume, path). See `files_wanted`.
    pub env_files: &'a BTreeMap<(String, String), String>,
    /// Host path of the file mounted at terminationMessagePath; `None`: not mounted.
    pub termination_log: Option<&'a str>,
    /// As whom it runs: `user::resolve`.
    pub user: &'a User,
    /// The container's cgroup, relative to the root: `<root>/<qos::cgroup_parent>/<container id>`.
    pub cgroups_path: &'a str,
    /// Text of the container's Localhost seccomp profile. See `localhost_seccomp`.
    pub seccomp_profile: Option<&'a str>,
}

/// The machine, as far as specifications depend on it.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its host name: HOSTNAME of pods on its network.
    pub hostname: String,
    /// Node IPs, primary first.
    pub ips: Vec<IpAddr>,
    /// Node allocatable by resource name.
    pub allocatable: BTreeMap<String, Amount>,
    /// All its memory.
    pub memory_bytes: i64,
    /// cgroup v2 alone is mounted at /sys/fs/cgroup.
    pub cgroup_v2: bool,
    /// Swap can be limited: `memory.memsw.limit_in_bytes` or `memory.swap.max` is there.
    pub swap_accounting: bool,
    /// Sizes of huge pages as the kernel's controller names them (`2MB`, `1GB`); empty without the hugetlb controller.
    pub hugepage_sizes: Vec<String>,
    /// The kernel has seccomp filters.
    pub seccomp: bool,
    /// `seccompDefault`: RuntimeDefault where a manifest is silent.
    pub seccomp_default: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// The loaded profile RuntimeDefault stands for; `None`: none is loaded.
    pub apparmor_default: Option<String>,
    /// Whether the OCI runtime can make a mount read-only with all below it.
    pub recursive_read_only: Support,
    /// Every capability a container can be given (`CAP_CHOWN`, …): what `ALL` and privileged mean here.
    pub capabilities: Vec<String>,
    /// Every device node, for privileged containers.
    pub devices: Vec<Device>,
    /// Paths to be masked besides the fixed ones: `/sys/devices/system/cpu/cpu<n>/thermal_throttle`, where they exist.
    pub masked_paths: Vec<String>,
    /// Of the mount options of /sys/fs/cgroup on v2, `nsdelegate` and `memory_recursiveprot`: containers that share the
    /// host's cgroup namespace would strip them from the whole machine.
    pub cgroup_options: Vec<String>,
    /// The least `oom_score_adj` we may give: our own without CAP_SYS_RESOURCE, else -1000.
    pub oom_score_adj_floor: i32,
}

/// Whether something works; `Unknown` when no runtime was asked, as in `plinth render`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Support {
    Yes,
    No,
    #[default]
    Unknown,
}

/// What was made for the pod.
#[derive(Clone, Debug, Default)]
pub struct SandboxFacts {
    /// Pinned network namespace; not used with hostNetwork.
    pub net: String,
    /// Pinned IPC namespace; not used with hostIPC.
    pub ipc: String,
    /// Pinned UTS namespace; not used with hostNetwork.
    pub uts: String,
    /// PID namespace of the pod's init with shareProcessNamespace.
    pub pid: Option<String>,
    /// The pod's /dev/shm; not used with hostIPC.
    pub shm: String,
    /// File at /etc/hosts.
    pub etc_hosts: String,
    /// File at /etc/hostname.
    pub hostname_file: String,
    /// File at /etc/resolv.conf.
    pub resolv_conf: String,
    /// Its hostname (`hosts::names`), for HOSTNAME; not used with hostNetwork.
    pub hostname: String,
    /// Its IPs, primary first; the host's with hostNetwork.
    pub ips: Vec<IpAddr>,
}

impl SandboxFacts {
    /// As `paths` lays it out, with what was decided for the pod: its hostname and its IPs. A shared PID namespace is not among
    /// the pins (it lives as long as its init): who started that sets `pid`.
    pub fn at(paths: &Paths, pod: &WantedPod, hostname: String, ips: Vec<IpAddr>) -> SandboxFacts {
        let text = |p: std::path::PathBuf| p.to_string_lossy().into_owned();
        let uid = &pod.uid;
        let pin = |kind: &str| text(paths.namespace(uid, kind));
        SandboxFacts {
            net: pin("net"),
            ipc: pin("ipc"),
            uts: pin("uts"),
            pid: None,
            shm: text(paths.shm(uid)),
            etc_hosts: text(paths.etc_hosts(uid)),
            hostname_file: text(paths.hostname(uid)),
            resolv_conf: text(paths.resolv_conf(uid)),
            hostname,
            ips,
        }
    }
}

/// Where a volume is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSource {
    /// Host path, symlinks resolved; it exists.
    pub path: String,
    /// The volume is read-only whatever the mount says: downwardAPI, projected, image.
    pub read_only: bool,
    /// Mount options besides: `noexec` for image volumes.
    pub options: Vec<String>,
}

/// Why a container cannot be specified. All wait for another manifest, image or machine, not for time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum OciError {
    #[error("specify container `{0}`: the pod has none of that name")]
    NoContainer(String),
    #[error("specify container `{container}`: neither manifest nor image names a command; set `command`")]
    NoCommand { container: String },
    #[error("set the environment of container `{container}`: {what} needs a configMap or secret, and static pods have none")]
    NeedsApi { container: String, what: String },
    #[error("set variable `{name}` of container `{container}`: {what}")]
    Variable { container: String, name: String, what: String },
    #[error("expand subPathExpr `{expr}` of container `{container}`: `{name}` is not among its variables")]
    SubPathVariable { container: String, expr: String, name: String },
    #[error("mount volume `{volume}` in container `{container}`: there is no such volume, or it is not ready")]
    NoVolume { container: String, volume: String },
    #[error("mount volume `{volume}` in container `{container}`: the sub path at {path} was not opened")]
    NoSubPath { container: String, volume: String, path: String },
    #[error("mount volume `{volume}` in container `{container}`: the OCI runtime cannot do recursiveReadOnly: Enabled; use IfPossible")]
    NoRecursiveReadOnly { container: String, volume: String },
    #[error("container has runAsNonRoot and image will run as root (container: {container}); set runAsUser")]
    ImageIsRoot { container: String },
    #[error("container's runAsUser breaks non-root policy (container: {container})")]
    UserIsRoot { container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (container: {container}); set runAsUser"
    )]
    UserUnverified { container: String, user: String },
    #[error("confine container `{container}` with apparmor profile `{profile}`: this machine has no AppArmor")]
    NoApparmor { container: String, profile: String },
    #[error("confine container `{container}` with a seccomp profile: this kernel has no seccomp filters")]
    NoSeccomp { container: String },
    #[error("confine container `{container}` with seccomp profile `{profile}`: {what}")]
    SeccompProfile { container: String, profile: String, what: String },
    #[error("share the pid namespace of container `{container}`: the pod has no init to share it with")]
    NoSharedPid { container: String },
}

impl OciError {
    /// The kubelet's waiting reason for it.
    pub fn reason(&self) -> &'static str {
        match self {
            OciError::NeedsApi { .. }
            | OciError::Variable { .. }
            | OciError::SubPathVariable { .. }
            | OciError::NoVolume { .. }
            | OciError::NoSubPath { .. }
            | OciError::NoRecursiveReadOnly { .. }
            | OciError::ImageIsRoot { .. }
            | OciError::UserIsRoot { .. }
            | OciError::UserUnverified { .. } => "CreateContainerConfigError",
            OciError::NoContainer(_)
            | OciError::NoCommand { .. }
            | OciError::NoApparmor { .. }
            | OciError::NoSeccomp { .. }
            | OciError::SeccompProfile { .. }
            | OciError::NoSharedPid { .. } => "CreateContainerError",
        }
    }
}

impl<'a> Input<'a> {
    /// The container asked for.
    pub fn container(&self) -> Result<&'a Container, OciError> {
        self.pod.container(self.container).ok_or_else(|| OciError::NoContainer(self.container.to_owned()))
    }

    fn pod_spec(&self) -> Result<&'a PodSpec, OciError> {
        self.pod.object.spec.as_ref().ok_or_else(|| OciError::NoContainer(self.container.to_owned()))
    }

    fn security(&self) -> Option<&'a SecurityContext> {
        self.pod.container(self.container)?.security_context.as_ref()
    }

    fn privileged(&self) -> bool {
        self.security().and_then(|s| s.privileged).unwrap_or(false)
    }

    fn read_only_root(&self) -> bool {
        self.security().and_then(|s| s.read_only_root_filesystem).unwrap_or(false)
    }
}

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
    let linux = Linux {
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
        sandbox.pid.clone().ok_or_else(|| OciError::NoSharedPid { container: input.container.to_owned() })?
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
