//! The layers kept current: reads them when something changed, says when to read again, and tells the log what is new about them.
//!
//! It never acts on what it reads: wanted pods and file reports go to the loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::identity::{self, Source};
use super::layer::{self, Revision};
use super::news;
use super::parse::{self, Context};
use super::read::{Pass, Reader};
use super::recall::Memory;
use super::url::Url;
use crate::clock::{self, Moment, Now, Wall};
use crate::plan::world::Wanted;
use crate::pod::{FileReport, ImageRef, Uid, WantedPod};
use crate::settings::Settings;
use crate::watch::Watch;

/// The manifest layers of this node.
#[derive(Debug)]
pub struct Manifests {
    readers: Vec<Reader>,
    memory: Memory,
    watch: Watch,
    url: Option<(usize, Rc<Url>)>,
    node_name: Rc<str>,
    rescan: Duration,
    /// When each pod was first seen, for its `config.seen`.
    seen: BTreeMap<Uid, Wall>,
    reports: Vec<FileReport>,
    due: bool,
    next: Moment,
}

impl Manifests {
    /// For the layers of the settings. Nothing is read yet; `changed` answers at once until `read` was called.
    pub fn new(settings: &Rc<Settings>, node_name: &str) -> Manifests {
        let (watch, error) = Watch::new();
        if let Some(e) = error {
            log::warn!(
                "start inotify: {e}: changes of manifests are seen every {} s only; raise fs.inotify.max_user_instances",
                settings.rescan.as_secs()
            );
        }
        Manifests {
            readers: settings.layers.iter().map(|l| Reader::new(l)).collect(),
            memory: Memory::default(),
            watch,
            url: settings.url_rank().and_then(|rank| Some((rank, Url::new(settings, clock::now())?))),
            node_name: node_name.into(),
            rescan: settings.rescan,
            seen: BTreeMap::new(),
            reports: Vec::new(),
            due: true,
            next: Moment(0),
        }
    }

    /// The server of manifests, where there is one: somebody has to let it `follow`.
    pub fn url(&self) -> Option<Rc<Url>> {
        self.url.as_ref().map(|(_, url)| url.clone())
    }

    /// Reads what changed and decides. Short: names are listed and stamps compared, bytes are read of changed files only.
    pub fn read(&mut self, now: Now) -> (Wanted, Vec<FileReport>) {
        self.watch.drain(now.mono);
        self.watch.expire(now.mono);
        self.watch.arm(self.readers.iter().map(Reader::path));
        let mut listings = Vec::with_capacity(self.readers.len());
        for (i, reader) in self.readers.iter_mut().enumerate() {
            let layer: Rc<str> = reader.name();
            let seen = std::cell::RefCell::new(&mut self.seen);
            let parse =
                |bytes: &[u8], path: &Path| revision(bytes, Source::File, path, &layer, &self.node_name, now.wall, &mut seen.borrow_mut());
            let busy = |name: &std::ffi::OsStr| self.watch.busy(i, name, now.mono);
            let aside = |name: &std::ffi::OsStr| self.watch.aside(i, name, now.mono);
            listings.push(reader.read(&Pass { now, parse: &parse, busy: &busy, aside: &aside }));
        }
        if let Some((rank, url)) = &self.url {
            listings.insert((*rank).min(listings.len()), url.listing());
        }
        let decision = layer::decide(&listings, &mut self.memory, now.mono);
        self.due = false;
        self.next = now.mono + self.rescan;
        self.seen.retain(|uid, _| decision.pods.values().any(|p| p.uid == *uid));
        news::tell(&self.reports, &decision.reports);
        self.reports.clone_from(&decision.reports);
        let layer::Decision { complete, whole, pods, reports } = decision;
        (Wanted { complete, whole, pods, shutdown: None }, reports)
    }

    /// Resolves when a reading is due: something changed, a change has settled, a layer's time is up, or the rescan. Cancel-safe;
    /// while nothing happens it wakes once per rescan interval and no more.
    pub async fn changed(&mut self) {
        if !self.due {
            let deadline = self.deadline();
            tokio::select! {
                () = self.watch.due(deadline) => {}
                () = moved(self.url.as_ref()) => {}
            }
            self.due = true;
        }
    }

    /// Makes a reading due, of what comes by URL too: SIGHUP.
    pub fn rescan(&mut self) {
        self.url.iter().for_each(|(_, url)| url.ask_now());
        self.due = true;
    }

    /// Tells which pods run from before this process, with what they were made from: they stand in for files that are broken, and
    /// layers that are lost, since before we started. To be called once, after the first look at containerd and before anything
    /// is planned from it; read again after it. Until then `Wanted::complete` is false while such a file or layer exists.
    pub fn adopt(&mut self, running: &[Rc<WantedPod>]) {
        self.memory.adopt(running);
        self.due = true;
    }

    /// Every image that a file of any layer names.
    pub fn images(&self) -> impl Iterator<Item = ImageRef> {
        self.memory.images()
    }

    fn deadline(&self) -> Moment {
        let settling = self.readers.iter().filter_map(Reader::again);
        self.memory.deadline().into_iter().chain(settling).fold(self.next, Moment::min)
    }
}

async fn moved(url: Option<&(usize, Rc<Url>)>) {
    match url {
        Some((_, url)) => url.changed().await,
        None => std::future::pending().await,
    }
}

/// What bytes say, each pod marked with when it was first seen.
pub(super) fn revision(
    bytes: &[u8],
    source: Source,
    path: &Path,
    layer: &Rc<str>,
    node: &str,
    now: Wall,
    seen: &mut BTreeMap<Uid, Wall>,
) -> Revision {
    let context = Context { node_name: node, source, layer: layer.clone(), path };
    let parsed = parse::file(bytes, &context);
    let stamped = |mut pod: WantedPod| {
        let first = *seen.entry(pod.uid.clone()).or_insert(now);
        identity::stamp_seen(&mut pod, first);
        Rc::new(pod)
    };
    Revision { pods: parsed.pods.into_iter().map(stamped).collect(), errors: parsed.errors, warnings: parsed.warnings }
}

#[cfg(test)]
mod tests;
