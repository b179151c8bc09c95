//! Security contexts: ids, profiles, sysctls, capabilities against privilege, host namespaces against each other.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use super::{Wrong, each, names};

const MAX_ID: i64 = i32::MAX as i64;

/// Checks a pod's security context and its use of the host's namespaces.
pub fn pod(spec: &PodSpec, wrong: &mut Wrong) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        wrong.invalid("spec.shareProcessNamespace", true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if spec.host_users == Some(false) {
        for (field, on) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
            if on == Some(true) {
                wrong.forbidden(format!("spec.{field}"), "when `hostUsers` is false");
            }
        }
    }
    let Some(s) = &spec.security_context else { return };
    let at = "spec.securityContext";
    id(&format!("{at}.fsGroup"), s.fs_group, wrong);
    id(&format!("{at}.runAsUser"), s.run_as_user, wrong);
    id(&format!("{at}.runAsGroup"), s.run_as_group, wrong);
    for (at, group) in each(at, "supplementalGroups", s.supplemental_groups.as_ref()) {
        id(&at, Some(*group), wrong);
    }
    let change = s.fs_group_change_policy.as_deref();
    wrong.maybe_one_of(format!("{at}.fsGroupChangePolicy"), change, &["Always", "OnRootMismatch"]);
    wrong.maybe_one_of(format!("{at}.supplementalGroupsPolicy"), s.supplemental_groups_policy.as_deref(), &["Merge", "Strict"]);
    // MountOption is for the gate SELinuxMount, off in 1.36.
    wrong.maybe_one_of(format!("{at}.seLinuxChangePolicy"), s.se_linux_change_policy.as_deref(), &["Recursive"]);
    seccomp(&format!("{at}.seccompProfile"), s.seccomp_profile.as_ref(), wrong);
    apparmor(&format!("{at}.appArmorProfile"), s.app_armor_profile.as_ref(), wrong);
    sysctls(s, spec, wrong);
}

fn id(at: &str, id: Option<i64>, wrong: &mut Wrong) {
    if let Some(id) = id {
        wrong.within(at, id, 0, MAX_ID);
    }
}

fn seccomp(at: &str, profile: Option<&SeccompProfile>, wrong: &mut Wrong) {
    if let Some(p) = profile {
        self::profile(at, &p.type_, p.localhost_profile.as_deref(), wrong);
        let path = p.localhost_profile.as_deref().unwrap_or_default();
        wrong.shape(&format!("{at}.localhostProfile"), path, names::descending(path));
    }
}

fn apparmor(at: &str, profile: Option<&AppArmorProfile>, wrong: &mut Wrong) {
    let Some(p) = profile else { return };
    self::profile(at, &p.type_, p.localhost_profile.as_deref(), wrong);
    let field = format!("{at}.localhostProfile");
    match p.localhost_profile.as_deref() {
        Some(name) if name.trim() != name => wrong.invalid(field, name, "must not be padded with whitespace"),
        Some(name) if name.len() > 4095 => wrong.add(field, "Too long: may not be more than 4095 bytes".to_owned()),
        _ => {}
    }
}

fn profile(at: &str, kind: &str, local: Option<&str>, wrong: &mut Wrong) {
    if kind.is_empty() {
        return wrong.required(format!("{at}.type"), "type is required");
    }
    wrong.one_of(format!("{at}.type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    match (kind, local) {
        ("Localhost", None | Some("")) => wrong.required(format!("{at}.localhostProfile"), "must be set when type is Localhost"),
        ("Localhost", _) | (_, None) => {}
        (_, Some(path)) => wrong.invalid(format!("{at}.localhostProfile"), path, "can only be set when type is Localhost"),
    }
}

fn sysctls(s: &PodSecurityContext, spec: &PodSpec, wrong: &mut Wrong) {
    let mut seen = BTreeSet::new();
    for (at, sysctl) in each("spec.securityContext", "sysctls", s.sysctls.as_ref()) {
        let at = format!("{at}.name");
        let name = sysctl.name.as_str();
        // Slashes and dots are the same, the first of them decides which one separates.
        let dotted = match name.find(['.', '/']).and_then(|i| name.get(i..=i)) {
            Some("/") => name.replace('.', "\0").replace('/', ".").replace('\0', "/"),
            _ => name.to_owned(),
        };
        if name.is_empty() {
            wrong.required(at, "");
            continue;
        }
        if !is_sysctl(name) {
            let why =
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            wrong.invalid(at.as_str(), name, why);
        }
        if !seen.insert(name) {
            wrong.duplicate(at.as_str(), name);
        }
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            wrong.invalid(at.as_str(), name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if spec.host_ipc == Some(true) && ipc {
            wrong.invalid(at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = |part: &str| part.bytes().next().is_some_and(word) && part.bytes().next_back().is_some_and(word);
    let inner = |part: &str| part.bytes().all(|b| word(b) || matches!(b, b'-' | b'_'));
    name.len() <= 253 && name.split(['.', '/']).all(|part| edges(part) && inner(part))
}

/// Checks a container's security context.
pub fn container(at: &str, c: &Container, spec: &PodSpec, wrong: &mut Wrong) {
    let Some(s) = &c.security_context else { return };
    let at = format!("{at}.securityContext");
    id(&format!("{at}.runAsUser"), s.run_as_user, wrong);
    id(&format!("{at}.runAsGroup"), s.run_as_group, wrong);
    seccomp(&format!("{at}.seccompProfile"), s.seccomp_profile.as_ref(), wrong);
    apparmor(&format!("{at}.appArmorProfile"), s.app_armor_profile.as_ref(), wrong);
    wrong.maybe_one_of(format!("{at}.procMount"), s.proc_mount.as_deref(), &["Default", "Unmasked"]);
    if s.proc_mount.as_deref() == Some("Unmasked") && spec.host_users != Some(false) {
        wrong.invalid(format!("{at}.procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    escalation(&at, s, wrong);
}

fn escalation(at: &str, s: &SecurityContext, wrong: &mut Wrong) {
    if s.allow_privilege_escalation != Some(false) {
        return;
    }
    let field = format!("{at}.allowPrivilegeEscalation");
    if s.privileged == Some(true) {
        wrong.invalid(field.as_str(), false, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    let added = s.capabilities.as_ref().and_then(|c| c.add.as_ref());
    if added.is_some_and(|add| add.iter().any(|c| matches!(c.as_str(), "CAP_SYS_ADMIN"))) {
        wrong.invalid(field, false, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
    }
}
