//! Container output: FIFOs from the shim, log files in CRI format, rotation, reading back.
//!
//! ```text
//!  container ─pipe─> shim ─FIFO─> pump ──> <pod>/<container>/<n>.log ──> rotated ──> read
//! ```
//! `open` before `tasks.Create` and for every adopted container, `finish` after its task ended and before `tasks.Delete`, `run`
//! polled by the loop for ever. The only writer of these files; never a thread, never a task per stream. A container id is the
//! name of its FIFOs, so the same attempt made again finds them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::sync::Notify;

use super::paths::Paths;
use crate::clock;
use crate::pod::{PodKey, Uid};
use crate::settings::Settings;
use crate::sys::fifo;
use crate::sys::notify::ServiceManager;
use crate::sys::readable_shared;
use line::Which;
use park::Park;
use pipe::Pipe;
use pump::Core;
use sink::{Bounds, Sink};
use tap::Tap;

mod forgotten;
mod journal;
pub mod line;
mod links;
mod park;
mod pipe;
mod pump;
pub mod read;
mod recover;
pub mod rotate;
mod sink;
mod tail;
pub mod tap;

/// At the end of a container at most so many chunks are moved without letting others run: more than a FIFO and a pipe hold.
const DRAIN_STEPS: u32 = 16;

/// One attempt of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// Its pod's name.
    pub key: PodKey,
    /// Its pod's UID.
    pub uid: Uid,
    /// Its name.
    pub container: Rc<str>,
    /// Its attempt, the number of the log file.
    pub attempt: u32,
    /// Its id.
    pub id: Rc<str>,
}

/// What `tasks.Create` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FifoPaths {
    /// FIFO for standard output.
    pub stdout: PathBuf,
    /// FIFO for standard error.
    pub stderr: PathBuf,
}

/// Why output cannot be caught. A log file that cannot be written is not among them: it is said and survived.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LogsError {
    #[error("make a pipe for reading container output")]
    Core(#[source] io::Error),
    #[error("make directory `{path}`")]
    MakeDir { path: PathBuf, source: io::Error },
    #[error("make FIFO `{path}`")]
    MakeFifo { path: PathBuf, source: io::Error },
    #[error("open FIFO `{path}`")]
    OpenFifo { path: PathBuf, source: io::Error },
    #[error("watch FIFO `{path}`")]
    Watch { path: PathBuf, source: io::Error },
    #[error("remove logs `{path}`")]
    Remove { path: PathBuf, source: io::Error },
}

/// The logs of all containers. A clone is the same one.
#[derive(Clone)]
pub struct Logs(Rc<Inner>);

struct Inner {
    paths: Paths,
    links: Option<PathBuf>,
    bounds: Bounds,
    core: Rc<RefCell<Core>>,
    park: Park,
    manager: Rc<ServiceManager>,
    slots: RefCell<BTreeMap<Rc<str>, Slot>>,
    fresh: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    wake: Notify,
    changed: Rc<Notify>,
}

#[derive(Clone)]
struct Slot {
    pipes: [Rc<Pipe>; 2],
    sink: Rc<RefCell<Sink>>,
}

impl Logs {
    /// Nothing open yet.
    pub fn new(settings: &Settings) -> Result<Logs, LogsError> {
        let bounds = Bounds { max_bytes: settings.log_max_bytes, max_files: settings.log_max_files };
        let core = Rc::new(RefCell::new(Core::new().map_err(LogsError::Core)?));
        let manager = Rc::new(ServiceManager::from_env());
        Ok(Logs(Rc::new(Inner {
            paths: Paths::new(settings),
            links: settings.container_links_dir.clone(),
            bounds,
            core,
            park: Park::new(manager.clone()),
            manager,
            slots: RefCell::default(),
            fresh: RefCell::default(),
            wake: Notify::new(),
            changed: Rc::new(Notify::new()),
        })))
    }

    /// The service manager, to which `run` brings what it did not take at once.
    pub fn manager(&self) -> Rc<ServiceManager> {
        self.0.manager.clone()
    }

    /// Takes back the FIFOs an earlier plinth parked with the service manager. Once, at start, before any `open`.
    pub fn adopt_listen_fds(&self) {
        match self.0.park.take_back() {
            Ok(0) => {}
            Ok(n) => log::info!("took back {n} log FIFOs from the service manager"),
            Err(e) => log::warn!("take back log FIFOs from the service manager: {e}: output since the last stop of plinth may be lost"),
        }
    }

    /// Gives up parked FIFOs that no `open` or `finish` asked for. After the first complete look, when every container there is was opened.
    pub fn release_unclaimed(&self) {
        match self.0.park.release_rest() {
            0 => {}
            n => log::info!("released {n} parked log FIFOs of containers that are gone"),
        }
    }

    /// Makes the FIFOs (those there are kept) and opens their read ends. Before `tasks.Create`, and for every container found
    /// with a task; opening twice is opening once. To be called within the loop's runtime.
    pub fn open(&self, target: &LogTarget) -> Result<FifoPaths, LogsError> {
        let paths = self.fifo_paths(target);
        let opened = self.0.slots.borrow().get(&target.id).is_some_and(|slot| slot.pipes.iter().all(|p| p.is_sound()));
        if !opened {
            self.close(&target.id);
            self.open_anew(target, &paths)?;
        }
        Ok(paths)
    }

