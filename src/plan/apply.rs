//! Folds what happened into the world. Level by level: an event changes what is seen or remembered, never what is done next.

use std::collections::BTreeMap;

use crate::clock::{Moment, Now, Wall};
use crate::plan::action::{Action, Class, Effect, Event, Failure, Outcome, Why};
use crate::plan::backoff::moment_of;
use crate::plan::status;
use crate::plan::sweep::{MIN_GRACE_MS, grace_ms};
use crate::plan::view::in_sandbox;
use crate::plan::world::{
    ContainerMemory, Limits, Link, PodMemory, Retry, Sandbox, SeenContainer, SeenImage, SeenPod, Shutdown, State, Wanted, World,
};
use crate::pod::{ImageRef, Kind, PullPolicy, Uid};

/// Folds one event in.
pub fn apply(world: &mut World, event: Event, now: Now) {
    match event {
        Event::Wanted(wanted) => want(world, wanted, now),
        Event::Link(link) => relink(world, link),
        Event::Hint(uid) => hint(world, uid),
        Event::HintAll => world.seen.listed = None,
        Event::Started(action, why) => started(world, action, why, now),
        Event::Ended(action, outcome) => ended(world, &action, outcome, now),
        Event::Shutdown { grace, critical } => {
            let critical_ms = u64::try_from(critical.as_millis()).unwrap_or(u64::MAX);
            let shutdown = Shutdown { since: now.mono, deadline: now.mono + grace, critical_ms };
            world.wanted.shutdown.get_or_insert(shutdown);
        }
    }
}

fn want(world: &mut World, wanted: Wanted, now: Now) {
    let shutdown = world.wanted.shutdown.take();
    world.wanted = Wanted { shutdown: shutdown.or(wanted.shutdown), ..wanted };
    for pod in world.wanted.pods.values() {
        let memory = world.memory.pods.entry(pod.uid.clone()).or_default();
        memory.known_since.get_or_insert(now.wall);
    }
    let kept: Vec<&Uid> = world.wanted.pods.values().map(|p| &p.uid).collect();
    let seen = &world.seen.pods;
    world.memory.pods.retain(|uid, m| m.in_flight.is_some() || seen.contains_key(uid) || kept.contains(&uid));
    let images: Vec<&ImageRef> = world.wanted.pods.values().flat_map(|p| &p.containers).map(|c| &c.image).collect();
    world.memory.images.retain(|image, m| m.in_flight.is_some() || images.contains(&image));
    world.seen.images.retain(|image, _| images.contains(&image));
}

/// A link that was lost may lead to another containerd, with other images: everything is looked at again.
fn relink(world: &mut World, link: Link) {
    if matches!((&world.seen.link, &link), (Link::Up { .. }, Link::Up { .. })) {
        world.seen.link = link;
        return;
    }
    world.seen.link = link;
    world.seen.listed = None;
    world.seen.images.clear();
    world.memory.look.succeed();
    for image in world.memory.images.values_mut() {
        image.look.succeed();
    }
}

fn hint(world: &mut World, uid: Uid) {
    if world.memory.looking {
        world.memory.touched.insert(uid.clone());
    }
    if let Some(memory) = world.memory.pods.get_mut(&uid) {
        memory.hinted = memory.in_flight.is_some();
    }
    world.seen.pods.entry(uid).or_default().stale = true;
}

fn started(world: &mut World, action: Action, why: Why, now: Now) {
    let Some(uid) = action.uid().cloned() else {
        match action {
            Action::LookAll => {
                world.memory.looking = true;
                world.memory.touched =
                    world.memory.pods.iter().filter(|(_, m)| m.in_flight.is_some()).map(|(uid, _)| uid.clone()).collect();
            }
            Action::PrepareImage { image, pull } => world.memory.images.entry(image).or_default().in_flight = Some(pull),
            _ => {}
        }
        return;
    };
    let unwanted = world.wanted.shutdown.is_some() || !world.wanted.pods.values().any(|p| p.uid == uid);
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    match &action {
        Action::Term { id, .. } => {
            memory.stops.entry(id.clone()).or_default().asked.get_or_insert(now.mono);
        }
        Action::Kill { id, .. } => memory.stops.entry(id.clone()).or_default().killed = Some(now.mono),
        _ => {}
    }
    memory.terminating |= unwanted && !matches!(action, Action::Look { .. }) && world.wanted.shutdown.is_none();
    memory.hinted = false;
    memory.last = Some((action.clone(), why, now.wall));
    memory.in_flight = Some(action);
}

