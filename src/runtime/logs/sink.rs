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

use super::journal::{Journal, Note};
use super::line::Which;
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

/// The file, and the journal that says how much of it stands for output already taken from the FIFOs.
#[derive(Debug)]
pub struct Sink {
    path: PathBuf,
    bounds: Bounds,
    file: Option<File>,
    len: u64,
    ino: u64,
    rotate_at: u64,
    journal: Journal,
    patience: Duration,
    unsafe_said: bool,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    since: Moment,
    lines: u64,
    bytes: u64,
}

impl Sink {
    /// Opens or makes the log and its journal, and what was noted there. A log that cannot be opened now is tried again with the first line.
    pub fn open(path: PathBuf, journal: &Path, bounds: Bounds, now: Now) -> (Sink, Option<Note>) {
        let (journal, note) = Journal::open(journal);
        let rotate_at = bounds.max_bytes;
        let mut sink =
            Sink { path, bounds, file: None, len: 0, ino: 0, rotate_at, journal, patience: HOLD, unsafe_said: false, trouble: None };
        if let Err(e) = sink.reopen() {
            sink.say_trouble(&e, now);
        }
        (sink, note)
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

    /// Lines dropped in the trouble that goes on.
    #[cfg(test)]
    pub fn lost_lines(&self) -> u64 {
        self.trouble.as_ref().map_or(0, |t| t.lines)
    }

    /// Notes that the file stands for everything up to `chunk`, which is the front of a FIFO, but for `carry`.
    pub fn about_to_take(&mut self, which: Which, chunk: &[u8], carry: &[u8]) {
        let noted = self.journal.about_to_take((self.ino, self.len), which, chunk, carry);
        self.heed(noted);
    }

    /// Notes that the chunk has left its FIFO.
    pub fn taken(&mut self) {
        let noted = self.journal.taken();
        self.heed(noted);
    }

    /// Notes the file as it stands.
    pub fn settle(&mut self) -> io::Result<()> {
        self.journal.settle(self.present())
    }

    /// Inode number and length of the file.
    pub fn present(&self) -> (u64, u64) {
        (self.ino, self.len)
    }

    /// A journal that cannot be written costs safety against a crash, nothing else: said once.
    fn heed(&mut self, noted: io::Result<()>) {
        if let Err(e) = noted
            && !std::mem::replace(&mut self.unsafe_said, true)
        {
            log::warn!("note the progress of `{}`: {e}: should plinth crash, lines may be lost or doubled", self.path.display());
        }
    }

    /// Ends a line that the host's end tore; the rest of it is lost.
    pub fn end_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        let Some(mut file) = self.file.as_ref().filter(|_| self.len > 0) else { return Ok(()) };
        file.read_exact_at(&mut last, self.len - 1)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            self.len += 1;
        }
        Ok(())
    }

    /// Cuts the file back to `len`: what goes still stands in its FIFO.
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
