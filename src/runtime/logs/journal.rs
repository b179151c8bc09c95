//! What a container's pump must find again after a `kill -9` of plinth: one small file beside the FIFOs, on a tmpfs.
//!
//! ```text
//!  look (tee) ─> write the log ─> `about_to_take` ─> take (splice) ─> `taken`
//!            (1)              (2)               (3)             (4)
//! ```
//! Killed at (1) nothing has happened. At (2) the log is longer than noted: it is cut back, the chunk still stands in its
//! FIFO. At (3) or (4) the note says what was to be taken: it is if the FIFO still begins with it. The unfinished line of each
//! stream is in the note too, for a FIFO must be emptied: its writer wakes a reader only when it finds it empty. Never synced: it need not survive the host.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::line::{TEXT_BYTES, Which};

const MAGIC: &[u8; 8] = b"plinlog1";

/// Enough of a chunk to know it again.
const SAMPLE_BYTES: usize = 64;

/// Fits into the first page, so that a kill cannot tear it.
const HEAD_BYTES: usize = 8 + 3 * 8 + 4 * 4 + 8 + 2 * SAMPLE_BYTES;

/// Where in the head it says whether something is being taken.
const TAKING_AT: u64 = 8;

/// Carries lie behind the first page, two places a stream: the one not in force is written, then the head points there.
const CARRIES_AT: u64 = 4096;

/// Room of a carry: an unfinished line, and the CR that may follow a full one.
const CARRY_ROOM: u64 = 20 << 10;

/// How long the log was, what was carried, and what was about to leave its FIFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The log file's inode number.
    pub ino: u64,
    /// Its length.
    pub len: u64,
    /// Unfinished lines of stdout and stderr.
    pub carries: [Vec<u8>; 2],
    /// From which FIFO something was to be taken.
    pub taking: Option<(Which, Sample)>,
}

/// A chunk as it can be known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its length.
    pub len: usize,
    first: [u8; SAMPLE_BYTES],
    last: [u8; SAMPLE_BYTES],
}

impl Sample {
    /// Of a chunk.
    pub fn of(chunk: &[u8]) -> Sample {
        let ends = [chunk.first_chunk().copied(), chunk.last_chunk().copied()];
        let short = || {
            let mut text = [0; SAMPLE_BYTES];
            text.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            text
        };
        let [first, last] = ends.map(|end| end.unwrap_or_else(short));
        Sample { len: chunk.len(), first, last }
    }
}

/// The file, and which places of it are in force.
#[derive(Debug)]
pub struct Journal {
    file: Option<File>,
    slots: [(u32, u32); 2],
    head: Vec<u8>,
}

impl Journal {
    /// Opens or makes it; and what an earlier plinth noted, if one did.
    pub fn open(path: &Path) -> (Journal, Option<Note>) {
        let file = match File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path) {
            Ok(file) => Some(file),
            Err(e) => {
                log::warn!("open `{}`: {e}: should plinth crash, lines of this container may be lost or doubled", path.display());
                None
            }
        };
        let mut journal = Journal { file, slots: [(0, 0); 2], head: Vec::new() };
        let note = journal.load().unwrap_or_else(|e| {
            log::warn!("read `{}`: {e}: some lines may be lost or doubled", path.display());
            None
        });
        (journal, note)
    }

    /// Notes the log as it is now written, and the chunk and carry of a stream that go with it.
    pub fn about_to_take(&mut self, log: (u64, u64), which: Which, chunk: &[u8], carry: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let [out, err] = &mut self.slots;
        let slot = if which == Which::Stdout { out } else { err };
        let place = if carry.is_empty() { slot.0 } else { 1 - slot.0.min(1) };
        if !carry.is_empty() {
            write_all_at(file, carry, carry_at(which, place))?;
        }
        *slot = (place, u32::try_from(carry.len()).unwrap_or(0));
        self.write_head(log, Some((which, Sample::of(chunk))))
    }

    /// It has left its FIFO.
    pub fn taken(&self) -> io::Result<()> {
        match &self.file {
            Some(file) => write_all_at(file, &[0], TAKING_AT),
            None => Ok(()),
        }
    }

    /// Notes the log, with nothing in between.
    pub fn settle(&mut self, log: (u64, u64)) -> io::Result<()> {
        self.write_head(log, None)
    }

    fn write_head(&mut self, log: (u64, u64), taking: Option<(Which, Sample)>) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let head = &mut self.head;
        head.clear();
        head.extend_from_slice(MAGIC);
        let code = match &taking {
            None => 0u64,
            Some((Which::Stdout, _)) => 1,
            Some((Which::Stderr, _)) => 2,
        };
        [code, log.0, log.1].iter().for_each(|n| head.extend_from_slice(&n.to_le_bytes()));
        self.slots.iter().flat_map(|(place, len)| [place, len]).for_each(|n| head.extend_from_slice(&n.to_le_bytes()));
        if let Some((_, sample)) = taking {
            head.extend_from_slice(&(u64::try_from(sample.len).unwrap_or(0)).to_le_bytes());
            head.extend_from_slice(&sample.first);
            head.extend_from_slice(&sample.last);
        }
        head.resize(HEAD_BYTES, 0);
        write_all_at(file, head, 0)
    }

    fn load(&mut self) -> io::Result<Option<Note>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut head = [0; HEAD_BYTES];
        if rustix::io::pread(file, &mut head, 0)? != HEAD_BYTES || !head.starts_with(MAGIC) {
            return Ok(None);
        }
        let mut rest = head.get(MAGIC.len()..).unwrap_or_default();
        let mut long = || take(&mut rest).map_or(0, u64::from_le_bytes);
        let (code, ino, len) = (long(), long(), long());
        let mut short = || take(&mut rest).map_or(0, u32::from_le_bytes);
        let slots = [(short(), short()), (short(), short())];
        let size = take(&mut rest).map_or(0, u64::from_le_bytes);
        let sample =
            |which, rest: &mut &[u8]| Some((which, Sample { len: usize::try_from(size).ok()?, first: take(rest)?, last: take(rest)? }));
        let taking = match code {
            1 => sample(Which::Stdout, &mut rest),
            2 => sample(Which::Stderr, &mut rest),
            _ => None,
        };
        let mut carries = [Vec::new(), Vec::new()];
        for ((carry, which), (place, len)) in carries.iter_mut().zip([Which::Stdout, Which::Stderr]).zip(slots) {
            carry.resize(usize::try_from(len).unwrap_or(0).min(TEXT_BYTES + 1), 0);
            if rustix::io::pread(file, carry.as_mut_slice(), carry_at(which, place.min(1)))? != carry.len() {
                return Ok(None);
            }
        }
        self.slots = slots.map(|(place, len)| (place.min(1), len));
        Ok(Some(Note { ino, len, carries, taking }))
    }
}

fn carry_at(which: Which, place: u32) -> u64 {
    let stream = if which == Which::Stdout { 0 } else { 2 };
    CARRIES_AT + (stream + u64::from(place)) * CARRY_ROOM
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn write_all_at(file: &File, text: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, text, at)
}