    /// Catches the last of a container's output and closes: to be awaited after its task ended and before `tasks.Delete`, which else
    /// waits up to 10 s for a FIFO nobody reads. Opens what an earlier plinth left. Lasts until both streams ended, or `deadline`.
    pub async fn finish(&self, target: &LogTarget, deadline: Duration) {
        let paths = self.fifo_paths(target);
        if !self.is_open(&target.id)
            && paths.stdout.exists()
            && let Err(e) = self.open(target)
        {
            log::warn!("read the last output of container `{}`: {e}", target.id);
        }
        let slot = self.0.slots.borrow().get(&target.id).cloned();
        if let Some(slot) = slot {
            slot.pipes.iter().for_each(|p| p.expect_end());
            self.drain(&slot);
            let both = async {
                for pipe in &slot.pipes {
                    pipe.wait_end().await;
                }
            };
            if tokio::time::timeout(deadline, both).await.is_err() {
                slot.sink.borrow_mut().lose_patience();
                self.drain(&slot);
                slot.pipes.iter().for_each(|p| self.0.core.borrow_mut().flush(p));
            }
        }
        self.abandon(target);
    }

    /// Closes and removes the FIFOs with whatever stands in them: for a container whose task was never created.
    pub fn abandon(&self, target: &LogTarget) {
        self.close(&target.id);
        for which in [Which::Stdout, Which::Stderr] {
            self.0.park.unpark(&target.id, which);
        }
        let paths = self.fifo_paths(target);
        let _ = fs::remove_file(&paths.stdout);
        let _ = fs::remove_file(&paths.stderr);
        let _ = fs::remove_file(self.0.paths.stdin(&target.uid, &target.id));
        let _ = fs::remove_file(self.journal_path(target));
        // Only if the mark of the start is gone too.
        let _ = fs::remove_dir(self.0.paths.io(&target.uid, &target.id));
    }

