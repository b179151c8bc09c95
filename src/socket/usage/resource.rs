//! `/metrics/resource`, as the kubelet writes it (`pkg/kubelet/metrics/collectors/resource_metrics.go`): each sample with the time it was
//! taken, from which the metrics server has its rates.

use super::{Container, Gathered, Pod};
use crate::clock::Wall;
use crate::socket::metrics::text::Page;
use crate::sys::cgroup::Usage;

/// What a family of samples shows of a usage.
type Of<'a> = &'a dyn Fn(&Usage) -> Option<f64>;

/// The page.
pub fn page(all: &Gathered) -> String {
    let mut page = Page(String::new());
    let cpu = |u: &Usage| u.cpu_ns.map(seconds);
    let memory = |u: &Usage| u.memory.map(|m| m.working_set_bytes as f64);
    let swap = |u: &Usage| u.memory.and_then(|m| m.swap_bytes).map(|b| b as f64);
    let families: [(&str, &str, &str, Of<'_>); 3] = [
        ("cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in core-seconds", &cpu),
        ("memory_working_set_bytes", "gauge", "Current working set in bytes", &memory),
        ("swap_usage_bytes", "gauge", "Current amount of swap usage in bytes", &swap),
    ];
    for (name, kind, help, of) in families {
        container_family(&mut page, all, &format!("container_{name}"), kind, help, of);
        page.head(&format!("pod_{name}"), kind, help);
        for pod in &all.pods {
            let labels = [("namespace", &*pod.key.namespace), ("pod", &*pod.key.name)];
            of(&pod.usage).into_iter().for_each(|v| page.sample_at(&format!("pod_{name}"), &labels, v, pod.at.wall));
        }
        page.head(&format!("node_{name}"), kind, help);
        of(&all.usage).into_iter().for_each(|v| page.sample_at(&format!("node_{name}"), &[], v, all.now.wall));
    }
    let limit = |u: &Usage| u.memory.and_then(|m| m.swap_limit_bytes).map(|b| b as f64);
    container_family(&mut page, all, "container_swap_limit_bytes", "gauge", "Current amount of the container swap limit in bytes", &limit);
    page.head("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for (pod, c) in containers(all) {
        page.sample("container_start_time_seconds", &labels(pod, c), since_epoch(c.since));
    }
    let failed = u8::from(all.usage.cpu_ns.is_none() || all.usage.memory.is_none());
    // The first is the old name of the second.
    for name in ["scrape_error", "resource_scrape_error"] {
        page.one(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed);
    }
    page.0
}

fn container_family(page: &mut Page, all: &Gathered, name: &str, kind: &str, help: &str, of: Of<'_>) {
    page.head(name, kind, help);
    for (pod, c) in containers(all) {
        of(&c.usage).into_iter().for_each(|v| page.sample_at(name, &labels(pod, c), v, pod.at.wall));
    }
}

fn containers(all: &Gathered) -> impl Iterator<Item = (&Pod, &Container)> {
    all.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)))
}

fn labels<'a>(pod: &'a Pod, c: &'a Container) -> [(&'static str, &'a str); 3] {
    [("container", &c.name), ("namespace", &pod.key.namespace), ("pod", &pod.key.name)]
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

fn since_epoch(wall: Wall) -> f64 {
    seconds(u64::try_from(wall.0).unwrap_or(0))
}
