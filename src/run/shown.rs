//! What the status socket reads of the loop's state, and the little it may ask for.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{State, joined};
use crate::clock;
use crate::manifest::url::Url;
use crate::plan::action::Event;
use crate::plan::status;
use crate::plan::view::Scene;
use crate::pod::{PodKey, Uid};
use crate::runtime::logs::line::Which;
use crate::runtime::logs::{LogTarget, read};
use crate::runtime::volume::usage::Held;
use crate::session::{self, Session};
use crate::socket::logs::Output;
use crate::socket::{self, Layers, LogError, LogRequest, LogStream, Rates, View, Volume};
use crate::sys::cgroup::Usage;
use crate::sys::interfaces::{self, Interface};

impl socket::Backend for State {
    fn with(&self, f: &mut dyn FnMut(&View<'_>)) {
        let (world, now) = (self.world.borrow(), clock::now());
        let cluster = self.cluster.borrow().upgrade();
        let scene = Scene::new(&world, now.mono);
        f(&View {
            world: &world,
            files: &self.files.borrow(),
            settings: &self.settings,
            degraded: &self.degraded,
            counters: &self.counters.borrow(),
            now,
            status: &|uid| status::pod_status(&scene, uid, now.wall),
            cluster: cluster.as_deref().map(joined::joined),
            url: self.url.as_deref().map(fetched),
            unshown: &|key| cluster.as_ref().and_then(|c| c.lacks(key)).map(|(why, due)| socket::Unshown { why, due }),
            is_mirror: &|key, uid| cluster.as_ref().is_some_and(|c| c.is_mirror(key, uid)),
            events: &|after, visit| self.ring.borrow().visit(after, visit),
        });
    }

    fn logs(&self, request: LogRequest) -> Result<LogStream, LogError> {
        let target =
            LogTarget { key: request.key, uid: request.uid, container: request.container, attempt: request.attempt, id: request.id };
        let o = request.options;
        let which = match o.output {
            Output::All => None,
            Output::Stdout => Some(Which::Stdout),
            Output::Stderr => Some(Which::Stderr),
        };
        let options = read::Options {
            follow: o.follow,
            tail_lines: o.tail_lines,
            since: o.since,
            timestamps: o.timestamps,
            limit_bytes: o.limit_bytes,
            which,
        };
        Ok(Box::pin(self.runtime.logs().read(&target, options)))
    }

    fn usage(&self, pod: Option<&Uid>, containers: &[Rc<str>]) -> Vec<Usage> {
        match pod.map(|uid| self.whose(uid).0) {
            None => self.runtime.usage(None, &[]),
            Some(Some(pod)) => self.runtime.usage(Some(&pod), containers),
            Some(None) => Vec::new(),
        }
    }

    fn rates(&self) -> &RefCell<Rates> {
        &self.rates
    }

    fn network(&self, pod: Option<&Uid>, containers: &[Rc<str>]) -> Vec<Interface> {
        match pod.map(|uid| self.whose(uid).0) {
            None => interfaces::here(),
            Some(Some(pod)) => self.runtime.network(&pod, containers),
            Some(None) => Vec::new(),
        }
    }

    fn layers(&self, containers: Vec<Rc<str>>) -> LocalBoxFuture<'static, Layers> {
        let runtime = self.runtime.clone();
        Box::pin(async move {
            let (dir, written) = runtime.layers(&containers).await;
            Layers { dir, written }
        })
    }

    fn volumes(&self, pods: Vec<Uid>) -> LocalBoxFuture<'static, Vec<Vec<Volume>>> {
        let runtime = self.runtime.clone();
        let pods: Vec<_> = pods.iter().map(|uid| self.whose(uid).0).collect();
        Box::pin(async move {
            let held = runtime.volumes(&pods).await;
            held.into_iter().map(|volumes| volumes.into_iter().map(volume).collect()).collect()
        })
    }

    fn logged(&self, key: &PodKey, uid: &Uid, container: &str) -> (u64, u64) {
        self.runtime.logs().taken(key, uid, container)
    }

    fn forward(&self, uid: &Uid, port: u16) -> LocalBoxFuture<'static, std::io::Result<TcpStream>> {
        match self.whose(uid).0 {
            Some(pod) => self.runtime.forward(&pod, port),
            None => Box::pin(async { Err(std::io::Error::other("the pod is gone")) }),
        }
    }

    fn session(&self, request: session::Request) -> Session {
        self.runtime.open(request)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn shutdown(&self, grace: Option<Duration>) {
        // A shorter grace shortens the critical pods' part of it alike.
        let whole = self.settings.shutdown_grace;
        let grace = grace.unwrap_or(whole);
        let part = self.settings.shutdown_critical.as_secs_f64() / whole.as_secs_f64().max(0.001);
        let critical = grace.mul_f64(part.clamp(0.0, 1.0));
        log::info!("asked to stop every pod within {} s", grace.as_secs());
        self.asked.set(Some(Event::Shutdown { grace, critical }));
        self.asking.notify_one();
    }
}

fn volume(held: Held) -> Volume {
    let counted = held.count.map(|c| (c.at.wall, (c.bytes, c.inodes)));
    Volume { name: held.name, on_disk: held.on_disk, counted, disk: held.disk }
}

/// What the status socket shows of the server of manifests.
fn fetched(url: &Url) -> socket::ManifestUrl {
    let sight = url.sight();
    let t = sight.tally;
    socket::ManifestUrl {
        layer: url.name(),
        trouble: sight.trouble,
        due: sight.due,
        failures: sight.failures,
        answered: sight.answered,
        fetches: [("changed", t.changed), ("unchanged", t.unchanged), ("refused", t.refused), ("failed", t.failed)],
    }
}
