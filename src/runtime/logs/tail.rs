//! Where the last N lines of a log begin: backwards, block by block, over the rotated files too.
//!
//! Counts lines as the container wrote them: parts (`P`) belong to the full line after them. Reads no more than it needs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memrchr_iter;

use super::line::{Entry, FRAME_BYTES, Which, parse};

const BLOCK_BYTES: usize = 64 << 10;

/// A place in a chain of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which file, from the oldest.
    pub file: usize,
    /// Offset in it.
    pub at: u64,
}

struct Count {
    left: u64,
    only: Option<Which>,
    /// A later line of that stream was seen: a part before it is not the end of an unfinished line.
    later: [bool; 2],
    best: Place,
}

/// The start of the last `lines` lines (of one stream, or of both) in `files`, oldest first. Lets others run between blocks.
pub async fn start(files: &[File], lines: u64, only: Option<Which>) -> io::Result<Place> {
    let last = files.len().saturating_sub(1);
    let end = files.last().map_or(Ok(0), |f| f.metadata().map(|m| m.len()))?;
    let mut count = Count { left: lines, only, later: [false; 2], best: Place { file: last, at: end } };
    let mut block = vec![0; BLOCK_BYTES];
    for (index, file) in files.iter().enumerate().rev() {
        let len = file.metadata()?.len();
        let mut to = len;
        while to > 0 {
            let from = to.saturating_sub(u64::try_from(BLOCK_BYTES).unwrap_or(to));
            let size = usize::try_from(to - from).unwrap_or(0);
            let Some(part) = block.get_mut(..size) else { break };
            file.read_exact_at(part, from)?;
            let zero = (from == 0).then_some(0);
            let starts = memrchr_iter(b'\n', part).map(|at| at + 1).chain(zero);
            for start in starts {
                let at = from + u64::try_from(start).unwrap_or(0);
                if at < len && !count.include(file, part.get(start..).unwrap_or_default(), Place { file: index, at })? {
                    return Ok(count.best);
                }
            }
            to = from;
            tokio::task::yield_now().await;
        }
    }
    Ok(count.best)
}

impl Count {
    /// Counts the line that begins at `place`; `false`: it is one too many.
    fn include(&mut self, file: &File, text: &[u8], place: Place) -> io::Result<bool> {
        let mut head = [0; FRAME_BYTES + 32];
        let text = match text.get(..head.len()) {
            Some(text) => text,
            // It goes on in the block after this one.
            None => {
                let got = file.read_at(&mut head, place.at)?;
                head.get(..got).unwrap_or_default()
            }
        };
        let line = text.split(|c| *c == b'\n').next().unwrap_or_default();
        let Some(Entry { which, full, .. }) = parse(line) else { return Ok(true) };
        if self.only.is_some_and(|only| only != which) {
            return Ok(true);
        }
        let [out, err] = &mut self.later;
        let later = if which == Which::Stdout { out } else { err };
        if full || !*later {
            let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
            self.left = left;
        }
        *later = true;
        self.best = place;
        Ok(true)
    }
}
