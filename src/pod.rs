//! Shared nouns. Kubernetes' own types (`k8s-openapi`) where a thing is the field's own; ours where it is not.
//!
//! Knows no other room and does nothing: no I/O, no clock, no logging.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use serde::{Deserialize, Serialize};

/// Label and annotation prefix of everything that is plinth's own.
pub const PREFIX: &str = "plinth.dev/";

/// Annotation of a pod that is to be removed, data and all, and made anew when an emptyDir on disk holds more than its sizeLimit: `true`.
pub const RESTART_OVERFULL: &str = "plinth.dev/restart-over-size-limit";

/// `namespace/name`, the name with its node suffix: what a person calls a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// The namespace, `default` when the manifest names none.
    pub namespace: Rc<str>,
    /// The full name, node suffix included.
    pub name: Rc<str>,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod's UID: 32 hex digits, a hash of content and identity (product.md, Identity). Another content is another UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub Rc<str>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A normalised image reference: `docker.io/library/busybox:1.35`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef(pub Rc<str>);

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImageRef {
    /// Fills in what the short form leaves out (`docker.io`, `library/`, `latest`), as the kubelet does
    /// (distribution/reference, `ParseNormalizedNamed` + `TagNameOnly`). Does not judge validity.
    pub fn normalised(short: &str) -> ImageRef {
        let (path, digest) = match short.split_once('@') {
            Some((p, d)) => (p, Some(d)),
            None => (short, None),
        };
        let (host, rest) = match path.split_once('/') {
            Some((h, r)) if h.contains(['.', ':']) || h == "localhost" || h.chars().any(char::is_uppercase) => (h, r),
            _ => ("docker.io", path),
        };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let library = if host == "docker.io" && !rest.contains('/') { "library/" } else { "" };
        let tagged = rest.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let tag = if tagged || digest.is_some() { "" } else { ":latest" };
        let at = if digest.is_some() { "@" } else { "" };
        ImageRef(format!("{host}/{library}{rest}{tag}{at}{}", digest.unwrap_or("")).into())
    }
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `spec.initContainers` without `restartPolicy: Always`: runs to success, in order, before the rest.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always` (KEP-753): started in order, runs as long as the pod.
    Sidecar,
    /// `spec.containers`.
    Main,
}

/// What happens after a container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// What a running container is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// Has it started? Until it has, nothing else is asked.
    Startup,
    /// Should it be ended, and perhaps begun anew?
    Liveness,
    /// Should it be given work?
    Readiness,
}

/// The kubelet's word in events.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Probe::Startup => "Startup",
            Probe::Liveness => "Liveness",
            Probe::Readiness => "Readiness",
        })
    }
}

/// When a probe is due and what its answers mean; how it is asked stays in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRule {
    /// Not before this, counted from the container's start, ms.
    pub initial_delay_ms: u64,
    /// From one beginning to the next, ms.
    pub period_ms: u64,
    /// An answer that takes longer is a failure, ms.
    pub timeout_ms: u64,
    /// Successes in a row that count as one.
    pub successes: u32,
    /// Failures in a row that count as one.
    pub failures: u32,
    /// Grace of the stop that follows a failure, ms; `None`: the pod's.
    pub grace_ms: Option<u64>,
}

/// A hook in a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Right after its start; it counts as started when this is done, and is ended if it fails.
    PostStart,
    /// Before it is told to stop, within the grace.
    PreStop,
}

/// What is done for a container while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// `startupProbe`.
    pub startup: Option<ProbeRule>,
    /// `livenessProbe`.
    pub liveness: Option<ProbeRule>,
    /// `readinessProbe`.
    pub readiness: Option<ProbeRule>,
    /// It has `lifecycle.postStart`.
    pub post_start: bool,
    /// It has `lifecycle.preStop`.
    pub pre_stop: bool,
}

impl Care {
    /// As a container's fields say. Numbers that are absent or zero are the API's defaults.
    fn of(c: &Container) -> Care {
        let rule = |p: &k8s_openapi::api::core::v1::Probe| {
            let number = |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
            let ms = |n: Option<i32>, default: u32| u64::from(number(n, default)) * 1000;
            ProbeRule {
                initial_delay_ms: ms(p.initial_delay_seconds, 0),
                period_ms: ms(p.period_seconds, 10),
                timeout_ms: ms(p.timeout_seconds, 1),
                successes: number(p.success_threshold, 1),
                failures: number(p.failure_threshold, 3),
                grace_ms: p.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).map(|s| s.saturating_mul(1000)),
            }
        };
        let hooks = c.lifecycle.as_ref();
        Care {
            startup: c.startup_probe.as_ref().map(rule),
            liveness: c.liveness_probe.as_ref().map(rule),
            readiness: c.readiness_probe.as_ref().map(rule),
            post_start: hooks.is_some_and(|l| l.post_start.is_some()),
            pre_stop: hooks.is_some_and(|l| l.pre_stop.is_some()),
        }
    }

    /// The probes there are.
    pub fn probes(&self) -> impl Iterator<Item = (Probe, ProbeRule)> {
        let all = [(Probe::Startup, self.startup), (Probe::Liveness, self.liveness), (Probe::Readiness, self.readiness)];
        all.into_iter().filter_map(|(probe, rule)| Some((probe, rule?)))
    }
}

/// What `plan` needs to know of one container of a wanted pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedContainer {
    /// Its name, unique in the pod.
    pub name: Rc<str>,
    /// Its part.
    pub kind: Kind,
    /// Its image, normalised.
    pub image: ImageRef,
    /// When that is pulled.
    pub pull: PullPolicy,
    /// The policy that holds for this container (its own, or the pod's; init containers of an Always pod: OnFailure).
    pub restart: RestartPolicy,
    /// Its probes and hooks.
    pub care: Care,
}

/// An image that is a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeImage {
    /// The volume's name.
    pub volume: Rc<str>,
    /// Its image, normalised.
    pub image: ImageRef,
    /// When that is pulled.
    pub pull: PullPolicy,
    /// Names of the containers that mount it.
    pub users: Vec<Rc<str>>,
}

/// Where a manifest came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The layer: a directory or a URL.
    pub layer: Rc<str>,
    /// The file in it.
    pub path: PathBuf,
    /// Line of the document in the file, from 1.
    pub line: u32,
}

/// One pod as it should be: the object as `GET /pods` shows it (without status), and what `plan` reads of it.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedPod {
    /// Its full name.
    pub key: PodKey,
    /// Its UID: changes exactly when its content does.
    pub uid: Uid,
    /// The defaulted, suffixed object.
    pub object: Rc<Pod>,
    /// The manifest.
    pub origin: Origin,
    /// Init containers and sidecars in spec order, then main containers in spec order.
    pub containers: Vec<WantedContainer>,
    /// Its image volumes that any container mounts, in spec order.
    pub volume_images: Vec<VolumeImage>,
    /// Shares the host's network.
    pub host_network: bool,
    /// `terminationGracePeriodSeconds`, at least 1.
    pub grace_s: u32,
    /// `activeDeadlineSeconds`: it may run so long in all.
    pub active_deadline_s: Option<u32>,
    /// System-critical (priority ≥ 2000000000, system classes resolved): stopped last on shutdown.
    pub critical: bool,
}

impl WantedPod {
    /// Reads what `plan` needs from a validated, defaulted object; `None` if it has no name or uid.
    pub fn from_object(object: Pod, origin: Origin) -> Option<WantedPod> {
        let meta = &object.metadata;
        let key = PodKey { namespace: meta.namespace.as_deref().unwrap_or("default").into(), name: meta.name.as_deref()?.into() };
        let uid = Uid(meta.uid.as_deref()?.into());
        let spec = object.spec.as_ref()?;
        let pod_policy = match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let mut containers = Vec::new();
        for c in spec.init_containers.iter().flatten() {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            let kind = if sidecar { Kind::Sidecar } else { Kind::Init };
            containers.push(wanted_container(c, kind, pod_policy));
        }
        for c in &spec.containers {
            containers.push(wanted_container(c, Kind::Main, pod_policy));
        }
        let critical = spec.priority.is_some_and(|p| p >= 2_000_000_000)
            || matches!(spec.priority_class_name.as_deref(), Some("system-node-critical" | "system-cluster-critical"));
        Some(WantedPod {
            key,
            uid,
            volume_images: volume_images(spec),
            containers,
            host_network: spec.host_network.unwrap_or(false),
            grace_s: u32::try_from(spec.termination_grace_period_seconds.unwrap_or(30).max(1)).unwrap_or(u32::MAX),
            active_deadline_s: spec.active_deadline_seconds.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
            critical,
            object: Rc::new(object),
            origin,
        })
    }

    /// Every image it stands on.
    pub fn images(&self) -> impl Iterator<Item = &ImageRef> {
        self.containers.iter().map(|c| &c.image).chain(self.volume_images.iter().map(|v| &v.image))
    }

    /// Every image its manifest names: those of volumes that no container mounts too.
    pub fn named_images(&self) -> impl Iterator<Item = ImageRef> {
        let volumes = self.object.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let references = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
        self.containers.iter().map(|c| c.image.clone()).chain(references.map(ImageRef::normalised))
    }

    /// The spec's container of that name, wherever it stands.
    pub fn container(&self, name: &str) -> Option<&Container> {
        let spec = self.object.spec.as_ref()?;
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|c| c.name == name)
    }
}

fn pull_policy(word: Option<&str>) -> PullPolicy {
    match word {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

fn volume_images(spec: &PodSpec) -> Vec<VolumeImage> {
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let read = |v: &Volume| {
        let source = v.image.as_ref()?;
        let mounts = |c: &&Container| c.volume_mounts.iter().flatten().any(|m| m.name == v.name);
        Some(VolumeImage {
            volume: v.name.as_str().into(),
            image: ImageRef::normalised(source.reference.as_deref()?),
            pull: pull_policy(source.pull_policy.as_deref()),
            users: all().filter(mounts).map(|c| c.name.as_str().into()).collect(),
        })
    };
    spec.volumes.iter().flatten().filter_map(read).filter(|v| !v.users.is_empty()).collect()
}

fn wanted_container(c: &Container, kind: Kind, pod_policy: RestartPolicy) -> WantedContainer {
    let image = c.image.as_deref().unwrap_or_default();
    let restart = match (c.restart_policy.as_deref(), kind) {
        (Some("Always"), _) => RestartPolicy::Always,
        (Some("OnFailure"), _) => RestartPolicy::OnFailure,
        (Some("Never"), _) => RestartPolicy::Never,
        (_, Kind::Init) if pod_policy == RestartPolicy::Always => RestartPolicy::OnFailure,
        _ => pod_policy,
    };
    let pull = pull_policy(c.image_pull_policy.as_deref());
    // An init container that ends has neither, as the API's validation has it.
    let care = if kind == Kind::Init { Care::default() } else { Care::of(c) };
    WantedContainer { name: c.name.as_str().into(), kind, image: ImageRef::normalised(image), pull, restart, care }
}

/// One error or warning about a manifest, with its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong and what would be right.
    pub message: String,
    /// Field path (`spec.containers[0].ports[1].containerPort`), empty for the whole file.
    pub field: String,
    /// Line, from 1; 0 when there is no place.
    pub line: u32,
    /// Column, from 1; 0 when there is no place.
    pub column: u32,
}

/// What became of a file of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Its pods are wanted (those not listed under `errors`).
    Accepted,
    /// Refused; its last good revision, if any, stays wanted.
    Rejected,
    /// A file of the same name in a higher layer wins.
    Overridden,
    /// Hidden by an empty file or a link to /dev/null in a higher layer.
    Masked,
    /// Is itself such a mask.
    Mask,
    /// Not a manifest by its name (extension, dot-file).
    Ignored,
}

/// One file of one layer, as `/v1/manifests` and `status` show it.
#[derive(Clone, Debug, PartialEq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its layer.
    pub layer: Rc<str>,
    /// What became of it.
    pub verdict: Verdict,
    /// The file that overrides or masks this one.
    pub by: Option<PathBuf>,
    /// The pods it asks for, with the revision that is wanted now.
    pub pods: Vec<PodKey>,
    /// The last good revision is what runs: the file no longer parses, or its layer is missing.
    pub stale: bool,
    /// Why it is refused, or which of its pods are.
    pub errors: Vec<Finding>,
    /// What was accepted all the same.
    pub warnings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_normalised_as_docker_does() {
        for (short, long) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.35", "docker.io/library/busybox:1.35"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/app:1", "localhost/app:1"),
            ("127.0.0.1:5000/x/y", "127.0.0.1:5000/x/y:latest"),
            ("registry.k8s.io/pause@sha256:00", "registry.k8s.io/pause@sha256:00"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ] {
            assert_eq!(&*ImageRef::normalised(short).0, long);
        }
    }
}
