//! Containers: names, images, ports, restart rules, hooks; and what init containers may not have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Lifecycle, PodSpec};

use super::volume::Volumes;
use super::{Wrong, each, env, mount, names, probe, resources, security};

const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Checks all containers of a pod.
pub fn check(spec: &PodSpec, volumes: &Volumes<'_>, wrong: &mut Wrong) {
    if spec.containers.is_empty() {
        wrong.required("spec.containers", "");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (at, c) in each("spec", "containers", Some(&spec.containers)) {
        common(&at, c, spec, volumes, &mut seen, wrong);
        ports(&at, c, spec.host_network == Some(true), &mut host_ports, wrong);
        long_running(&at, c, spec, wrong);
    }
    for (at, c) in each("spec", "initContainers", spec.init_containers.as_ref()) {
        common(&at, c, spec, volumes, &mut seen, wrong);
        // Ports of init containers clash with their own only, and are free of the host's network.
        ports(&at, c, false, &mut BTreeSet::new(), wrong);
        if c.restart_policy.as_deref() == Some("Always") {
            long_running(&at, c, spec, wrong);
        } else {
            short_lived(&at, c, wrong);
        }
    }
}

fn common<'a>(at: &str, c: &'a Container, spec: &PodSpec, volumes: &Volumes<'_>, seen: &mut BTreeSet<&'a str>, wrong: &mut Wrong) {
    if c.name.is_empty() {
        wrong.required(format!("{at}.name"), "");
    } else {
        wrong.shape(&format!("{at}.name"), &c.name, names::label(&c.name));
        if !seen.insert(&c.name) {
            wrong.duplicate(format!("{at}.name"), &c.name);
        }
    }
    match c.image.as_deref().unwrap_or_default() {
        "" => wrong.required(format!("{at}.image"), ""),
        image if image.trim() != image => wrong.invalid(format!("{at}.image"), image, "must not have leading or trailing whitespace"),
        _ => {}
    }
    wrong.maybe_one_of(format!("{at}.imagePullPolicy"), c.image_pull_policy.as_deref(), &["Always", "IfNotPresent", "Never"]);
    let message_policy = c.termination_message_policy.as_deref();
    wrong.maybe_one_of(format!("{at}.terminationMessagePolicy"), message_policy, &["File", "FallbackToLogsOnError"]);
    restart_rules(at, c, wrong);
    env::check(at, c, spec, wrong);
    mount::check(at, c, volumes, wrong);
    if let Some(r) = &c.resources {
        resources::container(&format!("{at}.resources"), r, spec, wrong);
    }
    let mut resized = BTreeSet::new();
    for (at, policy) in each(at, "resizePolicy", c.resize_policy.as_ref()) {
        if !resized.insert(&policy.resource_name) {
            wrong.duplicate(at.as_str(), &policy.resource_name);
        }
        wrong.one_of(format!("{at}.resourceName"), &policy.resource_name, &["cpu", "memory"]);
        wrong.one_of(format!("{at}.restartPolicy"), &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired" {
            wrong.invalid(at, &policy.restart_policy, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
    security::container(at, c, spec, wrong);
}

/// Main containers and sidecars: probes and hooks.
fn long_running(at: &str, c: &Container, spec: &PodSpec, wrong: &mut Wrong) {
    let probes = [("livenessProbe", &c.liveness_probe), ("startupProbe", &c.startup_probe), ("readinessProbe", &c.readiness_probe)];
    for (field, p) in probes {
        let Some(p) = p else { continue };
        let at = format!("{at}.{field}");
        probe::check(&at, p, wrong);
        let readiness = field == "readinessProbe";
        if let Some(n) = p.success_threshold.filter(|n| !readiness && *n != 1) {
            wrong.invalid(format!("{at}.successThreshold"), n, "must be 1");
        }
        if let Some(s) = p.termination_grace_period_seconds.filter(|_| readiness) {
            wrong.invalid(format!("{at}.terminationGracePeriodSeconds"), s, "must not be set for readinessProbes");
        }
    }
    if let Some(lifecycle) = &c.lifecycle {
        self::lifecycle(&format!("{at}.lifecycle"), lifecycle, spec, wrong);
    }
}

fn lifecycle(at: &str, lifecycle: &Lifecycle, spec: &PodSpec, wrong: &mut Wrong) {
    let grace_s = spec.termination_grace_period_seconds.unwrap_or(30);
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            probe::hook(&format!("{at}.{field}"), hook, grace_s, wrong);
        }
    }
    let Some(signal) = lifecycle.stop_signal.as_deref() else { return };
    let at = format!("{at}.stopSignal");
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None | Some("") => wrong.forbidden(at, "may not be set for containers with empty `spec.os.name`"),
        Some("windows") => wrong.one_of(at, signal, &["SIGTERM", "SIGKILL"]),
        Some(_) if !is_signal(signal) => wrong.invalid(at, signal, "must be the name of a signal, such as SIGTERM, SIGUSR1 or SIGRTMIN+3"),
        Some(_) => {}
    }
}

