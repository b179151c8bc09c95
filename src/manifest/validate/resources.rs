//! Amounts: which resources there are, that requests stay within limits, and what the pod as a whole may say.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::{Wrong, each, names};
use crate::manifest::defaults::requested_together;
use crate::quantity::written::{FORMAT, Written};

type Amounts = BTreeMap<String, Amount>;

/// Checks a container's resources.
pub fn container(at: &str, r: &ResourceRequirements, spec: &PodSpec, wrong: &mut Wrong) {
    both(at, r, of_container, wrong);
    for (at, claim) in each(at, "claims", r.claims.as_ref()) {
        let known = spec.resource_claims.iter().flatten().any(|c| c.name == claim.name);
        if claim.name.is_empty() {
            wrong.required(format!("{at}.name"), "");
        } else if !known {
            wrong.not_found(format!("{at}.name"), &claim.name);
        }
    }
}

fn of_container(name: &str) -> Result<(), &'static str> {
    match name {
        "cpu" | "memory" | "ephemeral-storage" => Ok(()),
        _ if name.starts_with("hugepages-") || name.contains('/') && is_native(name) || is_extended(name) => Ok(()),
        _ if name.contains('/') => Err("doesn't follow extended resource name standard"),
        _ => Err("must be a standard resource for containers"),
    }
}

/// Checks pod-level resources and overhead.
pub fn pod(spec: &PodSpec, wrong: &mut Wrong) {
    let overhead = ResourceRequirements { limits: spec.overhead.clone(), ..ResourceRequirements::default() };
    both("spec.overhead", &overhead, of_container, wrong);
    let Some(r) = &spec.resources else { return };
    if r.claims.is_some() {
        wrong.forbidden("spec.resources.claims", "claims cannot be set for Resources at pod-level");
    }
    let supported = |name: &str| match name {
        "cpu" | "memory" => Ok(()),
        _ if name.starts_with("hugepages-") => Ok(()),
        _ => Err("must be one of: cpu, memory, hugepages-<size> at pod-level"),
    };
    both("spec.resources", r, supported, wrong);
    // What the pod does not request it requests none of.
    for (name, sum) in requested_together(spec).into_iter().filter(|(name, _)| supported(name).is_ok()) {
        let own = r.requests.as_ref().and_then(|m| m.get(&name)).map_or("0", |a| a.0.as_str());
        if Written::parse(own).is_some_and(|own| own < sum) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            wrong.invalid(format!("spec.resources.requests[{name}]"), own, why);
        }
    }
    for (at, c) in each("spec", "containers", Some(&spec.containers)) {
        for (name, limit) in c.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            let most = r.limits.as_ref().and_then(|m| m.get(name)).and_then(|a| Written::parse(&a.0));
            let (Some(most), Some(own)) = (most, Written::parse(&limit.0)) else { continue };
            if own > most {
                let why = format!("must be less than or equal to pod limits of {most}");
                wrong.invalid(format!("{at}.resources.limits[{name}]"), &limit.0, why);
            }
        }
    }
}

fn both(at: &str, r: &ResourceRequirements, supported: impl Fn(&str) -> Result<(), &'static str>, wrong: &mut Wrong) {
    let none = Amounts::new();
    let (limits, requests) = (r.limits.as_ref().unwrap_or(&none), r.requests.as_ref().unwrap_or(&none));
    for (side, list) in [("limits", limits), ("requests", requests)] {
        for (name, amount) in list {
            // Defaulting copies limits to requests; one mistake is told once.
            if side == "requests" && limits.get(name) == Some(amount) {
                continue;
            }
            let at = if at == "spec.overhead" { format!("{at}[{name}]") } else { format!("{at}.{side}[{name}]") };
            let reasons = names::qualified(name);
            if reasons.is_empty() {
                if let Err(why) = supported(name) {
                    wrong.invalid(&at, name, why);
                }
            } else {
                wrong.shape(&at, name, reasons);
            }
            quantity(&at, name, amount, wrong);
        }
    }
    within_limits(at, limits, requests, wrong);
    let names = || limits.keys().chain(requests.keys());
    let huge = names().any(|n| n.starts_with("hugepages-"));
    if huge && !names().any(|n| matches!(n.as_str(), "cpu" | "memory")) {
        wrong.forbidden(at, "HugePages require cpu or memory");
    }
}

fn within_limits(at: &str, limits: &Amounts, requests: &Amounts, wrong: &mut Wrong) {
    for (name, request) in requests {
        let at = format!("{at}.requests[{name}]");
        let overcommit = is_native(name) && !name.starts_with("hugepages-");
        let Some(limit) = limits.get(name) else {
            if !overcommit {
                wrong.required(at, "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let (Some(r), Some(l)) = (Written::parse(&request.0), Written::parse(&limit.0)) else { continue };
        if !overcommit && r != l {
            wrong.invalid(at, &request.0, format!("must be equal to {name} limit of {l}"));
        } else if r > l {
            wrong.invalid(at, &request.0, format!("must be less than or equal to {name} limit of {l}"));
        }
    }
}

fn quantity(at: &str, name: &str, amount: &Amount, wrong: &mut Wrong) {
    match Written::parse(&amount.0) {
        None => wrong.invalid(at, &amount.0, FORMAT),
        Some(q) if q.nanos() < 0 => wrong.invalid(at, &amount.0, "must be greater than or equal to 0"),
        Some(q) if is_extended(name) && !q.is_whole() => wrong.invalid(at, &amount.0, "must be an integer"),
        Some(q) if name.strip_prefix("hugepages-").is_some_and(|page| !fills_pages(q, page)) => {
            wrong.invalid(at, &amount.0, format!("{} is not positive integer multiple of {name}", amount.0));
        }
        Some(_) => {}
    }
}

/// Whether an amount, rounded up to whole bytes, is a number of such pages.
fn fills_pages(amount: Written, page: &str) -> bool {
    const NANO: i128 = 1_000_000_000;
    let bytes = amount.nanos().div_euclid(NANO) + i128::from(!amount.is_whole());
    Written::parse(page).is_some_and(|page| page.is_whole() && page.nanos() > 0 && bytes % (page.nanos() / NANO) == 0)
}

/// A resource of Kubernetes' own: it has no domain, or one below kubernetes.io.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource with a domain of its own (`example.com/gpu`), which a quota can name too.
fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified(&format!("requests.{name}")).is_empty()
}
