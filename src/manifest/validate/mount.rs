//! Volume mounts and devices of a container.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::volume::Volumes;
use super::{Wrong, blank, each, names};

/// Checks what a container mounts.
pub fn check(at: &str, c: &Container, volumes: &Volumes<'_>, wrong: &mut Wrong) {
    let mut taken = BTreeSet::new();
    for (at, m) in each(at, "volumeMounts", c.volume_mounts.as_ref()) {
        if m.name.is_empty() {
            wrong.required(format!("{at}.name"), "");
        } else if !volumes.contains_key(m.name.as_str()) {
            wrong.not_found(format!("{at}.name"), &m.name);
        }
        if m.mount_path.is_empty() {
            wrong.required(format!("{at}.mountPath"), "");
        }
        if !taken.insert(m.mount_path.as_str()) {
            wrong.invalid(format!("{at}.mountPath"), &m.mount_path, "must be unique");
        }
        sub_paths(&at, m, wrong);
        propagation(&at, m, c, wrong);
    }
    for (at, d) in each(at, "volumeDevices", c.volume_devices.as_ref()) {
        if d.name.is_empty() {
            wrong.required(format!("{at}.name"), "");
        } else {
            match volumes.get(d.name.as_str()) {
                None => wrong.not_found(format!("{at}.name"), &d.name),
                Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                    let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    wrong.invalid(format!("{at}.name"), &d.name, why);
                }
                Some(_) => {}
            }
        }
        if d.device_path.is_empty() {
            wrong.required(format!("{at}.devicePath"), "");
        } else if names::climbs(&d.device_path) {
            wrong.invalid(format!("{at}.devicePath"), &d.device_path, "can not contain backsteps ('..')");
        }
        if !taken.insert(d.device_path.as_str()) {
            wrong.invalid(format!("{at}.devicePath"), &d.device_path, "must be unique");
        }
    }
}

fn sub_paths(at: &str, m: &VolumeMount, wrong: &mut Wrong) {
    for (field, path) in [("subPath", &m.sub_path), ("subPathExpr", &m.sub_path_expr)] {
        if let Some(path) = path.as_deref().filter(|p| !p.is_empty()) {
            wrong.shape(&format!("{at}.{field}"), path, names::descending(path));
        }
    }
    if !blank(m.sub_path.as_deref()) && !blank(m.sub_path_expr.as_deref()) {
        wrong.invalid(
            format!("{at}.subPathExpr"),
            m.sub_path_expr.as_deref().unwrap_or_default(),
            "subPathExpr and subPath are mutually exclusive",
        );
    }
}

fn propagation(at: &str, m: &VolumeMount, c: &Container, wrong: &mut Wrong) {
    let mode = m.mount_propagation.as_deref();
    wrong.maybe_one_of(format!("{at}.mountPropagation"), mode, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    if mode == Some("Bidirectional") && !privileged {
        wrong.forbidden(format!("{at}.mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = m.recursive_read_only.as_deref();
    let field = format!("{at}.recursiveReadOnly");
    wrong.maybe_one_of(field.as_str(), recursive, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(recursive, Some("Enabled" | "IfPossible")) {
        if m.read_only != Some(true) {
            wrong.forbidden(field.as_str(), "may only be specified when readOnly is true");
        }
        if mode.is_some_and(|p| p != "None") {
            wrong.forbidden(field, "may only be specified when mountPropagation is None or not specified");
        }
    }
}
