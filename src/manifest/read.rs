//! One layer off the disk: names, then the bytes of those that changed. Synchronous, capped, and it never blocks on what it opens.
//!
//! It decides nothing but when a change is taken: a change for the worse (a file that no longer parses, is empty or gone) waits a
//! moment, because that is what a file looks like while an editor or a copy is half-way. Whatever is no regular file is never opened.
//! How long a name that is gone may take to come back depends on how it went: one that was moved aside, as editors do, gets longer.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::fstat;

use super::disk::{Place, Resolved, Stamp, content, names, open_directory, resolve};
use super::layer::{Entry, Kind, Listing, Revision, State};
use crate::clock::{Moment, Now};

/// A file that is worse than before is looked at again after this before that is believed.
const SETTLE: Duration = Duration::from_millis(50);

/// A name that was deleted may be on its way back in the next system call of who did it (install, tar, git); so short because
/// stopping waits for it.
const GONE_SETTLE: Duration = Duration::from_millis(2);

/// A change within this of the last one may leave the same times on a file (the kernel stamps files once a tick).
const STAMP_NS: i64 = 20_000_000;

/// Turns a manifest's bytes into what they say.
pub type Parse<'a> = dyn Fn(&[u8], &Path) -> Revision + 'a;

/// What a reading goes by.
pub struct Pass<'a> {
    /// Now.
    pub now: Now,
    /// Reads the bytes of a manifest.
    pub parse: &'a Parse<'a>,
    /// Tells of files that somebody has open and writes to: they stay as they are.
    pub busy: &'a dyn Fn(&OsStr) -> bool,
    /// Tells of names that were just moved aside, to another name in the layer: they are waited for.
    pub aside: &'a dyn Fn(&OsStr) -> bool,
}

/// What is known of a layer between two readings.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    name: Rc<str>,
    files: BTreeMap<OsString, Held>,
    published: Vec<Entry>,
    listed_before: bool,
    /// The file system its names were on.
    device: Option<u64>,
    gone_until: Option<Moment>,
    again: Option<Moment>,
}

/// A file as it was last read.
#[derive(Debug)]
struct Held {
    stamp: Stamp,
    /// Changed so recently that its stamp proves nothing.
    racy: bool,
    /// What it says now.
    kind: Kind,
    /// While `kind` is worse and waits: what it said before, and until when.
    before: Option<(Option<Kind>, Moment)>,
}

impl Reader {
    /// For the layer at `path`.
    pub fn new(path: &Path) -> Reader {
        Reader {
            path: path.to_owned(),
            name: path.to_string_lossy().into(),
            files: BTreeMap::new(),
            published: Vec::new(),
            listed_before: false,
            device: None,
            gone_until: None,
            again: None,
        }
    }

    /// The layer's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layer's path as it is shown.
    pub fn name(&self) -> Rc<str> {
        self.name.clone()
    }

    /// When a change that waits is due.
    pub fn again(&self) -> Option<Moment> {
        self.again
    }

    /// Reads what changed.
    pub fn read(&mut self, pass: &Pass<'_>) -> Listing {
        self.again = None;
        let (dir, state) = match Place::of(&self.path) {
            Place::Directory(fd) => (self.path.clone(), self.directory(fd, pass)),
            // The kubelet's staticPodPath may be one file, of any name.
            Place::File => self.single(pass),
            Place::None(state) => (self.path.clone(), state),
        };
        Listing { layer: self.name.clone(), dir, state }
    }

    fn directory(&mut self, fd: OwnedFd, pass: &Pass<'_>) -> State {
        let names = match names(&fd) {
            Ok(names) => names,
            Err(e) => return State::Unreadable(format!("list layer: {e}")),
        };
        let device = fstat(&fd).ok().map(|s| s.st_dev);
        if names.is_empty() && !self.published.is_empty() && self.device != device {
            return State::Emptied;
        }
        self.device = device;
        let dir = self.path.clone();
        State::Listed(self.settled(&fd, &dir, names, pass))
    }

