//! What is meant for a scheduler. A static pod has its node, but the API server checks these all the same, and the kubelet's admission
//! reads node affinity and node selectors.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Wrong, each, metadata, names};

/// Checks gates, tolerations, spread and affinity.
pub fn check(spec: &PodSpec, wrong: &mut Wrong) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (at, gate) in each("spec", "schedulingGates", spec.scheduling_gates.as_ref()) {
        wrong.shape(&at, &gate.name, names::qualified(&gate.name));
        if !seen.insert(&gate.name) {
            wrong.duplicate(at, &gate.name);
        }
    }
    if !gates.is_empty() && spec.node_name.is_some() {
        // The API server blames nodeName, which the node itself has set: the gates are what the manifest can change.
        wrong.forbidden(
            "spec.schedulingGates",
            "spec.nodeName cannot be set until all schedulingGates have been cleared: a static pod has its node from the start",
        );
    }
    for (at, t) in each("spec", "tolerations", spec.tolerations.as_ref()) {
        toleration(&at, t, wrong);
    }
    spread(spec, wrong);
    let Some(affinity) = &spec.affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        node_affinity(node, wrong);
    }
    if let Some(pod) = &affinity.pod_affinity {
        let at = "spec.affinity.podAffinity";
        let required = pod.required_during_scheduling_ignored_during_execution.as_ref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_ref();
        pod_terms(at, required, preferred, wrong);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let at = "spec.affinity.podAntiAffinity";
        let required = pod.required_during_scheduling_ignored_during_execution.as_ref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_ref();
        pod_terms(at, required, preferred, wrong);
    }
}

