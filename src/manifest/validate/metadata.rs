//! A pod's metadata: name, namespace, labels, annotations, owners.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Wrong, annotations, each, names};

/// Finalizers that have no domain, from before finalizers had one.
const BARE_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// Checks a pod's metadata.
pub fn check(pod: &Pod, wrong: &mut Wrong) {
    let meta = &pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    wrong.shape("metadata.name", name, names::subdomain(name));
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    wrong.shape("metadata.namespace", namespace, names::label(namespace));
    if let Some(prefix) = meta.generate_name.as_deref().filter(|p| !p.is_empty()) {
        wrong.shape("metadata.generateName", prefix, names::prefix(prefix));
    }
    wrong.at_least("metadata.generation", meta.generation, 0);
    labels("metadata.labels", meta.labels.as_ref(), wrong);
    annotations::check(pod, wrong);
    owners(meta.owner_references.as_ref(), wrong);
    finalizers(meta.finalizers.as_ref(), wrong);
    for (at, entry) in each("metadata", "managedFields", meta.managed_fields.as_ref()) {
        wrong.one_of(format!("{at}.operation"), entry.operation.as_deref().unwrap_or_default(), &["Apply", "Update"]);
        wrong.maybe_one_of(format!("{at}.fieldsType"), entry.fields_type.as_deref().filter(|t| !t.is_empty()), &["FieldsV1"]);
    }
}

fn owners(owners: Option<&Vec<OwnerReference>>, wrong: &mut Wrong) {
    let mut controller = None;
    for (at, owner) in each("metadata", "ownerReferences", owners) {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        if version.is_empty() || version.contains('/') {
            wrong.invalid(format!("{at}.apiVersion"), &owner.api_version, "version must not be empty");
        }
        for (field, text) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if text.is_empty() {
                wrong.invalid(format!("{at}.{field}"), "", "must not be empty");
            }
        }
        if (group, version, owner.kind.as_str()) == ("", "v1", "Event") {
            wrong.invalid(at.as_str(), &owner.name, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller != Some(true) {
            continue;
        }
        let this = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            None => controller = Some(this),
            Some(first) => {
                let why =
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}");
                wrong.invalid(format!("{at}.controller"), true, why);
            }
        }
    }
}

fn finalizers(finalizers: Option<&Vec<String>>, wrong: &mut Wrong) {
    let named = |name: &str| finalizers.into_iter().flatten().any(|f| f == name);
    for (at, finalizer) in each("metadata", "finalizers", finalizers) {
        wrong.shape(&at, finalizer, names::qualified(finalizer));
        if !finalizer.contains('/') && !BARE_FINALIZERS.contains(&finalizer.as_str()) {
            wrong.invalid(at, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    if named("orphan") && named("foregroundDeletion") {
        wrong.invalid(
            "metadata.finalizers",
            finalizers.into_iter().flatten().collect::<Vec<_>>(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
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
