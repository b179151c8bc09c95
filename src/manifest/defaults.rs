//! What API defaulting fills in (Kubernetes' `core/v1/defaults.go`), and what the kubelet then changes on a static pod.
//!
//! Never refuses anything: a value that makes no sense is left for `validate`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, HTTPGetAction, LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::image::default_pull_policy;
use crate::quantity::written::Written;

type Amounts = BTreeMap<String, Amount>;

fn set<T>(field: &mut Option<T>, default: T) {
    field.get_or_insert(default);
}

fn text(field: &mut Option<String>, default: &str) {
    field.get_or_insert_with(|| default.to_owned());
}

/// Fills in a Pod's defaults.
pub fn apply(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    text(&mut spec.dns_policy, "ClusterFirst");
    spec.restart_policy = spec.restart_policy.take().filter(|policy| !policy.is_empty());
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    set(&mut spec.enable_service_links, true);
    spec.security_context.get_or_insert_default();
    set(&mut spec.termination_grace_period_seconds, 30);
    // Negative grace means one second (conversion of pods stored before it was validated).
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        spec.termination_grace_period_seconds = Some(1);
    }
    let host_network = spec.host_network == Some(true);
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container(c, host_network);
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
    spec.overhead.iter_mut().for_each(amounts);
    pod_resources(spec);
}

fn container(c: &mut Container, host_network: bool) {
    let image = c.image.as_deref().unwrap_or_default();
    let pull = default_pull_policy(image);
    text(&mut c.image_pull_policy, pull);
    text(&mut c.termination_message_path, "/dev/termination-log");
    text(&mut c.termination_message_policy, "File");
    for port in c.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        if host_network && port.host_port.is_none() {
            port.host_port = Some(port.container_port).filter(|p| *p != 0);
        }
    }
    c.env.iter_mut().flatten().for_each(variable);
    let resources = c.resources.get_or_insert_default();
    resources.limits.iter_mut().for_each(amounts);
    resources.requests.iter_mut().for_each(amounts);
    // What is limited is requested, unless said otherwise.
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    for p in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        probe(p);
    }
    if let Some(lifecycle) = &mut c.lifecycle {
        for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            let LifecycleHandler { http_get, .. } = hook;
            http_get.iter_mut().for_each(http);
        }
    }
}

fn variable(env: &mut EnvVar) {
    if let Some(from) = &mut env.value_from {
        from.field_ref.iter_mut().for_each(field_ref);
        from.resource_field_ref.iter_mut().for_each(resource_ref);
        if let Some(file) = &mut from.file_key_ref {
            set(&mut file.optional, false);
        }
    }
}

fn field_ref(f: &mut ObjectFieldSelector) {
    text(&mut f.api_version, "v1");
}

/// The divisor is no pointer in Go and so always shown.
fn resource_ref(r: &mut ResourceFieldSelector) {
    let divisor = r.divisor.get_or_insert_default();
    match Written::parse(&divisor.0) {
        Some(q) => divisor.0 = q.to_string(),
        None if divisor.0.is_empty() => divisor.0 = "0".into(),
        None => {}
    }
}

fn probe(p: &mut Probe) {
    set(&mut p.timeout_seconds, 1);
    set(&mut p.period_seconds, 10);
    set(&mut p.success_threshold, 1);
    set(&mut p.failure_threshold, 3);
    p.http_get.iter_mut().for_each(http);
    if let Some(grpc) = &mut p.grpc {
        text(&mut grpc.service, "");
    }
}

fn http(h: &mut HTTPGetAction) {
    text(&mut h.path, "/");
    text(&mut h.scheme, "HTTP");
}

fn volume(v: &mut Volume) {
    const MODE: i32 = 0o644;
    if is_sourceless(v) {
        v.empty_dir.get_or_insert_default();
    }
    if let Some(dir) = &mut v.empty_dir {
        dir.size_limit.iter_mut().for_each(canonical);
    }
    if let Some(host) = &mut v.host_path {
        text(&mut host.type_, "");
    }
    if let Some(image) = &mut v.image {
        let pull = default_pull_policy(image.reference.as_deref().unwrap_or_default());
        text(&mut image.pull_policy, pull);
    }
    if let Some(secret) = &mut v.secret {
        set(&mut secret.default_mode, MODE);
    }
    if let Some(map) = &mut v.config_map {
        set(&mut map.default_mode, MODE);
    }
    if let Some(down) = &mut v.downward_api {
        set(&mut down.default_mode, MODE);
        down.items.iter_mut().flatten().for_each(|item| {
            item.field_ref.iter_mut().for_each(field_ref);
            item.resource_field_ref.iter_mut().for_each(resource_ref);
        });
    }
    if let Some(projected) = &mut v.projected {
        set(&mut projected.default_mode, MODE);
        for source in projected.sources.iter_mut().flatten() {
            for item in source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten()) {
                item.field_ref.iter_mut().for_each(field_ref);
                item.resource_field_ref.iter_mut().for_each(resource_ref);
            }
            if let Some(token) = &mut source.service_account_token {
                set(&mut token.expiration_seconds, 3600);
            }
        }
    }
    legacy_volume(v);
}

