//! The cluster: Node, Lease, mirror pods and events at an API server, as far as there is one. Best effort, all of it.
//!
//! Nothing here can delay, change or stop a pod: it reads what is shown of them through [`Local`], and has no way to ask for more
//! than an event. Every wait is for an answer of the server's, and nobody else waits for it.
//! - `mirror`: which mirror pods to make, delete, patch (pure); `object`: what is sent and read (pure); `publish`: does it
//! - `node`, `machine`: the Node object; `lease`: the Lease; `events`: events
//! - `review`: what others may do here, asked for the kubelet API
//! - `identity`: who we are there, asked for and renewed; `csr`: the request (pure); `credentials`: certificates and keys on disk
//! - `link`: the one connection and its pauses; `dial`: how it is made; `watch`: lists and watches; `retry`: delays
//!
//! Not by the `kube` crate: with rustls it adds 5.1 MB to the binary, where tokio-rustls under the hyper that is here adds 0.9 MB,
//! and its connector looks names up in a blocking pool, which is a second thread.

mod credentials;
mod csr;
mod dial;
pub mod error;
mod events;
mod identity;
mod lease;
pub mod link;
mod machine;
pub mod mirror;
mod node;
pub mod object;
mod publish;
pub mod retry;
mod review;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use k8s_openapi::api::core::v1::Event;
use tokio::sync::watch as signal;

use crate::clock::Moment;
use crate::pod::{PodKey, Uid, WantedPod};
use crate::settings::Settings;
use link::Link;
use mirror::{Memory, Observed, Published, Quarrel, Sight};
use object::Object;
use watch::News;

/// What the server may refuse to this node as a whole.
const NODE: &str = "keep its Node";
const LEASE: &str = "renew its Lease";
const LOOK_AT_NODES: &str = "look at its Node";
const LOOK_AT_PODS: &str = "look at its pods";

/// What this node is like, read when it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The labels it gives itself.
    pub labels: BTreeMap<String, String>,
    /// `status.capacity`.
    pub capacity: BTreeMap<String, String>,
    /// `status.allocatable`.
    pub allocatable: BTreeMap<String, String>,
    /// containerd's version, while it answers.
    pub containerd: Option<String>,
    /// Why pods cannot be run now, in words; `None`: they can.
    pub not_ready: Option<String>,
    /// Names and size in bytes of the largest images.
    pub images: Rc<Vec<(Vec<String>, u64)>>,
    /// Where images are unpacked, if that can be seen.
    pub images_dir: Option<std::path::PathBuf>,
}

impl Facts {
    /// What of it is told at once when it changes.
    fn face(&self) -> (Option<String>, Option<String>) {
        (self.containerd.clone(), self.not_ready.clone())
    }
}

/// What `run` lends this room. Every call returns at once.
pub trait Local {
    /// The pods as they are shown, and whether that is all of them.
    fn pods(&self, known: &BTreeMap<PodKey, Published>) -> (BTreeMap<PodKey, Published>, bool);
    /// A wanted pod.
    fn pod(&self, key: &PodKey) -> Option<Rc<WantedPod>>;
    /// The node.
    fn facts(&self) -> Facts;
    /// A number that changes with every change of what is shown.
    fn changes(&self) -> signal::Receiver<u64>;
    /// Visits the recorded events with a sequence number greater than the given one, oldest first.
    fn events(&self, after: u64, visit: &mut dyn FnMut(u64, &Event));
    /// Records that a pod is not shown at the API server, and why.
    fn note(&self, key: &PodKey, why: &str);
}

/// The room.
pub struct Cluster {
    settings: Rc<Settings>,
    local: Rc<dyn Local>,
    link: Link,
    /// What keeps us from having an identity, in words.
    waits: RefCell<Option<String>>,
    /// What may not be looked at, made or kept there, and why, in words.
    unseen: RefCell<BTreeMap<&'static str, String>>,
    /// Our Node object as last seen; `None` until it was looked for.
    node: RefCell<Option<Option<Object>>>,
    node_moved: signal::Sender<u64>,
    /// The pods of this node at the API server; `None` until they were listed.
    observed: RefCell<Option<BTreeMap<PodKey, Observed>>>,
    /// The newest version the watch of the pods has told.
    told_version: Cell<u64>,
    pods_moved: signal::Sender<u64>,
    published: RefCell<BTreeMap<PodKey, Published>>,
    complete: Cell<bool>,
    memory: RefCell<BTreeMap<PodKey, Memory>>,
    paced: Cell<Option<Moment>>,
    quarrel: RefCell<Quarrel>,
    told: RefCell<BTreeMap<PodKey, String>>,
}

