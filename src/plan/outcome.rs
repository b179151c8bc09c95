//! What came of an action on a pod, folded into what is seen and remembered of that pod. Called by `apply` alone.

use std::collections::BTreeMap;

use crate::clock::{Moment, Now};
use crate::plan::action::{Action, Class, Effect, Failure};
use crate::plan::backoff::moment_of;
use crate::plan::probe;
use crate::plan::sweep::{MIN_GRACE_MS, grace_ms};
use crate::plan::view::in_sandbox;
use crate::plan::world::{ContainerMemory, Limits, PodMemory, Retry, Sandbox, SeenContainer, SeenPod, State, World};
use crate::pod::{Hook, Kind, Uid};

/// An action on a pod was done: what is there now.
pub(super) fn done(world: &mut World, uid: &Uid, action: &Action, effect: Effect, now: Now) {
    let hinted = world.memory.pods.get(uid).is_some_and(|m| m.hinted);
    match (action, effect) {
        (Action::Look { .. }, Effect::Pod(Some(pod))) => {
            world.seen.pods.insert(uid.clone(), SeenPod { stale: hinted, ..*pod });
        }
        (Action::Look { .. }, Effect::Pod(None)) => {
            world.seen.pods.remove(uid);
        }
        (Action::CreateSandbox { .. }, Effect::Sandbox(sandbox)) => seen(world, uid).sandbox = sandbox,
        (_, Effect::Container(container)) => {
            seen(world, uid).containers.insert(container.id.clone(), *container);
        }
        (Action::DeleteContainer { id, .. }, Effect::Gone) => {
            seen(world, uid).containers.remove(id);
        }
        (Action::DeleteSandbox { keep, .. }, Effect::Gone) => {
            let pod = seen(world, uid);
            pod.sandbox = Sandbox::Absent;
            if !keep {
                pod.logged.clear();
                if pod.containers.is_empty() {
                    world.seen.pods.remove(uid);
                }
            }
        }
        (Action::Term { .. }, Effect::Signalled) | (Action::RunHook { .. }, Effect::Begun) => {}
        // It may have been gone before: look, rather than wait for a hint that has come already.
        _ => seen(world, uid).stale = true,
    }
    succeeded(world, uid, action, now);
}

fn seen<'a>(world: &'a mut World, uid: &Uid) -> &'a mut SeenPod {
    let wanted = || world.wanted.pods.values().find(|p| p.uid == *uid).cloned();
    let pod = world.seen.pods.entry(uid.clone()).or_default();
    if pod.made_from.is_none() {
        pod.made_from = wanted();
        pod.key = pod.key.take().or_else(|| pod.made_from.as_ref().map(|p| p.key.clone()));
    }
    pod
}

fn succeeded(world: &mut World, uid: &Uid, action: &Action, now: Now) {
    let pod = world.seen.pods.get(uid);
    let made_from = pod.and_then(|p| p.made_from.as_deref()).or_else(|| world.wanted.pods.values().find(|p| p.uid == *uid).map(|p| &**p));
    let grace = grace_ms(made_from);
    let container = |id: &str| pod.and_then(|p| p.containers.get(id)).map(|c| (c.name.clone(), c.kind));
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    match action {
        Action::Look { .. } => memory.look.succeed(),
        Action::CreateSandbox { .. } => memory.sandbox.succeed(),
        Action::DeleteSandbox { .. } => {
            memory.other.succeed();
            memory.volumes_pulled.clear();
        }
        Action::StartTask { id, .. } => {
            if let Some((name, _)) = container(id) {
                memory.containers.entry(name).or_default().create.succeed();
            }
        }
        Action::Term { id, .. } => {
            let doom = memory.containers.values().find_map(|c| c.doom.as_deref().filter(|d| d.id == *id)).cloned();
            let begun = memory.stops.get(id).and_then(|s| s.hook).unwrap_or(now.mono);
            let least = Moment(now.mono.0.saturating_add(MIN_GRACE_MS));
            // One container of a pod that goes on has a grace of its own.
            if let Some(doom) = doom {
                let stop = memory.stops.entry(id.clone()).or_default();
                stop.retry.succeed();
                stop.kill_at = Some(Moment(begun.0.saturating_add(doom.grace_ms.unwrap_or(grace))).max(least));
                return;
            }
            let budget = Moment(begun.0.saturating_add(grace));
            let by = *memory.stop_by.get_or_insert(budget);
            let sidecar = container(id).is_some_and(|(_, kind)| kind == Kind::Sidecar);
            let stop = memory.stops.entry(id.clone()).or_default();
            stop.retry.succeed();
            // Main containers are asked together: each has the whole grace. Sidecars get what is left of it.
            stop.kill_at = Some(if sidecar { by } else { budget }.max(least));
        }
        Action::Kill { id, .. } | Action::DeleteTask { id, .. } | Action::DeleteContainer { id, .. } => {
            if let Some(stop) = memory.stops.get_mut(id) {
                stop.retry.succeed();
            }
        }
        Action::RunHook { id, hook: Hook::PostStart, .. } => {
            if let Some((name, _)) = container(id) {
                memory.containers.entry(name).or_default().create.succeed();
            }
        }
        Action::RunHook { hook: Hook::PreStop, .. } | Action::LookAll | Action::PrepareImage { .. } | Action::CreateContainer { .. } => {}
    }
}

