//! Our own memory, gone at a crash without harm: what is in flight, how far stops are, what failures earned.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::action::{Action, Why};
use crate::clock::{Moment, Wall};
use crate::pod::{ImageRef, PullPolicy, Uid};

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
    /// The attempt that was last seen ended, and when it ended.
    pub exit: Option<(u32, Moment)>,
}

/// How far the stopping of one container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// TERM was last tried then (when the try ended, if it failed: it may have been delivered).
    pub asked: Option<Moment>,
    /// TERM was delivered, and KILL is due then.
    pub kill_at: Option<Moment>,
    /// KILL was last sent then.
    pub killed: Option<Moment>,
    /// Signals and deletions that failed in a row.
    pub retry: Retry,
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
}
