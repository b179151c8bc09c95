//! Which zero values Go's v1 types leave out (`omitempty` on fields that are no pointers): an object goes through them on its way
//! to `GET /pods`, so writing such a zero and writing nothing are the same content.
//!
//! By field name: the names below mean the same in every type of a Pod.

use super::value::{Number, Value};

/// Whether this value of a struct's field is the same as leaving it out, once its type is known to be right.
pub fn is_zero(field: &str, value: &Value) -> bool {
    match value {
        Value::Bool(false, _) => !POINTER_BOOLS.contains(&field),
        Value::Text(t) if t.is_empty() => !POINTER_STRINGS.contains(&field),
        Value::Number(Number::Int(0), _) => PLAIN_INTEGERS.contains(&field),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty() && MAPS.contains(&field),
        _ => false,
    }
}

/// `*bool`: false is not silence.
const POINTER_BOOLS: [&str; 13] = [
    "privileged",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "hostUsers",
    "optional",
    "hostProcess",
    "blockOwnerDeletion",
    "controller",
];

/// `*string`: "" is a value, and mostly an invalid one; a probe's port is here too. `restartPolicy` is a pointer in a container and none in
/// a pod, where `defaults` takes it for silence.
const POINTER_STRINGS: [&str; 20] = [
    "mountPropagation",
    "recursiveReadOnly",
    "runtimeClassName",
    "localhostProfile",
    "fsGroupChangePolicy",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
    "procMount",
    "preemptionPolicy",
    "hostnameOverride",
    "stopSignal",
    "port",
    "storageClassName",
    "restartPolicy",
    "nodeAffinityPolicy",
    "nodeTaintsPolicy",
    "initiatorName",
    "gmsaCredentialSpec",
    "gmsaCredentialSpecName",
    "runAsUserName",
];

/// Integers that are no pointers, where 0 asks for the default or means nothing.
const PLAIN_INTEGERS: [&str; 9] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "hostPort",
    "generation",
    "partition",
    "observedGeneration",
];

/// Mappings, as opposed to structs: `emptyDir: {}` means something, `labels: {}` does not.
const MAPS: [&str; 10] = [
    "labels",
    "annotations",
    "nodeSelector",
    "limits",
    "requests",
    "overhead",
    "matchLabels",
    "options",
    "volumeAttributes",
    "userAnnotations",
];
