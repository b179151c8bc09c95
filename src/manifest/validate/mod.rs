//! What the API server refuses when a Pod is created (Kubernetes' `core/validation`), with its words. Pure.
//!
//! - `names`: the shapes of names, labels, paths
//! - `metadata`, `spec`: the pod; `container`, `env`, `probe`: a container; `volume`: volumes and mounts
//! - `resources`: amounts; `security`: security contexts and sysctls; `scheduling`: affinity, tolerations, spread

mod names;

use k8s_openapi::api::core::v1::Pod;

/// Field path and message of everything that is wrong with a defaulted, fully named pod.
pub fn pod(pod: &Pod) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    for message in names::subdomain(name) {
        out.push(("metadata.name".to_owned(), format!("Invalid value: {name:?}: {message}")));
    }
    out
}
