//! Which images are prepared now: keyed by image, pods wait on them. Pulls are capped, looks are not.
//!
//! An image nobody looked for yet is looked for first (`pull: Never`), so that one which is there, or in an archive on this host, never
//! queues behind a slow pull.
//! `Always` asks the registry once per attempt, as the kubelet does.

use std::collections::BTreeSet;

use crate::clock::Moment;
use crate::plan::action::{Action, Plan, Why};
use crate::plan::order;
use crate::plan::step::{Fate, On, earlier, fate};
use crate::plan::view::{Scene, View};
use crate::plan::world::{Retry, SeenImage, World};
use crate::pod::{ImageRef, PullPolicy, Uid, WantedContainer, WantedPod};

/// Where the image of one container's attempt is.
pub enum Image<'a> {
    /// There.
    Ready,
    /// Something is in flight for it.
    Preparing,
    /// It is to be prepared so.
    Needs(PullPolicy),
    /// It failed; not before then.
    Later(Moment, &'a Retry),
}

/// Where the image of one container's attempt is.
pub fn state<'a>(v: &View<'a>, container: &WantedContainer, attempt: u32) -> Image<'a> {
    let world = v.scene.world;
    let seen = world.seen.images.get(&container.image);
    let memory = world.memory.images.get(&container.image);
    let ready = matches!(seen, Some(SeenImage::Ready { .. }));
    let asked = container.pull != PullPolicy::Always || v.container(&container.name).pulled_for == Some(attempt);
    if ready && asked {
        return Image::Ready;
    }
    if memory.is_some_and(|m| m.in_flight.is_some()) {
        return Image::Preparing;
    }
    let how = match (container.pull, seen) {
        (PullPolicy::Always, _) => PullPolicy::Always,
        (PullPolicy::IfNotPresent, Some(_)) => PullPolicy::IfNotPresent,
        (PullPolicy::IfNotPresent, None) | (PullPolicy::Never, _) => PullPolicy::Never,
    };
    let retry = memory.map(|m| if how == PullPolicy::Never { &m.look } else { &m.pull });
    match retry.and_then(|r| Some((r.wait(v.now())?, r))) {
        Some((due, retry)) => Image::Later(due, retry),
        None => Image::Needs(how),
    }
}

/// Adds the image actions to a plan: for pods that run or will run once their predecessor is gone.
pub fn prepare<'a>(scene: &'a Scene<'a>, pods: impl Iterator<Item = &'a Uid>, plan: &mut Plan) {
    let mut pulling = in_flight(scene.world);
    let mut planned: BTreeSet<&ImageRef> = BTreeSet::new();
    for uid in pods {
        let v = scene.pod(uid);
        let Some(pod) = v.wanted else { continue };
        for (index, container) in pod.containers.iter().enumerate() {
            let Some(attempt) = order::upcoming(&v, pod, index, container) else { continue };
            // Asked last, and only of the few pods that lack something: this runs on every event.
            if !will_run(&v, pod) {
                break;
            }
            let pull = match state(&v, container, attempt) {
                Image::Needs(pull) => pull,
                Image::Later(due, _) => {
                    plan.wake = earlier(plan.wake, Some(due));
                    continue;
                }
                Image::Ready | Image::Preparing => continue,
            };
            let slow = pull != PullPolicy::Never;
            if planned.contains(&container.image) || (slow && pulling >= scene.world.limits.pulls.max(1)) {
                continue;
            }
            planned.insert(&container.image);
            pulling += usize::from(slow);
            let why = Why(format!("{} of pod {} needs it", container.name, pod.key).into());
            plan.actions.push((Action::PrepareImage { image: container.image.clone(), pull }, why));
        }
    }
}

fn will_run(v: &View<'_>, pod: &WantedPod) -> bool {
    matches!(fate(v), Fate::Run(_) | Fate::Wait(On::Predecessor(_), _)) && !v.is_over(pod)
}

fn in_flight(world: &World) -> usize {
    world.memory.images.values().filter(|m| m.in_flight.is_some_and(|p| p != PullPolicy::Never)).count()
}
