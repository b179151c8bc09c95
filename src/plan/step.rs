//! The next step of one pod. Decides from a `View` alone; does nothing and remembers nothing.
//!
//! The decision table, first match wins. A pod first:
//!
//! ```text
//!  pod                                            step
//!  an action is in flight                         wait for it
//!  stale                                          Look
//!  shutdown, critical, others are not gone yet    wait for its turn
//!  shutdown; or unwanted; or its removal began    remove: Term, Kill at the deadline, DeleteTask, DeleteContainer, DeleteSandbox
//!  not listed yet by every layer                  leave it alone
//!  only logs are left, and some file is not known  leave it alone
//!  an older pod of its name is still there        wait for that to be gone
//!  wanted, over (nothing of it runs again)        stop what is left, DeleteSandbox, keep the last record of each container, and logs
//!  wanted, sandbox partial or of nobody           stop what is left, DeleteSandbox, then as absent
//!  wanted, the node does not take it (`admit`)    wait for that, and decide again each minute
//!  wanted, sandbox absent                         CreateSandbox
//!  wanted, sandbox ready                          containers in order, as below; then sweep
//! ```
//!
//! Then its containers (`order` says which ones are up):
//!
//! ```text
//!  image     container            task       step
//!  *         of another sandbox   any        Term, Kill, DeleteTask (sweep)
//!  not ready none, or ended       -          wait (the pull is keyed by image)
//!  ready     none                 -          CreateContainer, of attempt 0 or, where logs are left of others, the one after the last
//!  *         record, never ran    none       DeleteContainer, then as none
//!  *         ours                 created    StartTask
//!  *         ours                 running    postStart, if it has one and we started it; then settled
//!  *         of an earlier round  any        as of another sandbox, all together and at once, before anything else (RestartAllContainers)
//!  *         ours, probe failed   running    preStop, Term, Kill at the deadline (sweep), then as exited
//!  *         ours                 lost       DeleteTask (writes the exit down), then as dead
//!  ready     ours, restarts       exited     due now: CreateContainer of the next attempt, StartTask, DeleteTask of the old one;
//!                                            later: DeleteTask, wait
//!  *         ours, done for good  exited     DeleteTask
//!  *         older dead ones      none       DeleteContainer (the newest dead one stays: lastState, previous logs)
//! ```

use std::fmt;
use std::rc::Rc;

use crate::clock::Moment;
use crate::plan::action::{Action, Why};
use crate::plan::admit::Refusal;
use crate::plan::order;
use crate::plan::sweep::{self, Keep};
use crate::plan::view::View;
use crate::plan::world::{Retry, Sandbox};
use crate::pod::{ImageRef, Uid, WantedPod};

/// A pod the node does not take is decided on anew this often, ms, whatever happens.
const REFUSED_MS: u64 = 60_000;

/// What comes next for a pod.
#[derive(Debug)]
pub enum Step<'a> {
    /// This, now.
    Do(Action, Why),
    /// Nothing before that: an event, or a moment.
    Wait(On<'a>, Option<Moment>),
    /// Nothing.
    Done,
}

