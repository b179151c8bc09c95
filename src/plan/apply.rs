//! Folds what happened into the world. Level by level: an event changes what is seen or remembered, never what is done next.

use std::rc::Rc;

use crate::clock::{Moment, Now};
use crate::plan::action::{Action, Class, Effect, Event, Failure, Outcome, Why};
use crate::plan::outcome::{done, failed, tidy};
use crate::plan::sweep::grace_ms;
use crate::plan::world::{Link, SeenImage, SeenPod, Shutdown, State, Wanted, World};
use crate::plan::{probe, status};
use crate::pod::{Hook, ImageRef, PullPolicy, RESTART_OVERFULL, Uid};

/// Folds one event in.
pub fn apply(world: &mut World, event: Event, now: Now) {
    match event {
        Event::Wanted(wanted) => want(world, wanted, now),
        Event::Link(link) => relink(world, link),
        Event::Hint(uid) => hint(world, uid),
        Event::HintAll => world.seen.listed = None,
        Event::Archives => forget_images(world),
        Event::Started(action, why) => started(world, action, why, now),
        Event::Ended(action, outcome) => ended(world, &action, outcome, now),
        Event::Asked(check) => probe::asked(world, &check, now.mono),
        Event::Answered(check, answer) => {
            probe::answered(world, &check, &answer, now);
        }
        Event::Hooked { uid, id, hook, failure } => probe::hooked(world, &uid, &id, hook, failure, now),
        Event::HookInClear { .. } | Event::Told { .. } => {}
        Event::Measured { uid, volume, used, limit } => measured(world, &uid, volume, used, limit),
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
        memory.began.get_or_insert(now.mono);
    }
    let kept: Vec<&Uid> = world.wanted.pods.values().map(|p| &p.uid).collect();
    let seen = &world.seen.pods;
    world.memory.pods.retain(|uid, m| m.in_flight.is_some() || seen.contains_key(uid) || kept.contains(&uid));
    let images: Vec<&ImageRef> = world.wanted.pods.values().flat_map(|p| p.images()).collect();
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
    world.memory.look.succeed();
    forget_images(world);
}

/// Where images are is found out anew, at once; pulls wait as before.
fn forget_images(world: &mut World) {
    world.seen.images.clear();
    for image in world.memory.images.values_mut() {
        image.look.succeed();
        image.touched = image.in_flight.is_some();
    }
}

/// What the kubelet evicts other pods for, but never static ones: a pod goes for it only if it asks to (`pod::RESTART_OVERFULL`).
fn measured(world: &mut World, uid: &Uid, volume: Rc<str>, used: u64, limit: u64) {
    let Some(pod) = world.wanted.pods.values().find(|p| p.uid == *uid) else { return };
    let goes = pod.object.metadata.annotations.as_ref().and_then(|a| a.get(RESTART_OVERFULL)).is_some_and(|v| v == "true");
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    if used <= limit {
        memory.overfull.remove(&volume);
        return;
    }
    memory.overfull.insert(volume, (used, limit));
    memory.terminating |= goes;
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
    let made_from = world.seen.pods.get(&uid).and_then(|p| p.made_from.clone());
    let made_from = made_from.or_else(|| world.wanted.pods.values().find(|p| p.uid == uid).cloned());
    let name = |id: &str| world.seen.pods.get(&uid).and_then(|p| p.containers.get(id)).map(|c| c.name.clone());
    let memory = world.memory.pods.entry(uid.clone()).or_default();
    match &action {
        Action::StartTask { id, .. } => {
            let name = name(id);
            let spec = made_from.iter().flat_map(|p| &p.containers).find(|c| Some(&c.name) == name.as_ref());
            if let Some(spec) = spec {
                probe::starting(memory.containers.entry(spec.name.clone()).or_default(), &spec.care, id);
            }
        }
        Action::RunHook { id, hook: Hook::PreStop, .. } => {
            memory.stops.entry(id.clone()).or_default().hook.get_or_insert(now.mono);
            let doomed = memory.containers.values().any(|c| c.doom.as_ref().is_some_and(|d| d.id == *id));
            if !doomed {
                let budget = Moment(now.mono.0.saturating_add(grace_ms(made_from.as_deref())));
                memory.stop_by.get_or_insert(budget);
            }
        }
        Action::RunHook { id, hook: Hook::PostStart, .. } => {
            let hooks = memory.containers.values_mut().filter_map(|c| c.post_start.as_mut());
            hooks.filter(|h| h.id == *id).for_each(|h| h.begun = true);
        }
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
            world.memory.look.fail(&failure.eased(), world.limits.create_backoff_ms, now.mono);
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
    let touched = std::mem::take(&mut memory.touched);
    let look = pull == PullPolicy::Never;
    let retry = if look { &mut memory.look } else { &mut memory.pull };
    match outcome {
        Outcome::Done(Effect::Image(SeenImage::Ready { id, local })) => {
            memory.look.succeed();
            // That an image is there does not make a dead registry a live one.
            if !look {
                memory.pull.succeed();
            }
            world.seen.images.insert(image.clone(), SeenImage::Ready { id, local });
            if pull == PullPolicy::Always {
                credit(world, image);
            }
        }
        // It began to look before the last change: another look tells.
        _ if touched && look => {}
        Outcome::Done(_) => {
            let failure = absent(image, look);
            retry.fail(&failure, world.limits.pull_backoff_ms, now.mono);
            world.seen.images.insert(image.clone(), SeenImage::Absent);
        }
        Outcome::Failed(failure) => {
            retry.fail(&failure.eased(), world.limits.pull_backoff_ms, now.mono);
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
            let seen = world.seen.pods.get(&pod.uid);
            let last = seen.and_then(|s| s.containers.values().filter(|a| a.name == c.name).max_by_key(|a| a.attempt));
            let next = match last {
                None => seen.map_or(0, |s| s.begins_at(&c.name)),
                Some(a) if a.state == State::Record => a.attempt,
                Some(a) => a.attempt.saturating_add(1),
            };
            let memory = world.memory.pods.entry(pod.uid.clone()).or_default();
            memory.containers.entry(c.name.clone()).or_default().pulled_for = Some(next);
        }
        if pod.volume_images.iter().any(|v| v.pull == PullPolicy::Always && v.image == *image) {
            world.memory.pods.entry(pod.uid.clone()).or_default().volumes_pulled.insert(image.clone());
        }
    }
}
