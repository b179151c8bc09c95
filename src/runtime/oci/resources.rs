//! The container's cgroup: cpu, memory, huge pages (the kubelet limits pids on the pod's cgroup, and by default not at all). cgroup v1 words throughout: the OCI runtime translates them on v2.

use std::collections::BTreeMap;

use super::types::{Cpu, DeviceRule, HugepageLimit, Memory, Resources};
use super::{Input, OciError};
use crate::quantity::{Which, amount};
use crate::runtime::qos;

/// CFS period, µs: the kubelet's default.
const PERIOD_US: i64 = 100_000;
/// The kernel takes no quota below this, µs.
const QUOTA_MIN_US: i64 = 1_000;

/// `cpu.shares` of so many thousandths of a core.
pub fn shares(milli_cpu: i64) -> u64 {
    let shares = milli_cpu.max(0).saturating_mul(1024) / 1000;
    u64::try_from(shares).unwrap_or(0).clamp(2, 262_144)
}

/// `cpu.cfs_quota_us` of so many thousandths of a core; none for none.
pub fn quota_us(milli_cpu: i64) -> Option<i64> {
    (milli_cpu > 0).then(|| (milli_cpu.saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US))
}

/// Everything the container's cgroup is set to.
pub fn resources(input: &Input<'_>) -> Result<Resources, OciError> {
    let c = input.container()?;
    let own = c.resources.as_ref();
    let pods = qos::pod_level(input.pod_spec()?);
    // The pod's own limit stands in for a container's that has none.
    let limit = |name: &str| {
        let set = amount(own, Which::Limits, name).filter(|a| a.is_positive());
        set.or(amount(pods, Which::Limits, name)).unwrap_or_default()
    };
    let (cpu_limit, memory_limit) = (limit("cpu").milli(), limit("memory").units());
    let cpu_request = amount(own, Which::Requests, "cpu").unwrap_or_default().milli();
    let memory = (memory_limit > 0 && has(input, "memory")).then_some(memory_limit);
    let rule = DeviceRule { allow: input.privileged(), access: "rwm" };
    Ok(Resources {
        devices: vec![rule],
        cpu: has(input, "cpu").then(|| Cpu {
            shares: shares(if cpu_request == 0 { cpu_limit } else { cpu_request }),
            quota: quota_us(cpu_limit),
            period: PERIOD_US.unsigned_abs(),
        }),
        // Memory and swap together may not exceed the memory limit: no swapping.
        memory: Memory { limit: memory, swap: memory.filter(|_| input.node.swap_accounting) },
        hugepage_limits: hugepages(input, &|name| limit(name).units()),
        unified: unified(input),
    })
}

/// What the OCI runtime cannot set it fails at: a container starts without.
fn has(input: &Input<'_>, controller: &str) -> bool {
    !input.node.lacking.contains(&controller)
}

/// Each size the machine has, 0 when not asked for.
fn hugepages(input: &Input<'_>, limit: &dyn Fn(&str) -> i64) -> Vec<HugepageLimit> {
    let one = |size: &String| {
        let asked = limit(&format!("hugepages-{}i", size.trim_end_matches('B')));
        HugepageLimit { page_size: size.clone(), limit: u64::try_from(asked).unwrap_or(0) }
    };
    input.node.hugepage_sizes.iter().map(one).collect()
}

/// v2 alone: an OOM kill takes the whole container, and nothing is swapped (the kubelet's defaults).
fn unified(input: &Input<'_>) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    if input.node.cgroup_v2 && has(input, "memory") {
        all.insert("memory.oom.group", "1".to_owned());
        if input.node.swap_accounting {
            all.insert("memory.swap.max", "0".to_owned());
        }
    }
    all
}
