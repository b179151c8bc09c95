//! All that is remembered between two readings; `run` tells it of every action and probe that ended.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::text::Histogram;
use crate::clock::{Now, Wall};
use crate::plan::action::{Action, Answer, Check, Effect, Outcome};
use crate::plan::world::{State, World};
use crate::pod::{Kind, Probe, Uid};

/// Upper bounds of the kubelet's buckets: pod starts, runtime operations (0.005 × 2.5ⁿ), probes, all in seconds; containers of a pod.
const START_S: &[f64] = &[0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0];
const OPERATION_S: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const PROBE_S: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What the loop has done since it began.
#[derive(Clone, Debug)]
pub struct Counters {
    pub(super) began: Wall,
    pub(super) started_pods: u64,
    pub(super) failed_pods: u64,
    /// Main, init.
    pub(super) started_containers: [u64; 2],
    /// By container type and the kubelet's reason.
    pub(super) failed_containers: BTreeMap<(&'static str, Rc<str>), u64>,
    pub(super) actions: BTreeMap<&'static str, Tally>,
    pub(super) starts: Histogram,
    /// Sandboxes by runtime class: how long they took, and how many could not be made.
    pub(super) sandboxes: BTreeMap<Rc<str>, (Histogram, u64)>,
    /// Containers of each pod that was begun.
    pub(super) sizes: Histogram,
    /// Pods the node did not take, by the kubelet's reason.
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// Hooks that were to speak TLS and were run without.
    pub(super) hooks_in_clear: u64,
    /// By pod, container and probe.
    pub(super) probes: BTreeMap<(Uid, Rc<str>, Probe), Probed>,
}

/// Of one kind of action.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// The kubelet's name for it, if it has one (CRI's calls).
    pub operation: Option<&'static str>,
    pub done: u64,
    pub failed: u64,
    pub took: Histogram,
}

/// Of one probe: successful, failed, unknown; and how long the successful ones took.
#[derive(Clone, Debug)]
pub(super) struct Probed {
    pub results: [u64; 3],
    pub took: Histogram,
}

impl Counters {
    /// Counting begins.
    pub fn new(now: Now) -> Counters {
        Counters {
            began: now.wall,
            started_pods: 0,
            failed_pods: 0,
            started_containers: [0; 2],
            failed_containers: BTreeMap::new(),
            actions: BTreeMap::new(),
            starts: Histogram::new(START_S),
            sandboxes: BTreeMap::new(),
            sizes: Histogram::new(SIZES),
            refused: BTreeMap::new(),
            hooks_in_clear: 0,
            probes: BTreeMap::new(),
        }
    }

    /// An action ended: call it after the outcome was applied, so that `world` is what came of it.
    pub fn ended(&mut self, action: &Action, outcome: &Outcome, took: Duration, world: &World, now: Now) {
        if let Action::CreateSandbox { uid } = action {
            self.sandbox(uid, outcome, took, world);
        }
        let (word, operation) = names(action);
        let tally = self.actions.entry(word).or_insert_with(|| Tally { operation, done: 0, failed: 0, took: Histogram::new(OPERATION_S) });
        tally.took.observe(took.as_secs_f64());
        let effect = match outcome {
            Outcome::Done(effect) => effect,
            Outcome::Failed(failure) => {
                tally.failed += 1;
                return self.failed(action, &failure.reason, world);
            }
        };
        tally.done += 1;
        match (action, effect) {
            (Action::CreateSandbox { .. }, _) => self.started_pods += 1,
            (Action::StartTask { uid, .. }, Effect::Container(c)) => {
                let [main, init] = &mut self.started_containers;
                *(if c.kind == Kind::Main { main } else { init }) += 1;
                if let Some(seconds) = first_start_seconds(world, uid, now) {
                    self.starts.observe(seconds);
                }
            }
            (Action::DeleteSandbox { uid, keep: false }, _) => self.probes.retain(|(of, _, _), _| of != uid),
            _ => {}
        }
    }

