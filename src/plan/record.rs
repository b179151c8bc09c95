//! What is told of a pod: the kubelet's events for what was started and what came of it.
//!
//! Pure: `run` calls `started` and `ended` before it applies the event, and keeps what they tell in an `EventRing`.

use std::rc::Rc;

pub use super::ring::EventRing;
use crate::clock::{Moment, Now};
use crate::plan::action::{Action, Answer, Check, Class, Effect, Failure, Outcome};
use crate::plan::admit::Refusal;
use crate::plan::status::GoDuration;
use crate::plan::view::Scene;
use crate::plan::world::{SeenContainer, SeenImage, State, World};
use crate::pod::{Hook, ImageRef, Kind, PodKey, PullPolicy, RestartPolicy, Uid, VolumeImage, WantedContainer, WantedPod};

/// Something a person may want to know of a pod, or of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// `Pod` or `Node`.
    pub kind: &'static str,
    /// Of which pod; of the node: its name, in the namespace where such events are kept.
    pub key: PodKey,
    /// Its uid; of the node: its name, as the kubelet has it.
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
            let mut notes: Vec<EventNote> = waiting_for(world, image)
                .map(|(pod, c)| normal(pod, c, "Pulling", format!("Pulling image \"{}\"", spelled(pod, c))))
                .collect();
            notes.extend(volumes_of(world, image).map(|(pod, _)| note(pod, None, "Pulling", format!("Pulling image \"{image}\""))));
            notes
        }
        Action::RunHook { uid, id, hook: Hook::PreStop, .. } => killing(world, uid, id),
        // The hook's beginning told it already.
        Action::Term { uid, id } => {
            let stop = world.memory.pods.get(uid).and_then(|m| m.stops.get(id));
            if stop.is_some_and(|s| s.hook.is_some()) { Vec::new() } else { killing(world, uid, id) }
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

fn killing(world: &World, uid: &Uid, id: &str) -> Vec<EventNote> {
    let Some((pod, c)) = of_container(world, uid, id) else { return Vec::new() };
    let memory = world.memory.pods.get(uid).and_then(|m| m.containers.get(&c.name));
    let doom = memory.and_then(|m| m.doom.as_ref()).filter(|d| d.id == c.id);
    let message = match doom.map(|d| d.probe) {
        Some(Some(probe)) => {
            let sidecar = if c.kind == Kind::Sidecar { "Init container" } else { "Container" };
            let never = pod.containers.iter().any(|w| w.name == c.name && w.restart == RestartPolicy::Never);
            let word = probe.to_string().to_lowercase();
            format!("{sidecar} {} failed {word} probe{}", c.name, if never { "" } else { ", will be restarted" })
        }
        Some(None) => "FailedPostStartHook".to_owned(),
        None => format!("Stopping container {}", c.name),
    };
    vec![note(pod, Some(&c.name), "Killing", message)]
}

fn of_container<'a>(world: &'a World, uid: &Uid, id: &str) -> Option<(&'a WantedPod, &'a SeenContainer)> {
    let seen = world.seen.pods.get(uid)?;
    let pod = seen.made_from.as_deref().or_else(|| wanted(world, uid))?;
    Some((pod, seen.containers.get(id)?))
}

/// What a probe's answer tells.
pub fn answered(world: &World, check: &Check, answer: &Answer) -> Option<EventNote> {
    let (pod, c) = of_container(world, &check.uid, &check.id)?;
    let probe = check.probe;
    match answer {
        Answer::Passed => None,
        Answer::Warned(why) => Some(warn(pod, Some(&c.name), "ProbeWarning", format!("{probe} probe warning: {why}"))),
        Answer::Failed(why) => Some(warn(pod, Some(&c.name), "Unhealthy", format!("{probe} probe failed: {why}"))),
        Answer::Errored(why) => {
            Some(warn(pod, Some(&c.name), "Unhealthy", format!("{probe} probe errored and resulted in unknown state: {why}")))
        }
    }
}

/// What the end of a hook tells.
pub fn hooked(world: &World, uid: &Uid, id: &str, hook: Hook, failure: Option<&str>) -> Option<EventNote> {
    let (pod, c) = of_container(world, uid, id)?;
    let reason = match hook {
        Hook::PostStart => "FailedPostStartHook",
        Hook::PreStop => "FailedPreStopHook",
    };
    failure.map(|_| warn(pod, Some(&c.name), reason, format!("{hook:?}Hook failed")))
}

/// What it tells that a hook was run without the TLS it asks for.
pub fn hook_in_clear(world: &World, uid: &Uid, id: &str, message: &str) -> Option<EventNote> {
    let (pod, c) = of_container(world, uid, id)?;
    Some(warn(pod, Some(&c.name), "LifecycleHTTPFallback", message.to_owned()))
}

/// What it tells that an emptyDir was counted: the kubelet's words, which it has for the pods it evicts.
pub fn measured(world: &World, uid: &Uid, volume: &str, used: u64, limit: u64) -> Option<EventNote> {
    let pod = wanted(world, uid).filter(|_| used > limit)?;
    let spec = pod.object.spec.as_ref()?;
    let source = spec.volumes.iter().flatten().find(|v| v.name == volume)?.empty_dir.as_ref()?;
    let written = source.size_limit.as_ref().map(|q| q.0.as_str()).unwrap_or_default();
    Some(warn(pod, None, "EmptyDirOverLimit", format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{written}\". ")))
}

