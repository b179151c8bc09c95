//! One container's status: state, last state, and the waiting reasons with the kubelet's texts.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
    LinuxContainerUser, VolumeMount, VolumeMountStatus,
};

use super::time;
use crate::plan::image::{self, Image};
use crate::plan::order;
use crate::plan::view::View;
use crate::plan::world::{Exit, Retry, RunsAs, SeenContainer, SeenImage, State};
use crate::pod::{Kind, PullPolicy, WantedContainer, WantedPod};

/// How long a failed pull is shown as `ErrImagePull` before it is `ImagePullBackOff`, ms: the kubelet's next sync turns it.
const FRESH_ERROR_MS: u64 = 1_000;

/// One container's status.
pub fn status(v: &View<'_>, pod: &WantedPod, index: usize, c: &WantedContainer) -> ContainerStatus {
    let last = v.latest(&c.name);
    let previous = last.and_then(|l| v.attempts(&c.name).filter(|a| a.attempt < l.attempt).max_by_key(|a| a.attempt));
    let mut state = state(v, pod, last);
    let vanished = v.vanished(&c.name);
    let next = vanished.map(|n| v.seen.begins_at(&c.name).max(n.saturating_add(1)));
    let mut last_state = previous.and_then(terminated).or_else(|| vanished.map(|_| unknown()));
    if let Some(waiting) = trouble(v, pod, index, c, last) {
        if state.terminated.is_some() {
            last_state = Some(std::mem::take(&mut state));
        }
        state = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
    }
    let running = state.running.is_some();
    let spec = pod.container(&c.name);
    let resources = spec.and_then(|s| s.resources.clone());
    let class = pod.object.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
    let seals = !v.scene.world.node.unsealed_classes.contains(class);
    ContainerStatus {
        name: c.name.to_string(),
        ready: match c.kind {
            Kind::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
            Kind::Sidecar | Kind::Main => running && last.is_some_and(|l| v.is_ready(l)),
        },
        started: Some(running && last.is_some_and(|l| v.is_started(l))),
        restart_count: i32::try_from(last.map(|l| l.attempt).or(next).unwrap_or(0)).unwrap_or(i32::MAX),
        image: last.map_or_else(|| spec.and_then(|s| s.image.clone()).unwrap_or_default(), |l| l.image.to_string()),
        image_id: last.map(image_id).unwrap_or_default(),
        container_id: last.map(|l| format!("containerd://{}", l.id)),
        allocated_resources: resources.as_ref().filter(|_| running).and_then(|r| r.requests.clone()),
        resources: resources.filter(|_| running),
        volume_mounts: spec.and_then(|s| s.volume_mounts.as_ref()).map(|all| all.iter().map(|m| mounted(m, seals)).collect()),
        user: last.and_then(|l| l.user.as_deref()).map(user),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// What becomes of a mount. Where that is asked for and the OCI runtime can do it, nothing that is mounted below is writable either.
fn mounted(mount: &VolumeMount, seals: bool) -> VolumeMountStatus {
    let asks = seals && mount.recursive_read_only.as_deref().is_some_and(|how| how != "Disabled");
    let read_only = mount.read_only.filter(|is| *is);
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only,
        recursive_read_only: read_only.map(|_| if asks { "Enabled" } else { "Disabled" }.to_owned()),
        ..VolumeMountStatus::default()
    }
}

fn user(runs_as: &RunsAs) -> ContainerUser {
    let linux = LinuxContainerUser {
        uid: runs_as.uid.into(),
        gid: runs_as.gid.into(),
        supplemental_groups: Some(runs_as.groups.iter().map(|g| i64::from(*g)).collect()),
    };
    ContainerUser { linux: Some(linux) }
}

/// The digest under the image's own repository, as containerd's CRI reports it.
fn image_id(c: &SeenContainer) -> String {
    if c.image_id.is_empty() {
        return String::new();
    }
    let bare = c.image.0.split('@').next().unwrap_or_default();
    let repository = match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => bare,
    };
    format!("{repository}@{}", c.image_id)
}

fn state(v: &View<'_>, pod: &WantedPod, last: Option<&SeenContainer>) -> ContainerState {
    match last.map(|l| (l, &l.state)) {
        // It is not shown as running before its postStart hook is over, as with the kubelet.
        Some((l, State::Running { .. })) if v.post_start(l).is_some() => not_yet(pod),
        Some((_, State::Running { since })) => {
            let running = ContainerStateRunning { started_at: Some(time(*since)) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        Some((l, State::Exited(_) | State::Lost(_) | State::Dead(_))) => terminated(l).unwrap_or_default(),
        Some((_, State::Record | State::Created)) | None => not_yet(pod),
    }
}

fn not_yet(pod: &WantedPod) -> ContainerState {
    let initializing = pod.containers.iter().any(|c| c.kind != Kind::Main);
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    waiting_state(ContainerStateWaiting { reason: Some(reason.into()), message: None })
}

fn waiting_state(waiting: ContainerStateWaiting) -> ContainerState {
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(c: &SeenContainer) -> Option<ContainerState> {
    let (State::Exited(exit) | State::Lost(exit) | State::Dead(exit)) = &c.state else { return None };
    let Exit { code, started, finished, reason, message } = exit;
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", c.id)),
        exit_code: i32::try_from(*code).unwrap_or(i32::MAX),
        finished_at: Some(time(*finished)),
        started_at: started.map(time),
        reason: (!reason.is_empty()).then(|| reason.to_string()),
        message: message.as_ref().map(ToString::to_string),
        signal: None,
    };
    Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() })
}

