//! How much the volumes hold that are a pod's own: counted one at a time, those on disk that have a sizeLimit every
//! `volumeStatsAggPeriod`, the others when somebody asks for it who would be told something older.
//!
//! Who asks waits a moment and no longer; the count goes on for the next. What it decides is nothing: `plan` does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use rustix::fs::{StatVfs, statvfs};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{place, volumes, walk};
use crate::clock::{self, Now};
use crate::plan::action::Event;
use crate::plan::world::Sandbox;
use crate::pod::{Uid, WantedPod};
use crate::quantity::Amount;
use crate::runtime::paths::Paths;
use crate::runtime::{Runtime, sandbox};
use crate::sys::mounts;

/// Who wants to know of volumes waits no longer than this for those not counted of late.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a volume held then.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// When it was counted.
    pub at: Now,
    /// On its disk.
    pub bytes: u64,
    /// Files, directories, links.
    pub inodes: u64,
}

/// A volume that is a pod's own.
pub struct Held {
    /// Its name.
    pub name: Rc<str>,
    /// An emptyDir on the node's disk: part of the pod's ephemeral storage.
    pub on_disk: bool,
    /// What it was last seen to hold, if it was counted.
    pub count: Option<Count>,
    /// What it is on.
    pub disk: Option<StatVfs>,
}

/// What was counted, and who is to be counted next.
#[derive(Default)]
pub(in crate::runtime) struct Counter {
    counts: RefCell<BTreeMap<(Uid, Rc<str>), Count>>,
    asked: RefCell<BTreeMap<Uid, Rc<WantedPod>>>,
    asking: Notify,
    counting: Cell<bool>,
    rounds: watch::Sender<u64>,
}

impl Runtime {
    /// The volumes of these pods that are their own, counted within the period where that can be had in a moment.
    pub async fn volumes(&self, pods: &[Option<Rc<WantedPod>>]) -> Vec<Vec<Held>> {
        let (counter, now) = (&self.counter, clock::now());
        let lacking = pods.iter().flatten().filter(|p| own(p).any(|v| !self.is_counted(p, v, now)));
        let lacking: Vec<_> = lacking.map(|p| (p.uid.clone(), Rc::clone(p))).collect();
        if !lacking.is_empty() && !self.settings.volume_stats_period.is_zero() {
            counter.asked.borrow_mut().extend(lacking);
            counter.asking.notify_one();
            // A round that is under way may have passed some of them.
            let done = *counter.rounds.borrow() + if counter.counting.get() { 2 } else { 1 };
            let _ = timeout(PATIENCE, counter.rounds.subscribe().wait_for(|round| *round >= done)).await;
        }
        let covered = covered(&self.paths, pods.iter().flatten().flat_map(|pod| own(pod).map(|v| (&**pod, v))));
        pods.iter().map(|pod| pod.iter().flat_map(|pod| own(pod).map(|v| self.held(pod, v, &covered))).collect()).collect()
    }

    fn held(&self, pod: &WantedPod, volume: &Volume, covered: &BTreeSet<PathBuf>) -> Held {
        let (name, on_disk) = (Rc::from(volume.name.as_str()), is_on_disk(volume));
        let count = self.counter.counts.borrow().get(&(pod.uid.clone(), Rc::clone(&name))).copied();
        let dir = PathBuf::from(place(&self.paths, pod, volume).path);
        Held { name, on_disk, count, disk: if covered.contains(&dir) { None } else { statvfs(&dir).ok() } }
    }

    fn is_counted(&self, pod: &WantedPod, volume: &Volume, now: Now) -> bool {
        let counts = self.counter.counts.borrow();
        let last = counts.get(&(pod.uid.clone(), volume.name.as_str().into()));
        last.is_some_and(|count| now.mono - count.at.mono < self.settings.volume_stats_period)
    }

    async fn count(&self, pod: &WantedPod, volume: &Volume) {
        let dir = PathBuf::from(place(&self.paths, pod, volume).path);
        if covered(&self.paths, [(pod, volume)].into_iter()).contains(&dir) {
            return;
        }
        let (bytes, inodes) = match walk::held(&dir).await {
            Ok(held) => held,
            Err(e) => return log::debug!("pod={} count what is in {}: {e}", pod.key, dir.display()),
        };
        let name: Rc<str> = volume.name.as_str().into();
        self.counter.counts.borrow_mut().insert((pod.uid.clone(), Rc::clone(&name)), Count { at: clock::now(), bytes, inodes });
        if let Some(limit) = limit(volume) {
            self.tell(Event::Measured { uid: pod.uid.clone(), volume: name, used: bytes, limit });
        }
    }
}

