//! `/v1/why/{ns}/{pod}`: the file that won, the last decision, what the pod waits for. What it waits for is asked of
//! `plan` itself, so that this answer cannot differ from what is done.

use super::wire::{API_VERSION, Attempt, Decision, SandboxState, Wait, Why};
use super::{View, rows};
use crate::clock::Moment;
use crate::plan::step::{On, Step, step};
use crate::plan::view::Scene;
use crate::plan::world::{Exit, Link, PodMemory, Retry, Sandbox, SeenContainer, SeenPod, State};
use crate::pod::{Uid, WantedPod};

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
    let waits_for = waits(view, uid, wanted.map(|p| &**p), memory);
    let sooner = |a: f64, b: f64| if a < b { a } else { b };
    Some(Why {
        api_version: API_VERSION.into(),
        kind: "Why".into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.to_string(),
        status: status_word(view, wanted.map(|p| &**p)),
        wanted: wanted.is_some(),
        line: wanted.map(|p| p.origin.line).filter(|l| *l > 0),
        manifest: wanted.and_then(|p| view.files.iter().find(|f| f.path == p.origin.path)).map(|f| rows::manifest(view, f)),
        last_decision: memory.last.as_ref().map(|(action, why, at)| Decision {
            action: action.to_string(),
            why: why.to_string(),
            time: at.to_string(),
        }),
        in_flight: memory.in_flight.as_ref().map(ToString::to_string),
        next_retry_seconds: waits_for.iter().filter_map(|w| w.retry_in_seconds).reduce(sooner),
        waits_for,
        sandbox: sandbox(seen, wanted.map(|p| &**p).or(seen.made_from.as_deref())),
        containers: seen.containers.values().map(attempt).collect(),
        older: there.filter(|other| *other != uid).map(ToString::to_string).collect(),
    })
}

fn status_word(view: &View<'_>, wanted: Option<&WantedPod>) -> String {
    let spec = wanted.and_then(|p| Some((p.object.spec.as_ref()?, (view.status)(&p.uid))));
    spec.map_or_else(|| "Terminating".into(), |(spec, status)| rows::row(spec, &status).status)
}

fn waits(view: &View<'_>, uid: &Uid, wanted: Option<&WantedPod>, memory: &PodMemory) -> Vec<Wait> {
    let world = view.world;
    let seconds_to = |due: Moment| due.since_ms(view.now.mono) as f64 / 1000.0;
    let mut waits = Vec::new();
    if let Link::Down { why, .. } = &world.seen.link {
        waits.push(Wait { on: "containerd to answer".into(), message: Some(why.to_string()), ..Wait::default() });
        return waits;
    }
    let scene = Scene::new(world, view.now.mono);
    if let Step::Wait(on, due) = step(&scene.pod(uid)) {
        let retry = retry_of(&on);
        waits.push(Wait {
            on: on.to_string(),
            reason: retry.and_then(|r| r.reason.as_deref()).map(ToOwned::to_owned),
            message: None,
            retry_in_seconds: due.map(seconds_to),
            failures: retry.map(|r| r.failures).filter(|n| *n > 0),
        });
    }
    // `step` names the first wait; each container has its own.
    let Some(pod) = wanted else { return waits };
    let status = (view.status)(&pod.uid);
    for c in status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()) {
        let Some(waiting) = c.state.as_ref().and_then(|s| s.waiting.as_ref()) else { continue };
        let retries = memory.containers.get(c.name.as_str()).map_or([None, None], |m| [Some(&m.create), Some(&m.crash)]);
        let image = pod.containers.iter().find(|w| *w.name == *c.name).and_then(|w| world.memory.images.get(&w.image)).map(|m| &m.pull);
        let pending = |r: &&Retry| r.not_before.is_some_and(|due| due > view.now.mono);
        let retry = retries.into_iter().flatten().chain(image).find(pending);
        waits.push(Wait {
            on: format!("container {}", c.name),
            reason: waiting.reason.clone(),
            message: waiting.message.clone(),
            retry_in_seconds: retry.and_then(|r| r.not_before).map(seconds_to),
            failures: retry.map(|r| r.failures),
        });
    }
    waits
}

fn retry_of<'a>(on: &On<'a>) -> Option<&'a Retry> {
    match on {
        On::Look(r) | On::Sandbox(r) | On::Removal(r) => Some(r),
        On::Pull { retry, .. } | On::Create { retry, .. } | On::Cleaning { retry, .. } => Some(retry),
        On::Action(_)
        | On::Layers
        | On::Turn
        | On::Predecessor(_)
        | On::Image { .. }
        | On::Crash { .. }
        | On::Init { .. }
        | On::Sidecar { .. }
        | On::Grace { .. }
        | On::Killed { .. } => None,
    }
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

fn attempt(c: &SeenContainer) -> Attempt {
    let ended = |word: &str, exit: &Exit| (word.to_owned(), Some(exit.finished), Some(exit.code), Some(exit.reason.to_string()));
    let (state, since, exit_code, reason) = match &c.state {
        State::Record => ("record".into(), None, None, None),
        State::Created => ("created".into(), None, None, None),
        State::Running { since } => ("running".into(), Some(*since), None, None),
        State::Exited(exit) => ended("exited", exit),
        State::Lost(exit) => ended("lost", exit),
        State::Dead(exit) => ended("dead", exit),
    };
    Attempt {
        name: c.name.to_string(),
        id: c.id.to_string(),
        attempt: c.attempt,
        state,
        since: since.map(|t| t.to_string()),
        exit_code,
        reason,
    }
}