/// What a room has to tell of a pod, or of the node, as it is.
pub fn told(world: &World, of: Option<&Uid>, reason: &'static str, message: &str) -> Option<EventNote> {
    match of {
        Some(uid) => wanted(world, uid).map(|pod| warn(pod, None, reason, message.to_owned())),
        None => Some(of_node(&world.node.name, reason, message)),
    }
}

/// What is wrong with the node itself.
fn of_node(name: &str, reason: &'static str, message: &str) -> EventNote {
    let key = PodKey { namespace: "default".into(), name: name.into() };
    EventNote { kind: "Node", key, uid: Uid(name.into()), container: None, reason, warning: true, message: message.to_owned() }
}

/// What the beginning of a shutdown tells.
pub fn shutting_down(world: &World) -> EventNote {
    EventNote { warning: false, ..of_node(&world.node.name, "Shutdown", "Shutdown manager detected shutdown event") }
}

/// What it tells that the node does not take a pod.
pub fn refused(world: &World, uid: &Uid, refusal: &Refusal) -> Option<EventNote> {
    wanted(world, uid).map(|pod| warn(pod, None, refusal.reason, refusal.message.clone()))
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
        (Action::DeleteContainer { .. }, Outcome::Failed(f), _) if f.class != Class::Unreachable => {
            vec![of_node(&world.node.name, "ContainerGCFailed", &f.message)]
        }
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
            Outcome::Failed(f) if is_blind(f) => {
                let what = if &*f.reason == "InvalidImageName" { "apply default image tag" } else { "inspect image" };
                notes.push(warn(pod, Some(&c.name), "InspectFailed", format!("Failed to {what} \"{name}\": {}", f.message)));
                notes.push(not_made(pod, c, if what == "inspect image" { "ImageInspectError" } else { "InvalidImageName" }));
            }
            // A look fails so when an archive on this host has the image and cannot give it.
            Outcome::Failed(f) if pull != PullPolicy::Never || &*f.reason == "ErrImagePull" => {
                notes.push(warn(pod, Some(&c.name), "Failed", format!("Failed to pull image \"{name}\": {}", f.message)));
                notes.push(not_made(pod, c, "ErrImagePull"));
                notes.push(normal(pod, c, "BackOff", format!("Back-off pulling image \"{name}\"")));
                notes.push(not_made(pod, c, "ImagePullBackOff"));
            }
            Outcome::Done(_) | Outcome::Failed(_) if c.pull == PullPolicy::Never => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                notes.push(warn(pod, Some(&c.name), "ErrImageNeverPull", message));
                notes.push(not_made(pod, c, "ErrImageNeverPull"));
            }
            Outcome::Done(_) | Outcome::Failed(_) => {}
        }
    }
    for (pod, v) in volumes_of(world, image) {
        let ready = matches!(outcome, Outcome::Done(Effect::Image(SeenImage::Ready { .. })));
        match outcome {
            _ if ready && pull == PullPolicy::Never => {
                let message = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                notes.extend((v.pull != PullPolicy::Always).then(|| note(pod, None, "Pulled", message)));
            }
            _ if ready => notes.push(note(pod, None, "Pulled", format!("Successfully pulled image \"{image}\""))),
            Outcome::Failed(f) if pull != PullPolicy::Never => {
                notes.push(warn(pod, None, "Failed", format!("Failed to pull image \"{image}\": {}", f.message)));
                notes.push(note(pod, None, "BackOff", format!("Back-off pulling image \"{image}\"")));
            }
            _ if v.pull == PullPolicy::Never => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                notes.push(warn(pod, None, "ErrImageNeverPull", message));
            }
            Outcome::Done(_) | Outcome::Failed(_) => {}
        }
    }
    notes
}

/// Nobody could say whether the image is there, and containerd was.
fn is_blind(failure: &Failure) -> bool {
    matches!(&*failure.reason, "ImageInspectError" | "InvalidImageName") && failure.class != Class::Unreachable
}

/// What the kubelet says besides of a container it cannot make for want of its image.
fn not_made(pod: &WantedPod, c: &WantedContainer, reason: &str) -> EventNote {
    warn(pod, Some(&c.name), "Failed", format!("Error: {reason}"))
}

/// Volumes of wanted pods that are this image, and that no container stands on yet.
fn volumes_of<'a>(world: &'a World, image: &'a ImageRef) -> impl Iterator<Item = (&'a WantedPod, &'a VolumeImage)> {
    let up = |pod: &WantedPod, v: &VolumeImage| {
        let alive = |c: &SeenContainer| v.users.contains(&c.name) && matches!(c.state, State::Created | State::Running { .. });
        world.seen.pods.get(&pod.uid).is_some_and(|seen| seen.containers.values().any(alive))
    };
    let pairs = world.wanted.pods.values().flat_map(|p| p.volume_images.iter().map(move |v| (&**p, v)));
    pairs.filter(move |(pod, v)| v.image == *image && !up(pod, v))
}

/// The newest attempt has ended and waits for its restart.
fn crash_loop(world: &World, uid: &Uid, pod: &WantedPod, c: &SeenContainer, now: Now) -> Option<EventNote> {
    let State::Dead(exit) = &c.state else { return None };
    let spec = pod.containers.iter().find(|w| w.name == c.name)?;
    let scene = Scene::new(world, now.mono);
    let v = scene.pod(uid);
    let due = v.container(&c.name).crash.crash_due(v.ended_at(c));
    if !v.is_latest(c) || due <= now.mono || !v.restarts(pod, spec, c, exit) {
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
    EventNote { kind: "Pod", key: pod.key.clone(), uid: pod.uid.clone(), container: container.map(field), reason, warning: false, message }
}