/// Counts for ever; never ends.
pub async fn watch(runtime: Rc<Runtime>) {
    let (counter, period) = (&runtime.counter, runtime.settings.volume_stats_period);
    if period.is_zero() {
        return std::future::pending().await;
    }
    let mut due = Instant::now() + period;
    loop {
        tokio::select! {
            () = sleep_until(due) => {
                for pod in standing(&runtime) {
                    for volume in own(&pod).filter(|v| limit(v).is_some()) {
                        runtime.count(&pod, volume).await;
                    }
                }
                due = Instant::now() + period;
            }
            () = counter.asking.notified() => {
                counter.counting.set(true);
                for pod in counter.asked.take().into_values() {
                    for volume in own(&pod) {
                        if !runtime.is_counted(&pod, volume, clock::now()) {
                            runtime.count(&pod, volume).await;
                        }
                    }
                }
                counter.counting.set(false);
                counter.rounds.send_modify(|n| *n += 1);
            }
        }
        counter.counts.borrow_mut().retain(|(uid, _), _| runtime.paths.run_pod(uid).exists());
    }
}

fn standing(runtime: &Runtime) -> impl Iterator<Item = Rc<WantedPod>> + use<> {
    let ready = sandbox::scan(&runtime.paths).into_values().filter(|found| matches!(found.sandbox, Sandbox::Ready { .. }));
    ready.filter_map(|found| found.made_from)
}

/// The volumes that are the pod's own and on this machine (of a server's nobody asks: it may be away).
fn own(pod: &WantedPod) -> impl Iterator<Item = &Volume> {
    volumes(pod).filter(|v| v.empty_dir.is_some() || v.downward_api.is_some() || v.projected.is_some())
}

fn is_on_disk(volume: &Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
}

/// Those that are covered by what a container mounted on its volume and gave on to the node (`mountPropagation: Bidirectional`): that is
/// not the volume, and to ask it for anything might take for ever.
fn covered<'a>(paths: &Paths, volumes: impl Iterator<Item = (&'a WantedPod, &'a Volume)>) -> BTreeSet<PathBuf> {
    let dirs = volumes.map(|(pod, v)| (is_on_disk(v), PathBuf::from(place(paths, pod, v).path)));
    let (on_disk, mounted): (Vec<_>, Vec<_>) = dirs.partition(|(on_disk, _)| *on_disk);
    // Those in memory are mounts themselves: of another kind than what they stand on, unless all of this node has its disk elsewhere.
    let parents = mounted.iter().filter_map(|(_, dir)| Some((true, dir.parent()?.to_owned()))).collect::<Vec<_>>();
    // Without the table none of them is touched.
    let found = mounts::elsewhere([mounted.clone(), parents].concat()).unwrap_or(mounted);
    let (parents, mut dirs): (Vec<_>, Vec<_>) = found.into_iter().partition(|(is_parent, _)| *is_parent);
    dirs.retain(|(_, dir)| !parents.iter().any(|(_, parent)| dir.parent() == Some(parent)));
    on_disk.into_iter().filter(|(_, dir)| mounts::is_mount_point(dir)).chain(dirs).map(|(_, dir)| dir).collect()
}

/// What an emptyDir on disk may hold; the kernel itself keeps the others to theirs.
fn limit(volume: &Volume) -> Option<u64> {
    let source = volume.empty_dir.as_ref().filter(|_| is_on_disk(volume))?;
    let limit = Amount::parse(&source.size_limit.as_ref()?.0).filter(|a| a.is_positive())?;
    Some(limit.units().unsigned_abs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_volume_that_something_was_mounted_over_is_not_asked() {
        crate::sys::asked::tests::beside_a_deaf_one("covered", async |dir| {
            let settings = crate::settings::Settings { data_dir: dir.join("data"), ..Default::default() };
            let paths = Paths::new(&settings);
            let volumes = serde_json::json!([
                { "name": "disk", "emptyDir": {} }, { "name": "plain", "emptyDir": {} },
                { "name": "memory", "emptyDir": { "medium": "Memory" } }, { "name": "seen", "emptyDir": { "medium": "Memory" } },
            ]);
            let meta = serde_json::json!({ "name": "p-node", "namespace": "default", "uid": format!("{:032x}", 1) });
            let spec = serde_json::json!({ "volumes": volumes, "containers": [{ "name": "c", "image": "x" }] });
            let object = serde_json::from_value(serde_json::json!({ "metadata": meta, "spec": spec })).unwrap();
            let origin = crate::pod::Origin { layer: "test".into(), path: "/x.yaml".into(), line: 3 };
            let pod = WantedPod::from_object(object, origin).unwrap();
            super::super::set_up(&paths, &pod, &super::super::Allocatable::new()).await.unwrap();
            let at = |name: &str| paths.volume(&pod.uid, "empty-dir", name);
            for name in ["disk", "memory"] {
                rustix::mount::mount_bind(dir.join("deaf"), at(name)).unwrap();
            }
            let found = covered(&paths, own(&pod).map(|v| (&pod, v)));
            assert_eq!(found, BTreeSet::from([at("disk"), at("memory")]));
            for mount in mounts::below(&[&dir.join("data")]).unwrap() {
                mounts::detach(&mount).unwrap();
            }
        });
    }
}