fn is_signal(name: &str) -> bool {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
        "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let Some(rest) = name.strip_prefix("SIG") else { return false };
    let offset = |s: Option<&str>, sign: char, most: u8| {
        let number = s.and_then(|s| s.strip_prefix(sign)).filter(|n| !n.starts_with(['0', '+']));
        s == Some("") || number.and_then(|n| n.parse().ok()).is_some_and(|n: u8| n <= most)
    };
    NAMES.contains(&rest)
        || matches!(rest, "IOT" | "CLD" | "POLL")
        || offset(rest.strip_prefix("RTMIN"), '+', 15)
        || offset(rest.strip_prefix("RTMAX"), '-', 14)
}

/// Init containers that end: nothing that needs them to stay.
fn short_lived(at: &str, c: &Container, wrong: &mut Wrong) {
    let set = [
        ("lifecycle", c.lifecycle.is_some()),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
    ];
    for (field, _) in set.iter().filter(|(_, there)| *there) {
        wrong.forbidden(format!("{at}.{field}"), "may not be set for init containers without restartPolicy=Always");
    }
}

fn restart_rules(at: &str, c: &Container, wrong: &mut Wrong) {
    wrong.maybe_one_of(format!("{at}.restartPolicy"), c.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    let rules = c.restart_policy_rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        return;
    }
    if c.restart_policy.is_none() {
        wrong.required(format!("{at}.restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > MAX_RESTART_RULES {
        wrong.too_many(format!("{at}.restartPolicyRules"), rules.len(), MAX_RESTART_RULES);
    }
    for (at, rule) in each(at, "restartPolicyRules", c.restart_policy_rules.as_ref()) {
        wrong.one_of(format!("{at}.action"), &rule.action, &["Restart", "RestartAllContainers"]);
        let Some(codes) = &rule.exit_codes else {
            wrong.required(format!("{at}.exitCodes"), "must be specified");
            continue;
        };
        let at = format!("{at}.exitCodes");
        wrong.one_of(format!("{at}.operator"), &codes.operator, &["In", "NotIn"]);
        let values = codes.values.as_deref().unwrap_or_default();
        if values.len() > MAX_EXIT_CODES {
            wrong.too_many(format!("{at}.values"), values.len(), MAX_EXIT_CODES);
        }
    }
}

fn ports(at: &str, c: &Container, on_host: bool, host_ports: &mut BTreeSet<String>, wrong: &mut Wrong) {
    let mut seen = BTreeSet::new();
    for (at, p) in each(at, "ports", c.ports.as_ref()) {
        if let Some(name) = p.name.as_deref().filter(|n| !n.is_empty()) {
            wrong.shape(&format!("{at}.name"), name, names::port(name));
            if !seen.insert(name) {
                wrong.duplicate(format!("{at}.name"), name);
            }
        }
        match p.container_port {
            0 => wrong.required(format!("{at}.containerPort"), ""),
            port => wrong.within(format!("{at}.containerPort"), port.into(), 1, 65535),
        }
        let protocol = p.protocol.as_deref().unwrap_or_default();
        wrong.one_of(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        let host_ip = p.host_ip.as_deref().unwrap_or_default();
        let host_port = p.host_port.unwrap_or(0);
        if on_host && host_port != p.container_port {
            wrong.invalid(format!("{at}.hostPort"), host_port, "must match `containerPort` when `hostNetwork` is true");
        }
        if host_port != 0 {
            // With the host's network it was copied from containerPort, which is told of already.
            if host_port != p.container_port {
                wrong.within(format!("{at}.hostPort"), host_port.into(), 1, 65535);
            }
            let taken = format!("{protocol}/{host_ip}/{host_port}");
            if host_ports.contains(&taken) {
                wrong.duplicate(format!("{at}.hostPort"), &taken);
            }
            host_ports.insert(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn signals_have_the_names_of_the_api() {
        for good in ["SIGTERM", "SIGIOT", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in
            ["", "TERM", "15", "sigterm", "SIG", "SIGRTMIN+16", "SIGRTMIN+0", "SIGRTMIN+01", "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMAX-15"]
        {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
