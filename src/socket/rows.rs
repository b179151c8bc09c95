//! `/v1/status`: each pod in one line, in kubectl's words, and the files that need attention.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use super::wire::{API_VERSION, Cluster, Containerd, Manifest, Node, PodRow, Status};
use crate::plan::status::summary;
use crate::plan::world::{Link, Sandbox, SeenPod};
use crate::pod::{FileReport, PodKey, Uid, Verdict, WantedPod};

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
        node: Node {
            name: view.settings.node_name.clone(),
            ips: view.settings.node_ips.iter().map(ToString::to_string).collect(),
            degraded: view.degraded.to_vec(),
        },
        layers_read: world.wanted.complete,
        ready: containerd.up && world.wanted.complete && all_ready && !shutting_down,
        containerd,
        cluster: view.cluster.as_ref().map(cluster),
        shutting_down,
        pods,
        manifests: view.files.iter().filter(|f| needs_attention(f)).map(|f| manifest(view, f)).collect(),
    }
}

fn cluster(c: &super::Cluster) -> Cluster {
    Cluster { up: c.trouble.is_none(), message: c.trouble.clone(), mirrors: c.shown.0, unshown: c.shown.1 }
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
    let phase = status.phase.clone().unwrap_or_default();
    let ready = phase == "Succeeded" || status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.clone());
    }
    PodRow {
        phase,
        ready,
        wanted: true,
        last_restart: last_restart(&status).map(|Time(t)| t.to_string()),
        start_time: status.start_time.as_ref().map(|Time(t)| t.to_string()),
        ips,
        path: Some(pod.origin.path.display().to_string()),
        message: (!ready).then(|| first_message(&status)).flatten(),
        ..line(view, &pod.key, &pod.uid)
    }
}

/// Pods nobody wants any more, until nothing is left of them.
fn leaving<'a>(view: &'a View<'_>) -> impl Iterator<Item = PodRow> + 'a {
    let wanted = &view.world.wanted.pods;
    let leaves = |uid: &Uid, seen: &SeenPod| !wanted.values().any(|w| w.uid == *uid) && !seen.is_logs_alone();
    view.world.seen.pods.iter().filter(move |(uid, seen)| leaves(uid, seen)).map(|(uid, seen)| {
        let (ips, since) = match &seen.sandbox {
            Sandbox::Ready { ips, since } => (ips.iter().map(ToString::to_string).collect(), Some(*since)),
            Sandbox::Absent | Sandbox::Partial => (Vec::new(), None),
        };
        let known = view.world.memory.pods.get(uid).and_then(|m| m.known_since);
        let start_time = since.into_iter().chain(known).min().map(|at| at.to_string());
        // Of remains without a name the uid is all there is to call them.
        let nameless = PodKey { namespace: "".into(), name: uid.0.clone() };
        PodRow { status: "Terminating".into(), ips, start_time, ..line(view, seen.key.as_ref().unwrap_or(&nameless), uid) }
    })
}

/// What kubectl's table says of any pod.
fn line(view: &View<'_>, key: &PodKey, uid: &Uid) -> PodRow {
    let line = summary(view.world, uid, view.now);
    PodRow {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: uid.to_string(),
        status: line.status,
        ready_containers: u32::try_from(line.ready).unwrap_or(u32::MAX),
        total_containers: u32::try_from(line.total).unwrap_or(u32::MAX),
        restarts: line.restarts,
        ..PodRow::default()
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

/// The message a person needs first: a waiting container's, else the pod's, else the last end's.
fn first_message(status: &PodStatus) -> Option<String> {
    let waiting = containers(status).find_map(|c| c.state.as_ref()?.waiting.as_ref()?.message.clone());
    waiting
        .or_else(|| status.message.clone())
        .or_else(|| containers(status).find_map(|c| c.state.as_ref()?.terminated.as_ref()?.message.clone()))
}

fn last_restart(status: &PodStatus) -> Option<Time> {
    let ends = containers(status).filter_map(|c| c.last_state.as_ref()?.terminated.as_ref()?.finished_at.clone());
    ends.max_by(|Time(a), Time(b)| a.cmp(b))
}
