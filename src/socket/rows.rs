//! `/v1/status`: each pod in one line, in kubectl's words (`printPod` of its table printer), and the files that need attention.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use super::wire::{API_VERSION, Containerd, Manifest, Node, PodRow, Status};
use crate::plan::world::{Link, Sandbox};
use crate::pod::{FileReport, Verdict, WantedPod};

/// The whole of `/v1/status`.
pub fn status(view: &View<'_>) -> Status {
    let world = view.world;
    let containerd = containerd(view);
    let mut pods: Vec<PodRow> = world.wanted.pods.values().map(|pod| wanted_row(view, pod)).collect();
    let all_ready = pods.iter().all(|p| p.ready);
    pods.extend(leaving(view));
    let shutting_down = world.wanted.shutdown.is_some();
    Status {
        api_version: API_VERSION.into(),
        kind: "Status".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        time: view.now.wall.to_string(),
        node: Node { name: view.settings.node_name.clone(), ips: view.settings.node_ips.iter().map(ToString::to_string).collect() },
        layers_read: world.wanted.complete,
        ready: containerd.up && world.wanted.complete && all_ready && !shutting_down,
        containerd,
        shutting_down,
        pods,
        manifests: view.files.iter().filter(|f| needs_attention(f)).map(|f| manifest(view, f)).collect(),
    }
}

fn containerd(view: &View<'_>) -> Containerd {
    let address = view.settings.containerd.display().to_string();
    match &view.world.seen.link {
        Link::Up { version } => Containerd { up: true, address, version: Some(version.to_string()), message: None, down_seconds: None },
        Link::Down { why, since } => Containerd {
            up: false,
            address,
            version: None,
            message: Some(why.to_string()),
            down_seconds: Some(view.now.mono.since_ms(*since) / 1000),
        },
    }
}

fn needs_attention(file: &FileReport) -> bool {
    file.stale || !file.errors.is_empty() || !file.warnings.is_empty() || matches!(file.verdict, Verdict::Rejected | Verdict::Ignored)
}

/// One file, with what it overrides or masks.
pub fn manifest(view: &View<'_>, file: &FileReport) -> Manifest {
    let show = |p: &std::path::Path| p.display().to_string();
    Manifest {
        path: show(&file.path),
        layer: file.layer.to_string(),
        verdict: file.verdict,
        by: file.by.as_deref().map(show),
        over: view.files.iter().filter(|f| f.by.as_ref() == Some(&file.path)).map(|f| show(&f.path)).collect(),
        pods: file.pods.iter().map(ToString::to_string).collect(),
        stale: file.stale,
        errors: file.errors.clone(),
        warnings: file.warnings.clone(),
    }
}

fn wanted_row(view: &View<'_>, pod: &WantedPod) -> PodRow {
    let status = (view.status)(&pod.uid);
    let mut row = pod.object.spec.as_ref().map_or_else(PodRow::default, |spec| row(spec, &status));
    row.namespace = pod.key.namespace.to_string();
    row.name = pod.key.name.to_string();
    row.uid = pod.uid.to_string();
    row.wanted = true;
    row.path = Some(pod.origin.path.display().to_string());
    row
}

/// Pods nobody wants any more, until nothing is left of them.
fn leaving<'a>(view: &'a View<'_>) -> impl Iterator<Item = PodRow> + 'a {
    let wanted = &view.world.wanted.pods;
    view.world.seen.pods.iter().filter(|(uid, _)| !wanted.values().any(|w| w.uid == **uid)).map(|(uid, seen)| {
        let ips = if let Sandbox::Ready { ips, .. } = &seen.sandbox { ips.iter().map(ToString::to_string).collect() } else { Vec::new() };
        let total = seen.made_from.as_ref().map_or(0, |w| w.containers.iter().filter(|c| c.kind != crate::pod::Kind::Init).count());
        PodRow {
            namespace: seen.key.as_ref().map_or_else(String::new, |k| k.namespace.to_string()),
            name: seen.key.as_ref().map_or_else(|| uid.to_string(), |k| k.name.to_string()),
            uid: uid.to_string(),
            status: "Terminating".into(),
            ready_containers: 0,
            total_containers: u32::try_from(total).unwrap_or(u32::MAX),
            ips,
            ..PodRow::default()
        }
    })
}

