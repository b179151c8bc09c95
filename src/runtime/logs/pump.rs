//! From a FIFO to a log file: look, write, take, in bounded steps, one stream after the other.
//!
//! A byte leaves its FIFO after it is in the log or, of a line without its end, in the journal: a `kill -9` loses nothing.
//! In memory a stream holds such a line alone, so 1 GiB without a newline takes 16 KiB. Never blocks but in the write, which the
//! page cache takes; a disk slower than a flood is felt once the dirty pages of `log_max_files` files pass the kernel's limit.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::journal::Sample;
use super::line::{self, FRAME_BYTES, Prefix, Stamp, TEXT_BYTES, Which};
use super::pipe::Pipe;
use super::sink::Written;
use crate::clock::{self, Now};
use crate::sys::fifo::{Glass, LOOK_BYTES};

/// A write is no longer than this; text beyond it waits for the next step.
pub const CHUNK_BYTES: usize = 128 << 10;

/// A carry, and behind it what one look sees.
const INPUT_BYTES: usize = TEXT_BYTES + 1 + LOOK_BYTES;

/// How long a fast stream rests between steps: see `pipe`.
const REST: Duration = Duration::from_millis(3);

/// How often a log that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes were taken.
    Moved(usize),
    /// The FIFO is empty.
    Idle,
    /// The log cannot be written now.
    Held,
    /// The last writer has gone and everything it wrote is written.
    Ended,
    /// It cannot be read.
    Broken,
}

/// How far the lines of an input reach, how many they are, and whether the chunk took no more.
struct Cut {
    end: usize,
    lines: u64,
    full: bool,
}

/// What all streams share: one buffer to read into, one to write from.
#[derive(Debug)]
pub struct Core {
    glass: Glass,
    input: Box<[u8]>,
    out: Vec<u8>,
    stamp: Stamp,
}

impl Core {
    /// One serves every stream of the process.
    pub fn new() -> io::Result<Core> {
        let out = Vec::with_capacity(CHUNK_BYTES);
        Ok(Core { glass: Glass::new()?, input: vec![0; INPUT_BYTES].into(), out, stamp: Stamp::default() })
    }

    /// Moves at most one chunk from the FIFO to the log; at the end of the last writer, the rest of its last line.
    pub fn step(&mut self, pipe: &Pipe, now: Now) -> Step {
        let mut carry = pipe.carry.borrow_mut();
        let held = carry.len();
        let Some((front, space)) = self.input.split_at_mut_checked(held) else { return Step::Broken };
        front.copy_from_slice(&carry);
        let seen = match self.glass.look(&pipe.fd(), space) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Idle,
            Err(e) => return broken(pipe, "read", &e),
        };
        let cut = self.format(held + seen, pipe.which, seen == 0, now);
        if seen == 0 && cut.lines == 0 {
            return Step::Ended;
        }
        let mut sink = pipe.sink.borrow_mut();
        if cut.lines > 0 && sink.write(&self.out, cut.lines, now) == Written::Held {
            return Step::Held;
        }
        // All that was seen goes, its last line into the carry; only if the chunk is full the rest stays for the next step.
        let gone = if cut.full { cut.end.max(held) } else { held + seen };
        let rest = self.input.get(cut.end..gone).unwrap_or_default();
        pipe.tell(self.input.get(held..gone).unwrap_or_default());
        sink.about_to_take(pipe.which, self.input.get(held..gone).unwrap_or_default(), rest);
        *carry = rest.to_vec();
        let taken = self.glass.take(&pipe.fd(), gone - held, &mut self.input);
        sink.taken();
        drop(sink);
        match taken {
            Ok(()) if seen == 0 => Step::Ended,
            Ok(()) => Step::Moved(gone - held),
            Err(e) => broken(pipe, "take from", &e),
        }
    }

    /// Fills `out` with the lines of the first `len` bytes of `input`.
    fn format(&mut self, len: usize, which: Which, last: bool, now: Now) -> Cut {
        self.out.clear();
        let prefix = Prefix::new(&self.stamp.at(now.wall), which);
        let mut rest = self.input.get(..len).unwrap_or_default();
        let (mut lines, mut full) = (0, false);
        while let Some(cut) = line::cut(rest, last) {
            if self.out.len() + cut.text.len() + FRAME_BYTES > CHUNK_BYTES {
                full = true;
                break;
            }
            prefix.append(&mut self.out, &cut);
            lines += 1;
            rest = rest.get(cut.taken..).unwrap_or_default();
        }
        Cut { end: len - rest.len(), lines, full }
    }

    /// Takes what an earlier plinth was about to take, if it is still there.
    pub fn take_again(&mut self, pipe: &Pipe, sample: &Sample) -> io::Result<()> {
        let seen = match self.glass.look(&pipe.fd(), self.input.get_mut(..LOOK_BYTES).unwrap_or_default()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            other => other?,
        };
        let same = self.input.get(..sample.len.min(seen)).is_some_and(|front| Sample::of(front) == *sample);
        if same { self.glass.take(&pipe.fd(), sample.len, &mut self.input) } else { Ok(()) }
    }

    /// Moves what stands there now, at most `steps` chunks.
    pub fn drain(&mut self, pipe: &Pipe, steps: u32) {
        for _ in 0..steps {
            match self.step(pipe, clock::now()) {
                Step::Moved(_) => {}
                Step::Ended | Step::Broken => return pipe.end(),
                Step::Idle | Step::Held => return,
            }
        }
    }

    /// Writes the unfinished line: its end will not come.
    pub fn flush(&mut self, pipe: &Pipe) {
        let carry = pipe.carry.take();
        let now = clock::now();
        if let Some(cut) = line::cut(&carry, true) {
            self.out.clear();
            Prefix::new(&self.stamp.at(now.wall), pipe.which).append(&mut self.out, &cut);
            pipe.sink.borrow_mut().write(&self.out, 1, now);
        }
    }

    /// What all streams together keep in memory.
    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        self.input.len() + self.out.capacity()
    }
}