impl Cluster {
    /// `None` where the settings name no kubeconfig.
    pub fn new(settings: &Rc<Settings>, local: Rc<dyn Local>) -> Option<Rc<Cluster>> {
        let link = Link::new(settings.kubeconfig.clone()?, settings.resolv_conf.clone());
        Some(Rc::new(Cluster {
            settings: settings.clone(),
            local,
            link,
            waits: RefCell::default(),
            unseen: RefCell::default(),
            node: RefCell::default(),
            node_moved: signal::Sender::new(0),
            observed: RefCell::default(),
            told_version: Cell::new(0),
            pods_moved: signal::Sender::new(0),
            published: RefCell::default(),
            complete: Cell::new(false),
            memory: RefCell::default(),
            paced: Cell::default(),
            quarrel: RefCell::default(),
            told: RefCell::default(),
        }))
    }

    /// Joins for ever.
    pub async fn join(self: Rc<Cluster>) {
        let name = &self.settings.node_name;
        let (own, on_it) = (format!("metadata.name={name}"), format!("spec.nodeName={name}"));
        futures_util::join!(
            async {
                identity::begin(&self).await;
                futures_util::join!(self.link.run(), identity::keep(&self), identity::serve(&self));
            },
            watch::watch(&self.link, "/api/v1/nodes", &own, |news| self.node_news(news)),
            watch::watch(&self.link, "/api/v1/pods", &on_it, |news| self.pod_news(news)),
            node::keep(&self),
            lease::renew(&self),
            publish::publish(&self),
            events::send(&self),
        );
    }

    /// What is wrong with the API server, in words; `None`: it answers.
    pub fn trouble(&self) -> Option<String> {
        let unseen = || {
            let all = self.unseen.borrow().iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ");
            Some(all).filter(|all| !all.is_empty())
        };
        self.waits.borrow().clone().or_else(|| self.link.trouble()).or_else(unseen)
    }

    /// Requests so far.
    pub fn asked(&self) -> link::Asked {
        self.link.asked()
    }

    /// Why a pod has no mirror that shows it, and when that is tried again; `None`: it has, or needs none.
    pub fn lacks(&self, key: &PodKey) -> Option<(String, Option<Moment>)> {
        let due = self.memory.borrow().get(key).filter(|m| m.retry.failures > 0).map(|m| m.retry.due);
        let because = |why: String| match self.unseen.borrow().get(NODE) {
            Some(refused) if self.node_uid().is_none() => format!("{why} ({refused})"),
            _ => why,
        };
        match self.sighted(|sight| mirror::lacks(&sight, key)) {
            Some(why) => why.map(|why| (because(why), due)),
            None => Some((self.trouble().unwrap_or_else(|| "its pods were not listed yet".into()), None)),
        }
    }

    /// Whether that is the uid of a pod's mirror.
    pub fn is_mirror(&self, key: &PodKey, uid: &str) -> bool {
        self.observed.borrow().as_ref().and_then(|all| all.get(key)).is_some_and(|o| o.mirror.is_some() && o.uid == uid)
    }

