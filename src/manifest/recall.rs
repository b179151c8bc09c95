//! What is remembered of the layers from one decision to the next: the last good revision of every file, the last listing of every
//! layer, and since when a layer is gone. Pure. Losing it loses stand-ins only, and `adopt` gets those back from what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::rc::Rc;

use super::identity::SEEN;
use super::layer::{Entry, Kind, REMOVED_FOR, Revision, State};
use crate::clock::Moment;
use crate::pod::{ImageRef, PodKey, WantedPod};

/// What must be remembered from one decision to the next; without it only stand-ins are lost.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) layers: BTreeMap<Rc<str>, LayerMemory>,
    pub(super) adopted: bool,
}

#[derive(Debug, Default)]
pub(super) struct LayerMemory {
    pub(super) last: Option<Vec<Entry>>,
    pub(super) good: BTreeMap<OsString, Good>,
    removed_since: Option<Moment>,
}

/// The last good revision of a file.
#[derive(Debug)]
pub(super) struct Good {
    pub(super) pods: Vec<Rc<WantedPod>>,
    /// The whole file was good at least once: it stands for all of its name, and nothing below it shows through.
    pub(super) whole: bool,
}

impl Memory {
    /// Takes pods that were found running as the last good revisions of the files they came from, where this process has
    /// never seen those good: so a file broken (or a layer lost) before we started costs no running pod either.
    pub fn adopt(&mut self, running: &[Rc<WantedPod>]) {
        let mut found: BTreeMap<(Rc<str>, OsString), Vec<Rc<WantedPod>>> = BTreeMap::new();
        for pod in running {
            let path = &pod.origin.path;
            // What came by URL is one file, whose name is the URL.
            let name = if pod.origin.layer.contains("://") { Some(path.as_os_str()) } else { path.file_name() };
            if let Some(name) = name {
                found.entry((pod.origin.layer.clone(), name.to_owned())).or_default().push(pod.clone());
            }
        }
        for ((layer, name), mut pods) in found {
            // Of two of one name, one was on its way out: the one seen later is what the file last said. RFC 3339 sorts by time.
            pods.sort_by_cached_key(|p| (p.key.clone(), std::cmp::Reverse(seen_at(p))));
            pods.dedup_by(|a, b| a.key == b.key);
            let layer = self.layers.entry(layer).or_default();
            match &mut layer.last {
                Some(entries) if !entries.iter().any(|e| e.name == name && broken(&e.kind)) => {}
                Some(_) => {
                    let good = layer.good.entry(name).or_insert(Good { pods: Vec::new(), whole: true });
                    good.whole = true;
                    let new: Vec<_> = pods.into_iter().filter(|p| !good.pods.iter().any(|g| g.key == p.key)).collect();
                    good.pods.extend(new);
                }
                None => _ = layer.good.insert(name, Good { pods, whole: true }),
            }
        }
        for layer in self.layers.values_mut().filter(|l| l.last.is_none() && !l.good.is_empty()) {
            layer.last = Some(layer.good.iter().map(|(name, good)| entry_of(name, good)).collect());
        }
        self.adopted = true;
    }

    /// Every image that a file of any layer names, be it overridden or masked: the file above it may go.
    pub fn images(&self) -> impl Iterator<Item = ImageRef> {
        self.layers.values().flat_map(|l| l.good.values()).flat_map(|g| &g.pods).flat_map(|p| p.named_images())
    }

    /// When a removed layer's time is up, if one is removed.
    pub fn deadline(&self) -> Option<Moment> {
        self.layers.values().filter_map(|l| l.removed_since).map(|since| since + REMOVED_FOR).min()
    }
}

fn seen_at(pod: &WantedPod) -> String {
    pod.object.metadata.annotations.as_ref().and_then(|a| a.get(SEEN)).cloned().unwrap_or_default()
}

fn entry_of(name: &OsStr, good: &Good) -> Entry {
    Entry { name: name.to_owned(), kind: Kind::Manifest(Rc::new(Revision { pods: good.pods.clone(), ..Revision::default() })) }
}

fn broken(kind: &Kind) -> bool {
    match kind {
        Kind::Manifest(revision) => !revision.errors.is_empty(),
        Kind::Unreadable(_) | Kind::Away(_) => true,
        Kind::Mask | Kind::NotManifest => false,
    }
}

impl LayerMemory {
    /// Folds in what was found; answers the warning or error the layer itself deserves.
    pub(super) fn refresh(&mut self, state: &State, now: Moment) -> Option<Trouble> {
        let known = self.last.as_ref().is_some_and(|l| !l.is_empty());
        let since = self.removed_since.take();
        match state {
            State::Listed(entries) => {
                self.remember(entries);
                self.last = Some(entries.clone());
                None
            }
            State::Removed if known => {
                let since = since.unwrap_or(now);
                if now >= since + REMOVED_FOR {
                    *self = LayerMemory::default();
                    return None;
                }
                self.removed_since = Some(since);
                let text = format!("layer was removed: its pods stay until it has been gone for {} s", REMOVED_FOR.as_secs());
                Some(Trouble { error: false, text })
            }
            State::Missing if known => {
                Some(Trouble { error: false, text: "layer is missing, and so is its parent: its pods stay until it is back".into() })
            }
            State::Emptied if known => {
                let text = "layer's file system is gone and it is empty: its pods stay until it is back or the directory is removed".into();
                Some(Trouble { error: false, text })
            }
            State::Removed | State::Missing | State::Emptied => None,
            State::Unreadable(why) => Some(Trouble { error: true, text: why.clone() }),
        }
    }

    /// Keeps the last good revision of every file that is still there.
    fn remember(&mut self, entries: &[Entry]) {
        let mut old = std::mem::take(&mut self.good);
        for e in entries {
            let before = old.remove(&e.name);
            let after = match &e.kind {
                Kind::Manifest(r) if r.errors.is_empty() => Some(Good { pods: r.pods.clone(), whole: true }),
                Kind::Manifest(r) => merged(r, before),
                Kind::Unreadable(_) | Kind::Away(_) => before,
                Kind::Mask | Kind::NotManifest => None,
            };
            if let Some(good) = after {
                self.good.insert(e.name.clone(), good);
            }
        }
    }
}

/// The good documents of a partly broken file, and the last good revision of those it no longer has: the rest may be what is broken.
fn merged(revision: &Revision, before: Option<Good>) -> Option<Good> {
    let whole = before.as_ref().is_some_and(|g| g.whole);
    let keys: BTreeSet<&PodKey> = revision.pods.iter().map(|p| &p.key).collect();
    let kept = before.into_iter().flat_map(|g| g.pods).filter(|p| !keys.contains(&p.key));
    let pods: Vec<_> = revision.pods.iter().cloned().chain(kept).collect();
    (whole || !pods.is_empty()).then_some(Good { pods, whole })
}

/// What a layer as a whole is to be told.
pub(super) struct Trouble {
    pub(super) error: bool,
    pub(super) text: String,
}
