//! Pod conditions, in the kubelet's order, with its reasons and messages, and since when each holds.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};

use super::{SHUT_DOWN, Shown, started, time};
use crate::clock::{Now, Wall};
use crate::plan::view::{Scene, View};
use crate::plan::world::{Sandbox, State, World};
use crate::pod::{Kind, Uid, WantedPod};

struct Condition {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// The conditions as they are shown.
pub(super) fn conditions(v: &View<'_>, pod: &WantedPod, shown: &Shown, now: Wall) -> Vec<PodCondition> {
    let since = |c: &Condition| match v.memory.conditions.get(c.kind) {
        Some((held, since)) if *held == c.holds => *since,
        _ => derived(v, c, now),
    };
    let present = |c: Condition| PodCondition {
        type_: c.kind.to_owned(),
        status: if c.holds { "True" } else { "False" }.to_owned(),
        reason: c.reason.map(str::to_owned),
        last_transition_time: Some(time(since(&c))),
        message: c.message,
        ..PodCondition::default()
    };
    list(v, pod, shown).into_iter().map(present).collect()
}

/// Remembers since when each condition holds; called after every event of a pod.
pub fn note(world: &mut World, uid: &Uid, now: Now) {
    let scene = Scene::new(world, now.mono);
    let v = scene.pod(uid);
    let Some(pod) = v.wanted.or(v.made_from) else { return };
    let shown = Shown::of(&v, pod);
    let mut changed = Vec::new();
    for c in list(&v, pod, &shown) {
        match v.memory.conditions.get(c.kind) {
            Some((held, _)) if *held == c.holds => {}
            Some(_) => changed.push((c.kind, (c.holds, now.wall))),
            None => changed.push((c.kind, (c.holds, derived(&v, &c, now.wall)))),
        }
    }
    if let Some(memory) = world.memory.pods.get_mut(uid) {
        memory.conditions.extend(changed);
    }
}

/// Since when a condition holds that nobody remembers: what containers and sandbox tell.
fn derived(v: &View<'_>, c: &Condition, now: Wall) -> Wall {
    let sandbox = if let Sandbox::Ready { since, .. } = v.seen.sandbox { Some(since) } else { None };
    let up = v.seen.containers.values().filter_map(|c| if let State::Running { since } = c.state { Some(since) } else { None }).max();
    let found = match c.kind {
        "PodReadyToStartContainers" => sandbox,
        "Initialized" | "Ready" | "ContainersReady" if c.holds => up.or(sandbox),
        _ => started(v),
    };
    found.or_else(|| started(v)).unwrap_or(now).min(now)
}

fn list(v: &View<'_>, pod: &WantedPod, shown: &Shown) -> Vec<Condition> {
    let over = match shown.phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let sandbox = match &v.seen.sandbox {
        Sandbox::Ready { ips, .. } => pod.host_network || !ips.is_empty(),
        Sandbox::Absent | Sandbox::Partial => false,
    };
    let containers = ready(pod, shown, over);
    let gates = pod.object.spec.as_ref().and_then(|s| s.readiness_gates.as_ref()).into_iter().flatten();
    let missing: Vec<String> =
        gates.map(|g| format!("corresponding condition of pod readiness gate \"{}\" does not exist.", g.condition_type)).collect();
    let (holds, reason, message) = match (&containers, missing.is_empty()) {
        (Some((reason, message)), _) => (false, Some(*reason), message.clone()),
        (None, false) => (false, Some("ReadinessGatesNotReady"), Some(missing.join(", "))),
        (None, true) => (true, None, None),
    };
    // The kubelet's, of `RestartAllContainers`; shown while it is under way.
    let restarting = Condition { kind: "AllContainersRestarting", holds: true, reason: None, message: None };
    let mut list = vec![
        Condition { kind: "PodReadyToStartContainers", holds: sandbox, reason: None, message: None },
        initialized(pod, shown),
        Condition { kind: "Ready", holds, reason, message },
        Condition {
            kind: "ContainersReady",
            holds: containers.is_none(),
            reason: containers.as_ref().map(|c| c.0),
            message: containers.and_then(|c| c.1),
        },
        Condition { kind: "PodScheduled", holds: true, reason: None, message: None },
    ];
    if v.is_restarting() {
        list.insert(0, restarting);
    }
    if v.is_shut_down(pod) {
        let (reason, message) = (Some("TerminationByKubelet"), Some(SHUT_DOWN.to_owned()));
        list.insert(0, Condition { kind: "DisruptionTarget", holds: true, reason, message });
    }
    list
}

/// What is in the way of `ContainersReady`.
fn ready(pod: &WantedPod, shown: &Shown, over: Option<&'static str>) -> Option<(&'static str, Option<String>)> {
    if let Some(reason) = over {
        return Some((reason, None));
    }
    let sidecars = kinds(pod, shown).filter(|(kind, _)| *kind == Kind::Sidecar).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(&shown.main).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    (!unready.is_empty()).then(|| ("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" ")))))
}

fn initialized(pod: &WantedPod, shown: &Shown) -> Condition {
    let kind = "Initialized";
    if shown.phase == "Succeeded" {
        return Condition { kind, holds: true, reason: Some("PodCompleted"), message: None };
    }
    let has_main = shown.main.iter().any(|s| s.container_id.is_some());
    let incomplete = |(part, s): &(Kind, &ContainerStatus)| match part {
        Kind::Init => !s.ready,
        Kind::Sidecar | Kind::Main => s.started != Some(true) && !has_main,
    };
    let names: Vec<&str> = kinds(pod, shown).filter(incomplete).map(|(_, s)| s.name.as_str()).collect();
    if names.is_empty() {
        return Condition { kind, holds: true, reason: None, message: None };
    }
    let message = Some(format!("containers with incomplete status: [{}]", names.join(" ")));
    Condition { kind, holds: false, reason: Some("ContainersNotInitialized"), message }
}

fn kinds<'a>(pod: &'a WantedPod, shown: &'a Shown) -> impl Iterator<Item = (Kind, &'a ContainerStatus)> {
    pod.containers.iter().map(|c| c.kind).filter(|k| *k != Kind::Main).zip(&shown.init)
}