/// Volume kinds that Kubernetes still takes and no longer mounts itself.
fn legacy_volume(v: &mut Volume) {
    if let Some(iscsi) = &mut v.iscsi {
        text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut v.rbd {
        text(&mut rbd.pool, "rbd");
        text(&mut rbd.user, "admin");
        text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut v.azure_disk {
        text(&mut disk.caching_mode, "ReadWrite");
        text(&mut disk.kind, "Shared");
        text(&mut disk.fs_type, "ext4");
        set(&mut disk.read_only, false);
    }
    if let Some(io) = &mut v.scale_io {
        text(&mut io.storage_mode, "ThinProvisioned");
        text(&mut io.fs_type, "xfs");
    }
}

/// Whether a volume names no source at all.
fn is_sourceless(v: &Volume) -> bool {
    *v == Volume { name: v.name.clone(), ..Volume::default() }
}

/// A resource list as defaulting leaves it: rounded up to thousandths, canonical.
fn amounts(list: &mut Amounts) {
    for amount in list.values_mut() {
        if let Some(q) = Written::parse(&amount.0) {
            amount.0 = q.rounded_to_milli().to_string();
        }
    }
}

fn canonical(amount: &mut Amount) {
    if let Some(q) = Written::parse(&amount.0) {
        amount.0 = q.to_string();
    }
}

/// Pod-level resources (PodLevelResources). Limits of huge pages are what the containers' come to. Where there are limits, requests are
/// what the containers request together, else the limits.
fn pod_resources(spec: &mut PodSpec) {
    let (requested, limited) = (requested_together(spec), together(spec, |r| r.limits.as_ref()));
    let Some(resources) = &mut spec.resources else { return };
    resources.limits.iter_mut().for_each(amounts);
    resources.requests.iter_mut().for_each(amounts);
    let mut limits = resources.limits.take().unwrap_or_default();
    let mut requests = resources.requests.take().unwrap_or_default();
    if !limits.is_empty() || !requests.is_empty() {
        for (name, sum) in limited.into_iter().filter(|(name, _)| name.starts_with("hugepages-") && !requests.contains_key(name)) {
            limits.entry(name).or_insert_with(|| Amount(sum.to_string()));
        }
    }
    if !limits.is_empty() {
        for (name, sum) in requested.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
            requests.entry(name).or_insert_with(|| Amount(sum.to_string()));
        }
        let pods = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
        for (name, limit) in limits.iter().filter(|(name, _)| pods(name)) {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    resources.limits = Some(limits).filter(|l| !l.is_empty());
    resources.requests = Some(requests).filter(|r| !r.is_empty());
}

/// Requests of all containers together.
pub(super) fn requested_together(spec: &PodSpec) -> BTreeMap<String, Written> {
    together(spec, |r| r.requests.as_ref())
}

/// What all containers ask for: the larger of the running set and the heaviest moment of initialisation.
fn together(spec: &PodSpec, side: fn(&ResourceRequirements) -> Option<&Amounts>) -> BTreeMap<String, Written> {
    let of = |c: &Container| -> BTreeMap<String, Written> {
        let list = c.resources.iter().filter_map(side).flatten();
        list.filter_map(|(name, amount)| Some((name.clone(), Written::parse(&amount.0)?))).collect()
    };
    let mut running = BTreeMap::new();
    let mut sidecars = BTreeMap::new();
    let mut peak: BTreeMap<String, Written> = BTreeMap::new();
    for c in &spec.containers {
        add(&mut running, &of(c));
    }
    for c in spec.init_containers.iter().flatten() {
        let mut moment = sidecars.clone();
        add(&mut moment, &of(c));
        if c.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &of(c));
            sidecars.clone_from(&moment);
        }
        most(&mut peak, moment);
    }
    most(&mut running, peak);
    running
}

fn add(sum: &mut BTreeMap<String, Written>, more: &BTreeMap<String, Written>) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|s| *s = s.plus(*amount)).or_insert(*amount);
    }
}

fn most(into: &mut BTreeMap<String, Written>, other: BTreeMap<String, Written>) {
    for (name, amount) in other {
        let most = into.entry(name).or_insert(amount);
        if amount > *most {
            *most = amount;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn pod_level_resources_are_completed_from_the_containers() {
        let own = |pod: Value, container: Value| {
            let spec = json!({"resources": pod, "containers": [{"name": "c", "image": "i", "resources": container}]});
            let mut pod = Pod { spec: Some(serde_json::from_value(spec).unwrap()), ..Pod::default() };
            apply(&mut pod);
            serde_json::to_value(pod.spec.unwrap().resources).unwrap()
        };
        let cpu = |n: &str| json!({ "cpu": n });
        let huge = |cpu: &str| json!({"cpu": cpu, "hugepages-2Mi": "4Mi"});
        // Without a limit anywhere, what is requested stays as it is written.
        assert_eq!(own(json!({"requests": cpu("2")}), json!({"requests": {"memory": "1Gi"}})), json!({"requests": cpu("2")}));
        assert_eq!(
            own(json!({"limits": {"cpu": "2", "memory": "1Gi"}}), json!({"requests": cpu("0.1")})),
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
        );
        assert_eq!(
            own(json!({"requests": cpu("2")}), json!({"limits": huge("1")})),
            json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": huge("2")})
        );
    }
}
