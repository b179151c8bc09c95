//! Whether this node takes a pod: kernel settings, OS, node selection, host ports, and what is left of its resources. Pure.
//!
//! The kubelet's checks under the kubelet's reasons (`lifecycle/predicate.go`, `sysctl/allowlist.go`), with two differences: a refusal
//! is no verdict but a wait, decided anew in every plan; and nobody is preempted: the refusal names who is in the way.
//!
//! What runs stays. Those that hold something are the pods with anything alive, or about to be; the others are asked in starting
//! order (critical first, then by name), each beside those before it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::plan::action::Action;
use crate::plan::apparmor::{self, Apparmor};
use crate::plan::view::{Scene, is_at_rest};
use crate::pod::{Uid, WantedPod};
use crate::quantity::{Amount, Which, pod_amount};

/// The node as pods are measured against it. What is not known limits nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name, for `matchFields`.
    pub name: String,
    /// Its labels, for selectors and affinity.
    pub labels: BTreeMap<String, String>,
    /// What pods may ask for together, by resource name.
    pub allocatable: BTreeMap<String, Amount>,
    /// `maxPods`.
    pub max_pods: Option<usize>,
    /// Names a pod's `runtimeClassName` may have.
    pub runtime_classes: BTreeSet<String>,
    /// Those of them, and the empty name if it is so without one, whose read-only mounts are not so below (`recursiveReadOnly`).
    pub unsealed_classes: BTreeSet<String>,
    /// Why no pod can have users of its own; `None`: it can.
    pub no_own_users: Option<String>,
    /// What AppArmor can enforce; `None`: not known.
    pub apparmor: Option<Apparmor>,
    /// `allowedUnsafeSysctls`: names, or beginnings with a `*`.
    pub unsafe_sysctls: Vec<String>,
}

/// Why a pod is not taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kubelet's reason: `NodePorts`, `OutOfcpu`, …
    pub reason: &'static str,
    /// One sentence, with who is in the way.
    pub message: String,
    /// Only pods that are going already are in the way.
    pub passing: bool,
}

/// Kernel settings any pod may have (kubelet, `sysctl.SafeSysctlAllowlist`).
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// The kubelet's words for each resource that can run out, huge pages in the sizes there are. Extended resources are not among it: those the node does not have are ignored, as by the kubelet
/// (`removeMissingExtendedResources`), and without device plugins it has none.
const RESOURCES: [(&str, &str); 10] = [
    ("cpu", "OutOfcpu"),
    ("memory", "OutOfmemory"),
    ("ephemeral-storage", "OutOfephemeral-storage"),
    ("hugepages-64Ki", "OutOfhugepages-64Ki"),
    ("hugepages-1Mi", "OutOfhugepages-1Mi"),
    ("hugepages-2Mi", "OutOfhugepages-2Mi"),
    ("hugepages-32Mi", "OutOfhugepages-32Mi"),
    ("hugepages-512Mi", "OutOfhugepages-512Mi"),
    ("hugepages-1Gi", "OutOfhugepages-1Gi"),
    ("hugepages-16Gi", "OutOfhugepages-16Gi"),
];

/// So many of those in the way are named.
const NAMED: usize = 3;

/// A pod that holds its part of the node.
struct Holder<'a> {
    pod: &'a WantedPod,
    /// It is not wanted any more.
    going: bool,
}

/// Every wanted pod that is not there and cannot be taken now.
pub fn refusals(scene: &Scene<'_>) -> BTreeMap<Uid, Refusal> {
    let world = scene.world;
    let making = |uid: &Uid| {
        let action = world.memory.pods.get(uid).and_then(|m| m.in_flight.as_ref());
        matches!(action, Some(Action::CreateSandbox { .. }))
    };
    let alive = |uid: &Uid| world.seen.pods.get(uid).is_some_and(|s| !is_at_rest(s)) || making(uid);
    let mut holders: Vec<Holder<'_>> = Vec::new();
    for (uid, seen) in world.seen.pods.iter().filter(|(uid, _)| alive(uid)) {
        let wanted = scene.wanted.get(uid).copied();
        holders.extend(seen.made_from.as_deref().or(wanted).map(|pod| Holder { pod, going: wanted.is_none() }));
    }
    let unseen = world.wanted.pods.values().filter(|p| making(&p.uid) && !world.seen.pods.contains_key(&p.uid));
    holders.extend(unseen.map(|pod| Holder { pod, going: false }));
    let mut refused = BTreeMap::new();
    for uid in super::starting_order(world).filter(|uid| !alive(uid)) {
        let Some(pod) = scene.wanted.get(uid).copied().filter(|pod| !scene.pod(uid).is_over(pod)) else { continue };
        match judge(&world.node, pod, &holders) {
            Some(refusal) => drop(refused.insert(uid.clone(), refusal)),
            None => holders.push(Holder { pod, going: false }),
        }
    }
    refused
}

