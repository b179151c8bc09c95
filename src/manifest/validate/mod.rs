//! What the API server refuses when a Pod is created (Kubernetes' `core/validation`), in its words. Pure; changes nothing.
//!
//! - `names`: the shapes of names, labels and paths
//! - `metadata`, `spec`, `network`, `scheduling`: the pod
//! - `container`, `env`, `probe`, `mount`: a container
//! - `volume`, `resources`, `security`: what they say

mod container;
mod env;
mod metadata;
mod mount;
mod names;
mod network;
mod probe;
mod resources;
mod scheduling;
mod security;
mod spec;
mod volume;

use std::fmt::{Debug, Display};

use k8s_openapi::api::core::v1::Pod;

/// Field path and message of everything that is wrong with a defaulted, fully named pod.
pub fn pod(pod: &Pod) -> Vec<(String, String)> {
    let mut wrong = Wrong(Vec::new());
    metadata::check(pod, &mut wrong);
    match &pod.spec {
        Some(spec) => spec::check(spec, &mut wrong),
        None => wrong.required("spec", ""),
    }
    wrong.0
}

/// What is wrong so far, in the words of apimachinery's `field.Error`.
struct Wrong(Vec<(String, String)>);

impl Wrong {
    fn add(&mut self, field: impl Into<String>, message: String) {
        // A hostile manifest may have a mistake in each of its values; nobody reads more than this.
        if self.0.len() < 100 {
            self.0.push((field.into(), message));
        }
    }

    fn required(&mut self, field: impl Into<String>, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        self.add(field, format!("Required value{colon}{why}"));
    }

    fn invalid(&mut self, field: impl Into<String>, value: impl Debug, why: impl Display) {
        self.add(field, format!("Invalid value: {value:?}: {why}"));
    }

    /// One complaint per reason why a text has the wrong shape.
    fn shape(&mut self, field: &str, value: &str, reasons: Vec<String>) {
        for why in reasons {
            self.invalid(field, value, why);
        }
    }

    fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.add(field, format!("Forbidden: {why}"));
    }

    fn duplicate(&mut self, field: impl Into<String>, value: impl Debug) {
        self.add(field, format!("Duplicate value: {value:?}"));
    }

    fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.add(field, format!("Not found: {value:?}"));
    }

    fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        self.add(field, format!("Too many: {count}: must have at most {most} items"));
    }

    /// The value must be one of a few words.
    fn one_of(&mut self, field: impl Into<String>, value: &str, words: &[&str]) {
        if !words.contains(&value) {
            let listed: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
            self.add(field, format!("Unsupported value: {value:?}: supported values: {}", listed.join(", ")));
        }
    }

    /// As `one_of`, where the field may be silent.
    fn maybe_one_of(&mut self, field: impl Into<String>, value: Option<&str>, words: &[&str]) {
        if let Some(value) = value {
            self.one_of(field, value, words);
        }
    }

    fn at_least(&mut self, field: impl Into<String>, value: Option<i64>, least: i64) {
        if let Some(v) = value.filter(|v| *v < least) {
            let bound = if least == 1 { "greater than 0".to_owned() } else { format!("greater than or equal to {least}") };
            self.invalid(field, v, format!("must be {bound}"));
        }
    }

    fn within(&mut self, field: impl Into<String>, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.invalid(field, value, format!("must be between {low} and {high}, inclusive"));
        }
    }
}

