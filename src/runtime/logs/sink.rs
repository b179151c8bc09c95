//! One container's log file: whole chunks or nothing, rotation in between, and what happens when it cannot be written.
//!
//! A full or broken disk is said once and again when it is over. For `HOLD` the output stays in its FIFO and nothing is lost
//! (the container stalls once 64 KiB stand there); after that plinth reads on, drops, and counts, so that no container is
//! blocked for ever by a disk. containerd's CRI logger drops at once. Never compresses, never syncs.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rotate;
use crate::clock::{Moment, Now};

/// So long a log that cannot be written stalls its container before lines are dropped.
pub const HOLD: Duration = Duration::from_secs(10);

/// After a rotation that failed, so much more is written before the next try.
const ROTATE_RETRY_BYTES: u64 = 1 << 20;

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is in the file, or it was given up and counted: take it from the FIFO.
    Done,
    /// It is not; leave it in the FIFO and come again.
    Held,
}

/// How large a file may grow and how many are kept, the current one included.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `containerLogMaxSize`.
    pub max_bytes: u64,
    /// `containerLogMaxFiles`.
    pub max_files: u32,
}

/// The file, and the mark that says how much of it stands for output already taken from the FIFOs.
#[derive(Debug)]
pub struct Sink {
    path: PathBuf,
    bounds: Bounds,
    file: Option<File>,
    len: u64,
    ino: u64,
    rotate_at: u64,
    mark: Option<File>,
    patience: Duration,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    since: Moment,
    lines: u64,
    bytes: u64,
}

/// What the mark says: this many bytes of the file with this inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The log file's.
    pub ino: u64,
    /// Its length when the last chunk had left its FIFO.
    pub len: u64,
}

impl Sink {
    /// Opens or makes the log and its mark. A log that cannot be opened now is tried again with the first line.
    pub fn open(path: PathBuf, mark: &Path, bounds: Bounds, now: Now) -> Sink {
        let mark = match File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(mark) {
            Ok(file) => Some(file),
            Err(e) => {
                log::warn!("open `{}`: {e}: after a crash of plinth, lines of this container may stand in its log twice", mark.display());
                None
            }
        };
        let rotate_at = bounds.max_bytes;
        let mut sink = Sink { path, bounds, file: None, len: 0, ino: 0, rotate_at, mark, patience: HOLD, trouble: None };
        if let Err(e) = sink.reopen() {
            sink.say_trouble(&e, now);
        }
        sink
    }

    /// The log file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a chunk of `lines` lines, whole or not at all.
    pub fn write(&mut self, chunk: &[u8], lines: u64, now: Now) -> Written {
        match self.try_write(chunk, now) {
            Ok(()) => {
                if let Some(t) = self.trouble.take() {
                    log::warn!("log `{}` can be written again; {} lines ({} bytes) were dropped", self.path.display(), t.lines, t.bytes);
                }
                Written::Done
            }
            Err(e) => {
                self.say_trouble(&e, now);
                match &mut self.trouble {
                    Some(t) if now.mono - t.since >= self.patience => {
                        t.lines += lines;
                        t.bytes += u64::try_from(chunk.len()).unwrap_or(0);
                        Written::Done
                    }
                    _ => Written::Held,
                }
            }
        }
    }

