//! What the node, its pods and their containers use, by the kernel's count, for `/metrics/resource` and `/stats/summary`: gathered here, when
//! somebody asks and never else. `rates`: processor time by the second; `resource` and `summary`: the pages.
//!
//! Gathered pod by pod, others between: a hundred pods are some hundred files.

mod rates;
mod resource;
mod summary;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{StatVfs, statvfs};

use super::Backend;
use crate::clock::{self, Now, Wall};
use crate::plan::world::State;
use crate::pod::{PodKey, Uid};
use crate::sys::cgroup::Usage;
use crate::sys::interfaces::Interface;
pub use rates::Rates;
pub use resource::page as resource;
pub use summary::summary;

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

/// What containerd says of its part of the disk.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Where images and containers lie.
    pub dir: Option<PathBuf>,
    /// What each container that was asked for has written to its own layer, bytes and inodes; `None`: it did not say in time.
    pub written: Vec<Option<(u64, u64)>>,
}

/// A volume that is a pod's own.
pub struct Volume {
    /// Its name.
    pub name: Rc<str>,
    /// An emptyDir on the node's disk: part of the pod's ephemeral storage.
    pub on_disk: bool,
    /// When it was last counted, and the bytes and inodes found; `None`: it was not yet.
    pub counted: Option<(Wall, (u64, u64))>,
    /// The file system it is on.
    pub disk: Option<StatVfs>,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Processors and memory, as counted.
    Counters,
    /// Processors also by the second.
    Rates,
    /// And disks, networks and processes.
    All,
}

/// The node and its pods at one time.
#[derive(Default)]
pub struct Gathered {
    now: Now,
    node: String,
    began: Wall,
    usage: Usage,
    nano_cores: Option<u64>,
    network: Vec<Interface>,
    disk: Option<StatVfs>,
    log_disk: Option<StatVfs>,
    image_disk: Option<StatVfs>,
    /// How many there may be, and how many there are.
    processes: Option<(u64, u64)>,
    pods: Vec<Pod>,
}

struct Pod {
    key: PodKey,
    uid: Uid,
    since: Option<String>,
    at: Now,
    usage: Usage,
    nano_cores: Option<u64>,
    network: Vec<Interface>,
    volumes: Vec<Volume>,
    containers: Vec<Container>,
}

struct Container {
    name: Rc<str>,
    id: Rc<str>,
    since: Wall,
    usage: Usage,
    nano_cores: Option<u64>,
    /// Bytes and inodes of its own layer.
    rootfs: Option<(u64, u64)>,
    /// Bytes of its logs, and how many files they are.
    logs: (u64, u64),
}

