//! How much the volumes hold that are a pod's own: counted one at a time, those on disk that have a sizeLimit every
//! `volumeStatsAggPeriod`, the others when somebody asks for it who would be told something older.
//!
//! Who asks waits a moment and no longer; the count goes on for the next. What it decides is nothing: `plan` does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
use crate::runtime::{Runtime, sandbox};

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
        pods.iter().map(|pod| pod.iter().flat_map(|pod| own(pod).map(|v| self.held(pod, v))).collect()).collect()
    }

    fn held(&self, pod: &WantedPod, volume: &Volume) -> Held {
        let (name, on_disk) = (Rc::from(volume.name.as_str()), is_on_disk(volume));
        let count = self.counter.counts.borrow().get(&(pod.uid.clone(), Rc::clone(&name))).copied();
        Held { name, on_disk, count, disk: statvfs(place(&self.paths, pod, volume).path).ok() }
    }

    fn is_counted(&self, pod: &WantedPod, volume: &Volume, now: Now) -> bool {
        let counts = self.counter.counts.borrow();
        let last = counts.get(&(pod.uid.clone(), volume.name.as_str().into()));
        last.is_some_and(|count| now.mono - count.at.mono < self.settings.volume_stats_period)
    }

    async fn count(&self, pod: &WantedPod, volume: &Volume) {
        let dir = PathBuf::from(place(&self.paths, pod, volume).path);
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

/// What an emptyDir on disk may hold; the kernel itself keeps the others to theirs.
fn limit(volume: &Volume) -> Option<u64> {
    let source = volume.empty_dir.as_ref().filter(|_| is_on_disk(volume))?;
    let limit = Amount::parse(&source.size_limit.as_ref()?.0).filter(|a| a.is_positive())?;
    Some(limit.units().unsigned_abs())
}
