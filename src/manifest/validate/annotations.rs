//! Annotations: their keys and size, and those that Kubernetes itself reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};

use super::{Wrong, each, names, scheduling};
use crate::manifest::identity::MIRROR;

/// All annotations together, bytes.
const MAX_BYTES: usize = 256 << 10;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

type Annotations = BTreeMap<String, String>;

/// Checks a pod's annotations.
pub fn check(pod: &Pod, wrong: &mut Wrong) {
    let (Some(all), Some(spec)) = (&pod.metadata.annotations, &pod.spec) else { return };
    for key in all.keys() {
        wrong.shape(&at(key), key, names::qualified(&key.to_lowercase()));
    }
    let bytes: usize = all.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MAX_BYTES {
        wrong.add("metadata.annotations", format!("Too long: may not be more than {MAX_BYTES} bytes"));
    }
    // The kubelet takes such a pod for the API's image of another one and never runs it, without a word.
    if all.contains_key(MIRROR) {
        wrong.forbidden(at(MIRROR), "marks a mirror pod, which no node runs: remove the annotation");
    }
    if let Some(cost) = all.get(DELETION_COST).filter(|cost| !is_cost(cost)) {
        wrong.invalid(at(DELETION_COST), cost, "must be a 32bit integer");
    }
    tolerations(all, wrong);
    profiles(all, spec, wrong);
    agreement(all, spec, wrong);
}

fn at(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

/// A number as Go prints it: no plus sign, no leading zero.
fn is_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok() && !text.starts_with('+') && (text == "0" || !text.starts_with('0'))
}

fn tolerations(all: &Annotations, wrong: &mut Wrong) {
    let Some(text) = all.get(TOLERATIONS).filter(|text| !text.is_empty()) else { return };
    match serde_json::from_str::<Option<Vec<Toleration>>>(text) {
        Err(e) => wrong.invalid(at(TOLERATIONS), text, e),
        Ok(list) => {
            list.iter().flatten().enumerate().for_each(|(i, t)| scheduling::toleration(&format!("{}[{i}]", at(TOLERATIONS)), t, wrong))
        }
    }
}

/// Profiles from before there were fields for them.
fn profiles(all: &Annotations, spec: &PodSpec, wrong: &mut Wrong) {
    for (key, profile) in all {
        let local = profile.strip_prefix("localhost/");
        if key == SECCOMP_POD || key.starts_with(SECCOMP) {
            match local {
                Some(path) => wrong.shape(&at(key), path, names::descending(path)),
                None if matches!(profile.as_str(), "runtime/default" | "docker/default" | "unconfined") => {}
                None => wrong.invalid(at(key), profile, "must be a valid seccomp profile"),
            }
        }
        if let Some(name) = key.strip_prefix(APPARMOR) {
            if !containers(spec).any(|(_, c)| c.name == name) {
                wrong.invalid(at(key), name, "container not found");
            }
            if local.is_none() && !matches!(profile.as_str(), "" | "runtime/default" | "unconfined") {
                wrong.invalid(at(key), profile, "invalid AppArmor profile name");
            }
        }
    }
}

/// Where annotation and field both speak they must say the same.
fn agreement(all: &Annotations, spec: &PodSpec, wrong: &mut Wrong) {
    let pod = spec.security_context.as_ref();
    if let (Some(a), Some(p)) = (all.get(SECCOMP_POD), pod.and_then(|s| s.seccomp_profile.as_ref())) {
        same("spec.securityContext.seccompProfile", "seccomp", a, &p.type_, p.localhost_profile.as_deref(), wrong);
    }
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (at, c) in containers(spec) {
        let own = c.security_context.as_ref();
        if let (Some(a), Some(p)) = (all.get(&format!("{SECCOMP}{}", c.name)), own.and_then(|s| s.seccomp_profile.as_ref())) {
            same(&format!("{at}.securityContext.seccompProfile"), "seccomp", a, &p.type_, p.localhost_profile.as_deref(), wrong);
        }
        let apparmor = own.and_then(|s| s.app_armor_profile.as_ref()).or(pod.and_then(|s| s.app_armor_profile.as_ref()));
        if let (Some(a), Some(p), false) = (all.get(&format!("{APPARMOR}{}", c.name)), apparmor, windows) {
            same(&format!("{at}.securityContext.appArmorProfile"), "apparmor", a, &p.type_, p.localhost_profile.as_deref(), wrong);
        }
    }
}

fn same(at: &str, what: &str, annotation: &str, kind: &str, local: Option<&str>, wrong: &mut Wrong) {
    let type_fits = match kind {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default" || what == "seccomp" && annotation == "docker/default",
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !type_fits {
        wrong.forbidden(format!("{at}.type"), &format!("{what} type in annotation and field must match"));
    } else if kind == "Localhost" && annotation.strip_prefix("localhost/") != local {
        wrong.forbidden(format!("{at}.localhostProfile"), &format!("{what} profile in annotation and field must match"));
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    each("spec", "initContainers", spec.init_containers.as_ref()).chain(each("spec", "containers", Some(&spec.containers)))
}
