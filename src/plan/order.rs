//! Which container of a running pod is up next: init containers in turn, sidecars kept, main containers in spec order.
//!
//! Looks only at pods whose sandbox is ready; stops nothing (see `sweep`).

use crate::plan::action::Action;
use crate::plan::image::{self, Image};
use crate::plan::step::{Ms, On, Step, act};
use crate::plan::sweep;
use crate::plan::view::{View, exit, is_failure};
use crate::plan::world::{SeenContainer, State};
use crate::pod::{Hook, Kind, WantedContainer, WantedPod};

/// How far init has come: containers before this index are through, because a later one was made in this sandbox.
pub fn reached(v: &View<'_>, pod: &WantedPod) -> usize {
    let init = pod.containers.iter().filter(|c| c.kind != Kind::Main).count();
    let last = pod.containers.iter().rposition(|c| v.present(&c.name).is_some()).unwrap_or(0);
    last.min(init)
}

/// An init container that has done its part: the next one may start.
pub fn is_through(v: &View<'_>, container: &WantedContainer) -> bool {
    let Some(attempt) = v.present(&container.name) else { return false };
    match container.kind {
        Kind::Sidecar | Kind::Main => v.has_started(attempt),
        Kind::Init => exit(&attempt.state).is_some_and(|e| !is_failure(e)),
    }
}

/// The next start the pod's containers need.
pub fn next<'a>(v: &View<'a>, pod: &'a WantedPod) -> Step<'a> {
    let reached = reached(v, pod);
    let mut step = Step::Done;
    for (i, container) in pod.containers.iter().enumerate() {
        match container.kind {
            Kind::Init if i < reached => {}
            Kind::Init | Kind::Sidecar if i >= reached => {
                step = step.beside(|| bring_up(v, pod, container));
                if !is_through(v, container) {
                    return step.beside(|| Step::Wait(gate(container), None));
                }
            }
            Kind::Init | Kind::Sidecar => step = step.beside(|| bring_up(v, pod, container)),
            Kind::Main => {
                let up = bring_up(v, pod, container);
                // Spec order holds while an image is fetched for the first time; one that failed holds nobody up (kubelet:
                // startContainer pulls in line, and goes on with the next container after a failure).
                // A postStart hook holds the next ones up too.
                let in_line = matches!(up, Step::Wait(On::Image { .. } | On::PostStart { .. }, _));
                step = step.beside(|| up);
                if in_line || matches!(step, Step::Do(..)) {
                    return step;
                }
            }
        }
    }
    step
}

fn gate(container: &WantedContainer) -> On<'_> {
    match container.kind {
        Kind::Init => On::Init { container: &container.name },
        Kind::Sidecar | Kind::Main => On::Sidecar { container: &container.name },
    }
}

/// The container half of the decision table.
fn bring_up<'a>(v: &View<'a>, pod: &'a WantedPod, container: &'a WantedContainer) -> Step<'a> {
    let Some(last) = v.latest(&container.name) else {
        return match v.seen.begins_at(&container.name) {
            0 => create(v, pod, container, 0, "wanted".into()),
            next => create(v, pod, container, next, format!("its records are lost, its logs end with {}", next - 1)),
        };
    };
    let (uid, id) = (v.uid.clone(), last.id.clone());
    match &last.state {
        State::Dead(_) if v.is_passed_over(last) => again(v, pod, container, last, "all containers are restarted".into()),
        State::Dead(_) if !v.is_present(last) => again(v, pod, container, last, "its sandbox is new".into()),
        _ if !v.is_present(last) => Step::Wait(On::Grace { container: &container.name }, None),
        State::Record => sweep::cleaning(v, last, Action::DeleteContainer { uid, id }, "it was made half-way"),
        State::Created => match v.container(&container.name).create.wait(v.now()) {
            Some(due) => Step::Wait(On::Create { container: &container.name, retry: &v.container(&container.name).create }, Some(due)),
            None => act(Action::StartTask { uid, id }, format!("{} is made and not started", container.name)),
        },
        State::Running { .. } => post_start(v, last),
        State::Lost(_) => sweep::cleaning(v, last, Action::DeleteTask { uid, id }, "it ended while nobody looked"),
        State::Exited(exit) | State::Dead(exit) => {
            if !v.restarts(pod, container, last, exit) {
                return Step::Done;
            }
            let waited = v.now().since_ms(v.ended_at(last)) / 1000 * 1000;
            again(v, pod, container, last, format!("exited {}, waited {}", exit.code, Ms(waited)))
        }
    }
}

/// What a container that was just started waits for: the end of its hook. One that is to be ended waits for nothing.
fn post_start<'a>(v: &View<'a>, last: &'a SeenContainer) -> Step<'a> {
    let Some(hook) = v.post_start(last).filter(|_| v.doom(last).is_none()) else { return Step::Done };
    if hook.begun {
        return Step::Wait(On::PostStart { container: &last.name }, None);
    }
    let retry = &v.container(&last.name).create;
    if let Some(due) = retry.wait(v.now()) {
        return Step::Wait(On::Create { container: &last.name, retry }, Some(due));
    }
    let action = Action::RunHook { uid: v.uid.clone(), id: last.id.clone(), hook: Hook::PostStart, within_ms: None };
    act(action, format!("{} was started", last.name))
}

/// A restart, when its back-off is over.
fn again<'a>(v: &View<'a>, pod: &'a WantedPod, container: &'a WantedContainer, last: &SeenContainer, why: String) -> Step<'a> {
    let due = v.container(&container.name).crash.crash_due(v.ended_at(last));
    if due > v.now() {
        return Step::Wait(On::Crash { container: &container.name }, Some(due));
    }
    create(v, pod, container, last.attempt.saturating_add(1), why)
}

fn create<'a>(v: &View<'a>, pod: &'a WantedPod, container: &'a WantedContainer, attempt: u32, why: String) -> Step<'a> {
    let name = &*container.name;
    for need in image::needs(v, pod, container, attempt) {
        let image = need.image;
        match image::state(v, need) {
            Image::Ready => {}
            Image::Preparing | Image::Needs(_) => return Step::Wait(On::Image { container: name, image }, None),
            Image::Later(due, retry) => return Step::Wait(On::Pull { container: name, image, retry }, Some(due)),
        }
    }
    let retry = &v.container(name).create;
    if let Some(due) = retry.wait(v.now()) {
        return Step::Wait(On::Create { container: name, retry }, Some(due));
    }
    act(Action::CreateContainer { uid: pod.uid.clone(), name: container.name.clone(), attempt }, format!("{name}: {why}"))
}

/// The attempt a container needs its image for, if it needs one made now or soon: what `image` prepares ahead.
pub fn upcoming(v: &View<'_>, pod: &WantedPod, index: usize, container: &WantedContainer) -> Option<u32> {
    let attempt = match v.latest(&container.name) {
        None => v.seen.begins_at(&container.name),
        Some(last) => match &last.state {
            State::Record => last.attempt,
            State::Exited(exit) | State::Dead(exit) if !v.is_present(last) || v.restarts(pod, container, last, exit) => {
                let due = v.container(&container.name).crash.crash_due(v.ended_at(last));
                if due > v.now() {
                    return None;
                }
                last.attempt.saturating_add(1)
            }
            State::Created | State::Running { .. } | State::Lost(_) | State::Exited(_) | State::Dead(_) => return None,
        },
    };
    let passed = container.kind == Kind::Init && index < reached(v, pod);
    (!passed).then_some(attempt)
}
