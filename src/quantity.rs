//! Kubernetes quantities (`100m`, `64Mi`, `1e3`) as numbers, and what resources say of a pod: its QoS class and its sums.
//!
//! Pure; knows no other room. Does not judge whether a quantity makes sense where it stands.

pub mod written;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in billionths: the finest unit Kubernetes has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// Reads one; `None` if it is none. Finer than a billionth is rounded up, as `resource.Quantity` does.
    pub fn parse(text: &str) -> Option<Amount> {
        written::Written::parse(text).map(|q| Amount(q.nanos()))
    }

    /// So many whole units.
    pub fn of_units(n: i64) -> Amount {
        Amount(i128::from(n) * 1_000_000_000)
    }

    /// Whole units, rounded up (`Quantity.Value()`).
    pub fn units(self) -> i64 {
        self.ceil(1_000_000_000)
    }

    /// Thousandths, rounded up (`Quantity.MilliValue()`).
    pub fn milli(self) -> i64 {
        self.ceil(1_000_000)
    }

    /// Whole bytes as a kubelet writes them, with the largest binary suffix that leaves none over: `24684084Ki`.
    pub fn in_bytes(self) -> String {
        let (mut number, mut suffix) = (self.units(), "");
        for larger in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
            if number == 0 || number % 1024 != 0 {
                break;
            }
            (number, suffix) = (number / 1024, larger);
        }
        format!("{number}{suffix}")
    }

    /// Neither negative nor nothing.
    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    fn ceil(self, per: i128) -> i64 {
        let up = self.0.div_euclid(per) + i128::from(self.0.rem_euclid(per) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }

    /// Both.
    pub fn plus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }

    /// What is left without the other; not less than nothing.
    pub fn minus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0).max(0))
    }
}

/// The kubelet's three classes, by what containers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    /// Of a pod (kubelet: `qos.ComputePodQOS`): pod-level resources decide if there are any, else all containers together.
    pub fn of(spec: &PodSpec) -> Qos {
        let all: Vec<Option<&ResourceRequirements>> = match &spec.resources {
            Some(pod) if pod.limits.is_some() || pod.requests.is_some() => vec![Some(pod)],
            _ => every_container(spec).map(|c| c.resources.as_ref()).collect(),
        };
        let asks = |r: Option<&ResourceRequirements>, name: &str| (amount(r, Which::Requests, name), amount(r, Which::Limits, name));
        let pairs: Vec<_> = all.iter().flat_map(|r| ["cpu", "memory"].map(|name| asks(*r, name))).collect();
        let positive = |a: Option<Amount>| a.is_some_and(Amount::is_positive);
        if !pairs.iter().any(|(request, limit)| positive(*request) || positive(*limit)) {
            return Qos::BestEffort;
        }
        // A missing request was defaulted to its limit.
        let exact = pairs.iter().all(|(request, limit)| positive(*limit) && request.is_none_or(|r| Some(r) == *limit));
        if exact { Qos::Guaranteed } else { Qos::Burstable }
    }
}

fn every_container(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The side of `resources` that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `requests`; what is missing there is taken from `limits`, as defaulting does.
    Requests,
    /// `limits`.
    Limits,
}

/// One resource of one container (or of the pod itself).
pub fn amount(resources: Option<&ResourceRequirements>, which: Which, name: &str) -> Option<Amount> {
    let of = |m: &Option<BTreeMap<String, Quantity>>| m.as_ref()?.get(name).and_then(|q| Amount::parse(&q.0));
    let r = resources?;
    match which {
        Which::Limits => of(&r.limits),
        Which::Requests => of(&r.requests).or_else(|| of(&r.limits)),
    }
}

/// What the whole pod asks for of one resource (`PodRequests`, `PodLimits`): its own word, else the larger of all regular containers
/// with the sidecars, and the worst moment of init; overhead on top. `None` where a container sets none; for limits that means unlimited.
pub fn pod_amount(spec: &PodSpec, which: Which, name: &str) -> Option<Amount> {
    let overhead = spec.overhead.as_ref().and_then(|m| m.get(name)).and_then(|q| Amount::parse(&q.0)).unwrap_or_default();
    if let Some(own) = amount(spec.resources.as_ref(), which, name) {
        return Some(own.plus(overhead));
    }
    let of = |c: &Container| match which {
        Which::Requests => Some(amount(c.resources.as_ref(), which, name).unwrap_or_default()),
        Which::Limits => amount(c.resources.as_ref(), which, name).filter(|a| a.is_positive()),
    };
    let (mut sidecars, mut worst_init) = (Amount(0), Amount(0));
    for c in spec.init_containers.iter().flatten() {
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(of(c)?);
            worst_init = worst_init.max(sidecars);
        } else {
            worst_init = worst_init.max(sidecars.plus(of(c)?));
        }
    }
    let mut regular = sidecars;
    for c in &spec.containers {
        regular = regular.plus(of(c)?);
    }
    Some(regular.max(worst_init).plus(overhead))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_written_as_a_kubelet_writes_them() {
        for (bytes, text) in [(0, "0"), (25_276_502_016, "24684084Ki"), (243_497_856_615, "243497856615"), (8 << 30, "8Gi")] {
            assert_eq!(Amount::of_units(bytes).in_bytes(), text);
        }
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("100m", 100),
            ("1", 1000),
            ("0.1", 100),
            (".5", 500),
            ("1.", 1000),
            ("64Mi", 67_108_864_000),
            ("1e3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("12E2", 1_200_000),
            ("1.5Gi", 1_610_612_736_000),
            ("100n", 1),
            ("-1", -1000),
        ] {
            let amount = Amount::parse(text).unwrap();
            let got = if text == "1E" { amount.units() } else { amount.milli() };
            assert_eq!(got, milli, "{text}");
        }
        for bad in ["", "m", "1x", "1.2.3", "1Kii", "--1", "e3"] {
            assert_eq!(Amount::parse(bad), None, "{bad}");
        }
    }

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let res = |r| json!({ "containers": [{ "name": "a", "resources": r }] });
        assert_eq!(Qos::of(&spec(res(json!({})))), Qos::BestEffort);
        assert_eq!(Qos::of(&spec(res(json!({ "requests": { "cpu": "1" } })))), Qos::Burstable);
        assert_eq!(Qos::of(&spec(res(json!({ "limits": { "cpu": "1", "memory": "1Gi" } })))), Qos::Guaranteed);
        let halves = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m", "memory": "1Gi" } });
        assert_eq!(Qos::of(&spec(res(halves))), Qos::Burstable);
    }

    #[test]
    fn pod_sums_take_the_worst_moment_of_init() {
        let cpu = |n: &str| json!({ "requests": { "cpu": n } });
        let s = spec(json!({
            "initContainers": [
                { "name": "s", "restartPolicy": "Always", "resources": cpu("1") },
                { "name": "i", "resources": cpu("5") },
            ],
            "containers": [{ "name": "a", "resources": cpu("2") }, { "name": "b" }],
        }));
        assert_eq!(pod_amount(&s, Which::Requests, "cpu").unwrap().units(), 6);
        assert_eq!(pod_amount(&s, Which::Limits, "cpu"), None);
    }
}
