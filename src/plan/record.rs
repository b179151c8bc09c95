//! What is told of a pod: the kubelet's events for what was started and what came of it, and the bounded ring that keeps them.
//!
//! Pure: `run` calls `started` and `ended` before it applies the event, and owns the ring.

use std::collections::VecDeque;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use crate::clock::{Moment, Now, Wall};
use crate::plan::action::{Action, Effect, Failure, Outcome};
use crate::plan::status::GoDuration;
use crate::plan::view::{Scene, restarts};
use crate::plan::world::{SeenContainer, SeenImage, State, World};
use crate::pod::{ImageRef, PodKey, PullPolicy, Uid, WantedContainer, WantedPod};

/// Something a person may want to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// Of which pod.
    pub key: PodKey,
    /// Its uid.
    pub uid: Uid,
    /// Field path of the container it is about: `spec.containers{web}`.
    pub container: Option<Rc<str>>,
    /// The kubelet's reason: `Pulled`, `Started`, `BackOff`, …
    pub reason: &'static str,
    /// Something is wrong.
    pub warning: bool,
    /// One sentence.
    pub message: String,
}

/// What the start of an action tells.
pub fn started(world: &World, action: &Action) -> Vec<EventNote> {
    match action {
        Action::PrepareImage { image, pull } if *pull != PullPolicy::Never => {
            waiting_for(world, image).map(|(pod, c)| normal(pod, c, "Pulling", format!("Pulling image \"{}\"", spelled(pod, c)))).collect()
        }
        Action::Term { uid, id } => {
            let seen = world.seen.pods.get(uid);
            let found = seen.and_then(|s| s.made_from.as_deref()).zip(seen.and_then(|s| s.containers.get(id)));
            found.map(|(pod, c)| note(pod, Some(&c.name), "Killing", format!("Stopping container {}", c.name))).into_iter().collect()
        }
        Action::DeleteSandbox { uid, keep: true } if world.wanted.shutdown.is_none() => {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            let scene = Scene::new(world, Moment(0));
            let anew = wanted(world, uid).filter(|pod| !scene.pod(uid).is_over(pod));
            anew.map(|pod| note(pod, None, "SandboxChanged", message)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// What the end of an action tells; `world` is as it was before.
pub fn ended(world: &World, action: &Action, outcome: &Outcome, now: Now) -> Vec<EventNote> {
    let pod = action.uid().and_then(|uid| wanted(world, uid));
    match (action, outcome, pod) {
        (Action::PrepareImage { image, pull }, _, _) => image_ended(world, image, *pull, outcome),
        (Action::CreateContainer { name, .. }, Outcome::Done(Effect::Container(_)), Some(pod)) => {
            vec![note(pod, Some(name), "Created", "Container created".into())]
        }
        (Action::CreateContainer { name, .. }, Outcome::Failed(f), Some(pod)) => {
            vec![warn(pod, Some(name), "Failed", format!("Error: {}", f.message))]
        }
        (Action::StartTask { .. }, Outcome::Done(Effect::Container(c)), Some(pod)) => {
            vec![note(pod, Some(&c.name), "Started", "Container started".into())]
        }
        (Action::StartTask { uid, id }, Outcome::Failed(f), Some(pod)) => {
            let name = world.seen.pods.get(uid).and_then(|s| s.containers.get(id)).map(|c| c.name.clone());
            vec![warn(pod, name.as_ref(), "Failed", format!("Error: {}", f.message))]
        }
        (Action::CreateSandbox { .. }, Outcome::Failed(f), Some(pod)) => vec![sandbox_failed(pod, f)],
        (Action::DeleteSandbox { .. }, Outcome::Failed(f), Some(pod)) => {
            vec![warn(pod, None, "FailedKillPod", format!("error killing pod: {}", f.message))]
        }
        (Action::DeleteTask { uid, .. }, Outcome::Done(Effect::Container(c)), Some(pod)) => {
            crash_loop(world, uid, pod, c, now).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn sandbox_failed(pod: &WantedPod, failure: &Failure) -> EventNote {
    match &*failure.reason {
        "NetworkNotReady" => warn(pod, None, "NetworkNotReady", format!("network is not ready: {}", failure.message)),
        "FailedMount" => warn(pod, None, "FailedMount", failure.message.to_string()),
        "SysctlForbidden" => warn(pod, None, "SysctlForbidden", failure.message.to_string()),
        _ => warn(pod, None, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {}", failure.message)),
    }
}

fn image_ended(world: &World, image: &ImageRef, pull: PullPolicy, outcome: &Outcome) -> Vec<EventNote> {
    let mut notes = Vec::new();
    for (pod, c) in waiting_for(world, image) {
        let name = spelled(pod, c);
        match outcome {
            Outcome::Done(Effect::Image(SeenImage::Ready { .. })) if pull == PullPolicy::Never => {
                let message = format!("Container image \"{name}\" already present on machine and can be accessed by the pod");
                notes.extend((c.pull != PullPolicy::Always).then(|| normal(pod, c, "Pulled", message)));
            }
            Outcome::Done(Effect::Image(SeenImage::Ready { .. })) => {
                notes.push(normal(pod, c, "Pulled", format!("Successfully pulled image \"{name}\"")));
            }
            Outcome::Failed(f) if pull != PullPolicy::Never => {
                notes.push(warn(pod, Some(&c.name), "Failed", format!("Failed to pull image \"{name}\": {}", f.message)));
                notes.push(normal(pod, c, "BackOff", format!("Back-off pulling image \"{name}\"")));
            }
            Outcome::Done(_) | Outcome::Failed(_) if c.pull == PullPolicy::Never => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                notes.push(warn(pod, Some(&c.name), "ErrImageNeverPull", message));
            }
            Outcome::Done(_) | Outcome::Failed(_) => {}
        }
    }
    notes
}

/// The newest attempt has ended and waits for its restart.
fn crash_loop(world: &World, uid: &Uid, pod: &WantedPod, c: &SeenContainer, now: Now) -> Option<EventNote> {
    let State::Dead(exit) = &c.state else { return None };
    let spec = pod.containers.iter().find(|w| w.name == c.name)?;
    let scene = Scene::new(world, now.mono);
    let v = scene.pod(uid);
    let due = v.container(&c.name).crash.crash_due(v.ended_at(c));
    if !v.is_latest(c) || due <= now.mono || !restarts(pod, spec, exit) {
        return None;
    }
    let key = &pod.key;
    let delay = GoDuration(v.container(&c.name).crash.delay_ms);
    let message = format!("Back-off {delay} restarting failed container {} in pod {}_{}({uid})", c.name, key.name, key.namespace);
    Some(warn(pod, Some(&c.name), "BackOff", message))
}

fn wanted<'a>(world: &'a World, uid: &Uid) -> Option<&'a WantedPod> {
    world.wanted.pods.values().find(|p| p.uid == *uid).map(|p| &**p)
}

/// Wanted containers that have never had this image, or ask for it anew.
fn waiting_for<'a>(world: &'a World, image: &'a ImageRef) -> impl Iterator<Item = (&'a WantedPod, &'a WantedContainer)> {
    let up = |pod: &WantedPod, c: &WantedContainer| {
        let seen = world.seen.pods.get(&pod.uid);
        let last = seen.and_then(|s| s.containers.values().filter(|a| a.name == c.name).max_by_key(|a| a.attempt));
        matches!(last.map(|l| &l.state), Some(State::Created | State::Running { .. }))
    };
    let pairs = world.wanted.pods.values().flat_map(|p| p.containers.iter().map(move |c| (&**p, c)));
    pairs.filter(move |(pod, c)| c.image == *image && !up(pod, c))
}

/// The image as the manifest spells it.
fn spelled(pod: &WantedPod, c: &WantedContainer) -> String {
    pod.container(&c.name).and_then(|s| s.image.clone()).unwrap_or_else(|| c.image.to_string())
}

fn normal(pod: &WantedPod, c: &WantedContainer, reason: &'static str, message: String) -> EventNote {
    note(pod, Some(&c.name), reason, message)
}

fn warn(pod: &WantedPod, container: Option<&Rc<str>>, reason: &'static str, message: String) -> EventNote {
    EventNote { warning: true, ..note(pod, container, reason, message) }
}

fn note(pod: &WantedPod, container: Option<&Rc<str>>, reason: &'static str, message: String) -> EventNote {
    let field = |name: &Rc<str>| -> Rc<str> {
        let init = pod.containers.iter().any(|c| c.name == *name && c.kind != crate::pod::Kind::Main);
        format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" }).into()
    };
    EventNote { key: pod.key.clone(), uid: pod.uid.clone(), container: container.map(field), reason, warning: false, message }
}

/// The last events, newest last; a repeated one is counted, not kept twice.
#[derive(Debug)]
pub struct EventRing {
    node: String,
    kept: VecDeque<(u64, Event)>,
    next: u64,
    cap: usize,
}

impl EventRing {
    /// At most `cap` events, reported by this node.
    pub fn new(node: &str, cap: usize) -> EventRing {
        EventRing { node: node.to_owned(), kept: VecDeque::new(), next: 1, cap: cap.max(1) }
    }

    /// Keeps one more. One with the same object, reason and message is counted and becomes the newest.
    pub fn push(&mut self, note: EventNote, now: Wall) {
        let seq = self.next;
        self.next += 1;
        let mut event = match self.kept.iter().rposition(|(_, e)| is_same(e, &note)).and_then(|at| self.kept.remove(at)) {
            Some((_, event)) => event,
            None => self.first(note, seq, now),
        };
        event.count = Some(event.count.unwrap_or(0).saturating_add(1));
        event.last_timestamp = Some(time(now));
        if self.kept.len() >= self.cap {
            self.kept.pop_front();
        }
        self.kept.push_back((seq, event));
    }

    /// Visits events with a sequence number greater than `after`, oldest first.
    pub fn visit(&self, after: u64, visit: &mut dyn FnMut(u64, &Event)) {
        let from = self.kept.partition_point(|(seq, _)| *seq <= after);
        for (seq, event) in self.kept.range(from..) {
            visit(*seq, event);
        }
    }

    fn first(&self, note: EventNote, seq: u64, now: Wall) -> Event {
        let source = EventSource { component: Some("plinth".into()), host: Some(self.node.clone()) };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{seq:x}{:x}", note.key.name, now.0)),
                namespace: Some(note.key.namespace.to_string()),
                creation_timestamp: Some(time(now)),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(note.key.name.to_string()),
                namespace: Some(note.key.namespace.to_string()),
                uid: Some(note.uid.to_string()),
                field_path: note.container.map(|c| c.to_string()),
                ..ObjectReference::default()
            },
            reason: Some(note.reason.to_owned()),
            message: Some(note.message),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            first_timestamp: Some(time(now)),
            reporting_component: Some("plinth".into()),
            reporting_instance: Some(self.node.clone()),
            source: Some(source),
            ..Event::default()
        }
    }
}

fn is_same(event: &Event, note: &EventNote) -> bool {
    event.involved_object.uid.as_deref() == Some(&*note.uid.0)
        && event.involved_object.field_path.as_deref() == note.container.as_deref()
        && event.reason.as_deref() == Some(note.reason)
        && event.message.as_deref() == Some(&note.message)
}

fn time(wall: Wall) -> Time {
    Time(Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn note(reason: &'static str) -> EventNote {
        EventNote {
            key: PodKey { namespace: "default".into(), name: "web".into() },
            uid: Uid("u".into()),
            container: None,
            reason,
            warning: false,
            message: "m".into(),
        }
    }

    fn read(ring: &EventRing, after: u64) -> Vec<(u64, String, i32)> {
        let mut out = Vec::new();
        ring.visit(after, &mut |seq, e| out.push((seq, e.reason.clone().unwrap(), e.count.unwrap())));
        out
    }

    #[test]
    fn a_repeated_event_is_counted_and_becomes_the_newest() {
        let mut ring = EventRing::new("n", 8);
        for (at, reason) in [(1, "Pulled"), (2, "BackOff"), (3, "Pulled")] {
            ring.push(note(reason), Wall(at));
        }
        assert_eq!(read(&ring, 0), [(2, "BackOff".into(), 1), (3, "Pulled".into(), 2)]);
        assert_eq!(read(&ring, 2), [(3, "Pulled".into(), 2)]);
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut ring = EventRing::new("n", 2);
        for reason in ["a", "b", "c"] {
            ring.push(note(reason), Wall(1));
        }
        assert_eq!(read(&ring, 0).iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3]);
    }
}
