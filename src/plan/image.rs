//! Which images are prepared now: keyed by image, pods wait on them. Pulls are capped, looks are not.
//!
//! An image nobody looked for yet is looked for first (`pull: Never`), so that one which is there, or in an archive on this host, never
//! queues behind a slow pull.
//! `Always` asks the registry once per attempt, as the kubelet does; of an image in an archive on this host the archive is what is asked.

use std::collections::BTreeSet;

use crate::clock::Moment;
use crate::plan::action::{Action, Plan, Why};
use crate::plan::order;
use crate::plan::step::{Fate, On, earlier, fate};
use crate::plan::view::{Scene, View};
use crate::plan::world::{Retry, SeenImage, World};
use crate::pod::{ImageRef, PullPolicy, Uid, VolumeImage, WantedContainer, WantedPod};

/// Where an image is.
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

/// One image an attempt of a container stands on.
#[derive(Clone, Copy)]
pub struct Need<'a> {
    /// Which.
    pub image: &'a ImageRef,
    /// When it is pulled.
    pub pull: PullPolicy,
    /// The volume it is; `None`: the container's own.
    pub volume: Option<&'a str>,
    asked: bool,
}

/// All images an attempt of a container stands on: those of the volumes it mounts, then its own (kubelet: `getImageVolumes` comes
/// before `startContainer`).
pub fn needs<'a>(v: &View<'a>, pod: &'a WantedPod, c: &'a WantedContainer, attempt: u32) -> impl Iterator<Item = Need<'a>> + use<'a> {
    let memory = v.memory;
    let mounted = pod.volume_images.iter().filter(|i| i.users.contains(&c.name));
    let volume = |i: &'a VolumeImage| Need {
        image: &i.image,
        pull: i.pull,
        volume: Some(&*i.volume),
        asked: memory.volumes_pulled.contains(&i.image),
    };
    let own = Need { image: &c.image, pull: c.pull, volume: None, asked: v.container(&c.name).pulled_for == Some(attempt) };
    mounted.map(volume).chain([own])
}

/// Where an image is.
pub fn state<'a>(v: &View<'a>, need: Need<'_>) -> Image<'a> {
    let world = v.scene.world;
    let seen = world.seen.images.get(need.image);
    let memory = world.memory.images.get(need.image);
    let ready = matches!(seen, Some(SeenImage::Ready { .. }));
    let asked = need.pull != PullPolicy::Always || need.asked;
    if ready && asked {
        return Image::Ready;
    }
    if memory.is_some_and(|m| m.in_flight.is_some()) {
        return Image::Preparing;
    }
    let how = match (need.pull, seen) {
        (PullPolicy::Never, _) | (_, None) => PullPolicy::Never,
        (pull, Some(_)) => pull,
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
            for need in needs(&v, pod, container, attempt) {
                let pull = match state(&v, need) {
                    Image::Needs(pull) => pull,
                    Image::Later(due, _) => {
                        plan.wake = earlier(plan.wake, Some(due));
                        continue;
                    }
                    Image::Ready | Image::Preparing => continue,
                };
                let slow = pull != PullPolicy::Never && !is_local(scene.world, need.image);
                if planned.contains(need.image) || (slow && pulling >= scene.world.limits.pulls.max(1)) {
                    continue;
                }
                planned.insert(need.image);
                pulling += usize::from(slow);
                let why = Why(format!("{} of pod {} needs it", container.name, pod.key).into());
                plan.actions.push((Action::PrepareImage { image: need.image.clone(), pull }, why));
            }
        }
    }
}

fn will_run(v: &View<'_>, pod: &WantedPod) -> bool {
    matches!(fate(v), Fate::Run(_) | Fate::Wait(On::Predecessor(_), _)) && !v.is_over(pod) && v.refusal().is_none()
}

fn in_flight(world: &World) -> usize {
    let pulls = |image: &ImageRef, pull| pull != PullPolicy::Never && !is_local(world, image);
    world.memory.images.iter().filter(|(image, m)| m.in_flight.is_some_and(|pull| pulls(image, pull))).count()
}

fn is_local(world: &World, image: &ImageRef) -> bool {
    matches!(world.seen.images.get(image), Some(SeenImage::Ready { local: true, .. }))
}
