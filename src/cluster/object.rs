//! What is sent and what is read: the mirror of a pod, the patch of a status, the little of an object that is looked at. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::pod::WantedPod;

/// Marks a mirror pod; its value is the hash of the static pod it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// An object as the API server has it, as far as anything here looks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Its metadata.
    pub metadata: Meta,
    /// Its status, as written.
    pub status: Value,
}

/// Metadata, as far as anything here looks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the field's own words")]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
    pub deletion_grace_period_seconds: Option<i64>,
    pub finalizers: Option<Vec<String>>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub owner_references: Option<Vec<Owner>>,
}

/// An owner, as far as anything here looks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the field's own words")]
pub struct Owner {
    pub kind: String,
    pub uid: String,
}

impl Meta {
    /// The hash of the static pod it shows; `None`: it is no mirror pod.
    pub fn mirror(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(MIRROR).map(String::as_str)
    }

    /// What keeps it though it was told to end at once.
    pub fn held(&self) -> Option<String> {
        let now = self.deletion_timestamp.is_some() && self.deletion_grace_period_seconds.unwrap_or(0) == 0;
        self.finalizers.as_ref().filter(|f| now && !f.is_empty()).map(|f| f.join(", "))
    }

    /// Its version, to tell old news from new; 0 when it has none.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// The mirror of a pod: a copy with the mark and the one owner NodeRestriction wants (KEP-1314, `mirror_client.go`).
pub fn mirror(pod: &WantedPod, node: &str, node_uid: &str) -> Value {
    let meta = &pod.object.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), pod.uid.to_string());
    let mut metadata = json!({
        "name": &*pod.key.name,
        "namespace": &*pod.key.namespace,
        "annotations": annotations,
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}],
    });
    if let (Some(labels), Some(map)) = (&meta.labels, metadata.as_object_mut()) {
        map.insert("labels".into(), json!(labels));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.object.spec})
}

/// The fields of a pod's status that are the node's to write. What else is there is left alone.
const OWNED: [&str; 12] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "conditions",
    "initContainerStatuses",
    "containerStatuses",
    "qosClass",
];

/// A list that merges by key, as a patch that leaves nothing of what is there. Where nothing is there older servers store the directive as
/// one more item.
pub fn replaced(ours: &Value, theirs: Option<&Value>) -> Value {
    let directive = theirs.and_then(Value::as_array).filter(|t| !t.is_empty()).map(|_| json!({"$patch": "replace"}));
    directive.into_iter().chain(ours.as_array().into_iter().flatten().cloned()).collect()
}