    /// From now on what cannot be written is dropped at once: its container has ended and there is no more time.
    pub fn lose_patience(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// Says what was lost, if the trouble was not over before the end.
    pub fn close(&mut self) {
        if let Some(t) = self.trouble.take().filter(|t| t.lines > 0) {
            log::warn!("close log `{}`: it could not be written to the end; {} lines were dropped", self.path.display(), t.lines);
        }
    }

    /// Notes that everything in the file has left its FIFO. In the page cache only: it must survive our death, not the host's.
    pub fn note(&self) {
        let text = Mark { ino: self.ino, len: self.len }.to_bytes();
        if let Some(mark) = &self.mark {
            let _ = rustix::io::pwrite(mark, &text, 0);
        }
    }

    /// What was noted last, if anything ever was.
    pub fn noted(&self) -> Option<Mark> {
        let mut text = [0; 16];
        let got = rustix::io::pread(self.mark.as_ref()?, &mut text, 0).ok()?;
        if got == text.len() { Mark::from_bytes(&text) } else { None }
    }

    /// The file as it stands.
    pub fn present(&self) -> Mark {
        Mark { ino: self.ino, len: self.len }
    }

    /// What the file holds from `from` on; `None` if that is nothing, or more than `most` bytes.
    pub fn tail(&self, from: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
        let size = usize::try_from(self.len.saturating_sub(from)).unwrap_or(usize::MAX);
        let Some(file) = self.file.as_ref().filter(|_| size > 0 && size <= most) else { return Ok(None) };
        let mut text = vec![0; size];
        file.read_exact_at(&mut text, from)?;
        Ok(Some(text))
    }

    /// Ends a line that a crash tore, where the rest of it is lost.
    pub fn end_line(&mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(b"\n")?;
            self.len += 1;
        }
        Ok(())
    }

    /// Cuts the file back to `len`: a line torn by a crash goes, it still stands in its FIFO.
    pub fn cut_back(&mut self, len: u64) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.set_len(len)?;
            self.len = len;
        }
        Ok(())
    }

    fn try_write(&mut self, chunk: &[u8], now: Now) -> io::Result<()> {
        let size = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.len > 0 && self.len + size > self.rotate_at {
            self.rotate(now);
        }
        let Some(mut file) = self.file.as_ref() else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(e) = file.write_all(chunk) {
            // Whole or not at all: half a chunk would be written again with the next try.
            file.set_len(self.len)?;
            return Err(e);
        }
        self.len += size;
        Ok(())
    }

    fn rotate(&mut self, now: Now) {
        match self.try_rotate(now) {
            Ok(()) => self.rotate_at = self.bounds.max_bytes,
            Err(e) => {
                if self.rotate_at == self.bounds.max_bytes {
                    log::warn!("rotate `{}`: {e}: it grows on, and rotation is tried again every MiB", self.path.display());
                }
                self.rotate_at = self.len + ROTATE_RETRY_BYTES;
            }
        }
    }

    fn try_rotate(&mut self, now: Now) -> io::Result<()> {
        let aside = rotate::move_aside(&self.path, now.wall)?;
        let old = self.file.take();
        if let Err(e) = self.reopen() {
            // As the kubelet: no new file, so the old one gets its name back and goes on.
            self.file = old;
            if let Some(aside) = aside {
                std::fs::rename(aside, &self.path)?;
            }
            return Err(e);
        }
        let keep = usize::try_from(self.bounds.max_files.max(2) - 1).unwrap_or(1);
        if let Err(e) = rotate::prune(&self.path, keep) {
            log::warn!("delete an old log of `{}`: {e}", self.path.display());
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let file = File::options().append(true).create(true).read(true).mode(0o640).open(&self.path)?;
        let meta = file.metadata()?;
        (self.len, self.ino) = (meta.len(), meta.ino());
        self.file = Some(file);
        Ok(())
    }

    fn say_trouble(&mut self, e: &io::Error, now: Now) {
        if self.trouble.is_none() {
            let hold_s = HOLD.as_secs();
            log::warn!(
                "write log `{}`: {e}: its container is held up for {hold_s} s, then lines are dropped and counted",
                self.path.display()
            );
            self.trouble = Some(Trouble { since: now.mono, lines: 0, bytes: 0 });
        }
    }
}

impl Mark {
    fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.ino) << 64) | u128::from(self.len)).to_le_bytes()
    }

    fn from_bytes(text: &[u8; 16]) -> Option<Mark> {
        let both = u128::from_le_bytes(*text);
        Some(Mark { ino: u64::try_from(both >> 64).ok()?, len: u64::try_from(both & u128::from(u64::MAX)).ok()? })
    }
}
