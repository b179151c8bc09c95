//! The image archives of this host: which of them holds an image, and that there are new ones.
//!
//! Directories are listed anew for each question, and archives read again when they changed; nothing is written. `watch` only says
//! that something changed: what there is, the next question finds out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::sync::Notify;

use super::Runtime;
use super::archive::layout::Descriptor;
use super::archive::{Archive, Stamp};
use super::error::chain;
use crate::clock;
use crate::plan::action::Event;
use crate::pod::ImageRef;
use crate::watch::Watch;

/// All archives of the image directories.
#[derive(Default)]
pub struct Archives {
    /// What was read; of what cannot be read, which state of it.
    read: RefCell<BTreeMap<PathBuf, Result<Rc<Archive>, Stamp>>>,
    changed: Notify,
}

impl Archives {
    /// The first archive, in order of search, that holds this image. What cannot be read is said once, and skipped.
    pub fn find(&self, dirs: &[PathBuf], image: &ImageRef) -> Option<(Rc<Archive>, Descriptor)> {
        let mut known = self.read.borrow_mut();
        let there: Vec<_> = tars(dirs).collect();
        known.retain(|path, _| there.iter().any(|(listed, _)| listed == path));
        for (path, stamp) in there {
            if known.get(&path).is_none_or(|a| a.as_ref().map_or_else(|s| *s, |a| a.stamp()) != stamp) {
                let read = Archive::read(&path, stamp).inspect_err(|e| log::warn!("{}; skipped", chain(e)));
                known.insert(path.clone(), read.map(Rc::new).map_err(|_| stamp));
            }
            if let Some(Ok(archive)) = known.get(&path)
                && let Some(descriptor) = archive.holds(image)
            {
                return Some((archive.clone(), descriptor));
            }
        }
        None
    }

    /// Ends when an archive holds this image.
    pub async fn arrival(&self, dirs: &[PathBuf], image: &ImageRef) {
        loop {
            let changed = self.changed.notified();
            if self.find(dirs, image).is_some() {
                return;
            }
            changed.await;
        }
    }
}

/// Every `*.tar` of the directories, in order of search.
fn tars(dirs: &[PathBuf]) -> impl Iterator<Item = (PathBuf, Stamp)> {
    dirs.iter().flat_map(|d| sorted(d)).filter_map(|path| Stamp::of(&path).map(|stamp| (path, stamp)))
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "tar")).collect();
    paths.sort();
    paths
}

/// Says when archives came, changed or went: by inotify, and by a look at the interval manifests have. Never ends.
pub(super) async fn watch(rt: Rc<Runtime>) {
    let dirs = &rt.settings.image_dirs;
    let (mut watch, _) = Watch::new();
    let mut known: Option<Vec<(PathBuf, Stamp)>> = None;
    loop {
        let now = clock::now().mono;
        watch.drain(now);
        watch.expire(now);
        watch.arm(dirs.iter().map(PathBuf::as_path));
        // One that is being written is not there yet.
        let being_written = |path: &Path| {
            dirs.iter().enumerate().any(|(i, d)| path.parent() == Some(d) && path.file_name().is_some_and(|n| watch.busy(i, n, now)))
        };
        let there: Vec<_> = tars(dirs).filter(|(path, _)| !being_written(path)).collect();
        if known.as_ref().is_some_and(|known| *known != there) {
            rt.archives.changed.notify_waiters();
            rt.tell(Event::Archives);
        }
        known = Some(there);
        watch.due(now + rt.settings.rescan).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn of_an_archive_that_went_nothing_is_kept() {
        let dir = std::env::temp_dir().join(format!("pltest-archives-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (archives, image) = (Archives::default(), ImageRef("localhost/x:1".into()));
        for name in ["a.tar", "b.tar"] {
            std::fs::write(dir.join(name), "no archive").unwrap();
        }
        let kept = || {
            assert!(archives.find(std::slice::from_ref(&dir), &image).is_none());
            archives.read.borrow().keys().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kept(), ["a.tar", "b.tar"]);
        std::fs::remove_file(dir.join("a.tar")).unwrap();
        assert_eq!(kept(), ["b.tar"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
