//! What pods use, read when somebody asks: of control groups, of interfaces, of containers' layers. Changes nothing.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::snapshots::UsageRequest;

use super::{Runtime, cgroup};
use crate::clock;
use crate::pod::WantedPod;
use crate::sys::cgroup::{self as kernel, Memory, Usage};
use crate::sys::interfaces::{self, Interface};

/// containerd walks a container's layer for its answer: who wants to know of all waits no longer than this.
const WALKS: Duration = Duration::from_secs(2);

impl Runtime {
    /// What a pod uses (`None`: the node), then each of these of its containers.
    pub fn usage(&self, pod: Option<&WantedPod>, containers: &[Rc<str>]) -> Vec<Usage> {
        let hierarchies = kernel::hierarchies();
        let Some(pod) = pod else { return vec![of_node(kernel::usage(&hierarchies, "/".as_ref()))] };
        let group = cgroup::pod_group(&self.paths, pod);
        let own = containers.iter().map(|id| group.join(&**id));
        std::iter::once(group.clone()).chain(own).map(|group| kernel::usage(&hierarchies, &group)).collect()
    }

    /// The interfaces of a pod on a network of its own, as one of these of its containers sees them.
    pub fn network(&self, pod: &WantedPod, containers: &[Rc<str>]) -> Vec<Interface> {
        if pod.host_network {
            return Vec::new();
        }
        let (pin, known) = (self.paths.namespace(&pod.uid, "net"), self.known.borrow());
        let pids = containers.iter().filter_map(|id| known.get(id)).map(|k| k.pid).filter(|pid| *pid > 0);
        pids.into_iter().find_map(|pid| interfaces::seen_by(pid, &pin)).unwrap_or_default()
    }

    /// Where containerd keeps its layers, and what each of these containers has written to its own, bytes and inodes.
    pub async fn layers(&self, containers: &[Rc<str>]) -> (Option<PathBuf>, Vec<Option<(u64, u64)>>) {
        let dir = self.link.borrow().as_ref().and_then(|l| l.place.layers.clone());
        let (until, mut written) = (clock::now().mono + WALKS, Vec::new());
        for id in containers {
            let left = until - clock::now().mono;
            written.push(if left.is_zero() { None } else { self.written(id, left).await });
        }
        (dir, written)
    }

    async fn written(&self, id: &Rc<str>, within: Duration) -> Option<(u64, u64)> {
        let client = self.client().ok()?;
        let mut snapshots = client.snapshots();
        let request = UsageRequest { snapshotter: self.settings.snapshotter.clone(), key: id.to_string() };
        let answer = snapshots.usage(client.ask_within(request, within));
        let usage = tokio::time::timeout(within, answer).await.ok()?.ok()?.into_inner();
        Some((u64::try_from(usage.size).ok()?, u64::try_from(usage.inodes).ok()?))
    }
}

/// The root of the hierarchy knows no limit and counts no swap: the machine does.
fn of_node(usage: Usage) -> Usage {
    let info = rustix::system::sysinfo();
    let bytes = |units: u64| units.saturating_mul(u64::from(info.mem_unit).max(1));
    let memory = usage.memory.map(|m| Memory {
        limit_bytes: Some(bytes(info.totalram)),
        swap_bytes: Some(bytes(info.totalswap.saturating_sub(info.freeswap))),
        swap_limit_bytes: Some(bytes(info.totalswap)),
        ..m
    });
    Usage { memory, ..usage }
}