    fn sandbox(&mut self, uid: &Uid, outcome: &Outcome, took: Duration, world: &World) {
        let spec = world.wanted.pods.values().find(|p| p.uid == *uid).and_then(|p| p.object.spec.as_ref());
        let class = spec.and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
        let (all, failed) = self.sandboxes.entry(class.into()).or_insert_with(|| (Histogram::new(OPERATION_S), 0));
        all.observe(took.as_secs_f64());
        match outcome {
            Outcome::Done(_) => self.sizes.observe(spec.map_or(0, |s| s.containers.len()) as f64),
            Outcome::Failed(_) => *failed += 1,
        }
    }

    /// A pod is not taken, which was not known.
    pub fn refused(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// A hook was run without TLS.
    pub fn hook_in_clear(&mut self) {
        self.hooks_in_clear += 1;
    }

    fn failed(&mut self, action: &Action, reason: &Rc<str>, world: &World) {
        let kind = match action {
            Action::CreateSandbox { .. } => return self.failed_pods += 1,
            Action::CreateContainer { uid, name, .. } => {
                let wanted = world.wanted.pods.values().find(|p| p.uid == *uid);
                wanted.and_then(|p| p.containers.iter().find(|c| c.name == *name)).map(|c| c.kind)
            }
            Action::StartTask { uid, id } => world.seen.pods.get(uid).and_then(|p| p.containers.get(id)).map(|c| c.kind),
            _ => return,
        };
        let kind = if kind.is_some_and(|k| k != Kind::Main) { "init_container" } else { "container" };
        *self.failed_containers.entry((kind, reason.clone())).or_default() += 1;
    }

    /// A probe has answered; `took`: if it is known since when it was asked.
    pub fn answered(&mut self, check: &Check, answer: &Answer, took: Option<Duration>) {
        let key = (check.uid.clone(), check.name.clone(), check.probe);
        let probed = self.probes.entry(key).or_insert_with(|| Probed { results: [0; 3], took: Histogram::new(PROBE_S) });
        let [successful, failed, unknown] = &mut probed.results;
        match answer {
            Answer::Passed | Answer::Warned(_) => {
                *successful += 1;
                took.into_iter().for_each(|t| probed.took.observe(t.as_secs_f64()));
            }
            Answer::Failed(_) => *failed += 1,
            Answer::Errored(_) => *unknown += 1,
        }
    }
}

/// From the manifest's sight to the first run of the last main container, when that is now; `None` otherwise.
fn first_start_seconds(world: &World, uid: &Uid, now: Now) -> Option<f64> {
    let wanted = world.wanted.pods.values().find(|p| p.uid == *uid)?;
    let seen = world.seen.pods.get(uid)?;
    let first =
        |name: &str| seen.containers.values().any(|c| &*c.name == name && c.attempt == 0 && matches!(c.state, State::Running { .. }));
    let all = wanted.containers.iter().filter(|c| c.kind == Kind::Main).all(|c| first(&c.name));
    let known = world.memory.pods.get(uid)?.known_since?;
    all.then(|| Duration::from_nanos(u64::try_from(now.wall.0.saturating_sub(known.0)).unwrap_or(0)).as_secs_f64())
}

/// Ours, and CRI's where it has the same thing.
fn names(action: &Action) -> (&'static str, Option<&'static str>) {
    match action {
        Action::LookAll => ("look_all", Some("list_containers")),
        Action::Look { .. } => ("look", Some("container_status")),
        Action::PrepareImage { .. } => ("prepare_image", Some("pull_image")),
        Action::CreateSandbox { .. } => ("create_sandbox", Some("run_podsandbox")),
        Action::CreateContainer { .. } => ("create_container", Some("create_container")),
        Action::StartTask { .. } => ("start_task", Some("start_container")),
        Action::RunHook { .. } => ("run_hook", None),
        Action::Term { .. } => ("term", Some("stop_container")),
        Action::Kill { .. } => ("kill", None),
        Action::DeleteTask { .. } => ("delete_task", None),
        Action::DeleteContainer { .. } => ("delete_container", Some("remove_container")),
        Action::DeleteSandbox { .. } => ("delete_sandbox", Some("remove_podsandbox")),
    }
}
