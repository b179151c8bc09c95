//! After a crash of plinth between the write and the take of a chunk: the chunk is in the log, and still in its FIFO.
//!
//! The mark (`Sink::note`) says how long the log was when the last chunk had left its FIFO. What stands beyond it is one chunk of
//! one stream; if the FIFO begins with the very same lines, they are taken from it, and the log holds every line once.
//! Never drops a line: only what is found in both places is skipped.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::line::{self, Entry};
use super::pump::{CHUNK_BYTES, Core, Head, Pipe};
use super::sink::{Mark, Sink};

/// Makes the log and the FIFOs agree; to be called once the read ends are open and before anything is read.
pub fn recover(core: &mut Core, sink: &Rc<RefCell<Sink>>, pipes: &[Rc<Pipe>]) -> io::Result<()> {
    let mut sink = sink.borrow_mut();
    let present = sink.present();
    let from = match sink.noted() {
        Some(Mark { ino, len }) if ino == present.ino => len,
        // It was rotated since, and a rotation comes before the first write to the new file.
        Some(_) => 0,
        None => present.len,
    };
    if let Some(text) = sink.tail(from, CHUNK_BYTES)? {
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        let (lines, torn) = text.split_at_checked(whole).unwrap_or((&text, &[]));
        let head = compare(core, pipes, lines, torn)?;
        match head {
            _ if torn.is_empty() => {}
            Head::Known => sink.cut_back(from + u64::try_from(whole).unwrap_or(0))?,
            Head::Empty | Head::Other => sink.end_line()?,
        }
    }
    sink.note();
    Ok(())
}

fn compare(core: &mut Core, pipes: &[Rc<Pipe>], lines: &[u8], torn: &[u8]) -> io::Result<Head> {
    let known: Option<Vec<Entry<'_>>> = lines.split_inclusive(|c| *c == b'\n').map(line::parse).collect();
    let known = known.unwrap_or_default();
    let which = known.first().map(|e| e.which).or_else(|| line::parse(torn).map(|e| e.which));
    match pipes.iter().find(|p| Some(p.which) == which) {
        Some(pipe) => core.skip_known(pipe, &known),
        // Torn before its text began.
        None if lines.is_empty() => Ok(Head::Known),
        None => Ok(Head::Other),
    }
}