/// The kubelet's order: what nobody can change by leaving comes first.
fn judge(node: &Node, pod: &WantedPod, holders: &[Holder<'_>]) -> Option<Refusal> {
    let spec = pod.object.spec.as_ref()?;
    let for_good = |(reason, message): Why| Refusal { reason, message, passing: false };
    if let Some(why) = sysctls(node, spec)
        .or_else(|| os(spec))
        .or_else(|| runtime_class(node, spec))
        .or_else(|| users(node, spec))
        .or_else(|| selection(node, spec))
        .or_else(|| confinement(node, pod))
    {
        return Some(for_good(why));
    }
    let crowded = |holders: &[&Holder<'_>]| ports(pod, holders).or_else(|| resources(node, spec, holders));
    let (reason, message) = crowded(&holders.iter().collect::<Vec<_>>())?;
    let staying: Vec<&Holder<'_>> = holders.iter().filter(|h| !h.going).collect();
    Some(Refusal { reason, message, passing: staying.len() < holders.len() && crowded(&staying).is_none() })
}

type Why = (&'static str, String);

fn sysctls(node: &Node, spec: &PodSpec) -> Option<Why> {
    let asked = spec.security_context.as_ref().and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    let allowed = |name: &str| {
        let listed = |p: &String| p.strip_suffix('*').map_or(p == name, |start| name.starts_with(start));
        SAFE_SYSCTLS.contains(&name) || node.unsafe_sysctls.iter().any(listed)
    };
    let bad = asked.iter().map(|s| dotted(&s.name)).find(|name| !allowed(name))?;
    Some(("SysctlForbidden", format!("forbidden sysctl: {bad:?} not allowlisted; allow it with allowedUnsafeSysctls, or leave it out")))
}

/// `net/ipv4/x` as `net.ipv4.x`; whichever separator comes first separates.
fn dotted(name: &str) -> String {
    let slashed = name.find(['.', '/']).and_then(|at| name.get(at..)).is_some_and(|rest| rest.starts_with('/'));
    let turned = |c| match c {
        '.' if slashed => '/',
        '/' if slashed => '.',
        c => c,
    };
    name.chars().map(turned).collect()
}

fn os(spec: &PodSpec) -> Option<Why> {
    let name = spec.os.as_ref().map(|os| os.name.as_str()).filter(|os| *os != "linux")?;
    let message = format!("Failed to admit pod as the OS field doesn't match node OS: the pod is for {name}, the node is linux");
    Some(("PodOSNotSupported", message))
}

/// The kubelet finds out when it makes the sandbox, and tries for ever.
fn runtime_class(node: &Node, spec: &PodSpec) -> Option<Why> {
    let name = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty() && !node.runtime_classes.contains(*name))?;
    let known = match node.runtime_classes.iter().map(String::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => "there is none".to_owned(),
        some => format!("there is {}", some.join(", ")),
    };
    let message =
        format!("RuntimeClass {name:?} not found: {known}; name its runtime in the setting runtimeClasses, or leave runtimeClassName out");
    Some(("RuntimeClassNotFound", message))
}

/// Running it as the host's users instead would give it more than it asks for.
fn users(node: &Node, spec: &PodSpec) -> Option<Why> {
    spec.host_users.filter(|shared| !shared)?;
    let missing = node.no_own_users.as_deref()?;
    let message = format!("hostUsers is false, and {missing}; leave hostUsers out to run as the host's users");
    Some(("UserNamespacesNotSupported", message))
}

fn confinement(node: &Node, pod: &WantedPod) -> Option<Why> {
    Some(("AppArmor", apparmor::missing(node.apparmor.as_ref()?, pod)?))
}

fn selection(node: &Node, spec: &PodSpec) -> Option<Why> {
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    let refused = |what: String| {
        Some(("NodeAffinity", format!("Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector: {what}")))
    };
    for (key, value) in spec.node_selector.iter().flatten() {
        match label(key) {
            Some(have) if have == value => {}
            Some(have) => return refused(format!("nodeSelector wants {key}={value}, the node has {key}={have}")),
            None => return refused(format!("nodeSelector wants {key}={value}, the node has no such label")),
        }
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())?;
    let matches = |term: &NodeSelectorTerm| {
        let (labels, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
        // A term that asks for nothing matches nothing.
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|r| holds(r, label(&r.key)))
            && fields.iter().all(|r| holds(r, Some(node.name.as_str()).filter(|_| r.key == "metadata.name")))
    };
    if required.node_selector_terms.iter().any(matches) {
        return None;
    }
    let keys = required.node_selector_terms.iter().flat_map(|t| t.match_expressions.iter().chain(&t.match_fields).flatten());
    let keys: Vec<String> =
        keys.map(|r| format!("{} {} [{}]", r.key, r.operator, r.values.iter().flatten().cloned().collect::<Vec<_>>().join(" "))).collect();
    refused(format!("none of its terms holds: {}", keys.join(", ")))
}

fn holds(wish: &NodeSelectorRequirement, have: Option<&str>) -> bool {
    let listed = |value: &str| wish.values.iter().flatten().any(|v| v == value);
    let number = || Some((have?.parse::<i64>().ok()?, wish.values.iter().flatten().next()?.parse::<i64>().ok()?));
    match wish.operator.as_str() {
        "In" => have.is_some_and(listed),
        "NotIn" => !have.is_some_and(listed),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => number().is_some_and(|(have, than)| have > than),
        "Lt" => number().is_some_and(|(have, than)| have < than),
        _ => false,
    }
}

/// A port of the host: address (empty: all), protocol, number.
#[derive(Clone, Copy)]
struct Port<'a>(&'a str, &'a str, i32);

impl Port<'_> {
    fn meets(&self, other: &Port<'_>) -> bool {
        self.1 == other.1 && self.2 == other.2 && (self.0.is_empty() || other.0.is_empty() || self.0 == other.0)
    }
}

fn host_ports(pod: &WantedPod) -> impl Iterator<Item = Port<'_>> {
    let spec = pod.object.spec.iter();
    let containers = spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    containers.flat_map(|c| c.ports.iter().flatten()).filter_map(|p| {
        let ip = p.host_ip.as_deref().filter(|ip| !matches!(*ip, "0.0.0.0" | "::")).unwrap_or_default();
        Some(Port(ip, p.protocol.as_deref().unwrap_or("TCP"), p.host_port.filter(|n| *n > 0)?))
    })
}

