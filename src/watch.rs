//! What the kernel says about some directories (layers of manifests, of image archives): inotify on each, on its parent, and on the nearest
//! directory above one that is not there.
//!
//! It only says that a reading is due, which files are being written to, and which names were moved aside; what is there, a reading finds out. Where inotify is
//! blind (lower layers of an overlayfs, link targets, a mount put over a layer) the rescan sees it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;

use crate::clock::{self, Moment};
use crate::sys;

/// A file just created and not written to may be complete (linked into place); its writer has this long to begin.
const BEGIN: Duration = Duration::from_millis(50);

/// A file is left alone while it is open and was written to within this; then it is read as it is.
const WRITING: Duration = Duration::from_secs(60);

/// A name that was moved to another in the same directory is what an editor does before it writes the file anew; it has this long to begin.
const ASIDE: Duration = Duration::from_millis(50);

/// The layers' watches.
#[derive(Debug)]
pub struct Watch {
    /// `None`: its limits are reached, and the rescan is all there is.
    inotify: Option<Inotify>,
    /// The same descriptor, awaited; made at the first wait, because that needs a runtime.
    awaited: Option<AsyncFd<OwnedFd>>,
    roles: BTreeMap<WatchDescriptor, Vec<Role>>,
    busy: BTreeMap<(usize, OsString), Moment>,
    /// Names that were moved aside, and until when they are waited for.
    aside: BTreeMap<(usize, OsString), Moment>,
    /// The last name that was moved away from a directory: where to, the next event tells, by the cookie.
    moved: Option<(WatchDescriptor, u32, OsString)>,
    due: bool,
}

/// Why a directory is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// It is that layer.
    Layer(usize),
    /// That layer is this one file in it.
    File(usize, OsString),
    /// A layer lies behind this name in it.
    Above(OsString),
}

impl Watch {
    /// Without watches yet: `arm` sets them. Answers the error beside it when there is no inotify to be had.
    pub fn new() -> (Watch, Option<io::Error>) {
        let (inotify, error) = match Inotify::init() {
            Ok(inotify) => (Some(inotify), None),
            Err(e) => (None, Some(e)),
        };
        (
            Watch {
                inotify,
                awaited: None,
                roles: BTreeMap::new(),
                busy: BTreeMap::new(),
                aside: BTreeMap::new(),
                moved: None,
                due: false,
            },
            error,
        )
    }

