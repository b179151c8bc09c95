//! Our own memory, gone at a crash without harm: what is in flight, how far stops are, what failures earned.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::action::{Action, Why};
use crate::clock::{Moment, Wall};
use crate::pod::{ImageRef, Probe, ProbeRule, PullPolicy, Uid};

/// What may be forgotten at any moment.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Per pod.
    pub pods: BTreeMap<Uid, PodMemory>,
    /// Per image.
    pub images: BTreeMap<ImageRef, ImageMemory>,
    /// A full look is in flight.
    pub looking: bool,
    /// Pods something happened to during the full look in flight: its answer about them may be old.
    pub touched: BTreeSet<Uid>,
    /// Full looks that failed in a row.
    pub look: Retry,
}

/// Memory of one pod.
#[derive(Clone, Debug, Default)]
pub struct PodMemory {
    /// The one action in flight.
    pub in_flight: Option<Action>,
    /// Since when this pod is known, for `status.startTime`.
    pub known_since: Option<Wall>,
    /// When it began, as far as is known: `activeDeadlineSeconds` counts from here.
    pub began: Option<Moment>,
    /// Sandbox creations that failed in a row.
    pub sandbox: Retry,
    /// Sandbox deletions that failed in a row.
    pub other: Retry,
    /// Looks that failed in a row.
    pub look: Retry,
    /// A hint came while an action was in flight: a look that ends now may have missed what it was about.
    pub hinted: bool,
    /// Its removal has begun: even if it is wanted again, it is removed first and made anew.
    pub terminating: bool,
    /// End of the pod's one grace budget, from the first TERM on.
    pub stop_by: Option<Moment>,
    /// What was done to stop containers, by container id.
    pub stops: BTreeMap<Rc<str>, Stop>,
    /// Images of its volumes that were asked for in its present sandbox (`pullPolicy: Always` asks once for each).
    pub volumes_pulled: BTreeSet<ImageRef>,
    /// Its emptyDirs on disk that hold more than their sizeLimit: how much, and that, bytes.
    pub overfull: BTreeMap<Rc<str>, (u64, u64)>,
    /// Status conditions by type, as last shown, and since when: `lastTransitionTime`.
    pub conditions: BTreeMap<&'static str, (bool, Wall)>,
    /// Per container name.
    pub containers: BTreeMap<Rc<str>, ContainerMemory>,
    /// The last decision, its reason, and when: `plinth why`.
    pub last: Option<(Action, Why, Wall)>,
}

/// Memory of one container.
#[derive(Clone, Debug, Default)]
pub struct ContainerMemory {
    /// Crash-loop back-off.
    pub crash: Retry,
    /// Failed creations and starts in a row.
    pub create: Retry,
    /// The attempt for which its image was made ready (`imagePullPolicy: Always` asks once per attempt).
    pub pulled_for: Option<u32>,
    /// The highest attempt counted in `crash`.
    pub counted: Option<u32>,
    /// The attempt that was last seen running.
    pub ran: Option<u32>,
    /// The attempt that was last seen ended, and when it ended.
    pub exit: Option<(u32, Moment)>,
    /// What the probes of its running attempt say; `None`: it has none, or does not run.
    pub watch: Option<Box<Watch>>,
    /// The postStart hook of an attempt we started.
    pub post_start: Option<PostStart>,
    /// Its attempt is to be ended although it is wanted.
    pub doom: Option<Box<Doom>>,
}

/// The probes of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its container id.
    pub id: Rc<str>,
    /// When it started.
    pub started: Moment,
    /// It ran for a while before we knew of it: it passes for started and ready until a probe has answered (kubelet: 10 s).
    pub adopted: bool,
    /// One for each probe it has.
    pub rounds: Vec<Round>,
}

/// One probe of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Which.
    pub probe: Probe,
    /// Its rule.
    pub rule: ProbeRule,
    /// Not before.
    pub due: Moment,
    /// It was asked then, and has not answered yet.
    pub asked: Option<Moment>,
    /// The last answer, and how often in a row.
    pub last: Option<(bool, u32)>,
    /// What counts, once a threshold was reached.
    pub verdict: Option<bool>,
    /// What was wrong with the last answer.
    pub wrong: Option<Rc<str>>,
}

/// How far the postStart hook of one attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostStart {
    /// Of this container id.
    pub id: Rc<str>,
    /// It was begun.
    pub begun: bool,
    /// It is over.
    pub done: bool,
}

/// Why an attempt is to be ended although it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doom {
    /// Its container id.
    pub id: Rc<str>,
    /// The probe that failed; `None`: its postStart hook did.
    pub probe: Option<Probe>,
    /// The grace it gets, ms; `None`: the pod's.
    pub grace_ms: Option<u64>,
    /// What failed, in words.
    pub message: Rc<str>,
}

/// How far the stopping of one container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// The preStop hook was begun then; the grace counts from there.
    pub hook: Option<Moment>,
    /// And is over.
    pub hook_done: bool,
    /// TERM was last tried then (when the try ended, if it failed: it may have been delivered).
    pub asked: Option<Moment>,
    /// TERM was delivered, and KILL is due then.
    pub kill_at: Option<Moment>,
    /// KILL was last sent then.
    pub killed: Option<Moment>,
    /// Signals and deletions that failed in a row.
    pub retry: Retry,
}

impl Stop {
    /// It was told to stop, or its preStop hook was begun.
    pub fn has_begun(&self) -> bool {
        self.asked.is_some() || self.hook.is_some()
    }
}

/// Failures in a row, the delay they earned, and when the next try is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Failures since the last success.
    pub failures: u32,
    /// The present delay, ms.
    pub delay_ms: u64,
    /// Not before.
    pub not_before: Option<Moment>,
    /// When the last failure or restart was counted.
    pub at: Option<Moment>,
    /// The kubelet's waiting reason of the last failure.
    pub reason: Option<Rc<str>>,
    /// Its text.
    pub message: Option<Rc<str>>,
}

/// Memory of one image.
#[derive(Clone, Debug, Default)]
pub struct ImageMemory {
    /// A pull, import or look (`Never`) for it is in flight.
    pub in_flight: Option<PullPolicy>,
    /// Failed pulls in a row.
    pub pull: Retry,
    /// Failed looks in a row.
    pub look: Retry,
    /// The archives on this host changed while something was in flight for it: what that does not find may be there by now.
    pub touched: bool,
}
