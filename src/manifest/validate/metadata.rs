//! A pod's metadata: name, namespace, labels, annotations, owners.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::{Wrong, blank, each, names};
use crate::manifest::identity::MIRROR;

/// All annotations together, bytes.
const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks a pod's metadata.
pub fn check(pod: &Pod, wrong: &mut Wrong) {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    wrong.shape("metadata.name", name, names::subdomain(name));
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    wrong.shape("metadata.namespace", namespace, names::label(namespace));
    if let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty()) {
        // A generated name goes on after the prefix, so it may end in a dash.
        wrong.shape("metadata.generateName", prefix, names::subdomain(&format!("{}a", prefix.trim_end_matches('-'))));
    }
    wrong.at_least("metadata.generation", meta.generation, 0);
    labels("metadata.labels", meta.labels.as_ref(), wrong);
    if let Some(annotations) = &meta.annotations {
        self::annotations(annotations, pod, wrong);
    }
    for (at, owner) in each("metadata", "ownerReferences", meta.owner_references.as_ref()) {
        let owner = [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)];
        for (field, _) in owner.iter().filter(|(_, v)| v.is_empty()) {
            wrong.required(format!("{at}.{field}"), "must not be empty");
        }
    }
    for (at, finalizer) in each("metadata", "finalizers", meta.finalizers.as_ref()) {
        wrong.shape(&at, finalizer, names::qualified(finalizer));
    }
}

/// Checks keys and values of labels (or of a node selector).
pub fn labels(at: &str, labels: Option<&BTreeMap<String, String>>, wrong: &mut Wrong) {
    for (key, value) in labels.into_iter().flatten() {
        let at = format!("{at}[{key}]");
        wrong.shape(&at, key, names::qualified(key));
        wrong.shape(&at, value, names::label_value(value));
    }
}

fn annotations(annotations: &BTreeMap<String, String>, pod: &Pod, wrong: &mut Wrong) {
    for key in annotations.keys() {
        wrong.shape(&format!("metadata.annotations[{key}]"), key, names::qualified(&key.to_lowercase()));
    }
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MAX_ANNOTATIONS_BYTES {
        wrong.add("metadata.annotations", format!("Too long: may not be more than {MAX_ANNOTATIONS_BYTES} bytes"));
    }
    // The kubelet takes such a pod for the API's image of another one and never runs it, without a word.
    if annotations.contains_key(MIRROR) {
        wrong.forbidden(format!("metadata.annotations[{MIRROR}]"), "marks a mirror pod, which no node runs: remove the annotation");
    }
    for (key, profile) in annotations {
        if let Some(container) = key.strip_prefix(APPARMOR) {
            apparmor(key, container, profile, pod, wrong);
        }
    }
}

fn apparmor(key: &str, container: &str, profile: &str, pod: &Pod, wrong: &mut Wrong) {
    let at = format!("metadata.annotations[{key}]");
    let known = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers)).any(|c| c.name == container);
    if !known {
        wrong.invalid(&at, container, "container not found");
    }
    let local = profile.strip_prefix("localhost/");
    if !matches!(profile, "" | "runtime/default" | "unconfined") && blank(local) {
        wrong.invalid(&at, profile, "invalid AppArmor profile name");
    }
}