/// The strategic merge patch that makes `found` say what `status` says; `None` when it does already. The uid in it keeps it from
/// another pod of that name.
pub fn status_patch(status: &Value, found: &Value, uid: &str) -> Option<Value> {
    let mut patch = Map::new();
    for field in OWNED {
        let (ours, theirs) = (status.get(field).filter(|v| !v.is_null()), found.get(field).filter(|v| !v.is_null()));
        let change = match (field, ours, theirs) {
            // The class is settled when a pod is made, and immutable.
            ("qosClass", _, Some(_)) | (_, None, None) => None,
            ("conditions", Some(ours), theirs) => conditions(ours, theirs),
            ("hostIPs" | "podIPs", Some(ours), Some(theirs)) if ours != theirs => Some(replaced(ours, Some(theirs))),
            (_, Some(ours), Some(theirs)) if says(theirs, ours) => None,
            (_, Some(ours), _) => Some(ours.clone()),
            (_, None, Some(_)) => Some(Value::Null),
        };
        change.map(|value| patch.insert(field.to_owned(), value));
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

/// Of the node's own conditions the one that is not always there.
const PASSING: &str = "AllContainersRestarting";

/// Conditions that differ, each whole: what it no longer has is null. Conditions of others stay.
fn conditions(ours: &Value, theirs: Option<&Value>) -> Option<Value> {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let theirs = list(theirs);
    let ours = list(Some(ours));
    let named = |all: &[Value]| all.iter().any(|c| c.get("type").and_then(Value::as_str) == Some(PASSING));
    let over = named(&theirs) && !named(&ours);
    let mut changed: Vec<Value> = over.then(|| json!({"$patch": "delete", "type": PASSING})).into_iter().collect();
    for mut c in ours {
        let old = theirs.iter().find(|o| o.get("type") == c.get("type"));
        let gone = |key: &&str| c.get(*key).is_none() && old.and_then(|o| o.get(*key)).is_some_and(|v| !v.is_null());
        let gone: Vec<&str> = ["reason", "message"].into_iter().filter(gone).collect();
        if gone.is_empty() && old.is_some_and(|o| says(o, &c)) {
            continue;
        }
        if let Some(map) = c.as_object_mut() {
            gone.into_iter().for_each(|key| drop(map.insert(key.to_owned(), Value::Null)));
        }
        changed.push(c);
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

/// Whether `found` says all of `wanted`. What a server adds (nulls, empty objects, its defaults) does not count, except that of
/// containers' states there is but one.
fn says(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(f), Value::Object(w)) => {
            let extra = |key: &str| ["running", "waiting", "terminated", "reason", "message", "containerID"].contains(&key);
            w.iter().all(|(k, w)| f.get(k).map_or(is_empty(w), |f| says(f, w)))
                && f.iter().all(|(k, f)| w.contains_key(k) || is_empty(f) || !extra(k))
        }
        (Value::Array(f), Value::Array(w)) => f.len() == w.len() && f.iter().zip(w).all(|(f, w)| says(f, w)),
        (f, w) => f == w,
    }
}

fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn running() -> Value {
        json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}], "qosClass": "BestEffort",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {}}]})
    }

    #[test]
    fn a_status_that_is_there_is_not_sent_again() {
        let mut found = running();
        found["conditions"][0]["lastProbeTime"] = Value::Null;
        found["conditions"].as_array_mut().unwrap().push(json!({"type": "example.com/Own", "status": "True"}));
        found["containerStatuses"][0].as_object_mut().unwrap().remove("lastState");
        assert_eq!(status_patch(&running(), &found, "u"), None);
    }

    #[test]
    fn only_what_changed_is_sent_with_the_uid_it_is_for() {
        let mut found = running();
        found["phase"] = json!("Pending");
        assert_eq!(status_patch(&running(), &found, "u"), Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}})));
    }

    #[test]
    fn what_is_no_longer_so_is_taken_back() {
        let mut found = running();
        found["message"] = json!("old");
        found["conditions"][0]["reason"] = json!("ContainersNotReady");
        found["podIPs"] = json!([{"ip": "10.0.0.8"}]);
        found["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
        let status = status_patch(&running(), &found, "u").map(|p| p["status"].clone()).unwrap_or_default();
        assert_eq!(status["message"], Value::Null);
        assert!(status.as_object().is_some_and(|s| s.contains_key("message")));
        assert_eq!(status["conditions"][0]["reason"], Value::Null);
        assert_eq!(status["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.9"}]));
        assert_eq!(status["containerStatuses"], running()["containerStatuses"]);
    }

    #[test]
    fn a_condition_of_ours_that_passed_is_taken_back_and_those_of_others_stay() {
        let mut found = running();
        let theirs = found["conditions"].as_array_mut().unwrap();
        theirs.extend(["AllContainersRestarting", "example.com/Own"].map(|kind| json!({"type": kind, "status": "True"})));
        let patch = status_patch(&running(), &found, "u").unwrap();
        assert_eq!(patch["status"], json!({"conditions": [{"$patch": "delete", "type": "AllContainersRestarting"}]}));
    }

    #[test]
    fn a_list_that_is_not_there_yet_is_sent_as_it_is() {
        let mut found = running();
        found.as_object_mut().unwrap().remove("podIPs");
        let patch = status_patch(&running(), &found, "u").unwrap();
        assert_eq!(patch["status"], json!({"podIPs": [{"ip": "10.0.0.9"}]}));
    }

    #[test]
    fn a_class_that_is_settled_is_not_argued_with() {
        let mut found = running();
        found["qosClass"] = json!("Burstable");
        assert_eq!(status_patch(&running(), &found, "u"), None);
    }
}