/// kubectl's reading of one pod.
pub fn row(spec: &PodSpec, status: &PodStatus) -> PodRow {
    let phase = status.phase.clone().unwrap_or_default();
    let mut seen = Reading { word: status.reason.clone().unwrap_or_else(|| phase.clone()), ..Reading::default() };
    let initializing = seen.read_init(spec, status);
    if !initializing || condition(status, "Initialized") {
        seen.read_main(status);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always")).count();
    let ready = condition(status, "Ready") || phase == "Succeeded";
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.clone());
    }
    PodRow {
        status: seen.word,
        phase,
        ready_containers: seen.ready,
        total_containers: u32::try_from(spec.containers.len() + sidecars).unwrap_or(u32::MAX),
        ready,
        restarts: seen.restarts,
        last_restart: seen.last.map(|Time(t)| t.to_string()),
        start_time: status.start_time.as_ref().map(|Time(t)| t.to_string()),
        ips,
        message: (!ready).then(|| first_message(status)).flatten(),
        ..PodRow::default()
    }
}

fn condition(status: &PodStatus, name: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == name && c.status == "True")
}

/// The message a person needs first: a waiting container's, else the pod's, else the last end's.
fn first_message(status: &PodStatus) -> Option<String> {
    let all = || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let waiting = all().find_map(|c| c.state.as_ref()?.waiting.as_ref()?.message.clone());
    waiting.or_else(|| status.message.clone()).or_else(|| all().find_map(|c| c.state.as_ref()?.terminated.as_ref()?.message.clone()))
}

#[derive(Default)]
struct Reading {
    word: String,
    ready: u32,
    restarts: i32,
    last: Option<Time>,
    sidecar_restarts: i32,
    sidecar_last: Option<Time>,
}

impl Reading {
    /// Init containers in order, up to the first that is not through; true if there is one.
    fn read_init(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let specs: Vec<_> = spec.init_containers.iter().flatten().collect();
        for (i, c) in status.init_container_statuses.iter().flatten().enumerate() {
            let sidecar = specs.iter().any(|s| s.name == c.name && s.restart_policy.as_deref() == Some("Always"));
            self.restarts += c.restart_count;
            self.last = later(self.last.take(), ended_before(c));
            if sidecar {
                self.sidecar_restarts += c.restart_count;
                self.sidecar_last = later(self.sidecar_last.take(), ended_before(c));
            }
            let state = c.state.as_ref();
            let ended = state.and_then(|s| s.terminated.as_ref());
            let waiting = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
            if ended.is_some_and(|t| t.exit_code == 0) {
                continue;
            }
            if sidecar && c.started == Some(true) {
                self.ready += u32::from(c.ready);
                continue;
            }
            self.word = match (ended, waiting) {
                (Some(t), _) => format!("Init:{}", ended_word(t.reason.as_deref(), t.signal, t.exit_code)),
                (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{i}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    /// Main containers, last first: the first container's trouble is the word that stays.
    fn read_main(&mut self, status: &PodStatus) {
        self.restarts = self.sidecar_restarts;
        self.last = self.sidecar_last.take();
        let mut running = false;
        for c in status.container_statuses.iter().flatten().rev() {
            self.restarts += c.restart_count;
            self.last = later(self.last.take(), ended_before(c));
            let none = ContainerState::default();
            let state = c.state.as_ref().unwrap_or(&none);
            match (&state.waiting, &state.terminated) {
                (Some(w), _) if w.reason.as_deref().is_some_and(|r| !r.is_empty()) => self.word = w.reason.clone().unwrap_or_default(),
                (_, Some(t)) => self.word = ended_word(t.reason.as_deref(), t.signal, t.exit_code),
                _ if c.ready && state.running.is_some() => {
                    running = true;
                    self.ready += 1;
                }
                _ => {}
            }
        }
        if self.word == "Completed" && running {
            self.word = if condition(status, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
}

fn ended_word(reason: Option<&str>, signal: Option<i32>, exit_code: i32) -> String {
    match (reason, signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{exit_code}"),
    }
}

fn ended_before(c: &ContainerStatus) -> Option<Time> {
    c.last_state.as_ref()?.terminated.as_ref()?.finished_at.clone()
}

fn later(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 < b.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}