    /// How many mirrors show their pod, and how many pods have none.
    pub fn count(&self) -> (usize, usize) {
        let of = |sight: Sight<'_>| {
            sight.published.keys().filter(|key| sight.observed.contains_key(*key) && mirror::lacks(&sight, key).is_none()).count()
        };
        let shown = self.sighted(of).unwrap_or(0);
        (shown, self.published.borrow().len() - shown)
    }

    fn node_news(&self, news: News) {
        match news {
            News::All(mut found, _) => {
                self.refused(LOOK_AT_NODES, None);
                self.see_node(found.pop());
            }
            News::Is(object) => self.see_node(Some(object)),
            News::Refused(why) => self.refused(LOOK_AT_NODES, Some(&why)),
            News::Gone(object) => {
                let ours = self.node_uid().is_none_or(|uid| uid == object.metadata.uid);
                if ours {
                    log::warn!("the Node {} was deleted at the API server", self.settings.node_name);
                    self.see_node(None);
                }
            }
        }
    }

    /// The server refuses something, and why; `None`: it does no more. Said once.
    fn refused(&self, what: &'static str, why: Option<&str>) {
        let mut unseen = self.unseen.borrow_mut();
        let Some(why) = why else { return drop(unseen.remove(what)) };
        if unseen.insert(what, why.to_owned()).is_none_or(|before| before != why) {
            log::warn!("the API server refuses something to this node: {what}: {why}; it is tried again");
        }
    }

    /// Our own heartbeats come back as news: only another Node is one.
    fn see_node(&self, seen: Option<Object>) {
        let face = |o: &Option<Object>| o.as_ref().map(|o| (o.metadata.uid.clone(), o.metadata.deletion_timestamp.is_some()));
        let is_news = self.node.borrow().as_ref().is_none_or(|old| face(old) != face(&seen));
        *self.node.borrow_mut() = Some(seen);
        if is_news {
            self.node_moved.send_modify(|n| *n = n.wrapping_add(1));
            self.pods_moved.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// What a request made of our Node, unless the watch has told something newer, or of another one.
    fn answered_node(&self, made: Object) {
        if let Some(Some(known)) = &mut *self.node.borrow_mut()
            && known.metadata.uid == made.metadata.uid
            && known.metadata.version() < made.metadata.version()
        {
            *known = made;
        }
    }

    fn pod_news(&self, news: News) {
        let version = match &news {
            News::All(_, version) => *version,
            News::Is(object) | News::Gone(object) => object.metadata.version(),
            News::Refused(why) => return self.refused(LOOK_AT_PODS, Some(why)),
        };
        self.refused(LOOK_AT_PODS, None);
        let mut observed = self.observed.borrow_mut();
        let pods = observed.get_or_insert_default();
        let told = self.told_version.get();
        let is_list = matches!(news, News::All(..));
        self.told_version.set(if is_list { version } else { told.max(version) });
        match news {
            News::All(objects, version) => mirror::listed(pods, objects, version, told),
            News::Is(object) => mirror::observe(pods, object, false),
            News::Gone(object) => mirror::observe(pods, object, true),
            News::Refused(_) => {}
        }
        self.pods_moved.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// The Node as last seen; `None` before it was looked for.
    fn node(&self) -> Option<Option<Object>> {
        self.node.borrow().clone()
    }

    /// Its uid, unless it is being deleted.
    fn node_uid(&self) -> Option<String> {
        let node = self.node.borrow();
        node.as_ref()?.as_ref().filter(|n| n.metadata.deletion_timestamp.is_none()).map(|n| n.metadata.uid.clone())
    }

    fn node_moved(&self) -> signal::Receiver<u64> {
        self.node_moved.subscribe()
    }

    fn pods_moved(&self) -> signal::Receiver<u64> {
        self.pods_moved.subscribe()
    }

    fn refresh(&self) {
        let (pods, complete) = self.local.pods(&self.published.borrow());
        *self.published.borrow_mut() = pods;
        self.complete.set(complete);
    }

    fn hash(&self, key: &PodKey) -> Option<Uid> {
        self.published.borrow().get(key).map(|p| p.uid.clone())
    }

    /// What a plan is made from; `None` before the API server's pods were listed.
    fn sighted<T>(&self, look: impl FnOnce(Sight<'_>) -> T) -> Option<T> {
        let (observed, node) = (self.observed.borrow(), self.node_uid());
        Some(look(Sight {
            published: &self.published.borrow(),
            complete: self.complete.get(),
            observed: observed.as_ref()?,
            node: node.as_deref(),
            memory: &self.memory.borrow(),
            paced: self.paced.get(),
            quarrel: &self.quarrel.borrow(),
        }))
    }
}
