//! `/v1/why/{ns}/{pod}`: the file that won, the last decision, what the pod waits for. What it waits for is asked of
//! `plan` itself, so that this answer cannot differ from what is done.

use k8s_openapi::api::core::v1::ContainerStatus;

use super::wire::{API_VERSION, Attempt, Decision, SandboxState, Wait, Why};
use super::{View, rows};
use crate::clock::Moment;
use crate::plan::status::summary;
use crate::plan::why;
use crate::plan::world::{Exit, PodMemory, Sandbox, SeenContainer, SeenPod, State};
use crate::pod::{Probe, RESTART_OVERFULL, Uid, WantedPod};

/// Explains the pod of that full name; `None` when neither a manifest nor the node has it.
pub fn explain(view: &View<'_>, namespace: &str, name: &str) -> Option<Why> {
    let world = view.world;
    let is_it = |key: &crate::pod::PodKey| &*key.namespace == namespace && &*key.name == name;
    let wanted = world.wanted.pods.values().find(|p| is_it(&p.key));
    let mut there = world.seen.pods.iter().filter(|(_, seen)| seen.key.as_ref().is_some_and(is_it)).map(|(uid, _)| uid);
    let uid = wanted.map(|p| &p.uid).or_else(|| there.next())?;
    let none = (SeenPod::default(), PodMemory::default());
    let seen = world.seen.pods.get(uid).unwrap_or(&none.0);
    let memory = world.memory.pods.get(uid).unwrap_or(&none.1);
    let next = why::why(world, uid, view.now);
    let last_decision = next.last.clone().map(|(action, why, at)| Decision { action, why, time: at.to_string() });
    let waits_for = waits(view, uid, wanted.map(|p| &**p), memory, next);
    let sooner = |a: f64, b: f64| if a < b { a } else { b };
    Some(Why {
        api_version: API_VERSION.into(),
        kind: "Why".into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.to_string(),
        status: summary(world, uid, view.now).status,
        wanted: wanted.is_some(),
        line: wanted.map(|p| p.origin.line).filter(|l| *l > 0),
        manifest: wanted.and_then(|p| view.files.iter().find(|f| f.path == p.origin.path)).map(|f| rows::manifest(view, f)),
        last_decision,
        in_flight: memory.in_flight.as_ref().map(ToString::to_string),
        next_retry_seconds: waits_for.iter().filter_map(|w| w.retry_in_seconds).reduce(sooner),
        waits_for,
        sandbox: sandbox(seen, wanted.map(|p| &**p).or(seen.made_from.as_deref())),
        containers: seen.containers.values().map(|c| attempt(c, memory)).collect(),
        older: there.filter(|other| *other != uid).map(ToString::to_string).collect(),
    })
}

fn waits(view: &View<'_>, uid: &Uid, wanted: Option<&WantedPod>, memory: &PodMemory, next: why::Waiting) -> Vec<Wait> {
    let seconds_to = |due: Moment| due.since_ms(view.now.mono) as f64 / 1000.0;
    let mut waits = Vec::new();
    waits.extend(next.on.map(|on| Wait { on, retry_in_seconds: next.next.map(seconds_to), ..Wait::default() }));
    for (volume, (used, limit)) in &memory.overfull {
        let on = format!(
            "room in emptyDir `{volume}`: it holds {used} bytes, its sizeLimit is {limit}; free some, raise it, or have the pod made anew by annotation {RESTART_OVERFULL}"
        );
        waits.push(Wait { on, ..Wait::default() });
    }
    if let Some(unshown) = wanted.and_then(|pod| (view.unshown)(&pod.key)) {
        // It holds nothing up: the pod runs all the same.
        let on = "its mirror pod at the API server".to_owned();
        waits.push(Wait { on, message: Some(unshown.why), retry_in_seconds: unshown.due.map(seconds_to), ..Wait::default() });
    }
    if let (Some(pod), Some(url)) = (wanted, &view.url)
        && pod.origin.layer == url.layer
        && let Some(why) = &url.trouble
    {
        // Nor does this: its last good revision runs.
        let on = format!("an answer of {}", url.layer);
        let (retry_in_seconds, failures) = (Some(seconds_to(url.due)), Some(url.failures));
        waits.push(Wait { on, message: Some(why.clone()), retry_in_seconds, failures, ..Wait::default() });
    }
    // `plan` names what the pod as a whole waits for; each container has its own reason, in the kubelet's words.
    let Some(pod) = wanted else { return waits };
    let status = (view.status)(uid);
    // A pod that is over starts none of its containers any more, whatever they are shown as.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return waits;
    }
    for c in status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()) {
        let Some(waiting) = c.state.as_ref().and_then(|s| s.waiting.as_ref()) else {
            waits.extend(unpassed(memory, c));
            continue;
        };
        let (due, failures) = retry(view, pod, memory, &c.name).unzip();
        waits.push(Wait {
            on: format!("container {}", c.name),
            reason: waiting.reason.clone(),
            message: waiting.message.clone(),
            retry_in_seconds: due.map(seconds_to),
            failures,
        });
    }
    waits
}