/// The running containers by pod.
fn running(backend: &Rc<dyn Backend>) -> Vec<Pod> {
    let mut pods = Vec::new();
    backend.with(&mut |view| {
        for (uid, seen) in &view.world.seen.pods {
            let Some(key) = seen.key.clone() else { continue };
            let running = seen.containers.values().filter_map(|c| match c.state {
                State::Running { since } => Some(Container {
                    name: c.name.clone(),
                    id: c.id.clone(),
                    since,
                    usage: Usage::default(),
                    nano_cores: None,
                    rootfs: None,
                    logs: (0, 0),
                }),
                _ => None,
            });
            let containers: Vec<_> = running.collect();
            if !containers.is_empty() {
                pods.push(Pod {
                    key,
                    uid: uid.clone(),
                    since: (view.status)(uid).start_time.map(|t| t.0.to_string()),
                    at: view.now,
                    usage: Usage::default(),
                    nano_cores: None,
                    network: Vec::new(),
                    volumes: Vec::new(),
                    containers,
                });
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
            let (bytes, _) = backend.logged(&pod.key, &pod.uid, &c.name);
            logs.push(LogBytes { key: pod.key.clone(), uid: pod.uid.clone(), container: c.name, bytes });
        }
        tokio::task::yield_now().await;
    }
    logs
}

/// Everything the answers are made from.
pub async fn gather(backend: &Rc<dyn Backend>, depth: Depth) -> Gathered {
    let mut all = count(backend).await;
    if depth != Depth::Counters && !rate(backend, &mut all) {
        // Nobody asked for a while: the first reading is taken now.
        tokio::time::sleep(Duration::from_millis(rates::LEAST_MS * 5 / 4)).await;
        all = count(backend).await;
        rate(backend, &mut all);
    }
    if depth == Depth::All {
        look_further(backend, &mut all).await;
    }
    all
}

async fn count(backend: &Rc<dyn Backend>) -> Gathered {
    let mut pods = running(backend);
    for pod in &mut pods {
        let ids: Vec<_> = pod.containers.iter().map(|c| c.id.clone()).collect();
        pod.at = clock::now();
        let mut used = backend.usage(Some(&pod.uid), &ids).into_iter();
        pod.usage = used.next().unwrap_or_default();
        for (c, usage) in pod.containers.iter_mut().zip(used) {
            c.usage = usage;
        }
        tokio::task::yield_now().await;
    }
    let now = clock::now();
    let usage = backend.usage(None, &[]).into_iter().next().unwrap_or_default();
    let mut node = String::new();
    backend.with(&mut |view| node.clone_from(&view.settings.node_name));
    let up_s = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let began = Wall(now.wall.0.saturating_sub(up_s.saturating_mul(1_000_000_000)));
    Gathered { now, node, began, usage, pods, ..Gathered::default() }
}

/// Rates since the last question; false: there was none of late.
fn rate(backend: &Rc<dyn Backend>, all: &mut Gathered) -> bool {
    let mut rates = backend.rates().borrow_mut();
    let mut next = |whose: &Rc<str>, at: Now, usage: &Usage| usage.cpu_ns.and_then(|ns| rates.next(whose, at.mono, ns));
    let node: Rc<str> = "".into();
    all.nano_cores = next(&node, all.now, &all.usage);
    for pod in &mut all.pods {
        pod.nano_cores = next(&pod.uid.0, pod.at, &pod.usage);
        for c in &mut pod.containers {
            c.nano_cores = next(&c.id, pod.at, &c.usage);
        }
    }
    let there =
        |whose: &Rc<str>| *whose == node || all.pods.iter().any(|p| p.uid.0 == *whose || p.containers.iter().any(|c| c.id == *whose));
    rates.retain(there);
    all.nano_cores.is_some() || all.usage.cpu_ns.is_none()
}

async fn look_further(backend: &Rc<dyn Backend>, all: &mut Gathered) {
    all.network = backend.network(None, &[]);
    for pod in &mut all.pods {
        let ids: Vec<_> = pod.containers.iter().map(|c| c.id.clone()).collect();
        pod.network = backend.network(Some(&pod.uid), &ids);
        for c in &mut pod.containers {
            c.logs = backend.logged(&pod.key, &pod.uid, &c.name);
        }
        tokio::task::yield_now().await;
    }
    let ids = all.pods.iter().flat_map(|p| p.containers.iter().map(|c| c.id.clone())).collect();
    let layers = backend.layers(ids).await;
    for (c, written) in all.pods.iter_mut().flat_map(|p| p.containers.iter_mut()).zip(layers.written) {
        c.rootfs = written;
    }
    let volumes = backend.volumes(all.pods.iter().map(|p| p.uid.clone()).collect()).await;
    for (pod, volumes) in all.pods.iter_mut().zip(volumes) {
        pod.volumes = volumes;
    }
    // A directory that is not there yet will be on its nearest parent's file system.
    let disk = |dir: &Path| dir.ancestors().find_map(|d| statvfs(d).ok());
    all.image_disk = layers.dir.as_deref().and_then(disk);
    backend.with(&mut |view| {
        all.disk = disk(&view.settings.data_dir);
        all.log_disk = disk(&view.settings.pod_logs_dir);
    });
    all.processes = processes();
}

fn processes() -> Option<(u64, u64)> {
    let most = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse::<u64>().ok();
    let (pids, threads) = (most("pid_max")?, most("threads-max"));
    Some((pids.min(threads.unwrap_or(pids)), u64::from(rustix::system::sysinfo().procs)))
}