fn broken(pipe: &Pipe, verb: &str, e: &io::Error) -> Step {
    log::error!("{verb} FIFO `{}`: {e}: the rest of this output is lost", pipe.path.display());
    Step::Broken
}

/// Drives one stream to its end.
pub async fn run(core: Rc<RefCell<Core>>, pipe: Rc<Pipe>, mut source: AsyncFd<Rc<OwnedFd>>) {
    while !pipe.has_ended() {
        let mut ready = tokio::select! {
            ready = source.readable() => match ready {
                Ok(guard) => Some(guard),
                Err(_) => return,
            },
            () = pipe.poke.notified() => None,
        };
        if pipe.has_ended() {
            return;
        }
        let hung_up = ready.as_ref().is_some_and(|guard| guard.ready().is_read_closed());
        let now = clock::now();
        let (step, moved) = step_twice(&core, &pipe, now);
        if let (Some(guard), Step::Idle | Step::Ended) = (&mut ready, step) {
            // Of an end seen before its hang-up was reported, that report is still to come.
            guard.clear_ready();
        }
        match step {
            Step::Ended if pipe.ending.get() => pipe.end(),
            Step::Broken => pipe.end(),
            Step::Held => pause(&pipe, RETRY).await,
            Step::Idle | Step::Moved(_) if moved > 0 && !pipe.ending.get() && pipe.is_fast(now, moved) => pause(&pipe, REST).await,
            Step::Moved(_) => tokio::task::yield_now().await,
            Step::Ended | Step::Idle if hung_up => match pipe.renew() {
                Ok(fresh) => source = fresh,
                // Cleared away with its container.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return pipe.end(),
                Err(e) => {
                    broken(&pipe, "open", &e);
                    return pipe.end();
                }
            },
            Step::Ended | Step::Idle => {}
        }
    }
}

/// A FIFO must be seen empty before it is waited for (see `journal`), and after one step it mostly is.
fn step_twice(core: &Rc<RefCell<Core>>, pipe: &Pipe, now: Now) -> (Step, usize) {
    let mut core = core.borrow_mut();
    match core.step(pipe, now) {
        Step::Moved(first) if first < LOOK_BYTES => match core.step(pipe, now) {
            Step::Moved(second) => (Step::Moved(second), first + second),
            other => (other, first),
        },
        Step::Moved(first) => (Step::Moved(first), first),
        other => (other, 0),
    }
}

async fn pause(pipe: &Pipe, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = pipe.poke.notified() => {}
    }
}