    fn single(&mut self, pass: &Pass<'_>) -> (PathBuf, State) {
        let (Some(dir), Some(name)) = (self.path.parent().map(Path::to_owned), self.path.file_name().map(ToOwned::to_owned)) else {
            return (self.path.clone(), State::Unreadable("layer has no name".into()));
        };
        match open_directory(&dir) {
            Ok(fd) => {
                let entries = self.settled(&fd, &dir, vec![(name, true)], pass);
                (dir, State::Listed(entries))
            }
            Err(e) => (dir, State::Unreadable(format!("open the directory of the layer's file: {e}"))),
        }
    }

    /// The entries to go by: those found, or the previous ones for the moment a name may need to come back.
    fn settled(&mut self, fd: &OwnedFd, dir: &Path, names: Vec<(OsString, bool)>, pass: &Pass<'_>) -> Vec<Entry> {
        let mut gone = self.published.iter().filter(|e| !names.iter().any(|(name, _)| *name == e.name)).peekable();
        if gone.peek().is_some() {
            let until = *self.gone_until.get_or_insert(pass.now.mono + GONE_SETTLE);
            self.again = Some(until).filter(|until| *until > pass.now.mono);
            if self.again.is_some() || gone.any(|e| (pass.aside)(&e.name)) {
                return self.published.clone();
            }
        }
        self.gone_until = None;
        self.files.retain(|name, _| names.iter().any(|(n, _)| n == name));
        let entry = |(name, manifest): (OsString, bool)| {
            let kind = if manifest { self.file(fd, dir, &name, pass)? } else { Kind::NotManifest };
            Some(Entry { name, kind })
        };
        self.published = names.into_iter().filter_map(entry).collect();
        self.listed_before = true;
        self.published.clone()
    }

    /// What a file says, or said while a change for the worse waits; `None`: not to be seen yet.
    fn file(&mut self, fd: &OwnedFd, dir: &Path, name: &OsStr, pass: &Pass<'_>) -> Option<Kind> {
        if (pass.busy)(name) && self.listed_before {
            return self.files.get(name).and_then(Held::shown);
        }
        let (stamp, kind) = match resolve(fd, name) {
            Resolved::Vanished => return None,
            Resolved::Not { stamp, kind } => (stamp, Some(kind)),
            Resolved::Regular { file, stat } => {
                let stamp = Stamp::of(&stat);
                let known = self.files.get(name).is_some_and(|h| h.stamp == stamp && !h.racy);
                (stamp, (!known).then(|| content(file, &stat, &dir.join(name), pass.parse)))
            }
        };
        let Some(kind) = kind else { return self.waited(name, pass.now.mono) };
        let racy = pass.now.wall.0.saturating_sub(stamp.changed.0.saturating_mul(1_000_000_000).saturating_add(stamp.changed.1)) < STAMP_NS;
        let old = self.files.remove(name);
        let same = old.as_ref().is_some_and(|h| h.stamp == stamp);
        let before = match old {
            Some(h) if h.before.is_some() || same => h.before,
            Some(h) => Some((Some(h.kind), pass.now.mono + SETTLE)),
            None => Some((None, pass.now.mono + SETTLE)),
        };
        let waits = self.listed_before && worse(&kind);
        self.files.insert(name.to_owned(), Held { stamp, racy, kind, before: before.filter(|_| waits) });
        self.waited(name, pass.now.mono)
    }

    fn waited(&mut self, name: &OsStr, now: Moment) -> Option<Kind> {
        let held = self.files.get_mut(name)?;
        match &held.before {
            Some((_, until)) if *until > now => self.again = Some(self.again.map_or(*until, |a| a.min(*until))),
            _ => held.before = None,
        }
        held.shown()
    }
}

impl Held {
    fn shown(&self) -> Option<Kind> {
        match &self.before {
            Some((before, _)) => before.clone(),
            None => Some(self.kind.clone()),
        }
    }
}

fn worse(kind: &Kind) -> bool {
    match kind {
        Kind::Manifest(revision) => !revision.errors.is_empty(),
        Kind::Mask | Kind::Unreadable(_) | Kind::Away(_) => true,
        Kind::NotManifest => false,
    }
}

#[cfg(test)]
mod tests;