fn ended(world: &mut World, action: &Action, outcome: Outcome, now: Now) {
    match (action, action.uid()) {
        (Action::LookAll, _) => looked_at_all(world, outcome, now),
        (Action::PrepareImage { image, pull }, _) => prepared(world, image, *pull, outcome, now),
        (_, Some(uid)) => {
            if world.memory.looking {
                world.memory.touched.insert(uid.clone());
            }
            let memory = world.memory.pods.entry(uid.clone()).or_default();
            memory.in_flight = None;
            match outcome {
                Outcome::Done(effect) => done(world, uid, action, effect, now),
                Outcome::Failed(failure) => failed(world, uid, action, &failure, now),
            }
            tidy(world, uid, now);
            status::note(world, uid, now);
        }
        (_, None) => {}
    }
}

/// A full look answers for every pod nothing happened to meanwhile; the others keep what is known of them and are looked at singly.
fn looked_at_all(world: &mut World, outcome: Outcome, now: Now) {
    let touched = std::mem::take(&mut world.memory.touched);
    world.memory.looking = false;
    let mut pods = match outcome {
        Outcome::Done(Effect::All(pods)) => pods,
        Outcome::Done(_) => return,
        Outcome::Failed(failure) => {
            world.memory.look.fail(&failure, world.limits.create_backoff_ms, now.mono);
            return;
        }
    };
    world.memory.look.succeed();
    let mut old = std::mem::take(&mut world.seen.pods);
    for uid in touched {
        if let Some(known) = old.remove(&uid).or_else(|| pods.remove(&uid)) {
            pods.insert(uid, SeenPod { stale: true, ..known });
        }
    }
    world.seen.pods = pods;
    world.seen.listed = Some(now.mono);
    let uids: Vec<Uid> = old.into_keys().chain(world.seen.pods.keys().cloned()).collect();
    for uid in uids {
        tidy(world, &uid, now);
        status::note(world, &uid, now);
    }
}

fn prepared(world: &mut World, image: &ImageRef, pull: PullPolicy, outcome: Outcome, now: Now) {
    let memory = world.memory.images.entry(image.clone()).or_default();
    memory.in_flight = None;
    let look = pull == PullPolicy::Never;
    let retry = if look { &mut memory.look } else { &mut memory.pull };
    match outcome {
        Outcome::Done(Effect::Image(SeenImage::Ready { id })) => {
            memory.look.succeed();
            // That an image is there does not make a dead registry a live one.
            if !look {
                memory.pull.succeed();
            }
            world.seen.images.insert(image.clone(), SeenImage::Ready { id });
            if pull == PullPolicy::Always {
                credit(world, image);
            }
        }
        Outcome::Done(_) => {
            let failure = absent(image, look);
            retry.fail(&failure, world.limits.pull_backoff_ms, now.mono);
            world.seen.images.insert(image.clone(), SeenImage::Absent);
        }
        Outcome::Failed(failure) => {
            // The kubelet's pace whatever is wrong: an archive is mended and a tag is pushed without plinth hearing of it.
            let class = if failure.class == Class::Refused { Class::Retry } else { failure.class };
            retry.fail(&Failure { class, ..failure.clone() }, world.limits.pull_backoff_ms, now.mono);
            if look && &*failure.reason == "ErrImageNeverPull" {
                world.seen.images.insert(image.clone(), SeenImage::Absent);
            }
        }
    }
}

fn absent(image: &ImageRef, look: bool) -> Failure {
    let class = Class::Retry;
    if look {
        let message = format!("Container image \"{image}\" is not present with pull policy of Never");
        return Failure { class, reason: "ErrImageNeverPull".into(), message: message.into() };
    }
    Failure { class, reason: "ErrImagePull".into(), message: format!("image `{image}` is not there after it was pulled").into() }
}

/// One answer of the registry serves every container that waits for it (`Always` asks once per attempt).
fn credit(world: &mut World, image: &ImageRef) {
    for pod in world.wanted.pods.values() {
        for c in pod.containers.iter().filter(|c| c.pull == PullPolicy::Always && c.image == *image) {
            let last =
                world.seen.pods.get(&pod.uid).and_then(|s| s.containers.values().filter(|a| a.name == c.name).max_by_key(|a| a.attempt));
            let next = match last {
                None => 0,
                Some(a) if a.state == State::Record => a.attempt,
                Some(a) => a.attempt.saturating_add(1),
            };
            let memory = world.memory.pods.entry(pod.uid.clone()).or_default();
            memory.containers.entry(c.name.clone()).or_default().pulled_for = Some(next);
        }
    }
}

