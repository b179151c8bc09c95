//! What can fail about a sandbox, and what follows from it.

use std::io;
use std::path::{Path, PathBuf};

use super::super::error::chain;
use super::super::hosts::HostnameError;
use super::super::net::NetError;
use super::super::volume::VolumeError;
use crate::plan::action::{Class, Failure};
use crate::pod::Uid;
use crate::sys::namespaces::PinError;

/// What was tried and failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file or directory of ours.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A kernel setting no pod may have.
    #[error("set sysctl `{name}`: {why}")]
    Sysctl {
        /// Its name.
        name: String,
        /// Why not, and what would be right.
        why: &'static str,
    },
    /// The pod can have no host name.
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    /// Namespaces could not be made or set up.
    #[error("pin the pod's namespaces")]
    Pin(#[from] PinError),
    /// No users of its own.
    #[error("make the pod's user namespace")]
    Users(#[source] io::Error),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A control group does not go away.
    #[error("remove the cgroups of pod {uid}")]
    Cgroup {
        /// Whose.
        uid: Uid,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl SandboxError {
    /// As data, under the kubelet's reasons.
    pub fn into_failure(self) -> Failure {
        let (class, reason) = match &self {
            SandboxError::Volume(e) => (if e.is_refusal() { Class::Refused } else { Class::Retry }, "FailedMount"),
            SandboxError::Sysctl { .. } => (Class::Refused, "SysctlForbidden"),
            SandboxError::Hostname(_) => (Class::Refused, "CreatePodSandboxError"),
            SandboxError::Net(e) if e.is_node() => (Class::Retry, "NetworkNotReady"),
            _ => (Class::Retry, "CreatePodSandboxError"),
        };
        Failure { class, reason: reason.into(), message: chain(&self) }
    }
}

/// Names what was tried on which file.
pub fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    let path = path.to_path_buf();
    move |source| SandboxError::File { verb, path, source }
}
