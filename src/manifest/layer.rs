//! Layers to wanted pods, as a pure function: one winner per file name, masks, last good revisions, one winner per pod.
//!
//! The rule behind all others: a bad file never costs a running pod. So whatever cannot be read or parsed stands in with
//! what it last said, be it a document, a file or a whole layer. No I/O, no clock, no logging: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::recall::{LayerMemory, Memory, Trouble};
use super::rivals::{self, Candidate};
use crate::clock::Moment;
use crate::pod::{FileReport, Finding, PodKey, Verdict, WantedPod};

/// A layer that was removed while its parent could be read loses its pods after this long.
pub const REMOVED_FOR: Duration = Duration::from_secs(60);

/// What the text of one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    /// The pods of its good documents, in document order.
    pub pods: Vec<Rc<WantedPod>>,
    /// What is wrong with the others, or with the file.
    pub errors: Vec<Finding>,
    /// What was accepted all the same.
    pub warnings: Vec<Finding>,
}

/// One name in a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file name.
    pub name: OsString,
    /// What stands there.
    pub kind: Kind,
}

/// What stands behind a name.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A manifest that was read.
    Manifest(Rc<Revision>),
    /// An empty file or a link to /dev/null: hides the name in lower layers.
    Mask,
    /// Not a manifest by its name.
    NotManifest,
    /// A manifest by its name that cannot be read, and why.
    Unreadable(String),
    /// What cannot be had now, and why, which passes: what it last said stands, and nobody is to blame.
    Away(String),
}

/// One layer as it was found.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The layer's path as it was set.
    pub layer: Rc<str>,
    /// The directory its names are in.
    pub dir: PathBuf,
    /// What was found.
    pub state: State,
}

/// What was found of a layer.
#[derive(Clone, Debug)]
pub enum State {
    /// It was read.
    Listed(Vec<Entry>),
    /// It is not there, and its parent says so.
    Removed,
    /// It is not there, and neither is its parent.
    Missing,
    /// It is empty now, and on another file system than before: its own was unmounted, or an empty one was put over it.
    Emptied,
    /// It cannot be read, and why.
    Unreadable(String),
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Decision {
    /// Nothing that may run from before is unknown: only then is anything unwanted.
    pub complete: bool,
    /// Nothing that any file asks for is unknown.
    pub whole: bool,
    /// One winner per full name.
    pub pods: BTreeMap<PodKey, Rc<WantedPod>>,
    /// Every file, lowest layer first, by name; a layer that cannot be read has a row of its own.
    pub reports: Vec<FileReport>,
}

/// Decides from the layers, lowest first, and what is remembered of them.
pub fn decide(listings: &[Listing], memory: &mut Memory, now: Moment) -> Decision {
    memory.layers.retain(|name, _| listings.iter().any(|l| l.layer == *name));
    let mut work = Work { complete: true, ..Work::default() };
    for (rank, listing) in listings.iter().enumerate() {
        let layer = memory.layers.entry(listing.layer.clone()).or_default();
        if let Some(trouble) = layer.refresh(&listing.state, now) {
            work.complete &= layer.last.is_some() || !trouble.error;
            work.layer_row(rank, listing, trouble, layer);
        }
    }
    let names: BTreeSet<&OsString> = memory.layers.values().filter_map(|l| l.last.as_ref()).flatten().map(|e| &e.name).collect();
    for name in names {
        work.name(name, listings, memory);
    }
    let pods = rivals::settle(work.candidates, &mut work.rows);
    let mut rows = work.rows;
    rows.sort_by(|a, b| (a.layer, &a.report.path).cmp(&(b.layer, &b.report.path)));
    let reports = rows.into_iter().map(Row::judged).collect();
    Decision { complete: work.complete || memory.adopted, whole: work.complete, pods, reports }
}

/// A report under construction.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) layer: usize,
    pub(super) report: FileReport,
    /// Full names its present text gave.
    fresh: BTreeSet<PodKey>,
    /// Its layer cannot be read: this is what it last held.
    held: bool,
}

impl Row {
    /// Nothing of its present text is wanted, and something is wrong with it: refused. Stale: a wanted pod is of an earlier text.
    fn judged(self) -> FileReport {
        let Row { mut report, fresh, held, .. } = self;
        if report.verdict == Verdict::Accepted {
            report.stale = report.pods.iter().any(|key| held || !fresh.contains(key));
            if !report.errors.is_empty() && !report.pods.iter().any(|key| fresh.contains(key)) {
                report.verdict = Verdict::Rejected;
            }
        }
        report
    }
}

