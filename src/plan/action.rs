//! What can be done, why, and what came of it. One action is one visible effect, safe to repeat.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::admit::Refusal;
use super::world::{Link, Sandbox, SeenContainer, SeenImage, SeenPod, Wanted};
use crate::clock::Moment;
use crate::pod::{Hook, ImageRef, Probe, PullPolicy, Uid};

/// One thing to do. At most one per pod is in flight; image actions are keyed by image, `LookAll` by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// List everything that is ours, on containerd and on this host.
    LookAll,
    /// Look at one pod.
    Look {
        /// Which.
        uid: Uid,
    },
    /// Have an image ready to run: look, import from an archive, or pull, as the policy says.
    PrepareImage {
        /// Which.
        image: ImageRef,
        /// Always: ask the registry even if it is there. Never: only look.
        pull: PullPolicy,
    },
    /// Make directories, cgroup, pinned namespaces, network; commit them as ready.
    CreateSandbox {
        /// Whose.
        uid: Uid,
    },
    /// Record, snapshot, FIFOs with their readers, created task.
    CreateContainer {
        /// Whose.
        uid: Uid,
        /// Container name.
        name: Rc<str>,
        /// Attempt, from 0.
        attempt: u32,
    },
    /// Start the created task.
    StartTask {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
    },
    /// Begin a hook; its end is told by `Event::Hooked`.
    RunHook {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
        /// Which.
        hook: Hook,
        /// It is given up after this, ms; `None`: it may take as long as its container runs.
        within_ms: Option<u64>,
    },
    /// Send the stop signal (image's or SIGTERM).
    Term {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
    },
    /// Send SIGKILL to everything in the container.
    Kill {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
    },
    /// Drain the log, write the exit down on the record, delete task and snapshot.
    DeleteTask {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
    },
    /// Delete the record and what is left beside it.
    DeleteContainer {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
    },
    /// Give back the network, unpin, unmount, remove the cgroup and directories. Also for a pod of which only directories are left.
    DeleteSandbox {
        /// Whose.
        uid: Uid,
        /// The pod is still wanted: it will be made anew (after a reboot, a broken sandbox, a shutdown) or is over and shown as
        /// such. Its data directory and logs stay, because an emptyDir lives as long as its pod, as the kubelet's does. A pod
        /// with nothing but that is `Absent`.
        keep: bool,
    },
}

impl Action {
    /// The pod it is for; `None` for looks at everything and images.
    pub fn uid(&self) -> Option<&Uid> {
        match self {
            Action::LookAll | Action::PrepareImage { .. } => None,
            Action::Look { uid }
            | Action::CreateSandbox { uid }
            | Action::CreateContainer { uid, .. }
            | Action::StartTask { uid, .. }
            | Action::RunHook { uid, .. }
            | Action::Term { uid, .. }
            | Action::Kill { uid, .. }
            | Action::DeleteTask { uid, .. }
            | Action::DeleteContainer { uid, .. }
            | Action::DeleteSandbox { uid, .. } => Some(uid),
        }
    }
}

/// As a log line, `plinth why` and the golden cases show it.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::LookAll => f.write_str("LookAll"),
            Action::Look { .. } => f.write_str("Look"),
            Action::PrepareImage { image, pull } => write!(f, "PrepareImage {image} {pull:?}"),
            Action::CreateSandbox { .. } => f.write_str("CreateSandbox"),
            Action::CreateContainer { name, attempt, .. } => write!(f, "CreateContainer {name} {attempt}"),
            Action::StartTask { id, .. } => write!(f, "StartTask {id}"),
            Action::RunHook { id, hook, .. } => write!(f, "{hook:?} {id}"),
            Action::Term { id, .. } => write!(f, "Term {id}"),
            Action::Kill { id, .. } => write!(f, "Kill {id}"),
            Action::DeleteTask { id, .. } => write!(f, "DeleteTask {id}"),
            Action::DeleteContainer { id, .. } => write!(f, "DeleteContainer {id}"),
            Action::DeleteSandbox { keep: true, .. } => f.write_str("DeleteSandbox, data kept"),
            Action::DeleteSandbox { .. } => f.write_str("DeleteSandbox"),
        }
    }
}

/// Why an action was chosen: one clause, lower case, no full stop. Filled in by `step`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(pub Rc<str>);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done, and this is what is there now.
    Done(Effect),
    /// It was not.
    Failed(Failure),
}

