//! Why a container cannot be specified, with the kubelet's waiting reason for it.

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
    #[error(
        "mount volume `{volume}` in container `{container}`: this kernel (before 5.12) or the pod's runtime class cannot do recursiveReadOnly: Enabled; use IfPossible"
    )]
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
    #[error(
        "confine container `{container}` with the default apparmor profile: none is loaded; load `cri-containerd.apparmor.d` or ask for Unconfined"
    )]
    NoApparmorDefault { container: String },
    #[error("confine container `{container}` with a seccomp profile: this kernel has no seccomp filters")]
    NoSeccomp { container: String },
    #[error("confine container `{container}` with seccomp profile `{profile}`: {what}")]
    SeccompProfile { container: String, profile: String, what: String },
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
            | OciError::NoApparmorDefault { .. }
            | OciError::NoSeccomp { .. }
            | OciError::SeccompProfile { .. } => "CreateContainerError",
        }
    }
}