/// An action on a pod failed: what it waits, and that it is looked at first.
pub(super) fn failed(world: &mut World, uid: &Uid, action: &Action, failure: &Failure, now: Now) {
    let range = world.limits.create_backoff_ms;
    let name = |id: &str| world.seen.pods.get(uid).and_then(|p| p.containers.get(id)).map(|c| c.name.clone());
    let started = match action {
        Action::StartTask { id, .. } | Action::RunHook { id, hook: Hook::PostStart, .. } => name(id),
        _ => None,
    };
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    let retry = match action {
        Action::LookAll | Action::PrepareImage { .. } => return,
        Action::Look { .. } => &mut memory.look,
        Action::CreateSandbox { .. } => &mut memory.sandbox,
        Action::DeleteSandbox { .. } => &mut memory.other,
        Action::CreateContainer { name, .. } => &mut memory.containers.entry(name.clone()).or_default().create,
        Action::RunHook { id, hook: Hook::PreStop, .. } => {
            // As if it had run and failed: the stop goes on (kubelet).
            memory.stops.entry(id.clone()).or_default().hook_done = true;
            seen(world, uid).stale = true;
            return;
        }
        Action::StartTask { .. } | Action::RunHook { hook: Hook::PostStart, .. } => match started {
            Some(name) => &mut memory.containers.entry(name).or_default().create,
            None => &mut memory.other,
        },
        Action::Term { id, .. } | Action::Kill { id, .. } | Action::DeleteTask { id, .. } | Action::DeleteContainer { id, .. } => {
            &mut memory.stops.entry(id.clone()).or_default().retry
        }
    };
    match action {
        Action::Look { .. } => retry.fail(&failure.eased(), range, now.mono),
        _ => retry.fail(failure, range, now.mono),
    }
    if let Action::RunHook { id, .. } = action {
        let hooks = memory.containers.values_mut().filter_map(|c| c.post_start.as_mut());
        hooks.filter(|h| h.id == *id).for_each(|h| h.begun = false);
    }
    if let Action::Term { id, .. } = action {
        memory.stops.entry(id.clone()).or_default().asked = Some(now.mono);
    }
    if let (Action::CreateContainer { name, .. }, Class::Gone) = (action, failure.class) {
        forget_image(world, uid, name);
    }
    // Whatever it did before it failed shows when the pod is looked at.
    seen(world, uid).stale = true;
}

/// Something a container is made of is gone, perhaps its image: have that looked for again.
fn forget_image(world: &mut World, uid: &Uid, name: &str) {
    let pod = world.wanted.pods.values().find(|p| p.uid == *uid);
    let Some(pod) = pod else { return };
    let own = pod.containers.iter().filter(|c| &*c.name == name).map(|c| &c.image);
    let volumes = pod.volume_images.iter().filter(|v| v.users.iter().any(|u| &**u == name)).map(|v| &v.image);
    for image in own.chain(volumes) {
        world.seen.images.remove(image);
    }
}

