//! The decision: what to do next, as a pure function of what is wanted, what is seen and what is remembered.
//!
//! No async, no clock, no I/O, no logging in this room. Contents:
//! - `world`: the three inputs, `Wanted`, `Seen`, `Memory`; `memory`: the last of them
//! - `action`: what can be done, why, and what came of it
//! - `view`: one pod of the world, side by side
//! - `step`: the decision table: the next step of one pod
//! - `admit`: whether the node takes a pod; `apparmor`: and can confine it as it asks
//! - `order`: which container of a running pod is up next
//! - `sweep`: stopping, cleaning up, removing
//! - `probe`: which probe is due, and what its answers mean
//! - `image`: which images are prepared now
//! - `backoff`: how long a failure waits
//! - `apply`: what happened, folded into the world; `outcome`: what came of an action on a pod
//! - `status`: what a pod looks like from outside
//! - `record`: what is told of it as `v1.Event`; `ring`: the last of those
//! - `why`: what it waits for

pub mod action;
pub mod admit;
pub mod apparmor;
pub mod apply;
pub mod backoff;
pub mod garbage;
pub mod image;
mod memory;
pub mod order;
mod outcome;
pub mod probe;
pub mod record;
mod ring;
pub mod status;
pub mod step;
pub mod sweep;
pub mod view;
pub mod why;
pub mod world;

pub use apply::apply;
pub use why::why;

use crate::clock::Now;
use crate::pod::Uid;
use action::{Action, Plan, Why};
use step::{On, Step, earlier, step};
use view::{Scene, is_at_rest};
use world::{Link, World};

/// Decides what is started now, and when to decide again if nothing happens before.
pub fn plan(world: &World, now: Now) -> Plan {
    let mut plan = Plan::default();
    if matches!(world.seen.link, Link::Down { .. }) || world.memory.looking {
        return plan;
    }
    if world.seen.listed.is_none() {
        match world.memory.look.wait(now.mono) {
            Some(due) => plan.wake = Some(due),
            None => plan.actions.push((Action::LookAll, Why("nothing is known for certain".into()))),
        }
        return plan;
    }
    let scene = Scene::new(world, now.mono);
    let unwanted = world.seen.pods.keys().filter(|uid| !scene.wanted.contains_key(*uid));
    for uid in unwanted.chain(starting_order(world)) {
        match step(&scene.pod(uid)) {
            Step::Do(action, why) => plan.actions.push((action, why)),
            Step::Wait(on, due) => {
                if let On::Refused(refusal) = on {
                    plan.refused.insert(uid.clone(), refusal.clone());
                }
                plan.wake = earlier(plan.wake, due);
            }
            Step::Done => {}
        }
    }
    if world.wanted.shutdown.is_none() {
        image::prepare(&scene, starting_order(world), &mut plan);
    }
    plan
}

/// Critical pods first, then by name.
pub(crate) fn starting_order(world: &World) -> impl Iterator<Item = &Uid> {
    let pods = || world.wanted.pods.values();
    pods().filter(|p| p.critical).chain(pods().filter(|p| !p.critical)).map(|p| &p.uid)
}

impl World {
    /// Nothing runs and nothing is held any more: a shutdown is complete.
    pub fn all_gone(&self) -> bool {
        self.seen.listed.is_some()
            && self.seen.pods.values().all(|p| is_at_rest(p) && !p.stale)
            && self.memory.pods.values().all(|p| p.in_flight.is_none())
    }
}
