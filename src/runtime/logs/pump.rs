//! From a FIFO to a log file: look, write, take, in bounded steps, one stream after the other.
//!
//! ```text
//!  look (tee) ──> cut into lines ──> one write(2) ──> take (splice) ──> note the length
//! ```
//! Nothing of a stream is kept in memory between steps: a line that is not whole yet stays in its FIFO, and so does
//! everything that is not in the file yet. So a `kill -9` loses nothing, and 1 GiB without a newline takes no memory. Never blocks but in the write.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::line::{self, FRAME_BYTES, Stamp, Which};
use super::sink::{Sink, Written};
use crate::clock::{self, Now};
use crate::sys::fifo::{self, Glass, LOOK_BYTES};
use crate::sys::readable_shared;

/// A write is no longer than this; text beyond it waits for the next step.
pub const CHUNK_BYTES: usize = 128 << 10;

/// A stream read more often than this in one second is fast, and rests for `REST` between steps: a system call for many
/// lines instead of one. Slow streams never rest, so their order against each other is kept.
const FAST_STEPS: u32 = 200;

/// Above this in one second a FIFO would fill while we rest and stall its writer.
const FAST_BYTES: usize = 8 << 20;

/// See `FAST_STEPS`.
const REST: Duration = Duration::from_millis(3);

/// How often a log that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One stream of one container.
#[derive(Debug)]
pub struct Pipe {
    /// Which of the two.
    pub which: Which,
    /// The read end.
    pub fd: Rc<OwnedFd>,
    sink: Rc<RefCell<Sink>>,
    /// The FIFO holds less than a line may be long: nothing may wait in it for its newline.
    small: bool,
    ending: Cell<bool>,
    ended: Cell<bool>,
    poke: Notify,
    done: Notify,
    pace: Cell<(i64, u32, usize)>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Lines were written; `all`: everything that stood there was seen.
    Moved {
        /// There is no reason to look again before something new comes.
        all: bool,
    },
    /// Nothing, or no whole line.
    Idle,
    /// The log cannot be written now.
    Held,
    /// The last writer has gone and everything it wrote is written.
    Ended,
}

impl Pipe {
    /// A stream that flows from `fd` into `sink`.
    pub fn new(which: Which, fd: OwnedFd, sink: Rc<RefCell<Sink>>) -> Pipe {
        let small = fifo::capacity_bytes(&fd) < LOOK_BYTES;
        let (ending, ended) = (Cell::new(false), Cell::new(false));
        let (poke, done) = (Notify::new(), Notify::new());
        Pipe { which, fd: Rc::new(fd), sink, small, ending, ended, poke, done, pace: Cell::default() }
    }

    /// The task has ended: what stands in the FIFO is the last of it.
    pub fn expect_end(&self) {
        self.ending.set(true);
        self.poke.notify_one();
    }

    /// Nothing will be read any more.
    pub fn end(&self) {
        self.ended.set(true);
        self.poke.notify_one();
        self.done.notify_one();
    }

    /// Whether nothing will be read any more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Waits for that.
    pub async fn wait_end(&self) {
        while !self.has_ended() {
            self.done.notified().await;
        }
    }

    fn is_fast(&self, now: Now, bytes: usize) -> bool {
        let (second, steps, sum) = self.pace.get();
        let pace = if second == now.wall.secs() { (second, steps + 1, sum + bytes) } else { (now.wall.secs(), 1, bytes) };
        self.pace.set(pace);
        pace.1 > FAST_STEPS && pace.2 < FAST_BYTES
    }
}