    /// Moves output for as long as it is polled, all streams in turn. One such future, held by the loop for ever.
    pub async fn run(&self) {
        let mut pumps: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut telling = std::pin::pin!(self.0.manager.run());
        loop {
            pumps.extend(self.0.fresh.take());
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = &mut telling => {}
                Some(()) = pumps.next() => {}
            }
        }
    }

    /// Whether the container may still write lines: what a reader that follows asks.
    pub fn is_open(&self, id: &str) -> bool {
        self.0.slots.borrow().contains_key(id)
    }

    /// Wakes (`notify_waiters`) whenever a container is closed.
    pub fn changed(&self) -> Rc<Notify> {
        self.0.changed.clone()
    }

    /// Listens to a container's output from now on; `None`: it has none any more.
    pub fn listen(&self, id: &str) -> Option<Rc<Tap>> {
        let slots = self.0.slots.borrow();
        let slot = slots.get(id)?;
        let tap = Rc::new(Tap::default());
        slot.pipes.iter().for_each(|p| p.listen(&tap));
        Some(tap)
    }

    /// Where the container's log lies.
    pub fn log_path(&self, target: &LogTarget) -> PathBuf {
        self.0.paths.log(&target.key, &target.uid, &target.container, target.attempt)
    }

    /// What a container's log files take, those of all its attempts: bytes, and how many they are.
    pub fn taken(&self, key: &PodKey, uid: &Uid, container: &str) -> (u64, u64) {
        let files = fs::read_dir(self.0.paths.pod_logs(key, uid).join(container)).into_iter().flatten().flatten();
        files.filter_map(|f| f.metadata().ok()).fold((0, 0), |(bytes, files), m| (bytes + m.len(), files + 1))
    }

    /// Every attempt of a pod's containers that has a log file, rotated ones among them.
    pub fn attempts(&self, key: &PodKey, uid: &Uid) -> Vec<(Rc<str>, u32)> {
        let mut found = Vec::new();
        for dir in fs::read_dir(self.0.paths.pod_logs(key, uid)).into_iter().flatten().flatten() {
            let Some(name) = dir.file_name().to_str().map(Rc::from) else { continue };
            let files = fs::read_dir(dir.path()).into_iter().flatten().flatten();
            found.extend(files.filter_map(|f| rotate::attempt(f.file_name().to_str()?)).map(|n| (Rc::clone(&name), n)));
        }
        found
    }

    /// Reads an attempt's log back.
    pub fn read(&self, target: &LogTarget, options: read::Options) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let (logs, id) = (self.clone(), target.id.clone());
        read::stream(self.log_path(target), options, move || logs.is_open(&id), self.changed())
    }

    /// Removes an attempt's log, its rotated files and its link: with the container's record, as the kubelet's container GC does.
    pub fn remove_container(&self, target: &LogTarget) -> Result<(), LogsError> {
        self.abandon(target);
        let path = self.log_path(target);
        if let Some(dir) = &self.0.links {
            links::remove(dir, target, &path);
        }
        rotate::remove(&path).map_err(|source| LogsError::Remove { path, source })
    }

    /// Removes everything that is left of a pod's logs.
    pub fn remove_pod(&self, key: &PodKey, uid: &Uid) -> Result<(), LogsError> {
        let path = self.0.paths.pod_logs(key, uid);
        if let Some(dir) = &self.0.links {
            links::sweep(dir, |to| to.starts_with(&path));
        }
        match fs::remove_dir_all(&path) {
            Err(source) if !rotate::is_gone(&source) => Err(LogsError::Remove { path, source }),
            _ => Ok(()),
        }
    }

    /// Every container that is open.
    pub fn opened(&self) -> BTreeSet<Rc<str>> {
        self.0.slots.borrow().keys().cloned().collect()
    }

    /// Closes and removes the FIFOs of a container that was deleted behind our back; its log stays.
    pub fn forget(&self, id: &str) {
        let slot = self.0.slots.borrow().get(id).cloned();
        self.close(id);
        for pipe in slot.iter().flat_map(|slot| &slot.pipes) {
            self.0.park.unpark(id, pipe.which);
            // With the mark of its start, and the journal.
            let _ = pipe.path.parent().map(fs::remove_dir_all);
        }
    }

    /// Every pod that has logs written by this plinth, whatever else is left of it.
    pub fn pods(&self) -> Vec<(PodKey, Uid)> {
        forgotten::pods(&self.0.paths)
    }

    /// Removes links of ours that lead nowhere.
    pub fn prune_links(&self) {
        if let Some(dir) = &self.0.links {
            links::prune(dir, |to| forgotten::target(&self.0.paths, to).filter(|target| !self.is_open(&target.id)));
        }
    }

    fn open_anew(&self, target: &LogTarget, paths: &FifoPaths) -> Result<(), LogsError> {
        let dir = self.0.paths.io(&target.uid, &target.id);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| LogsError::MakeDir { path: dir, source })?;
        let now = clock::now();
        let log = self.log_path(target);
        if let Some(dir) = &self.0.links {
            links::make(dir, target, &log);
        }
        let (sink, note) = Sink::open(log, &self.journal_path(target), self.0.bounds, now);
        forgotten::mark(&self.0.paths.pod_logs(&target.key, &target.uid), self.0.paths.data());
        let sink = Rc::new(RefCell::new(sink));
        let pipe = |which, path: &Path| self.open_pipe(target, which, path, &sink);
        let pipes = [pipe(Which::Stdout, &paths.stdout)?, pipe(Which::Stderr, &paths.stderr)?];
        if let Err(e) = recover::recover(&mut self.0.core.borrow_mut(), &mut sink.borrow_mut(), note, &pipes) {
            log::warn!("compare the log of container `{}` with its FIFOs: {e}: some lines may stand in it twice", target.id);
        }
        let mut fresh = Vec::new();
        for (pipe, path) in pipes.iter().zip([&paths.stdout, &paths.stderr]) {
            let source = readable_shared(pipe.fd()).map_err(|source| LogsError::Watch { path: path.clone(), source })?;
            fresh.push(Box::pin(pump::run(self.0.core.clone(), pipe.clone(), source)) as LocalBoxFuture<'static, ()>);
        }
        self.0.fresh.borrow_mut().append(&mut fresh);
        self.0.slots.borrow_mut().insert(target.id.clone(), Slot { pipes, sink });
        self.0.wake.notify_one();
        Ok(())
    }

    fn open_pipe(&self, target: &LogTarget, which: Which, path: &Path, sink: &Rc<RefCell<Sink>>) -> Result<Rc<Pipe>, LogsError> {
        fifo::make(path).map_err(|source| LogsError::MakeFifo { path: path.into(), source })?;
        let fd = match self.0.park.claim(&target.id, which, path) {
            Some(parked) => parked,
            None => {
                let fd = fifo::open(path).map_err(|source| LogsError::OpenFifo { path: path.into(), source })?;
                self.0.park.park(&target.id, which, &fd);
                fd
            }
        };
        Ok(Rc::new(Pipe::new(which, path, fd, sink.clone())))
    }

    fn drain(&self, slot: &Slot) {
        let mut core = self.0.core.borrow_mut();
        slot.pipes.iter().filter(|p| !p.has_ended()).for_each(|p| core.drain(p, DRAIN_STEPS));
    }

    fn close(&self, id: &str) {
        let slot = self.0.slots.borrow_mut().remove(id);
        if let Some(slot) = slot {
            slot.pipes.iter().for_each(|p| p.close());
            slot.sink.borrow_mut().close();
            self.0.changed.notify_waiters();
        }
    }

    fn fifo_paths(&self, target: &LogTarget) -> FifoPaths {
        let dir = self.0.paths.io(&target.uid, &target.id);
        FifoPaths { stdout: dir.join("stdout"), stderr: dir.join("stderr") }
    }

    fn journal_path(&self, target: &LogTarget) -> PathBuf {
        self.0.paths.io(&target.uid, &target.id).join("journal")
    }
}

#[cfg(test)]
mod tests;
