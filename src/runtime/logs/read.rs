//! Reads logs back for `/containerLogs`: tail, since, follow; parts joined; across rotated files.
//!
//! The kubelet reads the current file alone, so that a rotation empties `kubectl logs`; here the kept rotated files count too
//! (those a kubelet left gzipped do not). A reader at rest holds one open file and no buffer. Never writes, never polls.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use memchr::memrchr;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::line::{Which, parse};
use super::{rotate, tail};
use crate::clock::Wall;
use crate::sys;

/// Read at once; more than the longest line, so that one without an end is known to be none of ours.
const READ_BYTES: usize = 32 << 10;

/// `v1.PodLogOptions`, but for `previous`, which is another path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on with what is written later, until the container ends.
    pub follow: bool,
    /// The last so many lines only.
    pub tail_lines: Option<u64>,
    /// Not what is older.
    pub since: Option<Wall>,
    /// The time before each line.
    pub timestamps: bool,
    /// No more than this.
    pub limit_bytes: Option<u64>,
    /// One stream only.
    pub which: Option<Which>,
}

/// The log at `path`, in chunks of whole lines. A stream that follows ends when `running` says no; `changed` wakes it to ask again.
pub fn stream(
    path: PathBuf,
    options: Options,
    running: impl Fn() -> bool + 'static,
    changed: Rc<Notify>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let follow = Follow { path, options, running, changed, watch: None, reader: None };
    try_unfold(follow, |mut follow| async move {
        let chunk = follow.next().await?;
        Ok(chunk.map(|chunk| (chunk, follow)))
    })
}

struct Follow<R> {
    path: PathBuf,
    options: Options,
    running: R,
    changed: Rc<Notify>,
    watch: Option<AsyncFd<OwnedFd>>,
    reader: Option<Reader>,
}

impl<R: Fn() -> bool> Follow<R> {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.options.follow && self.watch.is_none() {
            self.watch = Some(watch(&self.path)?);
        }
        let mut reader = match self.reader.take() {
            Some(reader) => {
                // Between any two chunks others run, however fast the client is.
                tokio::task::yield_now().await;
                reader
            }
            None => Reader::open(self.path.clone(), self.options.clone()).await?,
        };
        loop {
            let changed = self.changed.clone();
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            // Asked before reading: what was written before the end is read before the end.
            let alive = self.options.follow && (self.running)();
            match reader.next()? {
                Next::Chunk(chunk) => {
                    self.reader = Some(reader);
                    return Ok(Some(chunk));
                }
                Next::Skipped => tokio::task::yield_now().await,
                Next::Rest if !alive => return Ok(None),
                Next::Rest => match &self.watch {
                    Some(watch) => tokio::select! {
                        woken = woken(watch) => woken?,
                        () = changed => {}
                    },
                    None => return Ok(None),
                },
                Next::End => return Ok(None),
            }
        }
    }
}

enum Next {
    Chunk(Bytes),
    /// Something was read, nothing of it was asked for.
    Skipped,
    /// Nothing more for now.
    Rest,
    /// Nothing more ever.
    End,
}

struct Reader {
    path: PathBuf,
    options: Options,
    file: File,
    at: u64,
    left: u64,
    /// The last line given out was a part: what follows belongs to the same line.
    joining: bool,
}

impl Reader {
    async fn open(path: PathBuf, options: Options) -> io::Result<Reader> {
        let mut files = chain(&path, options.since)?;
        let place = match options.tail_lines {
            Some(lines) => tail::start(files.make_contiguous(), lines, options.which).await?,
            None => tail::Place { file: 0, at: 0 },
        };
        let file = files.drain(..).nth(place.file).ok_or(io::ErrorKind::NotFound)?;
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Reader { path, options, file, at: place.at, left, joining: false })
    }

    fn next(&mut self) -> io::Result<Next> {
        if self.left == 0 {
            return Ok(Next::End);
        }
        let mut buf = vec![0; READ_BYTES];
        let got = self.file.read_at(&mut buf, self.at)?;
        let text = buf.get(..got).unwrap_or_default();
        let whole = match memrchr(b'\n', text) {
            Some(at) => at + 1,
            // Longer than any line of ours: foreign, skipped.
            None if got == READ_BYTES => got,
            None => return Ok(if self.advance()? { Next::Skipped } else { Next::Rest }),
        };
        let mut out = Vec::with_capacity(whole);
        for line in text.get(..whole).unwrap_or_default().split_inclusive(|c| *c == b'\n') {
            self.emit(line, &mut out);
        }
        self.at += u64::try_from(whole).unwrap_or(0);
        out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= u64::try_from(out.len()).unwrap_or(self.left);
        Ok(if out.is_empty() { Next::Skipped } else { Next::Chunk(out.into()) })
    }

    fn emit(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse(line) else { return };
        let wanted = self.options.which.is_none_or(|which| which == entry.which);
        if !wanted || self.options.since.is_some_and(|since| entry.at().is_none_or(|at| at < since)) {
            return;
        }
        if self.options.timestamps && !self.joining {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if entry.full {
            out.push(b'\n');
        }
        self.joining = !entry.full;
    }

    /// Goes on to the file after this one; `false`: this one is the current one. A file that was deleted meanwhile was older than all there are.
    fn advance(&mut self) -> io::Result<bool> {
        let mine = self.file.metadata()?;
        if self.path.metadata().is_ok_and(|m| m.ino() == mine.ino() && m.dev() == mine.dev()) {
            return Ok(false);
        }
        let mut after = match chain(&self.path, None) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let at = after.iter().position(|f| f.metadata().is_ok_and(|m| m.ino() == mine.ino()));
        let Some(next) = after.drain(..).nth(at.map_or(0, |at| at + 1)) else { return Ok(false) };
        (self.file, self.at) = (next, 0);
        Ok(true)
    }
}

/// The files of a log, oldest first, the current one last; without those rotated away before `since`.
fn chain(path: &Path, since: Option<Wall>) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    for old in rotate::rotated(path)? {
        let asked = since.is_none_or(|since| rotate::time_of(path, &old).is_none_or(|at| at.secs() >= since.secs()));
        if asked && old.extension().is_none_or(|e| e != "gz") {
            files.push_back(File::open(old)?);
        }
    }
    match File::open(path) {
        Ok(file) => files.push_back(file),
        Err(e) if files.is_empty() => return Err(e),
        Err(_) => {}
    }
    Ok(files)
}

/// Watches the directory: the file itself changes its name with each rotation.
fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::DELETE_SELF;
    inotify::add_watch(&fd, dir, what)?;
    sys::readable(fd)
}

async fn woken(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut guard = watch.readable().await?;
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(watch.get_ref(), &mut events) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                guard.clear_ready();
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
}
