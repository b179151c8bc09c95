//! Stopping and cleaning up: one container, what a pod no longer needs, or the whole pod. Starts nothing.
//!
//! ```text
//!  Running ── Term ──> (ends on its own) ──> Exited ── DeleteTask ──> Dead ── DeleteContainer ──> gone
//!     └── deadline ── Kill ──────────────────^
//! ```
//!
//! All of a pod's containers share one grace budget: main containers get TERM together, sidecars after them in reverse order
//! (KEP-753), and what is left of the budget is theirs. A stop never gets less than the kubelet's 2 s.

use crate::clock::Moment;
use crate::plan::action::Action;
use crate::plan::step::{Ms, On, Step, act};
use crate::plan::view::View;
use crate::plan::world::{Sandbox, SeenContainer, State, Stop};
use crate::pod::{Hook, Kind, WantedPod};

/// The least a container gets between TERM and KILL, ms (kubelet `minimumGracePeriodInSeconds`).
pub const MIN_GRACE_MS: u64 = 2_000;

/// The grace of a pod whose manifest nobody knows any more, ms: Kubernetes' default, rather long than short.
const UNKNOWN_GRACE_MS: u64 = 30_000;

/// A container that outlives SIGKILL (uninterruptible sleep) is killed again after this, ms.
const KILL_AGAIN_MS: u64 = 10_000;

/// TERM is tried so often; each try that may have been delivered begins the grace anew, so there is an end to it.
const TERM_TRIES: u32 = 5;

/// What a removal leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the pod is not wanted.
    Nothing,
    /// The last record of each container, its data and logs: the pod is over and must not run again, or it will be made anew.
    History,
}

/// The time a pod has to stop, ms.
pub fn grace_ms(made_from: Option<&WantedPod>) -> u64 {
    made_from.map_or(UNKNOWN_GRACE_MS, |p| u64::from(p.grace_s) * 1000).max(MIN_GRACE_MS)
}

/// Removes a pod, down to what is kept.
pub fn remove<'a>(v: &View<'a>, keep: Keep, why: &str) -> Step<'a> {
    stop(v, |_| true, why).then(|| bury(v, |c| keep == Keep::Nothing || is_surplus(v, c))).then(|| delete_sandbox(v, keep, why))
}

fn delete_sandbox<'a>(v: &View<'a>, keep: Keep, why: &str) -> Step<'a> {
    if keep != Keep::Nothing && v.seen.sandbox == Sandbox::Absent {
        return Step::Done;
    }
    match v.memory.other.wait(v.now()) {
        Some(due) => Step::Wait(On::Removal(&v.memory.other), Some(due)),
        None => act(Action::DeleteSandbox { uid: v.uid.clone(), keep: keep == Keep::History }, why),
    }
}

/// Stops what runs in a running pod without belonging to it: of another sandbox, or of a name it does not have.
pub fn strays<'a>(v: &View<'a>, pod: &WantedPod) -> Step<'a> {
    let stray = |c: &SeenContainer| !v.is_present(c) || !pod.containers.iter().any(|w| w.name == c.name) || is_doubled(v, c);
    if v.seen.containers.values().any(|c| !matches!(c.state, State::Dead(_)) && stray(c)) {
        return stop(v, stray, "it belongs to no sandbox of this pod").beside(|| bury(v, |c| c.state == State::Record && stray(c)));
    }
    Step::Done
}

/// Ends what a new round of all containers passes over, at once: no hooks, and no more than the least grace (kubelet). Nothing
/// is begun before all of it has ended.
pub fn passed_over<'a>(v: &View<'a>) -> Step<'a> {
    let old = |c: &SeenContainer| v.is_passed_over(c) && !matches!(c.state, State::Dead(_));
    if v.round.is_none() || !v.seen.containers.values().any(old) {
        return Step::Done;
    }
    stop(v, old, "all containers are restarted").then(|| bury(v, |c| c.state == State::Record && old(c)))
}

/// Ends what a failed probe or a failed postStart hook condemned; the rest of the pod goes on.
pub fn doomed<'a>(v: &View<'a>) -> Step<'a> {
    let mut step = Step::Done;
    for c in v.seen.containers.values().filter(|c| matches!(c.state, State::Running { .. })) {
        match v.doom(c).map(|d| d.probe) {
            Some(Some(probe)) => {
                step = step.beside(|| signal(v, c, &format!("{} failed its {} probe", c.name, probe.to_string().to_lowercase())))
            }
            Some(None) => step = step.beside(|| signal(v, c, &format!("{} failed its postStart hook", c.name))),
            None => {}
        }
    }
    step
}