/// The end of one of which nobody knows more than that it ran: the kubelet's words, and a better reason than its own.
fn unknown() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located: somebody deleted its record.  The container used to be Running".into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// Why a container that should run does not, if something is in its way (the kubelet's reason cache).
fn trouble(
    v: &View<'_>,
    pod: &WantedPod,
    index: usize,
    c: &WantedContainer,
    last: Option<&SeenContainer>,
) -> Option<ContainerStateWaiting> {
    if v.wanted.is_none() || v.memory.terminating || v.is_over(pod) {
        return None;
    }
    let memory = v.container(&c.name);
    if let Some((l, State::Exited(exit) | State::Dead(exit))) = last.map(|l| (l, &l.state)) {
        if !v.restarts(pod, c, l, exit) {
            return None;
        }
        if memory.crash.crash_due(v.ended_at(l)) > v.now() {
            return Some(crash_loop(pod, c, &memory.crash));
        }
        if let Some(doom) = v.doom(l).filter(|d| d.probe.is_none()) {
            let (reason, message) = (Some("PostStartHookError".into()), Some(doom.message.to_string()));
            return Some(ContainerStateWaiting { reason, message });
        }
        if v.is_passed_over(l) {
            return Some(ContainerStateWaiting { reason: Some("RestartingAllContainers".into()), message: None });
        }
    }
    if matches!(last.map(|l| &l.state), Some(State::Running { .. } | State::Lost(_))) {
        return None;
    }
    if let Some(attempt) = order::upcoming(v, pod, index, c)
        && let Some(waiting) = image_trouble(v, pod, c, attempt)
    {
        return Some(waiting);
    }
    failing(&memory.create, "CreateContainerError")
}

fn failing(retry: &Retry, default: &str) -> Option<ContainerStateWaiting> {
    let message = retry.message.as_ref()?;
    let reason = retry.reason.as_deref().filter(|r| !r.is_empty()).unwrap_or(default);
    Some(ContainerStateWaiting { reason: Some(reason.into()), message: Some(message.to_string()) })
}

fn crash_loop(pod: &WantedPod, c: &WantedContainer, crash: &Retry) -> ContainerStateWaiting {
    let (key, delay) = (&pod.key, GoDuration(crash.delay_ms));
    let message = format!("back-off {delay} restarting failed container={} pod={}_{}({})", c.name, key.name, key.namespace, pod.uid);
    ContainerStateWaiting { reason: Some("CrashLoopBackOff".into()), message: Some(message) }
}

/// The first image that is not there yet, and what is wrong with it.
fn image_trouble(v: &View<'_>, pod: &WantedPod, c: &WantedContainer, attempt: u32) -> Option<ContainerStateWaiting> {
    let missing = image::needs(v, pod, c, attempt).map(|need| (need, image::state(v, need)));
    let (need, state) = missing.into_iter().find(|(_, state)| !matches!(state, Image::Ready))?;
    let memory = v.scene.world.memory.images.get(need.image)?;
    let absent = matches!(v.scene.world.seen.images.get(need.image), Some(SeenImage::Absent));
    let looked_for = need.pull == PullPolicy::Never || (need.pull == PullPolicy::IfNotPresent && !absent);
    let retry = if looked_for { &memory.look } else { &memory.pull };
    let mut waiting = failing(retry, "ErrImagePull")?;
    let fresh = retry.at.is_some_and(|at| v.now().since_ms(at) < FRESH_ERROR_MS);
    let pulled = matches!(waiting.reason.as_deref(), Some("ErrImagePull" | "RegistryUnavailable"));
    if pulled && !fresh && matches!(state, Image::Later(..)) {
        let message = waiting.message.unwrap_or_default();
        let own = || pod.container(&c.name).and_then(|s| s.image.clone()).unwrap_or_default();
        let spelled = if need.volume.is_some() { need.image.to_string() } else { own() };
        waiting.message =
            Some(format!("Back-off pulling image \"{spelled}\": {}: {message}", waiting.reason.as_deref().unwrap_or_default()));
        waiting.reason = Some("ImagePullBackOff".into());
    }
    Some(waiting)
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub struct GoDuration(pub u64);

impl std::fmt::Display for GoDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (s, ms) = (self.0 / 1000, self.0 % 1000);
        match (s / 3600, s / 60 % 60, s % 60) {
            (0, 0, 0) if ms > 0 => return write!(f, "{ms}ms"),
            (0, 0, s) => write!(f, "{s}")?,
            (0, m, s) => write!(f, "{m}m{s}")?,
            (h, m, s) => write!(f, "{h}h{m}m{s}")?,
        }
        if ms > 0 {
            f.write_str(format!(".{ms:03}").trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::GoDuration;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (ms, text) in
            [(0, "0s"), (10_000, "10s"), (80_000, "1m20s"), (300_000, "5m0s"), (1_500, "1.5s"), (250, "250ms"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(GoDuration(ms).to_string(), text);
        }
    }
}