/// Checks a toleration.
pub fn toleration(at: &str, t: &Toleration, wrong: &mut Wrong) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, operator, value, effect) = (text(&t.key), text(&t.operator), text(&t.value), text(&t.effect));
    if !key.is_empty() {
        wrong.shape(&format!("{at}.key"), &key, names::qualified(&key));
    } else if operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        wrong.invalid(format!("{at}.operator"), &operator, why);
    }
    if t.toleration_seconds.is_some() && effect != "NoExecute" {
        wrong.invalid(format!("{at}.effect"), &effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator.as_str() {
        "" | "Equal" => wrong.shape(&format!("{at}.value"), &value, names::label_value(&value)),
        "Exists" if !value.is_empty() => wrong.invalid(format!("{at}.value"), &value, "value must be empty when `operator` is 'Exists'"),
        "Exists" => {}
        other => wrong.one_of(format!("{at}.operator"), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        wrong.one_of(format!("{at}.effect"), &effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn spread(spec: &PodSpec, wrong: &mut Wrong) {
    let mut seen = BTreeSet::new();
    for (at, s) in each("spec", "topologySpreadConstraints", spec.topology_spread_constraints.as_ref()) {
        wrong.at_least(format!("{at}.maxSkew"), Some(s.max_skew.into()), 1);
        if s.topology_key.is_empty() {
            wrong.required(format!("{at}.topologyKey"), "can not be empty");
        }
        wrong.one_of(format!("{at}.whenUnsatisfiable"), &s.when_unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"]);
        if let Some(n) = s.min_domains {
            wrong.at_least(format!("{at}.minDomains"), Some(n.into()), 1);
            if s.when_unsatisfiable != "DoNotSchedule" {
                wrong.invalid(format!("{at}.minDomains"), n, "can only use minDomains if whenUnsatisfiable=DoNotSchedule");
            }
        }
        wrong.maybe_one_of(format!("{at}.nodeAffinityPolicy"), s.node_affinity_policy.as_deref(), &["Honor", "Ignore"]);
        wrong.maybe_one_of(format!("{at}.nodeTaintsPolicy"), s.node_taints_policy.as_deref(), &["Honor", "Ignore"]);
        if !seen.insert((&s.topology_key, &s.when_unsatisfiable)) {
            wrong.duplicate(at.as_str(), format!("{{{}, {}}}", s.topology_key, s.when_unsatisfiable));
        }
        label_keys(&at, s.match_label_keys.as_ref(), None, s.label_selector.as_ref(), wrong);
        selector(&format!("{at}.labelSelector"), s.label_selector.as_ref(), wrong);
    }
}

fn node_affinity(affinity: &NodeAffinity, wrong: &mut Wrong) {
    let at = "spec.affinity.nodeAffinity";
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let at = format!("{at}.requiredDuringSchedulingIgnoredDuringExecution");
        if required.node_selector_terms.is_empty() {
            wrong.required(format!("{at}.nodeSelectorTerms"), "must have at least one node selector term");
        }
        for (at, term) in each(&at, "nodeSelectorTerms", Some(&required.node_selector_terms)) {
            node_term(&at, term, wrong);
            // Values that no label can have are refused in what is required, not in what is preferred.
            for (at, r) in each(&at, "matchExpressions", term.match_expressions.as_ref()) {
                for (at, value) in each(&at, "values", r.values.as_ref()) {
                    wrong.shape(&at, value, names::label_value(value));
                }
            }
        }
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref();
    for (at, term) in each(at, "preferredDuringSchedulingIgnoredDuringExecution", preferred) {
        weight(&at, term.weight, wrong);
        node_term(&format!("{at}.preference"), &term.preference, wrong);
    }
}

fn weight(at: &str, weight: i32, wrong: &mut Wrong) {
    if !(1..=100).contains(&weight) {
        wrong.invalid(format!("{at}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(at: &str, term: &NodeSelectorTerm, wrong: &mut Wrong) {
    for (at, r) in each(at, "matchExpressions", term.match_expressions.as_ref()) {
        requirement(&at, r, wrong);
        wrong.shape(&format!("{at}.key"), &r.key, names::qualified(&r.key));
    }
    for (at, r) in each(at, "matchFields", term.match_fields.as_ref()) {
        wrong.one_of(format!("{at}.operator"), &r.operator, &["In", "NotIn"]);
        if r.values.as_ref().map_or(0, Vec::len) != 1 {
            wrong.required(format!("{at}.values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
        }
        if r.key != "metadata.name" {
            wrong.invalid(format!("{at}.key"), &r.key, "not a valid field selector key");
            continue;
        }
        for (at, name) in each(&at, "values", r.values.as_ref()) {
            wrong.shape(&at, name, names::subdomain(name));
        }
    }
}

fn requirement(at: &str, r: &NodeSelectorRequirement, wrong: &mut Wrong) {
    let values = r.values.as_deref().unwrap_or_default();
    let field = format!("{at}.values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => wrong.required(field, "must be specified when `operator` is 'In' or 'NotIn'"),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            wrong.forbidden(field, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => wrong.required(field, "must be specified single value when `operator` is 'Lt' or 'Gt'"),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => wrong.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
    }
}

fn pod_terms(at: &str, required: Option<&Vec<PodAffinityTerm>>, preferred: Option<&Vec<WeightedPodAffinityTerm>>, wrong: &mut Wrong) {
    for (at, term) in each(at, "requiredDuringSchedulingIgnoredDuringExecution", required) {
        pod_term(&at, term, wrong);
    }
    for (at, term) in each(at, "preferredDuringSchedulingIgnoredDuringExecution", preferred) {
        weight(&at, term.weight, wrong);
        pod_term(&format!("{at}.podAffinityTerm"), &term.pod_affinity_term, wrong);
    }
}

fn pod_term(at: &str, term: &PodAffinityTerm, wrong: &mut Wrong) {
    if term.topology_key.is_empty() {
        wrong.required(format!("{at}.topologyKey"), "can not be empty");
    } else {
        wrong.shape(&format!("{at}.topologyKey"), &term.topology_key, names::qualified(&term.topology_key));
    }
    let (same, different) = (term.match_label_keys.as_ref(), term.mismatch_label_keys.as_ref());
    label_keys(at, same, different, term.label_selector.as_ref(), wrong);
    selector(&format!("{at}.labelSelector"), term.label_selector.as_ref(), wrong);
    selector(&format!("{at}.namespaceSelector"), term.namespace_selector.as_ref(), wrong);
    for (at, namespace) in each(at, "namespaces", term.namespaces.as_ref()) {
        wrong.shape(&at, namespace, names::label(namespace));
    }
}

/// Labels whose values the pod itself gives to its selector: they need one, and may say a thing once.
fn label_keys(at: &str, same: Option<&Vec<String>>, different: Option<&Vec<String>>, s: Option<&LabelSelector>, wrong: &mut Wrong) {
    for (field, keys) in [("matchLabelKeys", same), ("mismatchLabelKeys", different)] {
        if s.is_none() && keys.is_some_and(|k| !k.is_empty()) {
            wrong.forbidden(format!("{at}.{field}"), "must not be specified when labelSelector is not set");
            continue;
        }
        for (at, key) in each(at, field, keys) {
            wrong.shape(&at, key, names::qualified(key));
        }
    }
    // The API server itself adds such keys to the selector, so being there once more is no mistake; being there twice is.
    let mut seen: BTreeSet<&String> = s.iter().flat_map(|s| s.match_labels.iter().flatten()).map(|(key, _)| key).collect();
    for r in s.iter().flat_map(|s| s.match_expressions.iter().flatten()) {
        if let (Some(i), false) = (same.and_then(|keys| keys.iter().position(|k| *k == r.key)), seen.insert(&r.key)) {
            wrong.invalid(format!("{at}.matchLabelKeys[{i}]"), &r.key, "exists in both matchLabelKeys and labelSelector");
        }
    }
    for (at, key) in each(at, "matchLabelKeys", same) {
        if different.is_some_and(|keys| keys.contains(key)) {
            wrong.invalid(at, key, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

fn selector(at: &str, selector: Option<&LabelSelector>, wrong: &mut Wrong) {
    let Some(s) = selector else { return };
    metadata::labels(&format!("{at}.matchLabels"), s.match_labels.as_ref(), wrong);
    for (at, r) in each(at, "matchExpressions", s.match_expressions.as_ref()) {
        let values = r.values.as_deref().unwrap_or_default();
        let field = format!("{at}.values");
        match r.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => wrong.required(field, "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                wrong.forbidden(field, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => wrong.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
        }
        wrong.shape(&format!("{at}.key"), &r.key, names::qualified(&r.key));
        for (at, value) in each(&at, "values", r.values.as_ref()) {
            wrong.shape(&at, value, names::label_value(value));
        }
    }
}
