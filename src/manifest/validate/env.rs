//! Environment variables, where their values come from, and the references of downward API files, which have the same shape.

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, PodSpec, ResourceFieldSelector};

use super::{Wrong, blank, each, names};
use crate::quantity::written::{FORMAT, Written};

const FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    // The old name of spec.nodeName.
    "spec.host",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a file of a downwardAPI volume may show.
pub const FILE_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// Checks env and envFrom of a container.
pub fn check(at: &str, c: &Container, spec: &PodSpec, wrong: &mut Wrong) {
    for (at, env) in each(at, "env", c.env.as_ref()) {
        if env.name.is_empty() {
            wrong.required(format!("{at}.name"), "");
        } else {
            wrong.shape(&format!("{at}.name"), &env.name, names::variable(&env.name));
        }
        if let Some(from) = &env.value_from {
            if !blank(env.value.as_deref()) {
                wrong.invalid(format!("{at}.valueFrom"), "", "may not be specified when `value` is not empty");
            }
            source(&format!("{at}.valueFrom"), from, spec, wrong);
        }
    }
    for (at, from) in each(at, "envFrom", c.env_from.as_ref()) {
        if let Some(prefix) = from.prefix.as_deref().filter(|p| !p.is_empty()) {
            wrong.shape(&format!("{at}.prefix"), prefix, names::variable(prefix));
        }
        let (map, secret) = (from.config_map_ref.as_ref().map(|r| &r.name), from.secret_ref.as_ref().map(|r| &r.name));
        match (map, secret) {
            (None, None) => wrong.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => wrong.invalid(&at, "", "may not have more than one field specified at a time"),
            _ => {}
        }
        for (field, name) in [("configMapRef", map), ("secretRef", secret)] {
            if let Some(name) = name {
                object_name(&format!("{at}.{field}.name"), name, wrong);
            }
        }
    }
}

fn object_name(at: &str, name: &str, wrong: &mut Wrong) {
    if name.is_empty() {
        wrong.required(at, "");
    } else {
        wrong.shape(at, name, names::subdomain(name));
    }
}

fn source(at: &str, from: &EnvVarSource, spec: &PodSpec, wrong: &mut Wrong) {
    let mut sources = 0;
    if let Some(f) = &from.field_ref {
        sources += 1;
        field(&format!("{at}.fieldRef"), f, &FIELDS, wrong);
    }
    if let Some(r) = &from.resource_field_ref {
        sources += 1;
        resource(&format!("{at}.resourceFieldRef"), r, false, wrong);
    }
    let named = [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (kind, reference) in named {
        let Some((name, key)) = reference else { continue };
        sources += 1;
        object_name(&format!("{at}.{kind}.name"), name, wrong);
        if key.is_empty() {
            wrong.required(format!("{at}.{kind}.key"), "");
        }
    }
    if let Some(file) = &from.file_key_ref {
        sources += 1;
        let at = format!("{at}.fileKeyRef");
        wrong.shape(&format!("{at}.key"), &file.key, names::variable(&file.key));
        if file.path.is_empty() {
            wrong.required(format!("{at}.path"), "");
        }
        wrong.shape(&format!("{at}.path"), &file.path, names::descending_unreserved(&file.path));
        let volume = spec.volumes.iter().flatten().find(|v| v.name == file.volume_name);
        match volume {
            _ if file.volume_name.is_empty() => wrong.required(format!("{at}.volumeName"), ""),
            None => wrong.not_found(format!("{at}.volumeName"), &file.volume_name),
            Some(v) if v.empty_dir.is_none() => {
                wrong.invalid(format!("{at}.volumeName"), &file.volume_name, "referenced volume must be of type emptyDir");
            }
            Some(_) => {}
        }
    }
    if sources == 0 {
        wrong.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if sources > 1 {
        wrong.invalid(at, "", "may not have more than one field specified at a time");
    }
}

/// Checks a fieldRef against the fields its place allows.
pub fn field(at: &str, f: &ObjectFieldSelector, allowed: &[&str], wrong: &mut Wrong) {
    if f.api_version.as_deref() != Some("v1") {
        let version = f.api_version.as_deref().unwrap_or_default();
        wrong.invalid(format!("{at}.apiVersion"), version, "must be v1");
    }
    let at = format!("{at}.fieldPath");
    if f.field_path.is_empty() {
        return wrong.required(at, "");
    }
    match subscript(&f.field_path) {
        Some(("metadata.labels", key)) => wrong.shape(&at, key, names::qualified(key)),
        Some(("metadata.annotations", key)) => wrong.shape(&at, key, names::qualified(&key.to_lowercase())),
        Some((path, _)) => wrong.invalid(at, path, "does not support subscript"),
        None => wrong.one_of(at, &f.field_path, allowed),
    }
}

/// `path['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// Checks a resourceFieldRef; in a volume it must name its container.
pub fn resource(at: &str, r: &ResourceFieldSelector, in_volume: bool, wrong: &mut Wrong) {
    if in_volume && blank(r.container_name.as_deref()) {
        wrong.required(format!("{at}.containerName"), "");
    }
    let field = format!("{at}.resource");
    if r.resource.is_empty() {
        return wrong.required(field, "");
    }
    let huge = r.resource.strip_prefix("limits.").or(r.resource.strip_prefix("requests.")).is_some_and(|n| n.starts_with("hugepages-"));
    if !huge {
        wrong.one_of(field, &r.resource, &RESOURCES);
    }
    let divisor = r.divisor.as_ref().map_or("0", |d| d.0.as_str());
    let Some(q) = Written::parse(divisor) else {
        return wrong.invalid(format!("{at}.divisor"), divisor, FORMAT);
    };
    let canonical = q.to_string();
    let (cpu, one) = (r.resource.ends_with(".cpu"), ["0", "1"].contains(&canonical.as_str()));
    let sizes = ["1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if cpu && !one && canonical != "1m" {
        wrong.invalid(format!("{at}.divisor"), divisor, "only divisor's values 1m and 1 are supported with the cpu resource");
    } else if !cpu && !one && !sizes.contains(&canonical.as_str()) {
        let why = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory, ephemeral-storage and hugepages resources";
        wrong.invalid(format!("{at}.divisor"), divisor, why);
    }
}