fn done(world: &mut World, uid: &Uid, action: &Action, effect: Effect, now: Now) {
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
            if !keep && pod.containers.is_empty() {
                world.seen.pods.remove(uid);
            }
        }
        (Action::Term { .. }, Effect::Signalled) => {}
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
        Action::DeleteSandbox { .. } => memory.other.succeed(),
        Action::StartTask { id, .. } => {
            if let Some((name, _)) = container(id) {
                memory.containers.entry(name).or_default().create.succeed();
            }
        }
        Action::Term { id, .. } => {
            let budget = Moment(now.mono.0.saturating_add(grace));
            let by = *memory.stop_by.get_or_insert(budget);
            let sidecar = container(id).is_some_and(|(_, kind)| kind == Kind::Sidecar);
            let stop = memory.stops.entry(id.clone()).or_default();
            stop.retry.succeed();
            // Main containers are asked together: each has the whole grace. Sidecars get what is left of it.
            stop.kill_at = Some(if sidecar { by.max(Moment(now.mono.0.saturating_add(MIN_GRACE_MS))) } else { budget });
        }
        Action::Kill { id, .. } | Action::DeleteTask { id, .. } | Action::DeleteContainer { id, .. } => {
            if let Some(stop) = memory.stops.get_mut(id) {
                stop.retry.succeed();
            }
        }
        Action::LookAll | Action::PrepareImage { .. } | Action::CreateContainer { .. } => {}
    }
}

fn failed(world: &mut World, uid: &Uid, action: &Action, failure: &Failure, now: Now) {
    let range = world.limits.create_backoff_ms;
    let name = |id: &str| world.seen.pods.get(uid).and_then(|p| p.containers.get(id)).map(|c| c.name.clone());
    let started = if let Action::StartTask { id, .. } = action { name(id) } else { None };
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    let retry = match action {
        Action::LookAll | Action::PrepareImage { .. } => return,
        Action::Look { .. } => &mut memory.look,
        Action::CreateSandbox { .. } => &mut memory.sandbox,
        Action::DeleteSandbox { .. } => &mut memory.other,
        Action::CreateContainer { name, .. } => &mut memory.containers.entry(name.clone()).or_default().create,
        Action::StartTask { .. } => match started {
            Some(name) => &mut memory.containers.entry(name).or_default().create,
            None => &mut memory.other,
        },
        Action::Term { id, .. } | Action::Kill { id, .. } | Action::DeleteTask { id, .. } | Action::DeleteContainer { id, .. } => {
            &mut memory.stops.entry(id.clone()).or_default().retry
        }
    };
    retry.fail(failure, range, now.mono);
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
    if let Some(container) = pod.and_then(|p| p.containers.iter().find(|c| &*c.name == name)) {
        world.seen.images.remove(&container.image);
    }
}

/// After anything changed of a pod: what its containers' states say about memory, and what may be forgotten.
fn tidy(world: &mut World, uid: &Uid, now: Now) {
    let wanted = world.wanted.pods.values().any(|p| p.uid == *uid);
    let Some(pod) = world.seen.pods.get(uid) else {
        forget(&mut world.memory.pods, uid, wanted, now.wall);
        return;
    };
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    memory.stops.retain(|id, _| pod.containers.contains_key(id));
    if !pod.containers.values().any(|c| matches!(c.state, State::Running { .. }) && memory.stops.contains_key(&c.id)) {
        memory.stop_by = None;
    }
    for c in pod.containers.values() {
        let newer = pod.containers.values().any(|o| o.name == c.name && o.attempt > c.attempt);
        if !newer {
            note(memory.containers.entry(c.name.clone()).or_default(), c, &pod.sandbox, &world.limits, now);
        }
    }
}

fn forget(pods: &mut BTreeMap<Uid, PodMemory>, uid: &Uid, wanted: bool, now: Wall) {
    match pods.get_mut(uid) {
        Some(memory) if memory.in_flight.is_some() => {}
        Some(memory) if wanted && memory.terminating => *memory = PodMemory { known_since: Some(now), ..PodMemory::default() },
        Some(_) if !wanted => {
            pods.remove(uid);
        }
        _ => {}
    }
}

/// Books restarts and ends of a container's newest attempt as they are first seen.
fn note(memory: &mut ContainerMemory, c: &SeenContainer, sandbox: &Sandbox, limits: &Limits, now: Now) {
    match memory.counted {
        Some(counted) if counted < c.attempt => {
            let exit = memory.exit.map(|(_, at)| at);
            memory.crash.count_restart(exit, limits, now.mono);
        }
        None if c.attempt > 0 && in_sandbox(c, sandbox) => memory.crash = Retry::recalled(moment_of(c.created, now), limits),
        // Everything of it was lost and it begins anew: the crash book stays, the end on it is of another life.
        Some(counted) if counted > c.attempt => memory.exit = None,
        Some(_) | None => {}
    }
    memory.counted = Some(c.attempt);
    if let State::Exited(exit) | State::Lost(exit) | State::Dead(exit) = &c.state
        && memory.exit.is_none_or(|(attempt, _)| attempt != c.attempt)
    {
        memory.exit = Some((c.attempt, moment_of(exit.finished, now)));
    }
}