#[derive(Default)]
struct Work {
    complete: bool,
    rows: Vec<Row>,
    candidates: Vec<Candidate>,
}

impl Work {
    fn layer_row(&mut self, rank: usize, listing: &Listing, trouble: Trouble, memory: &LayerMemory) {
        let finding = Finding { message: trouble.text, ..Finding::default() };
        let mut report = blank(listing, PathBuf::from(&*listing.layer));
        report.verdict = Verdict::Rejected;
        report.stale = memory.last.as_ref().is_some_and(|l| !l.is_empty());
        if trouble.error {
            report.errors.push(finding)
        } else {
            report.warnings.push(finding)
        }
        self.rows.push(Row { layer: rank, report, fresh: BTreeSet::new(), held: false });
    }

    /// One file name through all layers, highest first: the first that is whole, or a mask, hides what lies below.
    fn name(&mut self, name: &OsStr, listings: &[Listing], memory: &Memory) {
        let seal = seal(name, listings, memory);
        let mut hidden: Option<(Verdict, PathBuf)> = None;
        let mut taken: BTreeSet<PodKey> = BTreeSet::new();
        for (rank, listing) in listings.iter().enumerate().rev() {
            let Some(layer) = memory.layers.get(&listing.layer) else { continue };
            let Some(entry) = layer.last.iter().flatten().find(|e| e.name == name) else { continue };
            let mut report = blank(listing, listing.dir.join(name));
            let held = !matches!(listing.state, State::Listed(_));
            let mut fresh = BTreeSet::new();
            if let Some((below, pod)) = &seal
                && rank > *below
                && let Some(error) = rivals::against_seal(&entry.kind, &report.path, pod)
            {
                report.verdict = Verdict::Rejected;
                report.errors.push(error);
                self.rows.push(Row { layer: rank, report, fresh, held });
                continue;
            }
            match (&entry.kind, &hidden) {
                (Kind::NotManifest, _) => report.verdict = Verdict::Ignored,
                (_, Some((verdict, by))) => (report.verdict, report.by) = (*verdict, Some(by.clone())),
                (Kind::Mask, None) => {
                    report.verdict = Verdict::Mask;
                    hidden = Some((Verdict::Masked, report.path.clone()));
                }
                (Kind::Manifest(revision), None) => {
                    report.errors.clone_from(&revision.errors);
                    report.warnings.clone_from(&revision.warnings);
                    fresh = revision.pods.iter().map(|p| p.key.clone()).collect();
                }
                (Kind::Away(why), None) => report.warnings.push(Finding { message: why.clone(), ..Finding::default() }),
                (Kind::Unreadable(why), None) => report.errors.push(Finding { message: why.clone(), ..Finding::default() }),
            }
            if report.verdict == Verdict::Accepted {
                let good = layer.good.get(name);
                // A file that was never whole does not hide the one below: a typo in an override leaves the image's own pod running.
                if good.is_some_and(|g| g.whole) {
                    hidden = Some((Verdict::Overridden, report.path.clone()));
                } else {
                    self.complete = false;
                }
                let offered: Vec<_> = good.into_iter().flat_map(|g| &g.pods).filter(|p| !taken.contains(&p.key)).collect();
                for pod in offered {
                    taken.insert(pod.key.clone());
                    self.candidates.push(Candidate { pod: pod.clone(), layer: rank, row: self.rows.len() });
                }
            }
            self.rows.push(Row { layer: rank, report, fresh, held });
        }
    }
}

/// The lowest layer that seals a pod in a file of this name: no file of this name above it counts.
fn seal(name: &OsStr, listings: &[Listing], memory: &Memory) -> Option<(usize, Rc<WantedPod>)> {
    listings.iter().enumerate().find_map(|(rank, listing)| {
        let good = memory.layers.get(&listing.layer)?.good.get(name)?;
        Some((rank, good.pods.iter().find(|p| rivals::sealed(p))?.clone()))
    })
}

fn blank(listing: &Listing, path: PathBuf) -> FileReport {
    FileReport {
        path,
        layer: listing.layer.clone(),
        verdict: Verdict::Accepted,
        by: None,
        pods: Vec::new(),
        stale: false,
        errors: Vec::new(),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
