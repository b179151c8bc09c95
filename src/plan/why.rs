//! What a pod waits for, for `plinth why`: the same decision, told instead of done.

use crate::clock::{Moment, Now, Wall};
use crate::plan::step::{Step, step};
use crate::plan::view::Scene;
use crate::plan::world::{Link, World};
use crate::pod::Uid;

/// Where a pod's decision stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The last decision, its reason, and when it was made.
    pub last: Option<(String, String, Wall)>,
    /// What it waits for now; `None`: nothing, it is as it should be.
    pub on: Option<String>,
    /// When it will be tried again at the latest.
    pub next: Option<Moment>,
    /// The same by the wall clock.
    pub next_wall: Option<Wall>,
}

/// What the pod waits for.
pub fn why(world: &World, uid: &Uid, now: Now) -> Waiting {
    let memory = world.memory.pods.get(uid);
    let last = memory.and_then(|m| m.last.as_ref()).map(|(a, w, at)| (a.to_string(), w.to_string(), *at));
    let (on, next) = waits(world, uid, now.mono);
    let wall = |due: Moment| Wall(now.wall.0.saturating_add(i64::try_from(due.since_ms(now.mono)).unwrap_or(0).saturating_mul(1_000_000)));
    Waiting { last, on, next, next_wall: next.map(wall) }
}

fn waits(world: &World, uid: &Uid, now: Moment) -> (Option<String>, Option<Moment>) {
    if let Link::Down { why, .. } = &world.seen.link {
        return (Some(format!("containerd: {why}")), None);
    }
    if world.seen.listed.is_none() {
        let why = world.memory.look.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
        return (Some(format!("the full look at containerd{why}")), world.memory.look.not_before);
    }
    let scene = Scene::new(world, now);
    match step(&scene.pod(uid)) {
        Step::Done => (None, None),
        Step::Wait(on, due) => (Some(on.to_string()), due),
        Step::Do(action, why) => (Some(format!("its turn: {action} ({why})")), Some(now)),
    }
}
