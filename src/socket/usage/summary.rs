//! `/stats/summary`, in the kubelet's words (`stats/v1alpha1`). What is not known is left out.

use rustix::fs::StatVfs;
use serde_json::{Map, Value, json};

use super::{Container, Gathered, Pod, Volume};
use crate::clock::Wall;
use crate::sys::cgroup::{Memory, Usage};
use crate::sys::interfaces::Interface;

/// The interface whose numbers stand for the whole (`defaultNetworkInterfaceName`).
const DEFAULT: &str = "eth0";
/// How interfaces are called that lead nowhere but to other pods, which are counted there (cAdvisor's list).
const INNER: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// The answer; `only`: nothing but processors and memory.
pub fn summary(all: &Gathered, only: bool) -> Value {
    let time = all.now.wall.to_string();
    let mut node = Map::new();
    node.insert("nodeName".into(), json!(all.node));
    node.insert("startTime".into(), json!(all.began.to_string()));
    node.extend(used(&all.usage, all.nano_cores, all.now.wall));
    if !only {
        let images = all.image_disk.as_ref().map(|d| json!({ "imageFs": file_system(d, &time), "containerFs": file_system(d, &time) }));
        let own = all.disk.as_ref().map(|disk| with_used(file_system(disk, &time), Some(taken_of(disk))));
        let rlimit = all.processes.map(|(most, now)| json!({ "time": time, "maxpid": most, "curproc": now }));
        let network = network(&all.network, &time);
        for (name, value) in [("fs", own), ("runtime", images), ("network", network), ("rlimit", rlimit)] {
            value.into_iter().for_each(|v| drop(node.insert(name.into(), v)));
        }
    }
    let pods: Value = all.pods.iter().map(|p| pod(p, all, only)).collect();
    json!({ "node": node, "pods": pods })
}

fn pod(pod: &Pod, all: &Gathered, only: bool) -> Value {
    let time = pod.at.wall.to_string();
    let mut shown = Map::new();
    shown.insert("podRef".into(), json!({ "name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": &*pod.uid.0 }));
    shown.insert("startTime".into(), json!(pod.since));
    shown.insert("containers".into(), pod.containers.iter().map(|c| container(c, pod.at.wall, all, only)).collect());
    shown.extend(used(&pod.usage, pod.nano_cores, pod.at.wall));
    if !only {
        let count = pod.usage.processes.map(|count| json!({ "process_count": count }));
        let storage = all.disk.as_ref().map(|disk| with_used(file_system(disk, &time), stored(pod)));
        let volumes: Vec<Value> = pod.volumes.iter().filter_map(volume).collect();
        let volumes = (!volumes.is_empty()).then(|| volumes.into());
        let network = network(&pod.network, &time);
        for (name, value) in [("network", network), ("volume", volumes), ("ephemeral-storage", storage), ("process_stats", count)] {
            value.into_iter().for_each(|v| drop(shown.insert(name.into(), v)));
        }
    }
    Value::Object(shown)
}

fn container(c: &Container, at: Wall, all: &Gathered, only: bool) -> Value {
    let time = at.to_string();
    let mut shown = used(&c.usage, c.nano_cores, at);
    shown.insert("name".into(), json!(&*c.name));
    shown.insert("startTime".into(), json!(c.since.to_string()));
    if !only {
        let logs = all.log_disk.as_ref().map_or_else(|| json!({ "time": time }), |disk| file_system(disk, &time));
        shown.insert("logs".into(), with_used(logs, Some((c.logs.0, Some(c.logs.1)))));
        let written = c.rootfs.map(|(bytes, inodes)| (bytes, Some(inodes)));
        let rootfs = all.image_disk.as_ref().map(|disk| with_used(file_system(disk, &time), written));
        rootfs.into_iter().for_each(|v| drop(shown.insert("rootfs".into(), v)));
    }
    Value::Object(shown)
}