/// What stands at the front of a FIFO, compared with the end of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing.
    Empty,
    /// The same lines, all of them: they were written and not taken.
    Known,
    /// Something else: what was written was taken.
    Other,
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
        Ok(Core { glass: Glass::new()?, input: vec![0; LOOK_BYTES].into(), out, stamp: Stamp::default() })
    }

    /// Moves at most one chunk from the FIFO to the log.
    pub fn step(&mut self, pipe: &Pipe, last: bool, now: Now) -> (Step, usize) {
        let seen = match self.glass.look(&pipe.fd, &mut self.input) {
            Ok(0) => return (Step::Ended, 0),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (Step::Idle, 0),
            Err(e) => return (broken(pipe, "read", &e), 0),
        };
        let (taken, lines, full) = self.format(seen, pipe, last || pipe.small, now);
        if taken == 0 {
            return (Step::Idle, 0);
        }
        let mut sink = pipe.sink.borrow_mut();
        if sink.write(&self.out, lines, now) == Written::Held {
            return (Step::Held, 0);
        }
        if let Err(e) = self.glass.take(&pipe.fd, taken, &mut self.input) {
            return (broken(pipe, "take from", &e), 0);
        }
        sink.note();
        (Step::Moved { all: seen < LOOK_BYTES && !full }, taken)
    }

    /// Fills `out` from the first `seen` bytes of `input`; how many of them it took, how many lines they are, and whether `out` is full.
    fn format(&mut self, seen: usize, pipe: &Pipe, last: bool, now: Now) -> (usize, u64, bool) {
        self.out.clear();
        let time = self.stamp.at(now.wall);
        let mut rest = self.input.get(..seen).unwrap_or_default();
        let (mut lines, mut full) = (0, false);
        while let Some(cut) = line::cut(rest, last) {
            if self.out.len() + cut.text.len() + FRAME_BYTES > CHUNK_BYTES {
                full = true;
                break;
            }
            line::append(&mut self.out, &time, pipe.which, &cut);
            lines += 1;
            rest = rest.get(cut.taken..).unwrap_or_default();
        }
        (seen - rest.len(), lines, full)
    }

    /// Takes from the FIFO's front what `known` says is in the log already: see `recover`.
    pub fn skip_known(&mut self, pipe: &Pipe, known: &[line::Entry<'_>]) -> io::Result<Head> {
        let seen = match self.glass.look(&pipe.fd, &mut self.input) {
            Ok(0) => return Ok(Head::Empty),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Head::Empty),
            Err(e) => return Err(e),
        };
        let mut rest = self.input.get(..seen).unwrap_or_default();
        for entry in known {
            let taken = match line::cut(rest, true) {
                Some(cut) if entry.full && cut.full && cut.text == entry.text => cut.taken,
                Some(_) if !entry.full && rest.starts_with(entry.text) => entry.text.len(),
                _ => return Ok(Head::Other),
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        let taken = seen - rest.len();
        self.glass.take(&pipe.fd, taken, &mut self.input)?;
        Ok(Head::Known)
    }

    /// Moves what stands there now, at most `steps` chunks.
    pub fn drain(&mut self, pipe: &Pipe, steps: u32) {
        for _ in 0..steps {
            match self.step(pipe, true, clock::now()).0 {
                Step::Moved { .. } => {}
                Step::Ended => return pipe.end(),
                Step::Idle | Step::Held => return,
            }
        }
    }
}

fn broken(pipe: &Pipe, verb: &str, e: &io::Error) -> Step {
    log::error!("{verb} the {} FIFO behind `{}`: {e}: the rest of it is lost", pipe.which.name(), pipe.sink.borrow().path().display());
    Step::Ended
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
        let last = pipe.ending.get() || (hung_up && fifo::hung_up(&pipe.fd));
        let (step, bytes) = core.borrow_mut().step(&pipe, last, now);
        if let (Some(guard), Step::Idle | Step::Moved { all: true }) = (&mut ready, step) {
            // Without having seen WouldBlock: whatever is written after the look above is a new edge.
            guard.clear_ready();
        }
        drop(ready);
        match step {
            Step::Ended => pipe.end(),
            Step::Held => pause(&pipe, RETRY).await,
            Step::Moved { all: true } if !last && pipe.is_fast(now, bytes) => pause(&pipe, REST).await,
            Step::Moved { .. } => tokio::task::yield_now().await,
            Step::Idle if hung_up => {
                // A hang-up stays set for ever: another writer came after it (a creation repeated), so watch anew.
                drop(source);
                source = match readable_shared(pipe.fd.clone()) {
                    Ok(fresh) => fresh,
                    Err(e) => {
                        broken(&pipe, "watch", &e);
                        return pipe.end();
                    }
                };
            }
            Step::Idle => {}
        }
    }
}

async fn pause(pipe: &Pipe, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = pipe.poke.notified() => {}
    }
}
