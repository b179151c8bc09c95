//! A good pod with one mistake after another.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::manifest::{defaults, identity};
use serde_json::{Value, json};

/// What is wrong with a good pod once this is merged into its spec, or into the whole.
fn wrong(spec: Value) -> Vec<(String, String)> {
    wrong_pod(json!({ "spec": spec }))
}

fn wrong_pod(pod: Value) -> Vec<(String, String)> {
    let mut good = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    merge(&mut good, pod);
    let mut object: Pod = serde_json::from_value(good).unwrap();
    defaults::apply(&mut object);
    identity::name(&mut object, "Node1");
    super::pod(&object)
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
        json!({"containers": [{"resources": {"limits": {"hugepages-2Mi": "0", "cpu": "1", "x.kubernetes.io/y": "1500m"}, "requests": {"x.kubernetes.io/y": "1"}}}]}),
        json!({"overhead": {"cpu": "250m", "memory": "1Mi"}, "schedulerName": "Any Text", "resources": {"requests": {"cpu": "1"}}}),
        json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"resources": {"requests": {"ephemeral-storage": "1Gi"}}}]}),
        json!({"os": {"name": "windows"}, "hostPID": false, "hostIPC": false, "securityContext": {"sysctls": []}}),
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "any text", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["a"], "labelSelector": {"matchLabels": {"a": "b"}}}]}),
        json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}]}),
        json!({"volumes": [{"name": "v", "fc": {"targetWWNs": [], "wwids": ["a"]}}, {"name": "w", "azureDisk": {"diskName": "d", "diskURI": "https://a"}}]}),
        json!({"volumes": [{"name": "v", "iscsi": {"targetPortal": "h:1", "iqn": "iqn.2020-01.com.example:d.1:x", "lun": 0}}, {"name": "w", "quobyte": {"registry": "[::1]:1,h:2", "volume": "v"}}]}),
        container(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.host"}}}]})),
        container(
            json!({"securityContext": {"windowsOptions": {"runAsUserName": "NT AUTHORITY\\NETWORK SERVICE", "gmsaCredentialSpecName": "a.b"}}}),
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
        (json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}), "spec.dnsConfig.nameservers", "more than 3"),
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
        (volume(json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}})), "spec.volumes[0].hostPath", "more than 1 volume type"),
        (volume(json!({"name": "v", "hostPath": {"path": "/a", "type": "Pipe"}})), "spec.volumes[0].hostPath.type", "Unsupported value"),
        (volume(json!({"name": "v", "emptyDir": {"sizeLimit": "-1"}})), "spec.volumes[0].emptyDir.sizeLimit", "valid resource quantity"),
        (volume(json!({"name": "v", "nfs": {"server": "s", "path": "p"}})), "spec.volumes[0].nfs.path", "absolute"),
        (
            volume(json!({"name": "v", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}})),
            "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath",
            "Unsupported value",
        ),
        (volume(json!({"name": "v", "projected": {"defaultMode": 512, "sources": []}})), "spec.volumes[0].projected.defaultMode", "0777"),
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
        (container(json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}})), "spec.containers[0].resources", "require cpu or memory"),
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
        (json!({"overhead": {"foo": "1"}}), "spec.overhead[foo]", "must be a standard resource"),
        (
            container(json!({"resources": {"limits": {"hugepages-2Mi": "3Mi", "memory": "1Gi"}}})),
            "spec.containers[0].resources.limits[hugepages-2Mi]",
            "3Mi is not positive integer multiple of hugepages-2Mi",
        ),
        (
            container(json!({"resources": {"limits": {"requests.example.com/gpu": "1"}}})),
            "spec.containers[0].resources.limits[requests.example.com/gpu]",
            "extended resource name standard",
        ),
        (
            json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"resources": {"requests": {"memory": "2Gi"}}}]}),
            "spec.resources.requests[memory]",
            "Invalid value: \"0\": must be greater than or equal to aggregate container requests of 2Gi",
        ),
        (json!({"resources": {"claims": [], "limits": {"cpu": "1"}}}), "spec.resources.claims", "cannot be set"),
        (
            container(
                json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}),
            ),
            "spec.containers[0].resizePolicy[1]",
            "Duplicate value: \"cpu\"",
        ),
        (
            json!({"os": {"name": "windows"}, "securityContext": {"seLinuxChangePolicy": "Recursive"}}),
            "spec.securityContext.seLinuxChangePolicy",
            "cannot be set for a windows pod",
        ),
        (
            json!({"securityContext": {"seLinuxChangePolicy": "MountOption"}}),
            "spec.securityContext.seLinuxChangePolicy",
            "supported values: \"Recursive\"",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "spec.hostNetwork",
            "must be true if pod contains any hostProcess containers",
        ),
        (
            container(json!({"securityContext": {"windowsOptions": {"runAsUserName": "a\\b\\c"}}})),
            "spec.containers[0].securityContext.windowsOptions.runAsUserName",
            "more than one backslash",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["a"]}]}),
            "spec.topologySpreadConstraints[0].matchLabelKeys",
            "when labelSelector is not set",
        ),
        (
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z", "labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}]}}}),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]",
            "in both matchLabelKeys and mismatchLabelKeys",
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]}}]}}}),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector.matchExpressions[0].values[0]",
            "a valid label",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["A"]}]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values[0]",
            "subdomain",
        ),
        (volume(json!({"name": "v", "fc": {"targetWWNs": [], "wwids": []}})), "spec.volumes[0].fc.targetWWNs", "Required value"),
        (
            volume(json!({"name": "v", "iscsi": {"targetPortal": "h", "iqn": "iqn.20-01.a:b", "lun": 0}})),
            "spec.volumes[0].iscsi.iqn",
            "must be valid format",
        ),
        (
            volume(json!({"name": "v", "iscsi": {"targetPortal": "h", "iqn": "iqn.2020-01.a:b", "lun": 0, "chapAuthSession": true}})),
            "spec.volumes[0].iscsi.secretRef",
            "Required value",
        ),
        (
            volume(json!({"name": "v", "flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "1"}}})),
            "spec.volumes[0].flexVolume.options[a.k8s.io/x]",
            "reserved",
        ),
        (
            volume(json!({"name": "v", "quobyte": {"registry": "host", "volume": "v"}})),
            "spec.volumes[0].quobyte.registry",
            "host:port pair",
        ),
        (volume(json!({"name": "v", "flocker": {}})), "spec.volumes[0].flocker", "one of datasetName and datasetUUID"),
        (
            volume(json!({"name": "v", "azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}})),
            "spec.volumes[0].azureDisk.diskURI",
            "/subscriptions/",
        ),
        (
            volume(json!({"name": "v", "gcePersistentDisk": {"pdName": "d", "partition": 256}})),
            "spec.volumes[0].gcePersistentDisk.partition",
            "between 1 and 255",
        ),
        (volume(json!({"name": "v", "storageos": {"volumeName": "A"}})), "spec.volumes[0].storageos.volumeName", "RFC 1123 label"),
        (container(json!({"securityContext": {"procMount": "Unmasked"}})), "spec.containers[0].securityContext.procMount", "hostUsers"),
    ];
    for (spec, field, message) in cases {
        let found = wrong(spec.clone());
        assert_eq!(found.len(), 1, "{spec}: {found:?}");
        assert!(found.iter().all(|(f, m)| f == field && m.contains(message)), "{spec}: {found:?}");
    }
}

#[test]
fn mistakes_in_metadata_are_refused() {
    let owner = |kind: &str, controller: bool| json!({"apiVersion": "v1", "kind": kind, "name": "n", "uid": "u", "controller": controller});
    let annotated = |key: &str, value: &str| json!({"annotations": {key: value}});
    let good = [
        json!({"ownerReferences": [owner("Node", true), owner("Pod", false)], "finalizers": ["orphan", "a.b/c"]}),
        annotated("controller.kubernetes.io/pod-deletion-cost", "-10"),
        annotated("container.apparmor.security.beta.kubernetes.io/c", "localhost/x"),
        annotated("seccomp.security.alpha.kubernetes.io/pod", "docker/default"),
    ];
    for meta in good {
        assert_eq!(wrong_pod(json!({ "metadata": meta })), [], "{meta}");
    }
    let cases = [
        (json!({"ownerReferences": [owner("Event", false)]}), "metadata.ownerReferences[0]", "disallowed from being an owner"),
        (
            json!({"ownerReferences": [owner("Node", true), owner("Job", true)]}),
            "metadata.ownerReferences[1].controller",
            "Node/n and Job/n",
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "a/", "kind": "K", "name": "n", "uid": "u"}]}),
            "metadata.ownerReferences[0].apiVersion",
            "version must not be empty",
        ),
        (json!({"finalizers": ["foo"]}), "metadata.finalizers[0]", "neither a standard finalizer name"),
        (json!({"finalizers": ["orphan", "foregroundDeletion"]}), "metadata.finalizers", "cannot be both set"),
        (json!({"managedFields": [{"operation": "Patch"}]}), "metadata.managedFields[0].operation", "\"Apply\", \"Update\""),
        (
            annotated("controller.kubernetes.io/pod-deletion-cost", "+1"),
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]",
            "32bit integer",
        ),
        (
            annotated("scheduler.alpha.kubernetes.io/tolerations", r#"[{"operator": "Equal"}]"#),
            "metadata.annotations[scheduler.alpha.kubernetes.io/tolerations][0].operator",
            "must be Exists",
        ),
        (
            annotated("container.seccomp.security.alpha.kubernetes.io/c", "strict"),
            "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]",
            "valid seccomp profile",
        ),
        (
            annotated("container.apparmor.security.beta.kubernetes.io/d", "unconfined"),
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]",
            "container not found",
        ),
    ];
    for (meta, field, message) in cases {
        let found = wrong_pod(json!({ "metadata": meta }));
        assert_eq!(found.len(), 1, "{meta}: {found:?}");
        assert!(found.iter().all(|(f, m)| f == field && m.contains(message)), "{meta}: {found:?}");
    }
    let both = json!({
        "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}},
        "spec": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}},
    });
    let at = "spec.containers[0].securityContext.appArmorProfile.type".to_owned();
    assert_eq!(wrong_pod(both), [(at, "Forbidden: apparmor type in annotation and field must match".to_owned())]);
}