/// What a pod has written: layers, logs, emptyDirs on the disk. `None`: not all of that is known.
fn stored(pod: &Pod) -> Option<Used> {
    let layers = pod.containers.iter().map(|c| c.rootfs);
    let logs = pod.containers.iter().map(|c| Some(c.logs));
    let volumes = pod.volumes.iter().filter(|v| v.on_disk).map(|v| v.counted.map(|(_, held)| held));
    let add = |(bytes, inodes): (u64, u64), more: Option<(u64, u64)>| {
        more.map(|more| (bytes.saturating_add(more.0), inodes.saturating_add(more.1)))
    };
    let (bytes, inodes) = layers.chain(logs).chain(volumes).try_fold((0, 0), add)?;
    Some((bytes, Some(inodes)))
}

fn volume(v: &Volume) -> Option<Value> {
    let (at, (bytes, inodes)) = v.counted?;
    let time = at.to_string();
    let shown = v.disk.as_ref().map_or_else(|| json!({ "time": time }), |disk| file_system(disk, &time));
    let mut shown = with_used(shown, Some((bytes, Some(inodes))));
    set(&mut shown, "name", Some(&*v.name));
    Some(shown)
}

fn used(usage: &Usage, nano_cores: Option<u64>, at: Wall) -> Map<String, Value> {
    let (time, mut shown) = (at.to_string(), Map::new());
    if let Some(ns) = usage.cpu_ns {
        let mut cpu = json!({ "time": time, "usageCoreNanoSeconds": ns });
        set(&mut cpu, "usageNanoCores", nano_cores);
        shown.insert("cpu".into(), cpu);
    }
    if let Some(m) = usage.memory {
        shown.insert("memory".into(), memory(&m, &time));
        if let Some(swap) = m.swap_bytes {
            let mut swap_stats = json!({ "time": time, "swapUsageBytes": swap });
            set(&mut swap_stats, "swapAvailableBytes", m.swap_limit_bytes.map(|limit| limit.saturating_sub(swap)));
            shown.insert("swap".into(), swap_stats);
        }
    }
    shown
}

fn memory(m: &Memory, time: &str) -> Value {
    let mut shown = json!({
        "time": time, "usageBytes": m.used_bytes, "workingSetBytes": m.working_set_bytes, "rssBytes": m.anonymous_bytes,
        "pageFaults": m.page_faults, "majorPageFaults": m.major_page_faults,
    });
    set(&mut shown, "availableBytes", m.limit_bytes.map(|limit| limit.saturating_sub(m.working_set_bytes)));
    shown
}

/// `None`: no interface that counts, as in a pod on the host's network.
fn network(interfaces: &[Interface], time: &str) -> Option<Value> {
    let shown = |i: &Interface| json!({ "name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors, "txBytes": i.tx_bytes, "txErrors": i.tx_errors });
    let outer: Vec<&Interface> = interfaces.iter().filter(|i| !INNER.iter().any(|start| i.name.starts_with(start))).collect();
    let mut all = outer.iter().find(|i| i.name == DEFAULT).map_or_else(|| json!({ "name": "" }), |i| shown(i));
    set(&mut all, "time", Some(time));
    set(&mut all, "interfaces", Some(outer.iter().map(|i| shown(i)).collect::<Value>()));
    (!outer.is_empty()).then_some(all)
}

fn file_system(disk: &StatVfs, time: &str) -> Value {
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    json!({
        "time": time, "availableBytes": bytes(disk.f_bavail), "capacityBytes": bytes(disk.f_blocks),
        "inodes": disk.f_files, "inodesFree": disk.f_ffree,
    })
}

/// Bytes, and inodes where they were counted.
type Used = (u64, Option<u64>);

/// Of the whole file system.
fn taken_of(disk: &StatVfs) -> Used {
    let blocks = disk.f_blocks.saturating_sub(disk.f_bfree);
    (blocks.saturating_mul(disk.f_frsize), Some(disk.f_files.saturating_sub(disk.f_ffree)))
}

fn with_used(mut file_system: Value, used: Option<Used>) -> Value {
    set(&mut file_system, "usedBytes", used.map(|u| u.0));
    set(&mut file_system, "inodesUsed", used.and_then(|u| u.1));
    file_system
}

fn set(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(key.to_owned(), value.into());
    }
}