/// An older attempt that still has a life: only the newest may run.
fn is_doubled(v: &View<'_>, c: &SeenContainer) -> bool {
    !v.is_latest(c) && matches!(c.state, State::Record | State::Created | State::Running { .. })
}

/// Deletes what a running pod no longer needs: tasks of the dead, and all dead records but the newest of each container.
pub fn housekeep<'a>(v: &View<'a>, pod: &WantedPod) -> Step<'a> {
    let ended = |c: &SeenContainer| matches!(c.state, State::Exited(_) | State::Lost(_));
    stop(v, ended, ENDED).beside(|| bury(v, |c| is_surplus(v, c) || !pod.containers.iter().any(|w| w.name == c.name)))
}

/// Never ran, or dead with a newer dead one of the same name.
fn is_surplus(v: &View<'_>, c: &SeenContainer) -> bool {
    let newer_dead = |o: &SeenContainer| o.attempt > c.attempt && matches!(o.state, State::Dead(_));
    match c.state {
        State::Record => true,
        // The record of the end that began a round is what tells of it.
        State::Dead(_) => v.attempts(&c.name).any(newer_dead) && !v.is_restarting(),
        State::Created | State::Running { .. } | State::Exited(_) | State::Lost(_) => false,
    }
}

/// Deletes records, last in the spec first: while a record of a main container is left, so is that of the init containers it
/// came after, and a pod that is wanted again half-way goes on where it stands. So a deletion that failed is waited for by those.
fn bury<'a>(v: &View<'a>, which: impl Fn(&SeenContainer) -> bool) -> Step<'a> {
    let mut step = Step::Done;
    let mut containers: Vec<&SeenContainer> = v.seen.containers.values().collect();
    containers.sort_by_key(|c| (c.kind != Kind::Main, std::cmp::Reverse(place(v, c))));
    for c in containers {
        if matches!(c.state, State::Record | State::Dead(_)) && which(c) {
            let action = Action::DeleteContainer { uid: v.uid.clone(), id: c.id.clone() };
            let clean = || cleaning(v, c, action, "nothing needs its record");
            step = if c.kind == Kind::Main { step.beside(clean) } else { step.then(clean) };
        }
    }
    step
}

/// Why a task is deleted in a pod that goes on; its exit status is told beside it.
const ENDED: &str = "it has ended";

/// Stops containers and deletes their tasks, once all of them have ended.
fn stop<'a>(v: &View<'a>, which: impl Fn(&SeenContainer) -> bool, why: &str) -> Step<'a> {
    signals(v, &which, why).then(|| {
        let mut step = Step::Done;
        for c in v.seen.containers.values() {
            if matches!(c.state, State::Created | State::Exited(_) | State::Lost(_)) && which(c) {
                let action = Action::DeleteTask { uid: v.uid.clone(), id: c.id.clone() };
                step = step.beside(|| match &c.state {
                    State::Exited(exit) if why == ENDED => cleaning(v, c, action, &format!("{} exited {}", c.name, exit.code)),
                    _ => cleaning(v, c, action, why),
                });
            }
        }
        step
    })
}

/// A deletion, unless its last try failed just now.
pub fn cleaning<'a>(v: &View<'a>, c: &'a SeenContainer, action: Action, why: &str) -> Step<'a> {
    match v.stop(c).and_then(|s| Some((s.retry.wait(v.now())?, &s.retry))) {
        Some((due, retry)) => Step::Wait(On::Cleaning { container: &c.name, retry }, Some(due)),
        None => act(action, why),
    }
}

fn signals<'a>(v: &View<'a>, which: impl Fn(&SeenContainer) -> bool, why: &str) -> Step<'a> {
    let running = |c: &&SeenContainer| matches!(c.state, State::Running { .. }) && which(c);
    let (mut mains, mut hooks) = (Step::Done, Step::Done);
    let mut sidecars = Vec::new();
    for c in v.seen.containers.values().filter(running) {
        let asked = v.stop(c).is_some_and(|s| s.asked.is_some());
        if c.kind == Kind::Sidecar && !asked && !v.is_passed_over(c) {
            // Its preStop hook does not wait for its turn (kubelet).
            hooks = hooks.beside(|| pre_stop(v, c, why));
            sidecars.push(c);
        } else {
            mains = mains.beside(|| signal(v, c, why));
        }
    }
    let turn = mains.then(|| match sidecars.into_iter().max_by_key(|c| place(v, c)) {
        Some(last) => signal(v, last, why),
        None => Step::Done,
    });
    turn.beside(|| hooks)
}

