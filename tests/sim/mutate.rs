//! One way to break each law, to prove that its judge is awake.

use std::cell::Cell;

use plinth::clock::Now;
use plinth::plan::action::{Action, Effect, Outcome, Plan, Why};
use plinth::plan::plan;
use plinth::plan::world::{Retry, Sandbox, State, World};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing.
    None,
    /// Law 1: sandboxes can never be made, even in a calm world.
    NeverStarts,
    /// Law 2: a settled pod has its image prepared again and again.
    Fidgets,
    /// Law 3: whoever runs after amnesia is told to stop.
    Mistrusts,
    /// Law 4: what was started is not remembered.
    ForgetStarted,
    /// Law 5: looks list what is not ours.
    ListForeign,
    /// Law 6: a half-made sandbox is called ready.
    CallsItReady,
    /// Law 7: the plan forgets when to wake.
    SleepsIn,
    /// Law 8: a pod that fails stops the others.
    Sulks,
    /// Law 9: graces are taken for two seconds.
    Hasty,
    /// Law 9: nobody is ever killed.
    Merciful,
    /// Law 10: failures are forgotten at once.
    Eager,
}

thread_local! {
    static REBORN: Cell<bool> = const { Cell::new(false) };
}

impl Mutation {
    /// The plan under test.
    pub fn planner(self) -> fn(&World, Now) -> Plan {
        REBORN.set(false);
        match self {
            Mutation::Sulks => sulking,
            Mutation::Merciful => merciful,
            _ => plan,
        }
    }

    /// Spoils a plan.
    pub fn bend(self, plan: &mut Plan, world: &World, settled: bool) {
        match self {
            Mutation::Fidgets if settled && plan.actions.is_empty() && world.seen.listed.is_some() => {
                let idle = world.memory.images.values().all(|m| m.in_flight.is_none());
                let image = world.wanted.pods.values().flat_map(|p| &p.containers).map(|c| c.image.clone()).next();
                if let (Some(image), true, true) = (image, idle, world.memory.pods.values().all(|m| m.in_flight.is_none())) {
                    let pull = plinth::pod::PullPolicy::Never;
                    plan.actions.push((Action::PrepareImage { image, pull }, Why("it might be gone".into())));
                }
            }
            Mutation::Mistrusts if REBORN.get() && world.seen.listed.is_some() => {
                REBORN.set(false);
                for (uid, pod) in &world.seen.pods {
                    let busy = plan.actions.iter().any(|(a, _)| a.uid() == Some(uid));
                    let running = pod.containers.values().find(|c| matches!(c.state, State::Running { .. }));
                    if let (Some(c), false) = (running, busy) {
                        plan.actions.push((Action::Term { uid: uid.clone(), id: c.id.clone() }, Why("who are you".into())));
                    }
                }
            }
            Mutation::SleepsIn => plan.wake = None,
            _ => {}
        }
    }

    /// Spoils what is remembered.
    pub fn spoil(self, world: &mut World) {
        match self {
            Mutation::Eager => {
                for m in world.memory.pods.values_mut() {
                    m.sandbox = Retry::default();
                    m.containers.values_mut().for_each(|c| (c.crash, c.create) = (Retry::default(), Retry::default()));
                }
                world.memory.images.values_mut().for_each(|m| m.pull = Retry::default());
            }
            Mutation::Hasty => {
                for m in world.memory.pods.values_mut() {
                    for stop in m.stops.values_mut() {
                        stop.kill_at = stop.kill_at.and(stop.asked);
                    }
                }
            }
            _ => {}
        }
    }

    /// Spoils an outcome.
    pub fn lie(self, action: &Action, outcome: &mut Outcome) {
        if let (Mutation::CallsItReady, Action::CreateSandbox { .. }, Outcome::Failed(_)) = (self, action, &*outcome) {
            let since = plinth::clock::Wall(1);
            *outcome = Outcome::Done(Effect::Sandbox(Sandbox::Ready { ips: Vec::new(), since }));
        }
    }

    /// Some actions never work.
    pub fn fails_for_ever(self, action: &Action) -> bool {
        self == Mutation::NeverStarts && matches!(action, Action::CreateSandbox { .. })
    }

    /// plinth has just forgotten everything.
    pub fn reborn(self) {
        REBORN.set(self == Mutation::Mistrusts);
    }
}

fn sulking(world: &World, now: Now) -> Plan {
    let mut plan = plan(world, now);
    let trouble = world.memory.pods.values().any(|m| m.sandbox.failures > 0 || m.containers.values().any(|c| c.create.failures > 0));
    if trouble {
        plan.actions.retain(|(a, _)| !matches!(a, Action::StartTask { .. }));
    }
    plan
}

fn merciful(world: &World, now: Now) -> Plan {
    let mut plan = plan(world, now);
    let all = plan.actions.len();
    plan.actions.retain(|(a, _)| !matches!(a, Action::Kill { .. }));
    if plan.actions.len() < all {
        plan.wake = Some(plinth::clock::Moment(now.mono.0 + 1_000));
    }
    plan
}