    /// Watches what stands at these paths now. Cheap to repeat: the kernel answers the same descriptor for the same directory.
    pub fn arm<'a>(&mut self, layers: impl Iterator<Item = &'a Path>) {
        let Some(mut watches) = self.inotify.as_ref().map(Inotify::watches) else { return };
        let mut roles: BTreeMap<WatchDescriptor, Vec<Role>> = BTreeMap::new();
        // MASK_ADD: two roles may fall on one directory, and each adds what it needs.
        let mut add = |path: &Path, mask: WatchMask, role: Role| {
            let wd = watches.add(path, mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR)?;
            roles.entry(wd).or_default().push(role);
            Ok::<(), io::Error>(())
        };
        let above = WatchMask::CREATE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        let inside = above | WatchMask::MODIFY | WatchMask::CLOSE_WRITE;
        for (i, layer) in layers.enumerate() {
            let single = add(layer, inside, Role::Layer(i)).is_err_and(|e| e.kind() == io::ErrorKind::NotADirectory);
            for (dir, name) in ladder(layer) {
                let role = if single { Role::File(i, name.clone()) } else { Role::Above(name.clone()) };
                if add(&dir, if single { inside } else { above }, role).is_ok() {
                    break;
                }
            }
        }
        for (wd, _) in std::mem::replace(&mut self.roles, roles) {
            if !self.roles.contains_key(&wd) {
                // It fails when the directory is gone, and then the kernel has removed the watch itself.
                let _ = watches.remove(wd);
            }
        }
    }

    /// Folds in what is queued; answers whether a reading is due. Never blocks.
    pub fn drain(&mut self, now: Moment) -> bool {
        let mut buffer = [0; 4096];
        while let Some(inotify) = &mut self.inotify {
            let Ok(events) = inotify.read_events(&mut buffer) else { break };
            let seen: Vec<_> = events.map(|e| e.to_owned()).collect();
            for event in seen {
                self.fold(&event, now);
            }
        }
        std::mem::take(&mut self.due)
    }

    /// Somebody has this file open and writes to it.
    pub fn busy(&self, layer: usize, name: &OsStr, now: Moment) -> bool {
        self.busy.iter().any(|((l, n), until)| *l == layer && n == name && *until > now)
    }

    /// This name was just moved to another in its layer.
    pub fn aside(&self, layer: usize, name: &OsStr, now: Moment) -> bool {
        self.aside.iter().any(|((l, n), until)| *l == layer && n == name && *until > now)
    }

    /// When the first busy file counts as written, though nobody closed it, or a name that was moved aside as gone.
    fn deadline(&self) -> Option<Moment> {
        self.busy.values().chain(self.aside.values()).min().copied()
    }

    /// Forgets files whose time is up.
    pub fn expire(&mut self, now: Moment) {
        self.busy.retain(|_, until| *until > now);
        self.aside.retain(|_, until| *until > now);
    }

    /// Resolves when a reading is due: something changed, a file's time is up, or the moment has come. Cancel-safe; while nothing
    /// happens it wakes once.
    pub async fn due(&mut self, by: Moment) {
        loop {
            let now = clock::now().mono;
            if self.drain(now) {
                return;
            }
            // After the drain: what it heard may have a time of its own.
            let next = self.deadline().map_or(by, |due| due.min(by));
            if next <= now {
                return;
            }
            tokio::select! {
                // The clock is cut to milliseconds: one more, so as not to wake just before.
                () = tokio::time::sleep(next - now + Duration::from_millis(1)) => {}
                () = self.queued() => {}
            }
        }
    }

    /// Waits until something is queued. Cancel-safe.
    async fn queued(&mut self) {
        if self.awaited.is_none()
            && let Some(inotify) = self.inotify.take()
        {
            match inotify.as_fd().try_clone_to_owned().and_then(sys::readable) {
                Ok(awaited) => (self.awaited, self.inotify) = (Some(awaited), Some(inotify)),
                Err(e) => log::warn!("wait for inotify: {e}: changes of manifests are seen at the rescan only"),
            }
        }
        let Some(awaited) = &self.awaited else { return std::future::pending().await };
        if let Ok(mut guard) = awaited.readable().await {
            // The caller drains until nothing is left; whatever comes after this line wakes again.
            guard.clear_ready();
        }
    }

    fn fold(&mut self, event: &Event<OsString>, now: Moment) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.busy.clear();
            self.due = true;
            return;
        }
        let Some(roles) = self.roles.get(&event.wd).cloned() else { return };
        let Some(name) = &event.name else {
            // The directory itself was moved, deleted, unmounted: whatever was known of its files is void.
            self.busy.clear();
            self.due = true;
            return;
        };
        self.pair(event, name, &roles, now);
        for role in roles {
            match role {
                Role::Above(child) => {
                    let moved = EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_FROM | EventMask::MOVED_TO;
                    self.due |= child == *name && event.mask.intersects(moved);
                }
                Role::File(layer, file) if file == *name => self.file(layer, name, event.mask, now),
                // `..data` is the link that a ConfigMap-like writer swaps to change all files at once.
                Role::Layer(layer) if !name.as_bytes().starts_with(b".") || name == "..data" => self.file(layer, name, event.mask, now),
                Role::File(..) | Role::Layer(_) => {}
            }
        }
    }

    /// The two halves of a rename within a layer.
    fn pair(&mut self, event: &Event<OsString>, name: &OsStr, roles: &[Role], now: Moment) {
        if event.mask.contains(EventMask::MOVED_FROM) {
            self.moved = Some((event.wd.clone(), event.cookie, name.to_owned()));
        } else if let Some((_, _, from)) = self.moved.take_if(|(wd, cookie, _)| *wd == event.wd && *cookie == event.cookie) {
            let layers = roles.iter().filter_map(|r| if let Role::Layer(l) | Role::File(l, _) = r { Some(*l) } else { None });
            self.aside.extend(layers.map(|l| ((l, from.clone()), now + ASIDE)));
            self.due = true;
        }
    }

    /// A name in a layer: being written to until it is closed, or in place at once.
    fn file(&mut self, layer: usize, name: &OsStr, mask: EventMask, now: Moment) {
        let key = (layer, name.to_owned());
        if mask.contains(EventMask::MODIFY) {
            self.busy.insert(key, now + WRITING);
        } else if mask.contains(EventMask::CREATE) {
            // A file opened for writing will be closed; one linked into place will not, so it waits for its time only.
            self.busy.insert(key, now + BEGIN);
        } else {
            self.busy.remove(&key);
            self.due = true;
        }
    }
}

/// The directories above a layer, nearest first, each with the name in it that leads to the layer.
fn ladder(layer: &Path) -> Vec<(PathBuf, OsString)> {
    let step = |path: &Path| {
        let dir = path.parent()?;
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Some((dir.to_owned(), path.file_name()?.to_owned()))
    };
    layer.ancestors().map_while(step).collect()
}