fn ports(pod: &WantedPod, holders: &[&Holder<'_>]) -> Option<Why> {
    let (port, holder) = host_ports(pod).find_map(|port| {
        let holder = holders.iter().find(|h| host_ports(h.pod).any(|theirs| port.meets(&theirs)))?;
        Some((port, holder.pod))
    })?;
    let at = if port.0.is_empty() { String::new() } else { format!("{}:", port.0) };
    let message = format!(
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: {at}{}/{} is held by {}",
        port.2, port.1, holder.key
    );
    Some(("NodePorts", message))
}

fn resources(node: &Node, spec: &PodSpec, holders: &[&Holder<'_>]) -> Option<Why> {
    let lacks = "Node didn't have enough resource";
    if let Some(most) = node.max_pods.filter(|most| holders.len() >= *most) {
        return Some(("OutOfpods", format!("{lacks}: pods, requested: 1, used: {}, capacity: {most}", holders.len())));
    }
    for (name, reason) in RESOURCES {
        // A page size the kernel does not have is one nobody can have; of the others, what is not known limits nobody.
        let none = Some(Amount::default()).filter(|_| name.starts_with("hugepages-") && !node.allocatable.is_empty());
        let Some(all) = node.allocatable.get(name).copied().or(none).map(|a| whole(name, a)) else { continue };
        let of = |spec: &PodSpec| pod_amount(spec, Which::Requests, name).map_or(0, |a| whole(name, a));
        let wish = of(spec);
        let mut held: Vec<(i64, &WantedPod)> = holders.iter().map(|h| (h.pod.object.spec.as_ref().map_or(0, &of), h.pod)).collect();
        let used = held.iter().fold(0i64, |sum, (n, _)| sum.saturating_add(*n));
        if wish == 0 || wish <= all.saturating_sub(used) {
            continue;
        }
        held.retain(|(n, _)| *n > 0);
        held.sort_by_key(|(n, p)| (std::cmp::Reverse(*n), p.key.clone()));
        let by: Vec<String> = held.iter().take(NAMED).map(|(n, p)| format!("{} {n}", p.key)).collect();
        let by = if by.is_empty() { String::new() } else { format!("; most is held by {}", by.join(", ")) };
        return Some((reason, format!("{lacks}: {name}, requested: {wish}, used: {used}, capacity: {all}{by}")));
    }
    None
}

/// As the kubelet counts it: thousandths of a CPU, bytes of the rest.
fn whole(name: &str, amount: Amount) -> i64 {
    if name == "cpu" { amount.milli() } else { amount.units() }
}