/// Where a container stands in the spec.
fn place(v: &View<'_>, c: &SeenContainer) -> usize {
    v.made_from.and_then(|p| p.containers.iter().position(|w| w.name == c.name)).unwrap_or(usize::MAX)
}

fn signal<'a>(v: &View<'a>, c: &'a SeenContainer, why: &str) -> Step<'a> {
    let (uid, id) = (v.uid.clone(), c.id.clone());
    let Some((stop, asked)) = v.stop(c).and_then(|s| Some((s, s.asked?))) else {
        return pre_stop(v, c, why).then(|| act(Action::Term { uid, id }, why));
    };
    let due = kill_due(v, c, stop, asked);
    if v.now() >= due {
        return kill(v, c, stop, asked);
    }
    match stop.retry.wait(v.now()) {
        _ if stop.kill_at.is_some() => Step::Wait(On::Grace { container: &c.name }, Some(due)),
        _ if stop.retry.failures >= TERM_TRIES => Step::Wait(On::Grace { container: &c.name }, Some(due)),
        Some(again) => Step::Wait(On::Cleaning { container: &c.name, retry: &stop.retry }, Some(again.min(due))),
        None => act(Action::Term { uid, id }, why),
    }
}

/// The preStop hook, if there is one: begun once, and given up at the end of the grace.
fn pre_stop<'a>(v: &View<'a>, c: &'a SeenContainer, why: &str) -> Step<'a> {
    let has = v.made_from.and_then(|p| p.containers.iter().find(|w| w.name == c.name)).is_some_and(|w| w.care.pre_stop);
    if !has || v.is_passed_over(c) {
        return Step::Done;
    }
    let grace = own_grace_ms(v, c);
    let Some(stop) = v.stop(c).filter(|s| s.hook.is_some()) else {
        let action = Action::RunHook { uid: v.uid.clone(), id: c.id.clone(), hook: Hook::PreStop, within_ms: Some(grace) };
        return act(action, why);
    };
    let begun = stop.hook.unwrap_or_default();
    let by = within_shutdown(v, Moment(begun.0.saturating_add(grace)), begun);
    if stop.hook_done || v.now() >= by { Step::Done } else { Step::Wait(On::PreStop { container: &c.name }, Some(by)) }
}

/// The grace of one container: the failed probe's, if it has one of its own, else the pod's.
fn own_grace_ms(v: &View<'_>, c: &SeenContainer) -> u64 {
    v.doom(c).and_then(|d| d.grace_ms).map_or_else(|| grace_ms(v.made_from), |ms| ms.max(MIN_GRACE_MS))
}

/// When KILL is due: at the end of the grace, counted from the TERM that was delivered (or, if none is known to be, from the last
/// that may have been). A shutdown may shorten the rest of a grace to its own window, as the kubelet's does.
fn kill_due(v: &View<'_>, c: &SeenContainer, stop: &Stop, asked: Moment) -> Moment {
    let least = Moment(asked.0.saturating_add(MIN_GRACE_MS));
    if v.is_passed_over(c) {
        return least;
    }
    let due = stop.kill_at.unwrap_or(Moment(asked.0.saturating_add(own_grace_ms(v, c))));
    within_shutdown(v, due, least)
}

/// A moment, or the end of the shutdown's window if that is earlier, but not before `least`.
fn within_shutdown(v: &View<'_>, due: Moment, least: Moment) -> Moment {
    let Some(shutdown) = &v.scene.world.wanted.shutdown else { return due };
    let critical = v.made_from.is_some_and(|p| p.critical);
    let window = if critical { shutdown.deadline } else { shutdown.critical_from() };
    due.min(window.max(least))
}

fn kill<'a>(v: &View<'a>, c: &'a SeenContainer, stop: &'a Stop, asked: Moment) -> Step<'a> {
    let again = stop.killed.map(|at| Moment(at.0.saturating_add(KILL_AGAIN_MS)));
    let due = match stop.killed.and(stop.retry.not_before) {
        Some(retry) => again.map(|a| a.min(retry)),
        None => again,
    };
    match due.filter(|due| *due > v.now()) {
        Some(due) => Step::Wait(On::Killed { container: &c.name }, Some(due)),
        None => {
            let grace = Ms(v.now().since_ms(asked) / 1000 * 1000);
            act(Action::Kill { uid: v.uid.clone(), id: c.id.clone() }, format!("{} was asked to stop {grace} ago", c.name))
        }
    }
}
