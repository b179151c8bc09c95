//! A pod's spec: what is not of a container, a volume, the network or scheduling, and the order in which those are looked at.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{Wrong, blank, container, each, metadata, names, network, resources, scheduling, security, volume, windows};

/// Checks a pod's spec.
pub fn check(spec: &PodSpec, wrong: &mut Wrong) {
    let volumes = volume::check(spec, wrong);
    container::check(spec, &volumes, wrong);
    if spec.ephemeral_containers.as_ref().is_some_and(|e| !e.is_empty()) {
        wrong.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    wrong.maybe_one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    if let Some(seconds) = spec.active_deadline_seconds {
        wrong.within("spec.activeDeadlineSeconds", seconds, 1, i64::from(i32::MAX));
    }
    metadata::labels("spec.nodeSelector", spec.node_selector.as_ref(), wrong);
    security::pod(spec, wrong);
    subdomains(spec, wrong);
    network::check(spec, wrong);
    scheduling::check(spec, wrong);
    resources::pod(spec, wrong);
    for (at, gate) in each("spec", "readinessGates", spec.readiness_gates.as_ref()) {
        wrong.shape(&format!("{at}.conditionType"), &gate.condition_type, names::qualified(&gate.condition_type));
    }
    wrong.maybe_one_of("spec.preemptionPolicy", spec.preemption_policy.as_deref(), &["Never", "PreemptLowerPriority"]);
    windows::check(spec, wrong);
    operating_system(spec, wrong);
}

/// Names of other objects.
fn subdomains(spec: &PodSpec, wrong: &mut Wrong) {
    let names = [
        ("spec.serviceAccountName", spec.service_account_name.as_deref().or(spec.service_account.as_deref())),
        ("spec.nodeName", spec.node_name.as_deref()),
        ("spec.priorityClassName", spec.priority_class_name.as_deref()),
    ];
    for (field, name) in names {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            wrong.shape(field, name, names::subdomain(name));
        }
    }
    if let Some(class) = spec.runtime_class_name.as_deref() {
        wrong.shape("spec.runtimeClassName", class, names::subdomain(class));
    }
}

fn operating_system(spec: &PodSpec, wrong: &mut Wrong) {
    let Some(os) = &spec.os else { return };
    if os.name.is_empty() {
        return wrong.required("spec.os.name", "");
    }
    wrong.one_of("spec.os.name", &os.name, &["linux", "windows"]);
    let linux = os.name == "linux";
    let containers: Vec<(String, &Container)> =
        each("spec", "initContainers", spec.init_containers.as_ref()).chain(each("spec", "containers", Some(&spec.containers))).collect();
    if linux {
        if spec.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
            wrong.forbidden("spec.securityContext.windowsOptions", "windows options cannot be set for a linux pod");
        }
        for (at, _) in containers.iter().filter(|(_, c)| c.security_context.as_ref().is_some_and(|s| s.windows_options.is_some())) {
            wrong.forbidden(format!("{at}.securityContext.windowsOptions"), "windows options cannot be set for a linux pod");
        }
        return;
    }
    let shared = spec.share_process_namespace;
    // Of the host's namespaces Go keeps no pointers: false is silence there.
    let (pid, ipc) = (spec.host_pid.filter(|on| *on), spec.host_ipc.filter(|on| *on));
    let flags = [("hostUsers", spec.host_users), ("hostPID", pid), ("hostIPC", ipc), ("shareProcessNamespace", shared)];
    for (field, _) in flags.iter().filter(|(_, set)| set.is_some()) {
        wrong.forbidden(format!("spec.{field}"), "cannot be set for a windows pod");
    }
    if let Some(s) = &spec.security_context {
        let set = [
            ("seLinuxOptions", s.se_linux_options.is_some()),
            ("appArmorProfile", s.app_armor_profile.is_some()),
            ("seccompProfile", s.seccomp_profile.is_some()),
            ("fsGroup", s.fs_group.is_some()),
            ("fsGroupChangePolicy", !blank(s.fs_group_change_policy.as_deref())),
            ("sysctls", s.sysctls.as_ref().is_some_and(|s| !s.is_empty())),
            ("runAsUser", s.run_as_user.is_some()),
            ("runAsGroup", s.run_as_group.is_some()),
            ("supplementalGroups", s.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", s.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", s.se_linux_change_policy.is_some()),
        ];
        for (field, _) in set.iter().filter(|(_, there)| *there) {
            wrong.forbidden(format!("spec.securityContext.{field}"), "cannot be set for a windows pod");
        }
    }
    for (at, c) in &containers {
        let Some(s) = &c.security_context else { continue };
        let set = [
            ("seLinuxOptions", s.se_linux_options.is_some()),
            ("appArmorProfile", s.app_armor_profile.is_some()),
            ("seccompProfile", s.seccomp_profile.is_some()),
            ("capabilities", s.capabilities.is_some()),
            ("readOnlyRootFilesystem", s.read_only_root_filesystem.is_some()),
            ("privileged", s.privileged.is_some()),
            ("allowPrivilegeEscalation", s.allow_privilege_escalation.is_some()),
            ("procMount", s.proc_mount.is_some()),
            ("runAsUser", s.run_as_user.is_some()),
            ("runAsGroup", s.run_as_group.is_some()),
        ];
        for (field, _) in set.iter().filter(|(_, there)| *there) {
            wrong.forbidden(format!("{at}.securityContext.{field}"), "cannot be set for a windows pod");
        }
    }
}
