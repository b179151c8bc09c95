//! What a specification is made from, as its caller hands it in: the pod, the machine, the sandbox, the volumes. Facts only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext};

use super::OciError;
use super::types::{Device, IdMapping, User};
use crate::pod::WantedPod;
use crate::quantity::Amount;
use crate::runtime::image_config::ImageConfig;
use crate::runtime::paths::Paths;

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
    /// Of the controllers `cpu` and `memory`, those this machine does not have: nothing of theirs is asked for.
    pub lacking: Vec<&'static str>,
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
    /// Pinned PID namespace; used with shareProcessNamespace alone.
    pub pid: String,
    /// Pinned user namespace; used with hostUsers: false alone.
    pub user: String,
    /// Its ids.
    pub users: Option<IdMapping>,
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
    /// As `paths` lays it out, with what was decided for the pod: its hostname and its IPs.
    pub fn at(paths: &Paths, pod: &WantedPod, hostname: String, ips: Vec<IpAddr>) -> SandboxFacts {
        let text = |p: std::path::PathBuf| p.to_string_lossy().into_owned();
        let uid = &pod.uid;
        let pin = |kind: &str| text(paths.namespace(uid, kind));
        SandboxFacts {
            net: pin("net"),
            ipc: pin("ipc"),
            uts: pin("uts"),
            pid: pin("pid"),
            user: pin("user"),
            users: None,
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

impl<'a> Input<'a> {
    /// The container asked for.
    pub fn container(&self) -> Result<&'a Container, OciError> {
        self.pod.container(self.container).ok_or_else(|| OciError::NoContainer(self.container.to_owned()))
    }

    pub(super) fn pod_spec(&self) -> Result<&'a PodSpec, OciError> {
        self.pod.object.spec.as_ref().ok_or_else(|| OciError::NoContainer(self.container.to_owned()))
    }

    pub(super) fn security(&self) -> Option<&'a SecurityContext> {
        self.pod.container(self.container)?.security_context.as_ref()
    }

    pub(super) fn privileged(&self) -> bool {
        self.security().and_then(|s| s.privileged).unwrap_or(false)
    }

    pub(super) fn read_only_root(&self) -> bool {
        self.security().and_then(|s| s.read_only_root_filesystem).unwrap_or(false)
    }
}