/// The probe a running container waits for to be started or ready.
fn unpassed(memory: &PodMemory, c: &ContainerStatus) -> Option<Wait> {
    let watch = memory.containers.get(c.name.as_str())?.watch.as_ref().filter(|_| !c.ready)?;
    let open = |probe: Probe| watch.rounds.iter().find(|r| r.probe == probe && r.verdict != Some(true));
    let round = open(Probe::Startup).or_else(|| open(Probe::Readiness))?;
    let on = format!("container {}: its {} probe", c.name, round.probe.to_string().to_lowercase());
    Some(Wait { on, message: round.wrong.as_deref().map(ToOwned::to_owned), ..Wait::default() })
}

/// When a waiting container's next try is due, and how many failed before it in a row: of its start, its restart or its image.
fn retry(view: &View<'_>, pod: &WantedPod, memory: &PodMemory, name: &str) -> Option<(Moment, u32)> {
    let now = view.now.mono;
    let container = memory.containers.get(name);
    let create = container.and_then(|c| Some((c.create.wait(now)?, c.create.failures)));
    // `plan` measures a crash back-off from the end of the last run.
    let crash = container.and_then(|c| Some((c.crash.crash_due(c.exit?.1), c.crash.failures))).filter(|(due, _)| *due > now);
    let own = pod.containers.iter().filter(|w| &*w.name == name).map(|w| &w.image);
    let volumes = pod.volume_images.iter().filter(|v| v.users.iter().any(|u| &**u == name)).map(|v| &v.image);
    let pulls = own.chain(volumes).filter_map(|image| view.world.memory.images.get(image));
    create.or(crash).or_else(|| pulls.filter_map(|i| Some((i.pull.wait(now)?, i.pull.failures))).min())
}

fn sandbox(seen: &SeenPod, pod: Option<&WantedPod>) -> SandboxState {
    let network = if pod.is_some_and(|p| p.host_network) { "host" } else { "pod" }.into();
    match &seen.sandbox {
        Sandbox::Absent => SandboxState { state: "absent".into(), network, ..SandboxState::default() },
        Sandbox::Partial => SandboxState { state: "partial".into(), network, ..SandboxState::default() },
        Sandbox::Ready { ips, since } => SandboxState {
            state: "ready".into(),
            network,
            ips: ips.iter().map(ToString::to_string).collect(),
            since: Some(since.to_string()),
        },
    }
}

fn attempt(c: &SeenContainer, memory: &PodMemory) -> Attempt {
    let ended = |word: &str, exit: &Exit| (word.to_owned(), Some(exit.finished), Some(exit.code), Some(exit.reason.to_string()));
    let (state, since, exit_code, reason) = match &c.state {
        State::Record => ("record".into(), None, None, None),
        State::Created => ("created".into(), None, None, None),
        State::Running { since } => ("running".into(), Some(*since), None, None),
        State::Exited(exit) => ended("exited", exit),
        State::Lost(exit) => ended("lost", exit),
        State::Dead(exit) => ended("dead", exit),
    };
    let message = match &c.state {
        State::Exited(exit) | State::Lost(exit) | State::Dead(exit) => exit.message.as_deref().map(ToOwned::to_owned),
        State::Record | State::Created | State::Running { .. } => None,
    };
    // Who was ended by us did not say why itself.
    let doom = memory.containers.get(&c.name).and_then(|m| m.doom.as_deref()).filter(|d| d.id == c.id);
    let doom = doom.map(|d| match d.probe {
        Some(probe) => format!("{probe} probe failed: {}", d.message),
        None => format!("PostStartHook failed: {}", d.message),
    });
    Attempt {
        name: c.name.to_string(),
        id: c.id.to_string(),
        attempt: c.attempt,
        state,
        since: since.map(|t| t.to_string()),
        exit_code,
        reason,
        message: doom.or(message),
    }
}
