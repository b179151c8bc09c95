//! What an earlier plinth left in the middle: makes log, FIFOs and journal agree again.
//!
//! The one place where equal bytes are taken for the same bytes: a chunk noted as about to be taken, found at the front of its
//! FIFO. It is wrong only if the kill fell between two neighbouring system calls and the container wrote the same again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use super::journal::Note;
use super::pipe::Pipe;
use super::pump::{CHUNK_BYTES, Core};
use super::rotate;
use super::sink::Sink;

/// To be called once the read ends are open and before anything is read.
pub fn recover(core: &mut Core, sink: &mut Sink, note: Option<Note>, pipes: &[Rc<Pipe>; 2]) -> io::Result<()> {
    match note {
        Some(note) => {
            cut_back(sink, &note)?;
            if let Some((which, sample)) = &note.taking {
                for pipe in pipes.iter().filter(|p| p.which == *which) {
                    core.take_again(pipe, sample)?;
                }
            }
            pipes.iter().zip(note.carries).for_each(|(pipe, carry)| pipe.put_carry(carry));
        }
        // The host went down in the middle of a line.
        None => sink.end_line()?,
    }
    sink.settle()
}

/// What stands in the log beyond its noted length was written by the step that was killed, perhaps in part, and not taken.
fn cut_back(sink: &mut Sink, note: &Note) -> io::Result<()> {
    let (ino, len) = sink.present();
    let before = rotate::rotated(sink.path())?.pop();
    let noted = if ino == note.ino {
        note.len
    } else if before.is_some_and(|old| fs::metadata(old).is_ok_and(|m| m.ino() == note.ino)) {
        // That step began with a rotation.
        0
    } else {
        return Ok(());
    };
    let most = u64::try_from(CHUNK_BYTES).unwrap_or(0);
    if len > noted && len - noted <= most { sink.cut_back(noted) } else { Ok(()) }
}
