//! Quality of service: the class of a pod, its cgroup, and its containers' oom_score_adj. Pure (contract section 10).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::pod::{Uid, WantedPod};
use crate::quantity::{Qos, Which, amount};

/// The class of a pod; a `status.qosClass` in the manifest wins over what its resources say, as with the kubelet.
pub fn class(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => pod.spec.as_ref().map_or(Qos::BestEffort, Qos::of),
    }
}

/// The pod's own resources, if it has any.
pub fn pod_level(spec: &PodSpec) -> Option<&ResourceRequirements> {
    let own = spec.resources.as_ref()?;
    let set = |m: &Option<std::collections::BTreeMap<String, _>>| m.as_ref().is_some_and(|m| !m.is_empty());
    (set(&own.requests) || set(&own.limits)).then_some(own)
}

fn memory_request(resources: Option<&ResourceRequirements>) -> i64 {
    amount(resources, Which::Requests, "memory").unwrap_or_default().units()
}

/// The pod's cgroup under the root, with the cgroupfs driver's names: `kubepods[/burstable|/besteffort]/pod<uid>`.
pub fn cgroup_parent(qos: Qos, uid: &Uid) -> String {
    match qos {
        Qos::Guaranteed => format!("kubepods/pod{uid}"),
        Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// `oom_score_adj` of Guaranteed and node-critical containers.
const GUARANTEED: i64 = -997;
/// Of best-effort ones.
const BEST_EFFORT: i64 = 1000;

/// A container's `oom_score_adj`: what it would cost to lose it, by its share of the node's memory. Never below `floor`,
/// our own score where it may not be lowered (`containerd`: restrict_oom_score_adj).
pub fn oom_score_adj(pod: &WantedPod, container: &Container, node_memory_bytes: i64, floor: i32) -> i32 {
    let spec = pod.object.spec.as_ref();
    let node_critical = spec.and_then(|s| s.priority_class_name.as_deref()) == Some("system-node-critical");
    let score = match class(&pod.object) {
        _ if node_critical => GUARANTEED,
        Qos::Guaranteed => GUARANTEED,
        Qos::BestEffort => BEST_EFFORT,
        Qos::Burstable => burstable(spec, container, node_memory_bytes.max(1)),
    };
    i32::try_from(score).unwrap_or(1000).max(floor)
}

fn burstable(spec: Option<&PodSpec>, container: &Container, node_memory_bytes: i64) -> i64 {
    let own = memory_request(container.resources.as_ref());
    let rest = spec.map_or(0, rest_per_container);
    let score =
        |bytes: i64| 1000 - i64::try_from(1000 * i128::from(bytes.saturating_add(rest)) / i128::from(node_memory_bytes)).unwrap_or(1000);
    let mut adj = score(own);
    // A sidecar is not to be killed before the containers it serves.
    if container.restart_policy.as_deref() == Some("Always")
        && let Some(spec) = spec
        && spec.init_containers.iter().flatten().any(|c| c.name == container.name)
    {
        let least = spec.containers.iter().map(|c| memory_request(c.resources.as_ref())).min().unwrap_or(0);
        adj = adj.min(score(least));
    }
    adj.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

/// What the pod's own memory request leaves over its containers', shared out evenly.
fn rest_per_container(spec: &PodSpec) -> i64 {
    let Some(own) = pod_level(spec) else { return 0 };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all: Vec<i64> = spec.containers.iter().chain(sidecars).map(|c| memory_request(c.resources.as_ref())).collect();
    let left = memory_request(Some(own)).saturating_sub(all.iter().sum());
    left.max(0) / i64::try_from(all.len().max(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> WantedPod {
        let object = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
        WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap()
    }

    fn one(resources: serde_json::Value) -> WantedPod {
        pod(json!({"containers": [{"name": "c", "resources": resources}]}))
    }

    #[test]
    fn a_class_in_the_manifests_status_wins() {
        let mut p = one(json!({}));
        let mut object = (*p.object).clone();
        object.status = serde_json::from_value(json!({"qosClass": "Guaranteed"})).unwrap();
        p.object = std::rc::Rc::new(object);
        assert_eq!(class(&p.object), Qos::Guaranteed);
    }

    #[test]
    fn pod_level_resources_decide_alone() {
        let own = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(class(&pod(json!({"resources": own, "containers": [{"name": "c"}]})).object), Qos::Guaranteed);
    }

    #[test]
    fn the_cgroup_is_under_its_class() {
        let uid = Uid("ab".into());
        assert_eq!(cgroup_parent(Qos::Guaranteed, &uid), "kubepods/podab");
        assert_eq!(cgroup_parent(Qos::Burstable, &uid), "kubepods/burstable/podab");
        assert_eq!(cgroup_parent(Qos::BestEffort, &uid), "kubepods/besteffort/podab");
    }

    fn adj(p: &WantedPod, name: &str) -> i32 {
        oom_score_adj(p, p.container(name).unwrap(), 1 << 30, -1000)
    }

    #[test]
    fn burstable_scores_follow_the_memory_request() {
        assert_eq!(adj(&one(json!({"requests": {"memory": "512Mi"}})), "c"), 500);
        assert_eq!(adj(&one(json!({"requests": {"cpu": "1"}})), "c"), 999);
        assert_eq!(adj(&one(json!({"requests": {"memory": "2Gi"}})), "c"), 3);
    }

    #[test]
    fn the_floor_is_never_undercut() {
        let p = one(json!({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1", "memory": "1Mi"}}));
        assert_eq!(adj(&p, "c"), -997);
        assert_eq!(oom_score_adj(&p, p.container("c").unwrap(), 1 << 30, 0), 0);
    }

    #[test]
    fn node_critical_pods_are_spared() {
        let p = pod(json!({"priorityClassName": "system-node-critical", "containers": [{"name": "c"}]}));
        assert_eq!(adj(&p, "c"), -997);
    }

    #[test]
    fn a_sidecar_is_not_killed_before_those_it_serves() {
        let p = pod(json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "resources": {"requests": {"memory": "512Mi"}}}]
        }));
        assert_eq!(adj(&p, "s"), 500);
    }
}
