//! The pod's phase, as the kubelet's `getPhase` finds it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use crate::plan::view::View;
use crate::pod::{Kind, RestartPolicy, WantedPod};

/// `Pending`, `Running`, `Succeeded` or `Failed`.
pub fn phase(v: &View<'_>, pod: &WantedPod, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    // As the kubelet shows a pod it rejected; here that is not for good.
    if v.is_overdue(pod) || super::refusal(v).is_some() {
        return "Failed";
    }
    let has_ended = |s: &&ContainerStatus| ended(s).is_some();
    let running = init.iter().chain(main).filter(|s| state(s).is_some_and(|s| s.running.is_some())).count();
    // A pod that is over is Running until the last sidecar has ended.
    if v.is_over(pod) && running == 0 {
        let failed = v.failed_init(pod).is_some() || main.iter().any(|s| ended(s) != Some(0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    if v.is_shut_down(pod) {
        return "Failed";
    }
    let waiting = main.iter().any(|s| state(s).is_some_and(|s| s.waiting.is_some()) && ended(s).is_none());
    let running = main.iter().any(|s| state(s).is_some_and(|s| s.running.is_some()));
    if waiting || (is_initializing(pod, init) && !running && !main.iter().any(|s| has_ended(&s))) {
        return "Pending";
    }
    if running || main.iter().all(|s| has_ended(&s)) {
        return "Running";
    }
    "Pending"
}

/// The last exit code, current or before.
fn ended(status: &ContainerStatus) -> Option<i32> {
    let code = |s: &Option<ContainerState>| s.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    code(&status.state).or_else(|| code(&status.last_state).filter(|_| state(status).is_some_and(|s| s.waiting.is_some())))
}

fn state(status: &ContainerStatus) -> Option<&ContainerState> {
    status.state.as_ref()
}

fn is_initializing(pod: &WantedPod, init: &[ContainerStatus]) -> bool {
    let kinds = pod.containers.iter().filter(|c| c.kind != Kind::Main);
    kinds.zip(init).any(|(c, s)| match c.kind {
        Kind::Init => !(ended(s) == Some(0) && state(s).is_some_and(|s| s.terminated.is_some())) && c.restart != RestartPolicy::Always,
        Kind::Sidecar | Kind::Main => s.started != Some(true),
    })
}