/// What is there after an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// After `LookAll`: everything.
    All(BTreeMap<Uid, SeenPod>),
    /// After `Look`: this is all there is of the pod; `None`, nothing.
    Pod(Option<Box<SeenPod>>),
    /// After `PrepareImage`.
    Image(SeenImage),
    /// After `CreateSandbox`.
    Sandbox(Sandbox),
    /// After `CreateContainer`, `StartTask`, `DeleteTask`: the container as it is now.
    Container(Box<SeenContainer>),
    /// After `DeleteContainer`, `DeleteSandbox`: it is gone.
    Gone,
    /// After `RunHook`: it has begun.
    Begun,
    /// After `Term`, `Kill`: the signal was delivered (or there was nobody left to deliver it to).
    Signalled,
}

/// Why an action failed, as a consequence and not as somebody's error type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What follows from it.
    pub class: Class,
    /// The kubelet's waiting reason where it has one: `ErrImagePull`, `CreateContainerError`, `CreatePodSandboxError`, …
    pub reason: Rc<str>,
    /// The error chain: what, on what, why, what to do next.
    pub message: Rc<str>,
}

impl Failure {
    /// The same, tried again at the usual pace even if that seems to change nothing: for looks, because a pod nobody can look at
    /// cannot be stopped either, and for images, because archives are mended and tags pushed without plinth hearing of it.
    pub fn eased(&self) -> Failure {
        let class = if self.class == Class::Refused { Class::Retry } else { self.class };
        Failure { class, ..self.clone() }
    }
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Try again after a delay; look first.
    Retry,
    /// Trying again changes nothing until the manifest, the image or the node does; retried at the slowest pace.
    Refused,
    /// The thing it was for is gone: look again.
    Gone,
    /// containerd does not answer: nothing of the pod's fault, no back-off earned.
    Unreachable,
}

/// One probe of one running container. Probes are no actions: they occupy no pod, and there is at most one of each at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// Whose.
    pub uid: Uid,
    /// Container name.
    pub name: Rc<str>,
    /// Container id.
    pub id: Rc<str>,
    /// Which.
    pub probe: Probe,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is well.
    Passed,
    /// It is well, but.
    Warned(Rc<str>),
    /// It is not.
    Failed(Rc<str>),
    /// It could not be asked: nothing follows.
    Errored(Rc<str>),
}

/// Everything that can happen to the world; `apply(&mut World, Event, Now)` folds it in.
#[derive(Clone, Debug)]
pub enum Event {
    /// The layers were read.
    Wanted(Wanted),
    /// containerd came or went.
    Link(Link),
    /// Something may have happened to this pod (task event, exit, pidfd): look again.
    Hint(Uid),
    /// Something may have happened to anything (events lost, slow periodic check): look at all.
    HintAll,
    /// The image archives on this host changed: images that were not found may be there now.
    Archives,
    /// An action was started by the loop.
    Started(Action, Why),
    /// An action ended.
    Ended(Action, Outcome),
    /// A probe was begun.
    Asked(Check),
    /// A probe has answered.
    Answered(Check, Answer),
    /// A hook is over; `failure` says why it failed, if it did.
    Hooked {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
        /// Which.
        hook: Hook,
        /// What went wrong.
        failure: Option<Rc<str>>,
    },
    /// A hook that was to speak TLS met a server that does not; it is run again without. To be told, nothing follows from it.
    HookInClear {
        /// Whose.
        uid: Uid,
        /// Container id.
        id: Rc<str>,
        /// The kubelet's words.
        message: Rc<str>,
    },
    /// Something is wrong with a pod (`None`: the node) that somebody should know. To be told, nothing follows from it.
    Told {
        /// Whose.
        of: Option<Uid>,
        /// The kubelet's reason.
        reason: &'static str,
        /// One sentence.
        message: Rc<str>,
    },
    /// An emptyDir on disk that has a sizeLimit was counted.
    Measured {
        /// Whose.
        uid: Uid,
        /// Its name.
        volume: Rc<str>,
        /// What it holds, bytes.
        used: u64,
        /// What it may hold, bytes.
        limit: u64,
    },
    /// Stop all pods within the grace, critical ones last (its last `critical` part).
    Shutdown {
        /// In all.
        grace: Duration,
        /// Of it, for critical pods.
        critical: Duration,
    },
}

/// What `plan` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be started now, all of them, in this order.
    pub actions: Vec<(Action, Why)>,
    /// Plan again then, even if nothing happened.
    pub wake: Option<Moment>,
    /// Wanted pods the node does not take now.
    pub refused: BTreeMap<Uid, Refusal>,
}
