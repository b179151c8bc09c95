//! What a pod looks like from outside: `v1.PodStatus` as the kubelet fills it, derived from the world whenever somebody asks.
//!
//! Pure, and no decision reads it.

mod condition;
mod container;
mod phase;
mod summary;

pub use condition::note;
pub use container::GoDuration;
pub use summary::{Summary, summary};

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::clock::Wall;
use crate::plan::admit::Refusal;
use crate::plan::view::{Scene, View};
use crate::plan::world::Sandbox;
use crate::pod::{Kind, Uid, WantedPod};
use crate::quantity::Qos;

/// The kubelet's word on pods that a shutdown of the machine ended.
const SHUT_DOWN: &str = "Pod was terminated in response to imminent node shutdown.";

/// The status of a pod that is wanted, or on its way out; an empty one of a pod nobody knows. One scene does for all pods.
pub fn pod_status(scene: &Scene<'_>, uid: &Uid, now: Wall) -> PodStatus {
    let v = scene.pod(uid);
    let Some(pod) = v.wanted.or(v.made_from) else { return PodStatus::default() };
    let shown = Shown::of(&v, pod);
    let ips: Vec<String> = match &v.seen.sandbox {
        Sandbox::Ready { ips, .. } => pair(ips),
        Sandbox::Absent | Sandbox::Partial => Vec::new(),
    };
    let overdue = v.is_overdue(pod);
    let refusal = refusal(&v);
    let (reason, message) = match refusal {
        _ if overdue => (Some("DeadlineExceeded"), Some("Pod was active on the node longer than the specified deadline".to_owned())),
        Some(r) => (Some(r.reason), Some(format!("Pod was rejected: {}", r.message))),
        None if v.is_shut_down(pod) => (Some("Terminated"), Some(SHUT_DOWN.to_owned())),
        None => (None, None),
    };
    let host = pair(&scene.world.host_ips);
    PodStatus {
        phase: Some(shown.phase.to_owned()),
        conditions: Some(condition::conditions(&v, pod, &shown, now)),
        host_ip: host.first().cloned(),
        host_ips: (!host.is_empty()).then(|| host.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        reason: reason.map(str::to_owned),
        message,
        start_time: started(&v).map(time),
        qos_class: qos_class(pod),
        init_container_statuses: (!shown.init.is_empty() && refusal.is_none()).then_some(shown.init),
        container_statuses: refusal.is_none().then_some(shown.main),
        ..PodStatus::default()
    }
}

/// The first of each family, the first of all first: an API server refuses a status with more.
fn pair(ips: &[IpAddr]) -> Vec<String> {
    let other = ips.first().and_then(|first| ips.iter().find(|ip| ip.is_ipv4() != first.is_ipv4()));
    ips.first().into_iter().chain(other).map(ToString::to_string).collect()
}

/// Why the node does not take it, unless who is in the way is going already: that is no failure, only a while.
pub(super) fn refusal<'a>(v: &View<'a>) -> Option<&'a Refusal> {
    v.refusal().filter(|r| !r.passing)
}

/// What conditions and summary are read from.
pub(super) struct Shown {
    phase: &'static str,
    /// Init containers and sidecars, in spec order.
    init: Vec<ContainerStatus>,
    /// Main containers, by name.
    main: Vec<ContainerStatus>,
}

impl Shown {
    fn of(v: &View<'_>, pod: &WantedPod) -> Shown {
        let statuses = |main: bool| {
            let listed = pod.containers.iter().enumerate().filter(move |(_, c)| (c.kind == Kind::Main) == main);
            listed.map(|(i, c)| container::status(v, pod, i, c)).collect::<Vec<_>>()
        };
        let (init, mut main) = (statuses(false), statuses(true));
        main.sort_by(|a, b| a.name.cmp(&b.name));
        Shown { phase: phase::phase(v, pod, &init, &main), init, main }
    }
}

/// The class; one that the manifest's own status names wins, as with the kubelet.
fn qos_class(pod: &WantedPod) -> Option<String> {
    let named = pod.object.status.as_ref().and_then(|s| s.qos_class.clone());
    named.or_else(|| pod.object.spec.as_ref().map(|spec| Qos::of(spec).as_str().to_owned()))
}

/// Since when the pod is known; after a restart of ours, at least since its sandbox is there.
fn started(v: &View<'_>) -> Option<Wall> {
    let sandbox = if let Sandbox::Ready { since, .. } = v.seen.sandbox { Some(since) } else { None };
    match (v.memory.known_since, sandbox) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A wall time as the API writes it.
pub(super) fn time(wall: Wall) -> Time {
    Time(Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn of_many_addresses_the_first_of_each_family_is_shown() {
        let shown = |ips: &[&str]| pair(&ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(shown(&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]), ["10.0.0.1", "fd00::1"]);
        assert_eq!(shown(&["fd00::1", "10.0.0.1"]), ["fd00::1", "10.0.0.1"]);
        assert_eq!(shown(&["10.0.0.1", "10.0.0.2"]), ["10.0.0.1"]);
        assert_eq!(shown(&[]), [""; 0]);
    }
}
