//! Who a container may not be, what it may not see, and its AppArmor profile.

use std::borrow::Cow;

use super::{Input, OciError};
use crate::plan::apparmor::{self, Wish};

/// The kubelet's list (1.36), which replaces the runtime's own.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn unmasked(input: &Input<'_>) -> bool {
    input.privileged() || input.security().and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked")
}

/// Paths hidden from the container.
pub fn masked_paths(input: &Input<'_>) -> Vec<Cow<'static, str>> {
    if unmasked(input) {
        return Vec::new();
    }
    MASKED.into_iter().map(Cow::Borrowed).chain(input.node.masked_paths.iter().cloned().map(Cow::Owned)).collect()
}

/// Paths it can only read.
pub fn readonly_paths(input: &Input<'_>) -> Vec<Cow<'static, str>> {
    if unmasked(input) { Vec::new() } else { READONLY.map(Cow::Borrowed).to_vec() }
}

/// The kubelet's runAsNonRoot check, in its words: by number only, because a name could be anybody.
pub fn check_non_root(input: &Input<'_>) -> Result<(), OciError> {
    let own = input.security();
    let pods = input.pod_spec()?.security_context.as_ref();
    let non_root = own.and_then(|s| s.run_as_non_root).or(pods.and_then(|s| s.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let container = input.container.to_owned();
    if let Some(uid) = own.and_then(|s| s.run_as_user).or(pods.and_then(|s| s.run_as_user)) {
        return if uid == 0 { Err(OciError::UserIsRoot { container }) } else { Ok(()) };
    }
    match input.image.user_name() {
        "" => Err(OciError::ImageIsRoot { container }),
        user => match user.parse::<i64>() {
            Ok(0) => Err(OciError::ImageIsRoot { container }),
            Ok(_) => Ok(()),
            Err(_) => Err(OciError::UserUnverified { container, user: user.to_owned() }),
        },
    }
}

/// The AppArmor profile: unset means the runtime's default where there is one, and none for privileged containers. Asking for a profile
/// by name on a machine without AppArmor fails, as containerd does; asking for the default there does not: such a pod is not admitted.
pub fn apparmor(input: &Input<'_>) -> Result<Option<String>, OciError> {
    let node = input.node;
    let container = || input.container.to_owned();
    match apparmor::wish(input.pod, input.container) {
        Some(Wish::Unconfined) => Ok(node.apparmor.then(|| "unconfined".to_owned())),
        Some(Wish::Localhost(profile)) if node.apparmor => Ok(Some(profile.to_owned())),
        Some(Wish::Localhost(profile)) => Err(OciError::NoApparmor { container: container(), profile: profile.to_owned() }),
        _ if input.privileged() || !node.apparmor => Ok(None),
        Some(Wish::RuntimeDefault) if node.apparmor_default.is_none() => Err(OciError::NoApparmorDefault { container: container() }),
        _ => Ok(node.apparmor_default.clone()),
    }
}
