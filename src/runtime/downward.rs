//! The downward API: fields of a pod and resources of its containers as text, for environment variables and for
//! downwardAPI volumes. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::qos;
use crate::quantity::{Amount, Which, amount};

/// Facts a field can ask for that are not in the object.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `status.podIP(s)`, primary first; the host's with host networking.
    pub pod_ips: &'a [IpAddr],
    /// `status.hostIP(s)`, primary first.
    pub host_ips: &'a [IpAddr],
    /// Node allocatable by resource name: a container without a limit may use that much.
    pub allocatable: &'a BTreeMap<String, Amount>,
}

/// A field by its path; `None` if there is no such field (validation refuses those).
pub fn field(pod: &Pod, facts: Facts<'_>, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |t: Option<&str>| Some(t.unwrap_or_default().to_owned());
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    match path {
        "metadata.name" => text(meta.name.as_deref()),
        "metadata.namespace" => text(meta.namespace.as_deref()),
        "metadata.uid" => text(meta.uid.as_deref()),
        "metadata.labels" => Some(map_text(meta.labels.as_ref())),
        "metadata.annotations" => Some(map_text(meta.annotations.as_ref())),
        "spec.nodeName" | "spec.host" => text(spec.and_then(|s| s.node_name.as_deref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_deref())),
        "status.hostIP" => Some(first(facts.host_ips)),
        "status.hostIPs" => Some(join(facts.host_ips)),
        "status.podIP" => Some(first(facts.pod_ips)),
        "status.podIPs" => Some(join(facts.pod_ips)),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => meta.labels.as_ref(),
                "metadata.annotations" => meta.annotations.as_ref(),
                _ => return None,
            };
            text(map.and_then(|m| m.get(key)).map(String::as_str))
        }
    }
}

/// A whole map as the kubelet prints it: sorted lines of `key="escaped value"`.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

/// Go's `%q`: what is printable stays, the rest is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{7}' => out.write_str("\\a"),
            '\u{8}' => out.write_str("\\b"),
            '\u{c}' => out.write_str("\\f"),
            '\u{b}' => out.write_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(out, "\\x{:02x}", c as u32),
            c if c.is_control() => write!(out, "\\u{:04x}", c as u32),
            c => out.write_char(c),
        };
    }
    out.push('"');
    out
}

/// A resource of a container over the divisor, rounded up; `None` if there is no such resource or container.
/// `of` is the container that asks, used when the selector names none.
pub fn resource(pod: &Pod, of: &Container, facts: Facts<'_>, selector: &ResourceFieldSelector) -> Option<String> {
    let spec = pod.spec.as_ref();
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => spec.and_then(|s| s.init_containers.iter().flatten().chain(&s.containers).find(|c| c.name == name))?,
        None => of,
    };
    let (side, name) = selector.resource.split_once('.')?;
    let which = match side {
        "limits" => Which::Limits,
        "requests" => Which::Requests,
        _ => return None,
    };
    let own = amount(container.resources.as_ref(), which, name).unwrap_or_default();
    let fallback = which == Which::Limits && matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let asked = if !own.is_positive() && fallback { most(pod, facts, name) } else { own };
    let divisor = selector.divisor.as_ref().and_then(|d| Amount::parse(&d.0)).filter(|d| d.is_positive());
    let divisor = divisor.unwrap_or(Amount::of_units(1));
    let (asked, divisor) = match name {
        "cpu" => (asked.milli(), divisor.milli()),
        "memory" | "ephemeral-storage" => (asked.units(), divisor.units()),
        _ if name.starts_with("hugepages-") => (asked.units(), divisor.units()),
        _ => return None,
    };
    let up = i128::from(asked) + i128::from(divisor) - 1;
    Some((up / i128::from(divisor.max(1))).to_string())
}

/// What a container without a limit may use: the pod's own limit, else all that is allocatable.
fn most(pod: &Pod, facts: Facts<'_>, name: &str) -> Amount {
    let own = amount(pod.spec.as_ref().and_then(qos::pod_level), Which::Limits, name).unwrap_or_default();
    if !own.is_positive() { facts.allocatable.get(name).copied().unwrap_or_default() } else { own }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p-n", "namespace": "ns", "uid": "u", "labels": {"b": "2\"\n", "a.b/c": "1"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi", "cpu": "1500m"}}}, {"name": "d"}
            ]}
        }))
        .unwrap()
    }

    fn get(path: &str) -> Option<String> {
        let ips: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        field(&pod(), Facts { pod_ips: &ips, host_ips: &ips, allocatable: &BTreeMap::new() }, path)
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        for (path, want) in [
            ("metadata.name", "p-n"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u"),
            ("metadata.labels['a.b/c']", "1"),
            ("metadata.annotations['x']", ""),
            ("spec.nodeName", "n"),
            ("spec.serviceAccountName", ""),
            ("status.hostIP", "10.0.0.2"),
            ("status.podIPs", "10.0.0.2,fd00::2"),
        ] {
            assert_eq!(get(path).as_deref(), Some(want), "{path}");
        }
        assert_eq!(get("spec.hostname"), None);
        assert_eq!(get("metadata.name['x']"), None);
    }

    #[test]
    fn whole_maps_are_sorted_and_escaped() {
        assert_eq!(get("metadata.labels").unwrap(), "a.b/c=\"1\"\nb=\"2\\\"\\n\"");
    }

    fn res(resource_name: &str, container: Option<&str>, divisor: Option<&str>) -> Option<String> {
        let p = pod();
        let allocatable = BTreeMap::from([("cpu".to_owned(), Amount::of_units(4)), ("memory".to_owned(), Amount::of_units(1 << 30))]);
        let facts = Facts { pod_ips: &[], host_ips: &[], allocatable: &allocatable };
        let selector: ResourceFieldSelector =
            serde_json::from_value(json!({"resource": resource_name, "containerName": container, "divisor": divisor})).unwrap();
        resource(&p, p.spec.as_ref().unwrap().containers.first().unwrap(), facts, &selector)
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        assert_eq!(res("limits.cpu", None, None).unwrap(), "2");
        assert_eq!(res("limits.cpu", None, Some("1m")).unwrap(), "1500");
        assert_eq!(res("requests.memory", None, Some("1Mi")).unwrap(), "64");
        assert_eq!(res("requests.memory", None, Some("0")).unwrap(), "67108864");
    }

    #[test]
    fn an_absent_limit_is_all_of_the_node_and_an_absent_request_is_nothing() {
        assert_eq!(res("limits.memory", Some("d"), Some("1Mi")).unwrap(), "1024");
        assert_eq!(res("limits.cpu", Some("d"), None).unwrap(), "4");
        assert_eq!(res("requests.cpu", Some("d"), None).unwrap(), "0");
        assert_eq!(res("limits.hugepages-2Mi", None, None).unwrap(), "0");
        assert_eq!(res("limits.gpu", None, None), None);
        assert_eq!(res("limits.cpu", Some("nobody"), None), None);
    }
}
