//! What is written on pod groups, in the kubelet's numbers, for either kind of hierarchy.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::qos;
use crate::pod::WantedPod;
use crate::quantity::{Qos, Which, pod_amount};
use crate::sys::cgroup::Hierarchy;

/// CFS period the kubelet writes, µs.
const PERIOD_US: i64 = 100_000;
/// Least quota the kernel takes, µs.
const QUOTA_MIN_US: i64 = 1_000;

/// A setting that the kernel refuses or does not know is left at its default.
pub fn write(dir: &Path, (file, value): &(&str, String)) {
    // Without O_CREAT: a file the kernel does not have is not found, whatever else is wrong.
    let written = OpenOptions::new().write(true).open(dir.join(file)).and_then(|mut f| f.write_all(value.as_bytes()));
    if let Err(e) = written
        && e.kind() != io::ErrorKind::NotFound
    {
        log::debug!("write `{value}` to {}/{file}: {e}", dir.display());
    }
}

pub fn share_file(h: &Hierarchy, shares: i64) -> (&'static str, String) {
    // The kubelet's conversion to v2 weights.
    if h.unified { ("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()) } else { ("cpu.shares", shares.to_string()) }
}

pub fn memory_file(h: &Hierarchy, bytes: i64) -> (&'static str, String) {
    (if h.unified { "memory.max" } else { "memory.limit_in_bytes" }, bytes.to_string())
}

pub fn limit(h: &Hierarchy, dir: &Path, pod: &WantedPod, pids: Option<u64>) {
    for setting in limits(h, pod) {
        write(dir, &setting);
    }
    if let Some(most) = pids {
        write(dir, &("pids.max", most.to_string()));
    }
    // The kernel tells which sizes it has by its files.
    for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = file.file_name().to_string_lossy().into_owned();
        if let Some(bytes) = huge_pages(h, &file, pod) {
            write(dir, &(&*file, bytes.to_string()));
        }
    }
}

/// What the pod may have of huge pages of the size that this file is for: nothing of one it does not ask for, like the kubelet.
fn huge_pages(h: &Hierarchy, file: &str, pod: &WantedPod) -> Option<i64> {
    let size = file.strip_prefix("hugetlb.")?.strip_suffix(if h.unified { ".max" } else { ".limit_in_bytes" })?;
    let resource = format!("hugepages-{}i", size.strip_suffix('B').filter(|s| !s.contains('.'))?);
    Some(pod_amount(pod.object.spec.as_ref()?, Which::Limits, &resource).map_or(0, |a| a.units()))
}

/// The burstable class has the shares of its pods together, so that one pod's requests mean the same in either class. The kubelet sums
/// requests once a minute; here the groups themselves are summed whenever one comes or goes.
pub fn share_burstable(h: &Hierarchy, pod_dir: &Path) {
    let Some(class) = pod_dir.parent().filter(|c| c.ends_with("kubepods/burstable")) else { return };
    let (file, _) = share_file(h, 2);
    let shares = |dir: PathBuf| {
        let n: i64 = std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()?;
        Some(if h.unified { 2 + (n - 1) * 262_142 / 9999 } else { n })
    };
    let pods = std::fs::read_dir(class).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let sum: i64 = pods.filter_map(|e| shares(e.path())).sum();
    write(class, &share_file(h, sum.clamp(2, 262_144)));
}

/// What the kubelet writes on a pod's group (`ResourceConfigForPod`).
fn limits(h: &Hierarchy, pod: &WantedPod) -> Vec<(&'static str, String)> {
    let Some(spec) = pod.object.spec.as_ref() else { return Vec::new() };
    let qos = qos::class(&pod.object);
    let requested = pod_amount(spec, Which::Requests, "cpu").map_or(0, |a| a.milli());
    let cpu = pod_amount(spec, Which::Limits, "cpu").map(|a| a.milli()).filter(|m| *m > 0);
    let memory = pod_amount(spec, Which::Limits, "memory").map(|a| a.units()).filter(|b| *b > 0);
    // The kubelet rounds shares down and raises a quota to what the kernel takes.
    let shares = if qos == Qos::BestEffort { 2 } else { (requested * 1024 / 1000).clamp(2, 262_144) };
    let quota = cpu.map(|m| (m * PERIOD_US / 1000).max(QUOTA_MIN_US));
    let mut set = vec![share_file(h, shares)];
    if qos == Qos::BestEffort {
        return set;
    }
    if let Some(quota) = quota {
        if h.unified {
            set.push(("cpu.max", format!("{quota} {PERIOD_US}")));
        } else {
            set.push(("cpu.cfs_period_us", PERIOD_US.to_string()));
            set.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if let Some(bytes) = memory {
        set.push(memory_file(h, bytes));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod;
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_the_kubelets_numbers() {
        let v1 = Hierarchy { root: "/x".into(), unified: false };
        let v2 = Hierarchy { root: "/x".into(), unified: true };
        let guaranteed = pod(json!({ "limits": { "cpu": "500m", "memory": "64Mi" } }));
        let text = |h, p: &WantedPod| limits(h, p).iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
        assert_eq!(text(&v1, &guaranteed), "cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=67108864");
        assert_eq!(text(&v2, &guaranteed), "cpu.weight=20 cpu.max=50000 100000 memory.max=67108864");
        assert_eq!(text(&v1, &pod(json!({}))), "cpu.shares=2");
    }

    #[test]
    fn huge_pages_are_those_asked_for() {
        let h = |unified| Hierarchy { root: "/x".into(), unified };
        let asks = pod(json!({ "limits": { "hugepages-2Mi": "4Mi", "memory": "64Mi" } }));
        assert_eq!(huge_pages(&h(true), "hugetlb.2MB.max", &asks), Some(4 << 20));
        assert_eq!(huge_pages(&h(false), "hugetlb.2MB.limit_in_bytes", &asks), Some(4 << 20));
        assert_eq!(huge_pages(&h(true), "hugetlb.1GB.max", &asks), Some(0));
        for other in ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.current", "memory.max"] {
            assert_eq!(huge_pages(&h(true), other, &asks), None, "{other}");
        }
    }
}