/// What a pod waits for.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the words are shown by Display")]
pub enum On<'a> {
    Action(&'a Action),
    Look(&'a Retry),
    Layers,
    Turn,
    Refused(&'a Refusal),
    Predecessor(&'a Uid),
    Sandbox(&'a Retry),
    Removal(&'a Retry),
    Image { container: &'a str, image: &'a ImageRef },
    Pull { container: &'a str, image: &'a ImageRef, retry: &'a Retry },
    Create { container: &'a str, retry: &'a Retry },
    Crash { container: &'a str },
    Init { container: &'a str },
    Sidecar { container: &'a str },
    PostStart { container: &'a str },
    PreStop { container: &'a str },
    Deadline,
    Grace { container: &'a str },
    Killed { container: &'a str },
    Cleaning { container: &'a str, retry: &'a Retry },
}

impl<'a> Step<'a> {
    /// If there is nothing to do now, what else there may be: waits do not keep one container from another.
    pub fn beside(self, next: impl FnOnce() -> Step<'a>) -> Step<'a> {
        match self {
            Step::Do(..) => self,
            Step::Done => next(),
            Step::Wait(on, due) => match next() {
                Step::Done => Step::Wait(on, due),
                Step::Wait(_, later) => Step::Wait(on, earlier(due, later)),
                act @ Step::Do(..) => act,
            },
        }
    }

    /// Only when this is all done, the next.
    pub fn then(self, next: impl FnOnce() -> Step<'a>) -> Step<'a> {
        match self {
            Step::Done => next(),
            Step::Do(..) | Step::Wait(..) => self,
        }
    }
}

/// The earlier of two moments that may be missing.
pub fn earlier(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// An action and its reason.
pub fn act<'a>(action: Action, why: impl Into<Rc<str>>) -> Step<'a> {
    Step::Do(action, Why(why.into()))
}

/// What becomes of a pod as a whole.
pub enum Fate<'a> {
    /// It runs.
    Run(&'a WantedPod),
    /// It goes, for this reason, and leaves this behind.
    Remove(Keep, &'static str),
    /// Neither, yet.
    Wait(On<'a>, Option<Moment>),
}

/// What becomes of a pod as a whole: the first half of the table.
pub fn fate<'a>(v: &View<'a>) -> Fate<'a> {
    let wanted = &v.scene.world.wanted;
    // A file that cannot be read, or a server that has not answered, may ask for it: its restarts are counted on from its logs.
    if v.wanted.is_none() && v.seen.is_logs_alone() && !wanted.whole {
        return Fate::Wait(On::Layers, None);
    }
    if let Some(shutdown) = &wanted.shutdown {
        let turn = shutdown.critical_from();
        let critical = v.made_from.is_some_and(|p| p.critical);
        if critical && v.scene.common_left && v.now() < turn {
            return Fate::Wait(On::Turn, Some(turn));
        }
        let keep = if v.wanted.is_some() && !v.memory.terminating { Keep::History } else { Keep::Nothing };
        return Fate::Remove(keep, "shutting down");
    }
    match v.wanted {
        Some(_) if v.memory.terminating && !v.memory.overfull.is_empty() => {
            Fate::Remove(Keep::Nothing, "an emptyDir of it holds more than its sizeLimit")
        }
        Some(_) if v.memory.terminating => Fate::Remove(Keep::Nothing, "its removal has begun"),
        Some(pod) => match v.scene.predecessor(pod) {
            Some(old) if v.seen.sandbox == Sandbox::Absent => Fate::Wait(On::Predecessor(old), None),
            _ => Fate::Run(pod),
        },
        None if !wanted.complete => Fate::Wait(On::Layers, None),
        None if replaced(v) => Fate::Remove(Keep::Nothing, "its manifest has changed"),
        None => Fate::Remove(Keep::Nothing, "no manifest wants it"),
    }
}

fn replaced(v: &View<'_>) -> bool {
    v.seen.key.as_ref().is_some_and(|key| v.scene.world.wanted.pods.contains_key(key))
}

/// The next step of a pod.
pub fn step<'a>(v: &View<'a>) -> Step<'a> {
    if let Some(action) = &v.memory.in_flight {
        return Step::Wait(On::Action(action), None);
    }
    if v.seen.stale {
        return match v.memory.look.wait(v.now()) {
            Some(due) => Step::Wait(On::Look(&v.memory.look), Some(due)),
            None => act(Action::Look { uid: v.uid.clone() }, "something happened to it"),
        };
    }
    match fate(v) {
        Fate::Run(pod) => run(v, pod),
        Fate::Remove(..) if !v.known => Step::Done,
        Fate::Remove(keep, why) => sweep::remove(v, keep, why),
        Fate::Wait(on, due) => Step::Wait(on, due),
    }
}

fn run<'a>(v: &View<'a>, pod: &'a WantedPod) -> Step<'a> {
    if v.is_over(pod) {
        let why = match v.failed_init(pod) {
            _ if v.is_overdue(pod) => "its activeDeadlineSeconds are over",
            Some(_) => "an init container failed for good",
            None => "all its containers are done",
        };
        return sweep::remove(v, Keep::History, why);
    }
    let step = match v.seen.sandbox {
        Sandbox::Ready { .. } => {
            let go_on = || sweep::strays(v, pod).beside(|| sweep::doomed(v)).beside(|| order::next(v, pod));
            sweep::passed_over(v).then(|| go_on().beside(|| sweep::housekeep(v, pod)))
        }
        Sandbox::Partial => sweep::remove(v, Keep::History, "its sandbox is incomplete"),
        // What runs without its sandbox is stopped first, and its exit written down.
        Sandbox::Absent => sweep::remove(v, Keep::History, "its sandbox is gone").then(|| create_sandbox(v, pod)),
    };
    match v.deadline(pod) {
        Some(at) => step.beside(|| Step::Wait(On::Deadline, Some(at))),
        None => step,
    }
}

fn create_sandbox<'a>(v: &View<'a>, pod: &WantedPod) -> Step<'a> {
    if let Some(refusal) = v.scene.refusal(v.uid) {
        // The node may have changed without a word: its memory, its labels. By the clock, so that it needs no memory.
        return Step::Wait(On::Refused(refusal), Some(Moment((v.now().0 / REFUSED_MS + 1) * REFUSED_MS)));
    }
    if let Some(due) = v.memory.sandbox.wait(v.now()) {
        return Step::Wait(On::Sandbox(&v.memory.sandbox), Some(due));
    }
    let why = match v.memory.sandbox.failures {
        0 if v.seen.containers.is_empty() => "wanted".to_owned(),
        0 => "wanted, its sandbox is gone".to_owned(),
        n => format!("wanted, failed {n} times, waited {}", Ms(v.memory.sandbox.delay_ms)),
    };
    act(Action::CreateSandbox { uid: pod.uid.clone() }, why)
}

/// Milliseconds as a person reads them: `250ms`, `20s`.
pub struct Ms(pub u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}s", self.0 / 1000) } else { write!(f, "{}ms", self.0) }
    }
}

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |r: &Retry| r.message.clone().unwrap_or_default();
        match self {
            On::Action(action) => write!(f, "{action} to end"),
            On::Look(r) => write!(f, "the next look at it: {}", why(r)),
            On::Layers => f.write_str("every manifest layer to be read"),
            On::Refused(r) => write!(f, "this node to take it: {}: {}", r.reason, r.message),
            On::Turn => f.write_str("the pods that are not critical to be gone"),
            On::Predecessor(uid) => write!(f, "its predecessor {uid} to be gone"),
            On::Sandbox(r) => write!(f, "the next try to make its sandbox: {}", why(r)),
            On::Removal(r) => write!(f, "the next try to remove its sandbox: {}", why(r)),
            On::Image { container, image } => write!(f, "image {image} of {container}"),
            On::Pull { container, image, retry } => write!(f, "the next try to get image {image} of {container}: {}", why(retry)),
            On::Create { container, retry } => write!(f, "the next try to start {container}: {}", why(retry)),
            On::Crash { container } => write!(f, "the crash back-off of {container}"),
            On::Init { container } => write!(f, "init container {container} to finish"),
            On::Sidecar { container } => write!(f, "sidecar {container} to run"),
            On::PostStart { container } => write!(f, "the postStart hook of {container}"),
            On::PreStop { container } => write!(f, "the preStop hook of {container}"),
            On::Deadline => f.write_str("the end of its activeDeadlineSeconds"),
            On::Grace { container } => write!(f, "{container} to end on its own"),
            On::Killed { container } => write!(f, "{container} to be gone after SIGKILL"),
            On::Cleaning { container, retry } => write!(f, "the next try to clean up {container}: {}", why(retry)),
        }
    }
}
