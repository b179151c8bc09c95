//! `/metrics/resource` and `/stats/summary`: what the node, its pods and their containers use, by the kernel's count, as the kubelet
//! shows it (`stats/v1alpha1`, `pkg/kubelet/metrics/collectors`).
//!
//! Gathered pod by pod, others between: a hundred pods are some hundred files. Without `usageNanoCores`, which is a rate: two readings
//! of `usageCoreNanoSeconds` give it over any time one likes. Without network counters.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::Backend;
use super::metrics::text::Page;
use crate::clock::{Now, Wall};
use crate::plan::world::State;
use crate::pod::{PodKey, Uid};
use crate::sys::cgroup::{Memory, Usage};

/// What a container's log files take.
#[derive(Clone, Debug)]
pub struct LogBytes {
    /// Its pod.
    pub key: PodKey,
    /// Its pod's UID.
    pub uid: Uid,
    /// Its name.
    pub container: Rc<str>,
    /// In all.
    pub bytes: u64,
}

/// The node and its pods at one time.
pub struct Gathered {
    now: Now,
    node: String,
    began: Wall,
    usage: Usage,
    disk: Option<rustix::fs::StatVfs>,
    pods: Vec<Pod>,
}

struct Pod {
    key: PodKey,
    uid: Uid,
    since: Option<String>,
    usage: Usage,
    containers: Vec<Container>,
}

struct Container {
    name: Rc<str>,
    id: Rc<str>,
    since: Wall,
    usage: Usage,
    log_bytes: u64,
}

/// The running containers by pod.
fn running(backend: &Rc<dyn Backend>) -> Vec<Pod> {
    let mut pods = Vec::new();
    backend.with(&mut |view| {
        for (uid, seen) in &view.world.seen.pods {
            let Some(key) = seen.key.clone() else { continue };
            let running = seen.containers.values().filter_map(|c| match c.state {
                State::Running { since } => {
                    let (name, id) = (c.name.clone(), c.id.clone());
                    Some(Container { name, id, since, usage: Usage::default(), log_bytes: 0 })
                }
                _ => None,
            });
            let containers: Vec<_> = running.collect();
            if !containers.is_empty() {
                let since = (view.status)(uid).start_time.map(|t| t.0.to_string());
                pods.push(Pod { key, uid: uid.clone(), since, usage: Usage::default(), containers });
            }
        }
    });
    pods
}

/// Bytes of the logs of every running container.
pub async fn logs(backend: &Rc<dyn Backend>) -> Vec<LogBytes> {
    let mut logs = Vec::new();
    for pod in running(backend) {
        for c in pod.containers {
            let bytes = backend.log_bytes(&pod.key, &pod.uid, &c.name);
            logs.push(LogBytes { key: pod.key.clone(), uid: pod.uid.clone(), container: c.name, bytes });
        }
        tokio::task::yield_now().await;
    }
    logs
}

/// Everything both answers are made from.
pub async fn gather(backend: &Rc<dyn Backend>) -> Gathered {
    let mut pods = running(backend);
    for pod in &mut pods {
        let ids: Vec<_> = pod.containers.iter().map(|c| c.id.clone()).collect();
        let mut used = backend.usage(Some(&pod.uid), &ids).into_iter();
        pod.usage = used.next().unwrap_or_default();
        for (c, usage) in pod.containers.iter_mut().zip(used) {
            c.usage = usage;
            c.log_bytes = backend.log_bytes(&pod.key, &pod.uid, &c.name);
        }
        tokio::task::yield_now().await;
    }
    let usage = backend.usage(None, &[]).into_iter().next().unwrap_or_default();
    let mut facts = (Now::default(), String::new(), None);
    backend.with(&mut |view| {
        facts = (view.now, view.settings.node_name.clone(), rustix::fs::statvfs(&view.settings.data_dir).ok());
    });
    let (now, node, disk) = facts;
    let up_s = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let began = Wall(now.wall.0.saturating_sub(up_s.saturating_mul(1_000_000_000)));
    Gathered { now, node, began, usage, disk, pods }
}

/// What a family of samples shows of a usage.
type Of<'a> = &'a dyn Fn(&Usage) -> Option<f64>;

