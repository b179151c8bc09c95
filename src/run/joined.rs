//! What the cluster's room is lent, and what is shown of it. One way: the cluster reads, and no decision reads the cluster.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;
use tokio::sync::watch;

use super::State;
use crate::clock::{self, Wall};
use crate::cluster::mirror::Published;
use crate::cluster::{Cluster, Facts, Local};
use crate::kubelet;
use crate::plan::record::EventNote;
use crate::plan::status;
use crate::plan::view::Scene;
use crate::plan::world::Link;
use crate::pod::{PodKey, Uid, WantedPod};
use crate::quantity::Amount;
use crate::runtime::node;
use crate::socket;

/// Nobody can be asked.
const ALONE: &str = "no API server is configured";

impl Local for State {
    fn pods(&self, known: &BTreeMap<PodKey, Published>) -> (BTreeMap<PodKey, Published>, bool) {
        let (world, now) = (self.world.borrow(), clock::now());
        let scene = Scene::new(&world, now.mono);
        let mut pods = BTreeMap::new();
        let stays = world.wanted.shutdown.is_none();
        for (key, pod) in &world.wanted.pods {
            pods.insert(key.clone(), published(&scene, &pod.uid, stays, known.get(key), now.wall));
        }
        // What is on its way out is shown to its end.
        for (uid, seen) in &world.seen.pods {
            if let Some(key) = seen.key.as_ref().filter(|key| seen.made_from.is_some() && !pods.contains_key(*key)) {
                pods.insert(key.clone(), published(&scene, uid, false, known.get(key), now.wall));
            }
        }
        (pods, world.wanted.complete && world.seen.listed.is_some())
    }

    fn pod(&self, key: &PodKey) -> Option<Rc<WantedPod>> {
        self.world.borrow().wanted.pods.get(key).cloned()
    }

    fn facts(&self) -> Facts {
        let world = self.world.borrow();
        let written = |amounts: BTreeMap<String, Amount>| {
            let text = |name: &str, v: Amount| match v.milli() {
                milli if name == "cpu" && milli % 1000 != 0 => format!("{milli}m"),
                _ if name == "cpu" => v.units().to_string(),
                _ => v.in_bytes(),
            };
            let mut all: BTreeMap<String, String> = amounts.into_iter().map(|(k, v)| (k.clone(), text(&k, v))).collect();
            all.insert("pods".into(), self.settings.max_pods.to_string());
            all
        };
        let (containerd, down) = match &world.seen.link {
            Link::Up { version } => (Some(version.to_string()), None),
            Link::Down { why, .. } => (None, Some(format!("container runtime is down: {why}"))),
        };
        let ending = world.wanted.shutdown.is_some().then(|| "node is shutting down".to_owned());
        Facts {
            labels: world.node.labels.clone(),
            capacity: written(node::capacity(&self.settings)),
            allocatable: written(node::allocatable(&self.settings)),
            containerd,
            not_ready: ending.or(down),
            images: self.runtime.inventory(),
            images_dir: self.runtime.images_dir(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn events(&self, after: u64, visit: &mut dyn FnMut(u64, &Event)) {
        self.ring.borrow().visit(after, visit);
    }

    fn note(&self, key: &PodKey, why: &str) {
        let Some(pod) = self.pod(key) else { return };
        let note = EventNote {
            kind: "Pod",
            key: key.clone(),
            uid: pod.uid.clone(),
            container: None,
            reason: "FailedMirror",
            warning: true,
            message: format!("The pod runs, but the API server does not show it: {why}"),
        };
        State::note(self, vec![note], clock::now());
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl State {
    /// Images came or went. Where no cluster is joined nobody asks which.
    pub(super) fn take_inventory(&self) {
        if self.settings.kubeconfig.is_some() {
            tokio::task::spawn_local(self.runtime.clone().take_inventory());
        }
    }
}

/// A pod as it is shown; what did not change is the same allocation as before. Before containerd was first looked at nothing is known of it:
/// what an earlier life has told the API server is nearer the truth than that nothing runs.
fn published(scene: &Scene<'_>, uid: &Uid, wanted: bool, known: Option<&Published>, now: Wall) -> Published {
    let old = known.and_then(|known| known.status.as_ref());
    if scene.world.seen.listed.is_none() && old.is_none() {
        return Published { uid: uid.clone(), status: None, wanted };
    }
    let status = serde_json::to_value(status::pod_status(scene, uid, now)).unwrap_or_default();
    let status = match old {
        Some(old) if **old == status => old.clone(),
        _ => Rc::new(status),
    };
    Published { uid: uid.clone(), status: Some(status), wanted }
}

impl kubelet::Judge for State {
    fn review(&self, token: String) -> LocalBoxFuture<'static, Result<Value, String>> {
        let cluster = self.cluster.borrow().upgrade();
        Box::pin(async move { cluster.ok_or(ALONE)?.review_token(&token).await.map_err(|e| e.to_string()) })
    }

    fn allows(&self, spec: Value) -> LocalBoxFuture<'static, Result<bool, String>> {
        let cluster = self.cluster.borrow().upgrade();
        Box::pin(async move { cluster.ok_or(ALONE)?.review_access(spec).await.map_err(|e| e.to_string()) })
    }
}

/// Serves the kubelet API, where that is configured, for as long as the loop turns.
pub fn serve_kubelet(state: &Rc<State>) {
    let settings = &state.settings;
    let Some(at) = settings.api.listens() else { return };
    match kubelet::tls::Tls::new(&settings.api, &settings.node_name, &settings.node_ips) {
        Ok(tls) => {
            let door = Rc::new(kubelet::Door::new(settings, state.clone(), state.clone()));
            tokio::task::spawn_local(kubelet::serve(at, door, tls));
        }
        Err(e) => log::error!("serve the kubelet API: {e}; pods run on without it"),
    }
}

/// What the status socket shows of it.
pub fn joined(cluster: &Cluster) -> socket::Cluster {
    let asked = cluster.asked();
    socket::Cluster {
        trouble: cluster.trouble(),
        shown: cluster.count(),
        asked: [("done", asked.done), ("refused", asked.refused), ("lost", asked.lost)],
    }
}
