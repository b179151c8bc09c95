//! The status socket: HTTP/1.1 on a unix socket, answered from the loop's own data. Contents:
//! - `listen`: the socket file: mode, group, one plinth at a time
//! - `http`: connections and their limits; `patient`: one of them, about streams
//! - `routes`: path to answer; `query`: what follows the `?`
//! - `wire`: our own kinds, versioned; `rows`: a pod in one line; `why`: a pod explained; `pods`: `v1.PodList`
//! - `remote`: `/exec` and `/attach`, carried over WebSocket; `logs`: `/containerLogs`; `follow`: bodies that go on; `metrics`: Prometheus text;
//!   `usage`: of pods and the node
//!
//! Never decides anything, never touches containerd or a file but its own; it reads through [`Backend`] and asks `run` to act.

pub mod follow;
pub mod http;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod patient;
pub mod pods;
pub mod query;
pub mod remote;
pub mod routes;
pub mod rows;
pub mod usage;
pub mod why;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::{Event, PodStatus};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::clock::{Moment, Now, Wall};
use crate::plan::world::World;
use crate::pod::{FileReport, PodKey, Uid, WantedPod};
use crate::session::{self, Session};
use crate::settings::Settings;
use crate::sys::cgroup::Usage;
use crate::sys::interfaces::Interface;

pub use http::serve;
pub use listen::{Listener, listen};
pub use logs::LogRequest;
pub use metrics::Counters;
pub use usage::{Layers, Rates, Volume};

/// Everything an answer may be made from, borrowed for the length of one answer.
pub struct View<'a> {
    /// What is wanted, seen and remembered.
    pub world: &'a World,
    /// Every file of every layer.
    pub files: &'a [FileReport],
    /// The settings in force.
    pub settings: &'a Settings,
    /// What the machine's boot found wrong with it, and which of its settings do not count.
    pub degraded: &'a [String],
    /// What the loop has counted since it began.
    pub counters: &'a Counters,
    /// Both clocks, read for this answer.
    pub now: Now,
    /// A pod's `v1.PodStatus`, derived by `plan`.
    pub status: &'a dyn Fn(&Uid) -> PodStatus,
    /// What is known of the API server; `None`: the settings name none.
    pub cluster: Option<Cluster>,
    /// What is known of the server of manifests; `None`: the settings name none.
    pub url: Option<ManifestUrl>,
    /// Why a pod is not shown there; `None`: it is, or nobody asked for it.
    pub unshown: &'a dyn Fn(&PodKey) -> Option<Unshown>,
    /// Whether that is the uid of a pod's mirror there.
    pub is_mirror: &'a dyn Fn(&PodKey, &str) -> bool,
    /// Visits the recorded events with a sequence number greater than the given one, oldest first.
    pub events: &'a Events<'a>,
}

impl View<'_> {
    /// The wanted pod of that name; a uid is its own or its mirror's (kubelet: `translatePodUID`).
    pub fn wanted(&self, ns: &str, name: &str, uid: Option<&str>) -> Option<&Rc<WantedPod>> {
        let pod = self.world.wanted.pods.values().find(|p| &*p.key.namespace == ns && &*p.key.name == name)?;
        uid.is_none_or(|uid| uid == &*pod.uid.0 || (self.is_mirror)(&pod.key, uid)).then_some(pod)
    }
}

/// The API server, as seen from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// What is wrong with it or the way to it; `None`: it answers.
    pub trouble: Option<String>,
    /// Pods that are shown there as they are, and pods that are not.
    pub shown: (usize, usize),
    /// Requests by what became of them: done, refused, lost.
    pub asked: [(&'static str, u64); 3],
}

/// The server of manifests, as seen from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManifestUrl {
    /// The layer it is.
    pub layer: Rc<str>,
    /// Why its last answer was not used; `None`: it was.
    pub trouble: Option<String>,
    /// When it is asked again.
    pub due: Moment,
    /// Failures in a row.
    pub failures: u32,
    /// When it last gave an answer that was used.
    pub answered: Option<Wall>,
    /// Requests by what became of them.
    pub fetches: [(&'static str, u64); 4],
}

/// A pod that the API server does not show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unshown {
    /// Why.
    pub why: String,
    /// When that is tried again, if it was refused.
    pub due: Option<Moment>,
}

/// See [`View::events`].
pub type Events<'a> = dyn Fn(u64, &mut dyn FnMut(u64, &Event)) + 'a;

/// The bytes of a log as they are read; an error ends it.
pub type LogStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>>>>;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such file (the kubelet answers 400 with this text).
    #[error("open log of container `{container}` in pod `{pod}`")]
    Open {
        /// The container.
        container: Rc<str>,
        /// The pod.
        pod: PodKey,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What `run` lends the socket. Every call returns at once; `with` must not be re-entered from its closure.
pub trait Backend {
    /// Shows the present state.
    fn with(&self, f: &mut dyn FnMut(&View<'_>));
    /// Opens a log; with `follow`, the stream ends when the container's attempt has ended and its file is read to the end.
    fn logs(&self, request: LogRequest) -> Result<LogStream, LogError>;
    /// Begins a command in a container, or attaches to it.
    fn session(&self, request: session::Request) -> Session;
    /// Connects to a port at a pod's own localhost.
    fn forward(&self, uid: &Uid, port: u16) -> LocalBoxFuture<'static, io::Result<TcpStream>>;
    /// What a pod uses (`None`: the node), then each of these of its containers.
    fn usage(&self, pod: Option<&Uid>, containers: &[Rc<str>]) -> Vec<Usage>;
    /// What an earlier question of it found, for `usage`.
    fn rates(&self) -> &RefCell<Rates>;
    /// The interfaces a pod has (`None`: the node), as one of its running containers sees them; none on the host's network.
    fn network(&self, pod: Option<&Uid>, containers: &[Rc<str>]) -> Vec<Interface>;
    /// What these running containers have written to their own layers.
    fn layers(&self, containers: Vec<Rc<str>>) -> LocalBoxFuture<'static, Layers>;
    /// What these pods' own volumes hold, pod by pod.
    fn volumes(&self, pods: Vec<Uid>) -> LocalBoxFuture<'static, Vec<Vec<Volume>>>;
    /// Bytes of a container's log files, and how many they are.
    fn logged(&self, key: &PodKey, uid: &Uid, container: &str) -> (u64, u64);
    /// A number that changes with every change of world, files or events.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Begins the ordered stop of everything; `None`: the settings' grace.
    fn shutdown(&self, grace: Option<Duration>);
}