/// `/metrics/resource`.
pub fn resource(all: &Gathered) -> String {
    let mut page = Page(String::new());
    let seconds = |ns: u64| std::time::Duration::from_nanos(ns).as_secs_f64();
    let cpu = |u: &Usage| u.cpu_ns.map(seconds);
    let memory = |u: &Usage| u.memory.map(|m| m.working_set_bytes as f64);
    let swap = |u: &Usage| u.memory.and_then(|m| m.swap_bytes).map(|b| b as f64);
    let families: [(&str, &str, &str, Of<'_>); 3] = [
        ("cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in core-seconds", &cpu),
        ("memory_working_set_bytes", "gauge", "Current working set in bytes", &memory),
        ("swap_usage_bytes", "gauge", "Current amount of swap usage in bytes", &swap),
    ];
    for (name, kind, help, of) in families {
        page.head(&format!("container_{name}"), kind, help);
        for (pod, c) in all.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
            let labels = [("container", &*c.name), ("namespace", &pod.key.namespace), ("pod", &pod.key.name)];
            of(&c.usage).into_iter().for_each(|v| page.sample(&format!("container_{name}"), &labels, v));
        }
        page.head(&format!("pod_{name}"), kind, help);
        for pod in &all.pods {
            let labels = [("namespace", &*pod.key.namespace), ("pod", &*pod.key.name)];
            of(&pod.usage).into_iter().for_each(|v| page.sample(&format!("pod_{name}"), &labels, v));
        }
        page.head(&format!("node_{name}"), kind, help);
        of(&all.usage).into_iter().for_each(|v| page.sample(&format!("node_{name}"), &[], v));
    }
    page.head("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for (pod, c) in all.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
        let labels = [("container", &*c.name), ("namespace", &pod.key.namespace), ("pod", &pod.key.name)];
        page.sample("container_start_time_seconds", &labels, seconds(u64::try_from(c.since.0).unwrap_or(0)));
    }
    let failed = u8::from(all.usage.cpu_ns.is_none() || all.usage.memory.is_none());
    page.one("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", failed);
    page.0
}

/// `/stats/summary`.
pub fn summary(all: &Gathered, only_cpu_and_memory: bool) -> Value {
    let time = all.now.wall.to_string();
    let pods = all.pods.iter().map(|pod| {
        let containers = pod.containers.iter().map(|c| {
            let mut shown = used(&c.usage, &time);
            shown.insert("name".into(), json!(&*c.name));
            shown.insert("startTime".into(), json!(c.since.to_string()));
            if !only_cpu_and_memory {
                shown.insert("logs".into(), json!({ "time": time, "usedBytes": c.log_bytes }));
            }
            Value::Object(shown)
        });
        let mut shown = Map::new();
        shown.insert("podRef".into(), json!({ "name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid.0 }));
        shown.insert("startTime".into(), json!(pod.since));
        shown.insert("containers".into(), containers.collect());
        shown.extend(used(&pod.usage, &time));
        if let Some(count) = pod.usage.processes.filter(|_| !only_cpu_and_memory) {
            shown.insert("process_stats".into(), json!({ "process_count": count }));
        }
        Value::Object(shown)
    });
    let pods: Value = pods.collect();
    let mut node = Map::new();
    node.insert("nodeName".into(), json!(all.node));
    node.insert("startTime".into(), json!(all.began.to_string()));
    node.extend(used(&all.usage, &time));
    if let Some(disk) = all.disk.as_ref().filter(|_| !only_cpu_and_memory) {
        node.insert("fs".into(), file_system(disk, &time));
    }
    json!({ "node": node, "pods": pods })
}

fn used(usage: &Usage, time: &str) -> Map<String, Value> {
    let mut shown = Map::new();
    if let Some(ns) = usage.cpu_ns {
        shown.insert("cpu".into(), json!({ "time": time, "usageCoreNanoSeconds": ns }));
    }
    if let Some(m) = usage.memory {
        shown.insert("memory".into(), memory(&m, time));
        if let Some(swap) = m.swap_bytes {
            shown.insert("swap".into(), json!({ "time": time, "swapUsageBytes": swap }));
        }
    }
    shown
}

fn memory(m: &Memory, time: &str) -> Value {
    let mut shown = json!({
        "time": time, "usageBytes": m.used_bytes, "workingSetBytes": m.working_set_bytes, "rssBytes": m.anonymous_bytes,
        "pageFaults": m.page_faults, "majorPageFaults": m.major_page_faults,
    });
    if let (Some(limit), Some(shown)) = (m.limit_bytes, shown.as_object_mut()) {
        shown.insert("availableBytes".into(), json!(limit.saturating_sub(m.working_set_bytes)));
    }
    shown
}

fn file_system(disk: &rustix::fs::StatVfs, time: &str) -> Value {
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    json!({
        "time": time,
        "availableBytes": bytes(disk.f_bavail), "capacityBytes": bytes(disk.f_blocks), "usedBytes": bytes(disk.f_blocks.saturating_sub(disk.f_bfree)),
        "inodes": disk.f_files, "inodesFree": disk.f_ffree, "inodesUsed": disk.f_files.saturating_sub(disk.f_ffree),
    })
}