/// After anything changed of a pod: what its containers' states say about memory, and what may be forgotten.
pub(super) fn tidy(world: &mut World, uid: &Uid, now: Now) {
    let wanted = world.wanted.pods.values().any(|p| p.uid == *uid);
    let Some(pod) = world.seen.pods.get(uid) else {
        forget(&mut world.memory.pods, uid, wanted, now);
        return;
    };
    let made_from = pod.made_from.as_deref().or_else(|| world.wanted.pods.values().find(|p| p.uid == *uid).map(|p| &**p));
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    if made_from.is_some_and(|p| p.active_deadline_s.is_some()) {
        begin(memory, pod, now);
    }
    memory.stops.retain(|id, _| pod.containers.contains_key(id));
    if !pod.containers.values().any(|c| matches!(c.state, State::Running { .. }) && memory.stops.contains_key(&c.id)) {
        memory.stop_by = None;
    }
    for c in pod.containers.values() {
        let others = || pod.containers.values().filter(|o| o.name == c.name);
        if !others().any(|o| o.attempt > c.attempt) {
            let spec = made_from.and_then(|p| p.containers.iter().find(|w| w.name == c.name));
            let memory = memory.containers.entry(c.name.clone()).or_default();
            note(memory, c, others().any(|o| o.attempt < c.attempt), &pod.sandbox, &world.limits, now);
            probe::attend(memory, uid, c, spec.map(|s| &s.care), now);
        }
    }
}

/// What is there may tell that a pod is older than our memory of it.
fn begin(memory: &mut PodMemory, pod: &SeenPod, now: Now) {
    let sandbox = if let Sandbox::Ready { since, .. } = pod.sandbox { Some(since) } else { None };
    let oldest = pod.containers.values().map(|c| c.sandbox.unwrap_or(c.created)).filter(|at| at.0 > 0).chain(sandbox).min();
    let began = oldest.map_or(now.mono, |at| moment_of(at, now));
    memory.began = Some(memory.began.map_or(began, |b| b.min(began)));
}

fn forget(pods: &mut BTreeMap<Uid, PodMemory>, uid: &Uid, wanted: bool, now: Now) {
    match pods.get_mut(uid) {
        Some(memory) if memory.in_flight.is_some() => {}
        Some(memory) if wanted && memory.terminating => {
            *memory = PodMemory { known_since: Some(now.wall), began: Some(now.mono), ..PodMemory::default() }
        }
        Some(_) if !wanted => {
            pods.remove(uid);
        }
        _ => {}
    }
}

/// Books restarts and ends of a container's newest attempt as they are first seen. One that `follows` no other, whose record is lost,
/// is no restart after a crash, whatever its number (kubelet: `doBackOff` without a status).
fn note(memory: &mut ContainerMemory, c: &SeenContainer, follows: bool, sandbox: &Sandbox, limits: &Limits, now: Now) {
    match memory.counted {
        Some(counted) if counted < c.attempt && follows => {
            let exit = memory.exit.map(|(_, at)| at);
            memory.crash.count_restart(exit, limits, now.mono);
        }
        None if c.attempt > 0 && in_sandbox(c, sandbox) => memory.crash = Retry::recalled(moment_of(c.created, now), limits),
        // Everything of it was lost and it begins anew: the crash book stays, the end on it is of another life.
        Some(counted) if counted > c.attempt => memory.exit = None,
        Some(_) | None => {}
    }
    memory.counted = Some(c.attempt);
    if matches!(c.state, State::Running { .. }) {
        memory.ran = Some(c.attempt);
    }
    if let State::Exited(exit) | State::Lost(exit) | State::Dead(exit) = &c.state
        && memory.exit.is_none_or(|(attempt, _)| attempt != c.attempt)
    {
        memory.exit = Some((c.attempt, moment_of(exit.finished, now)));
    }
}
