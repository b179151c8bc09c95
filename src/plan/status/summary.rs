//! One line of a pod, in kubectl's words (`printPod` of its table printer): READY, STATUS, RESTARTS.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use super::{Shown, refusal};
use crate::clock::Now;
use crate::plan::step::{Fate, fate};
use crate::plan::view::Scene;
use crate::plan::world::World;
use crate::pod::{Kind, Uid};

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Containers that are ready, sidecars included.
    pub ready: usize,
    /// Of so many.
    pub total: usize,
    /// `Running`, `CrashLoopBackOff`, `Init:0/1`, `Completed`, `Terminating`, …
    pub status: String,
    /// All restarts of main containers and sidecars (while it initialises: of init containers).
    pub restarts: i32,
}

/// One line of a pod; `Unknown` of one nobody knows.
pub fn summary(world: &World, uid: &Uid, now: Now) -> Summary {
    let scene = Scene::new(world, now.mono);
    let v = scene.pod(uid);
    let Some(pod) = v.wanted.or(v.made_from) else { return Summary { status: "Unknown".into(), ..Summary::default() } };
    let shown = Shown::of(&v, pod);
    let kinds = || pod.containers.iter().filter(|c| c.kind != Kind::Main).map(|c| c.kind).zip(&shown.init);
    let sidecars = || kinds().filter(|(k, _)| *k == Kind::Sidecar).map(|(_, s)| s);
    let mut line = Summary {
        ready: sidecars().chain(&shown.main).filter(|s| s.ready && running(s)).count(),
        total: pod.containers.iter().filter(|c| c.kind != Kind::Init).count(),
        status: shown.phase.to_owned(),
        restarts: 0,
    };
    let initializing = kinds().enumerate().find_map(|(i, (kind, s))| init_word(i, shown.init.len(), kind, s));
    match initializing.filter(|_| !shown.main.iter().any(|s| s.container_id.is_some())) {
        Some(word) => {
            line.status = word;
            line.restarts = shown.init.iter().map(|s| s.restart_count).sum();
        }
        None => {
            line.restarts = sidecars().chain(&shown.main).map(|s| s.restart_count).sum();
            main_word(&shown.main, &mut line.status);
        }
    }
    if let Some(refusal) = refusal(&v) {
        line.status = refusal.reason.into();
    }
    if matches!(fate(&v), Fate::Remove(..)) && (v.known || v.wanted.is_none()) {
        line.status = "Terminating".into();
    }
    line
}

fn running(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn init_word(index: usize, count: usize, kind: Kind, s: &ContainerStatus) -> Option<String> {
    let state = s.state.clone().unwrap_or_default();
    match state {
        ContainerState { terminated: Some(t), .. } if t.exit_code == 0 && kind == Kind::Init => None,
        ContainerState { running: Some(_), .. } if kind == Kind::Sidecar => None,
        ContainerState { terminated: Some(t), .. } => Some(match t.reason {
            Some(reason) => format!("Init:{reason}"),
            None => format!("Init:ExitCode:{}", t.exit_code),
        }),
        ContainerState { waiting: Some(w), .. } => match w.reason.as_deref() {
            Some(reason) if reason != "PodInitializing" && !reason.is_empty() => Some(format!("Init:{reason}")),
            _ => Some(format!("Init:{index}/{count}")),
        },
        _ => Some(format!("Init:{index}/{count}")),
    }
}

/// The last container with a word of its own has it, as kubectl walks them backwards.
fn main_word(main: &[ContainerStatus], word: &mut String) {
    let mut any_running = false;
    for s in main.iter().rev() {
        let state = s.state.clone().unwrap_or_default();
        match state {
            ContainerState { waiting: Some(w), .. } if w.reason.is_some() => *word = w.reason.unwrap_or_default(),
            ContainerState { terminated: Some(t), .. } => {
                *word = t.reason.unwrap_or_else(|| format!("ExitCode:{}", t.exit_code));
            }
            ContainerState { running: Some(_), .. } => any_running |= s.ready,
            _ => {}
        }
    }
    if word == "Completed" && any_running {
        *word = "Running".into();
    }
}
