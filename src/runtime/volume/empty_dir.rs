//! emptyDir: on disk, in memory, in huge pages, owned and sized as the kubelet does.
//!
//! Made once and left alone after; its content goes with the pod's directory.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};

use super::{Allocatable, VolumeError, file};
use crate::quantity::{Amount, Which, amount, pod_amount};
use crate::sys::mounts;

/// A directory everybody may write to, with the pod's group on it; in memory if asked for.
pub fn make(dir: &Path, spec: &PodSpec, name: &str, source: &EmptyDirVolumeSource, node: &Allocatable) -> Result<(), VolumeError> {
    let failed = |verb| file(name, verb, dir);
    std::fs::create_dir_all(dir).map_err(failed("make"))?;
    let size = source.size_limit.as_ref().and_then(|q| Amount::parse(&q.0));
    let medium = source.medium.as_deref().unwrap_or_default();
    if !medium.is_empty() && !mounts::is_mount_point(dir) {
        match medium {
            "Memory" => mounts::tmpfs(dir, memory_bytes(spec, size, node), 0o777, true).map_err(failed("mount a tmpfs on"))?,
            huge if huge.starts_with("HugePages") => {
                let (page, bytes) = huge_pages(spec, name, huge)?;
                mounts::hugetlbfs(dir, page, size.map_or(bytes, |s| bytes.min(s.units().unsigned_abs())))
                    .map_err(failed("mount huge pages on"))?;
            }
            other => {
                let why = format!("unknown storage medium `{other}`; use \"\", Memory or HugePages");
                return Err(VolumeError::Refused { name: name.to_owned(), why });
            }
        }
    }
    // fsGroup as the kubelet applies it to an empty directory: group owner, set-group-ID so that files inherit it.
    let group = fs_group(spec);
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if group.is_some() {
        chown(dir, None, group).map_err(failed("give to the fsGroup"))?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))
}

/// The pod's group, whose the volumes are.
pub(super) fn fs_group(spec: &PodSpec) -> Option<u32> {
    spec.security_context.as_ref().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok())
}

/// The least of sizeLimit, the memory limits of the pod (if every container has one) and what all pods may have.
pub(super) fn memory_bytes(spec: &PodSpec, size: Option<Amount>, node: &Allocatable) -> Option<u64> {
    let all = [size, pod_amount(spec, Which::Limits, "memory"), node.get("memory").copied()];
    all.into_iter().flatten().filter(|a| a.is_positive()).min().map(|a| a.units().unsigned_abs())
}

/// Page size and sum of a huge page emptyDir: by its name, or the only size the pod asks for.
fn huge_pages(spec: &PodSpec, name: &str, medium: &str) -> Result<(u64, u64), VolumeError> {
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let wanted = medium.strip_prefix("HugePages").unwrap_or_default().strip_prefix('-');
    let mut kinds: Vec<&str> = all()
        .filter_map(|c| c.resources.as_ref())
        .flat_map(|r| r.limits.iter().chain(&r.requests).flatten())
        .filter_map(|(k, _)| k.strip_prefix("hugepages-"))
        .filter(|k| wanted.is_none_or(|w| w == *k))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    let why = match kinds.as_slice() {
        [one] => {
            let resource = format!("hugepages-{one}");
            let sum: i64 = all().filter_map(|c| amount(c.resources.as_ref(), Which::Requests, &resource)).map(Amount::units).sum();
            match Amount::parse(one) {
                Some(page) => return Ok((page.units().unsigned_abs(), sum.unsigned_abs())),
                None => format!("`{one}` is no page size"),
            }
        }
        [] => format!("medium {medium} needs a container that asks for hugepages-<size> of it"),
        _ => "medium HugePages is ambiguous: the pod asks for several sizes; use HugePages-<size>".into(),
    };
    Err(VolumeError::Refused { name: name.to_owned(), why })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn spec(resources: &[Value]) -> PodSpec {
        let containers: Vec<Value> = resources.iter().map(|r| json!({"name": "c", "resources": r})).collect();
        serde_json::from_value(json!({ "containers": containers })).unwrap()
    }

    #[test]
    fn memory_is_the_least_of_its_own_the_pods_and_the_nodes() {
        let limits = |bytes: &str| json!({"limits": {"memory": bytes}});
        let least = |containers: &[Value], size: Option<&str>, node: &str| {
            let node = [("memory".to_owned(), Amount::parse(node).unwrap())].into();
            memory_bytes(&spec(containers), size.map(|s| Amount::parse(s).unwrap()), &node)
        };
        let (one, two) = ([limits("1000")], [limits("1000"), limits("500")]);
        assert_eq!(least(&one, Some("700"), "1100"), Some(700));
        assert_eq!(least(&two, Some("1Gi"), "2Gi"), Some(1500));
        assert_eq!(least(&two, None, "1100"), Some(1100));
        // A container without a limit may have all that pods may have; a size of 0 is none.
        assert_eq!(least(&[limits("1"), json!({})], Some("0"), "1100"), Some(1100));
        assert_eq!(memory_bytes(&spec(&[json!({})]), None, &Allocatable::new()), None);
    }

    #[test]
    fn huge_pages_are_of_the_size_the_pod_asks_for_and_of_no_other() {
        let asks = |sizes: &[&str]| {
            let amounts: serde_json::Map<_, _> = sizes.iter().map(|s| (format!("hugepages-{s}"), json!("4Mi"))).collect();
            json!({"limits": amounts.clone(), "requests": amounts})
        };
        let said = |containers: &[Value], medium: &str| huge_pages(&spec(containers), "v", medium).map_err(|e| e.to_string());
        let refused = |why: &str| Err(format!("set up volume `v`: {why}"));
        assert_eq!(said(&[asks(&["2Mi"]), asks(&["2Mi"])], "HugePages"), Ok((2 << 20, 8 << 20)));
        assert_eq!(said(&[asks(&["2Mi", "1Gi"])], "HugePages-1Gi"), Ok((1 << 30, 4 << 20)));
        let ambiguous = "medium HugePages is ambiguous: the pod asks for several sizes; use HugePages-<size>";
        assert_eq!(said(&[asks(&["2Mi"]), asks(&["1Gi"])], "HugePages"), refused(ambiguous));
        for (containers, medium) in [(json!({}), "HugePages"), (asks(&["2Mi"]), "HugePages-1Gi")] {
            assert_eq!(
                said(&[containers], medium),
                refused(&format!("medium {medium} needs a container that asks for hugepages-<size> of it"))
            );
        }
    }
}
