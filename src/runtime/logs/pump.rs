//! From a FIFO to a log file: look, write, take, in bounded steps, one stream after the other.
//!
//! A byte leaves its FIFO after it is in the log or, of a line without its end, in the journal: a `kill -9` loses nothing.
//! In memory a stream holds such a line alone, so 1 GiB without a newline takes 16 KiB. Never blocks but in the write, which the
//! page cache takes; a disk slower than a flood is felt once the dirty pages of `log_max_files` files pass the kernel's limit.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::journal::Sample;
use super::line::{self, FRAME_BYTES, Prefix, Stamp, TEXT_BYTES, Which};
use super::sink::{Sink, Written};
use crate::clock::{self, Now};
use crate::sys::fifo::{self, Glass, LOOK_BYTES};
use crate::sys::readable_shared;

/// A write is no longer than this; text beyond it waits for the next step.
pub const CHUNK_BYTES: usize = 128 << 10;

/// A carry, and behind it what one look sees.
const INPUT_BYTES: usize = TEXT_BYTES + 1 + LOOK_BYTES;

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
    path: PathBuf,
    fd: RefCell<Rc<OwnedFd>>,
    sink: Rc<RefCell<Sink>>,
    carry: RefCell<Vec<u8>>,
    ending: Cell<bool>,
    ended: Cell<bool>,
    poke: Notify,
    done: Notify,
    pace: Cell<(i64, u32, usize)>,
}

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

impl Pipe {
    /// A stream that flows from `fd`, the read end of the FIFO at `path`, into `sink`.
    pub fn new(which: Which, path: &Path, fd: OwnedFd, sink: Rc<RefCell<Sink>>) -> Pipe {
        let (ending, ended) = (Cell::new(false), Cell::new(false));
        let (poke, done) = (Notify::new(), Notify::new());
        let (path, fd) = (path.to_owned(), RefCell::new(Rc::new(fd)));
        Pipe { which, path, fd, sink, carry: RefCell::default(), ending, ended, poke, done, pace: Cell::default() }
    }

    /// The read end.
    pub fn fd(&self) -> Rc<OwnedFd> {
        self.fd.borrow().clone()
    }

    /// Whether it is read, and what is read lies where a writer would find it.
    pub fn is_sound(&self) -> bool {
        !self.has_ended() && fifo::is_at(&self.fd.borrow(), &self.path)
    }

    /// Opens the read end anew: a hang-up stays with the descriptor that saw it, and another writer may come (a creation
    /// repeated). The old one is closed after that, so the FIFO keeps what stands in it.
    fn renew(&self) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
        let fresh = Rc::new(fifo::open(&self.path)?);
        self.fd.replace(fresh.clone());
        readable_shared(fresh)
    }

    /// The task has ended: what stands in the FIFO is the last of it.
    pub fn expect_end(&self) {
        self.ending.set(true);
        self.poke.notify_one();
    }

    /// The unfinished line an earlier plinth held.
    pub fn put_carry(&self, carry: Vec<u8>) {
        self.carry.replace(carry);
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
        let seen = match self.glass.look(&pipe.fd.borrow(), space) {
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
        sink.about_to_take(pipe.which, self.input.get(held..gone).unwrap_or_default(), rest);
        *carry = rest.to_vec();
        let taken = self.glass.take(&pipe.fd.borrow(), gone - held, &mut self.input);
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
        let seen = match self.glass.look(&pipe.fd.borrow(), self.input.get_mut(..LOOK_BYTES).unwrap_or_default()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            other => other?,
        };
        let same = self.input.get(..sample.len.min(seen)).is_some_and(|front| Sample::of(front) == *sample);
        if same { self.glass.take(&pipe.fd.borrow(), sample.len, &mut self.input) } else { Ok(()) }
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
        if let (Some(guard), Step::Idle) = (&mut ready, step) {
            guard.clear_ready();
        }
        drop(ready);
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