/// The values of a list with their paths: `at.field[i]`.
fn each<'a, T>(at: &str, field: &str, items: Option<&'a Vec<T>>) -> impl Iterator<Item = (String, &'a T)> + use<'a, T> {
    let list = format!("{at}.{field}");
    items.into_iter().flatten().enumerate().map(move |(i, item)| (format!("{list}[{i}]"), item))
}

/// Whether a field that is no pointer in Go is silent.
fn blank(text: Option<&str>) -> bool {
    text.unwrap_or_default().is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manifest::{defaults, identity};
    use serde_json::{Value, json};

    /// What is wrong with a good pod once this is merged into its spec.
    fn wrong(spec: Value) -> Vec<(String, String)> {
        let mut good = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        merge(good.get_mut("spec").unwrap(), spec);
        let mut object: Pod = serde_json::from_value(good).unwrap();
        defaults::apply(&mut object);
        identity::name(&mut object, "Node1");
        pod(&object)
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(a), Value::Object(b)) => b.into_iter().for_each(|(k, v)| merge(a.entry(k).or_insert(Value::Null), v)),
            (Value::Array(a), Value::Array(b)) => b.into_iter().enumerate().for_each(|(i, v)| match a.get_mut(i) {
                Some(old) => merge(old, v),
                None => a.push(v),
            }),
            (a, b) => *a = b,
        }
    }

    fn container(c: Value) -> Value {
        json!({"containers": [c]})
    }

    #[test]
    fn good_pods_are_not_refused() {
        let good = [
            json!({}),
            json!({"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}], "initContainers": [{"name": "i", "image": "i", "ports": [{"containerPort": 1, "hostPort": 2}]}]}),
            json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "readinessProbe": {"grpc": {"port": 1}}, "lifecycle": {"preStop": {"sleep": {"seconds": 30}}}}]}),
            json!({"imagePullSecrets": [{}], "dnsConfig": {"searches": [".", "a_b.c."], "nameservers": ["1.1.1.1"]}, "dnsPolicy": "None"}),
            json!({"tolerations": [{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 3}]}),
            json!({"securityContext": {"sysctls": [{"name": "net/ipv4/conf.eth0/forwarding", "value": "1"}], "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}}),
            container(json!({"resources": {"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi", "example.com/gpu": "1"}}})),
            container(json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]})),
            container(
                json!({"restartPolicy": "OnFailure", "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [1, 2]}}]}),
            ),
            json!({"resources": {"limits": {"cpu": "2"}}, "containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}),
        ];
        for spec in good {
            assert_eq!(wrong(spec.clone()), [], "{spec}");
        }
    }

    #[test]
    fn each_mistake_is_refused_at_its_field() {
        let mount = |m: Value| json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"volumeMounts": [m]}]});
        let volume = |v: Value| json!({"volumes": [v]});
        let cases = [
            (json!({"containers": [{"image": ""}]}), "spec.containers[0].image", "Required value"),
            (json!({"containers": [{"image": " i"}]}), "spec.containers[0].image", "whitespace"),
            (json!({"initContainers": [{"name": "c", "image": "i"}]}), "spec.initContainers[0].name", "Duplicate value: \"c\""),
            (json!({"ephemeralContainers": [{"name": "e"}]}), "spec.ephemeralContainers", "Forbidden: cannot be set on create"),
            (
                json!({"restartPolicy": "Sometimes"}),
                "spec.restartPolicy",
                "Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (json!({"activeDeadlineSeconds": 0}), "spec.activeDeadlineSeconds", "between 1 and 2147483647"),
            (json!({"hostname": "a.b"}), "spec.hostname", "RFC 1123 label"),
            (json!({"hostAliases": [{"ip": "x"}]}), "spec.hostAliases[0].ip", "must be a valid IP address"),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
                "spec.dnsConfig.nameservers",
                "more than 3",
            ),
            (json!({"shareProcessNamespace": true, "hostPID": true}), "spec.shareProcessNamespace", "cannot both be enabled"),
            (json!({"securityContext": {"runAsUser": -1}}), "spec.securityContext.runAsUser", "between 0 and 2147483647"),
            (
                json!({"hostIPC": true, "securityContext": {"sysctls": [{"name": "kernel.shmmax", "value": "1"}]}}),
                "spec.securityContext.sysctls[0].name",
                "'hostIPC' is true",
            ),
            (json!({"os": {"name": "windows"}, "hostPID": true}), "spec.hostPID", "cannot be set for a windows pod"),
            (json!({"tolerations": [{"effect": "NoExecute"}]}), "spec.tolerations[0].operator", "operator must be Exists"),
            (json!({"overhead": {"cpu": "x"}}), "spec.overhead[cpu]", "quantities must match"),
            (json!({"priorityClassName": "X"}), "spec.priorityClassName", "subdomain"),
            (
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
                "at least one",
            ),
            (mount(json!({"name": "v", "mountPath": ""})), "spec.containers[0].volumeMounts[0].mountPath", "Required value"),
            (mount(json!({"name": "w", "mountPath": "/w"})), "spec.containers[0].volumeMounts[0].name", "Not found: \"w\""),
            (
                mount(json!({"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"})),
                "spec.containers[0].volumeMounts[0].mountPropagation",
                "privileged",
            ),
            (
                mount(json!({"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"})),
                "spec.containers[0].volumeMounts[0].recursiveReadOnly",
                "readOnly is true",
            ),
            (
                mount(json!({"name": "v", "mountPath": "/v", "subPathExpr": "/abs"})),
                "spec.containers[0].volumeMounts[0].subPathExpr",
                "relative path",
            ),
            (volume(json!({"name": "V"})), "spec.volumes[0].name", "RFC 1123 label"),
            (
                volume(json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}})),
                "spec.volumes[0].hostPath",
                "more than 1 volume type",
            ),
            (
                volume(json!({"name": "v", "hostPath": {"path": "/a", "type": "Pipe"}})),
                "spec.volumes[0].hostPath.type",
                "Unsupported value",
            ),
            (
                volume(json!({"name": "v", "emptyDir": {"sizeLimit": "-1"}})),
                "spec.volumes[0].emptyDir.sizeLimit",
                "valid resource quantity",
            ),
            (volume(json!({"name": "v", "nfs": {"server": "s", "path": "p"}})), "spec.volumes[0].nfs.path", "absolute"),
            (
                volume(json!({"name": "v", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}})),
                "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath",
                "Unsupported value",
            ),
            (
                volume(json!({"name": "v", "projected": {"defaultMode": 512, "sources": []}})),
                "spec.volumes[0].projected.defaultMode",
                "0777",
            ),
            (container(json!({"env": [{"name": "A", "valueFrom": {}}]})), "spec.containers[0].env[0].valueFrom", "must specify one of"),
            (
                container(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]})),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
                "Unsupported value",
            ),
            (container(json!({"env": [{"name": "a=b"}]})), "spec.containers[0].env[0].name", "printable ASCII"),
            (container(json!({"livenessProbe": {}})), "spec.containers[0].livenessProbe", "must specify a handler type"),
            (
                container(json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}})),
                "spec.containers[0].livenessProbe.successThreshold",
                "must be 1",
            ),
            (
                container(json!({"readinessProbe": {"tcpSocket": {"port": 0}}})),
                "spec.containers[0].readinessProbe.tcpSocket.port",
                "between 1 and 65535",
            ),
            (container(json!({"lifecycle": {"stopSignal": "SIGTERM"}})), "spec.containers[0].lifecycle.stopSignal", "spec.os.name"),
            (
                container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
                "spec.containers[0].lifecycle.preStop.sleep",
                "terminationGracePeriodSeconds (30)",
            ),
            (
                container(json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]})),
                "spec.containers[0].restartPolicy",
                "Required value",
            ),
            (
                container(json!({"resources": {"limits": {"cpu": "-1"}}})),
                "spec.containers[0].resources.limits[cpu]",
                "greater than or equal to 0",
            ),
            (
                container(json!({"resources": {"requests": {"example.com/gpu": "1"}}})),
                "spec.containers[0].resources.requests[example.com/gpu]",
                "Limit must be set",
            ),
            (
                container(json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}})),
                "spec.containers[0].resources",
                "require cpu or memory",
            ),
            (
                json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"resources": {"requests": {"cpu": "2"}}}]}),
                "spec.resources.requests[cpu]",
                "aggregate container requests of 2",
            ),
            (
                container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
                "privileged",
            ),
            (
                container(json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}})),
                "spec.containers[0].securityContext.seccompProfile.localhostProfile",
                "must be set",
            ),
            (container(json!({"securityContext": {"procMount": "Unmasked"}})), "spec.containers[0].securityContext.procMount", "hostUsers"),
        ];
        for (spec, field, message) in cases {
            let found = wrong(spec.clone());
            assert_eq!(found.len(), 1, "{spec}: {found:?}");
            assert!(found.iter().all(|(f, m)| f == field && m.contains(message)), "{spec}: {found:?}");
        }
    }
}
