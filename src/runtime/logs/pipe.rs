//! One stream of one container: its FIFO's read end, its unfinished line, and whether its end has come.
//!
//! Holds state and moves nothing: `pump` does.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::line::Which;
use super::sink::Sink;
use super::tap::Tap;
use crate::clock::Now;
use crate::sys::fifo;
use crate::sys::readable_shared;

/// A stream read more often than this in one second is fast, and rests between steps: a system call for many
/// lines instead of one. Slow streams never rest, so their order against each other is kept.
const FAST_STEPS: u32 = 200;

/// Above this in one second a FIFO would fill while we rest and stall its writer.
const FAST_BYTES: usize = 8 << 20;

/// One stream of one container.
#[derive(Debug)]
pub struct Pipe {
    /// Which of the two.
    pub which: Which,
    /// Where its FIFO lies.
    pub path: PathBuf,
    fd: RefCell<Rc<OwnedFd>>,
    /// Where it flows to.
    pub sink: Rc<RefCell<Sink>>,
    /// The line without its end yet.
    pub carry: RefCell<Vec<u8>>,
    /// Its task has ended.
    pub ending: Cell<bool>,
    ended: Cell<bool>,
    /// Wakes who reads it.
    pub poke: Notify,
    done: Notify,
    pace: Cell<(i64, u32, usize)>,
    taps: RefCell<Vec<Weak<Tap>>>,
}

impl Pipe {
    /// A stream that flows from `fd`, the read end of the FIFO at `path`, into `sink`.
    pub fn new(which: Which, path: &Path, fd: OwnedFd, sink: Rc<RefCell<Sink>>) -> Pipe {
        let (ending, ended) = (Cell::new(false), Cell::new(false));
        let (poke, done) = (Notify::new(), Notify::new());
        let (path, fd) = (path.to_owned(), RefCell::new(Rc::new(fd)));
        Pipe {
            which,
            path,
            fd,
            sink,
            carry: RefCell::default(),
            ending,
            ended,
            poke,
            done,
            pace: Cell::default(),
            taps: RefCell::default(),
        }
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
    pub fn renew(&self) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
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

    /// Somebody listens from now on, for as long as he holds his tap.
    pub fn listen(&self, tap: &Rc<Tap>) {
        self.taps.borrow_mut().push(Rc::downgrade(tap));
    }

    /// What was just read, for those who listen.
    pub fn tell(&self, bytes: &[u8]) {
        if !self.taps.borrow().is_empty() {
            self.taps.borrow_mut().retain(|tap| {
                tap.upgrade().is_some_and(|tap| {
                    tap.push(self.which, bytes);
                    true
                })
            });
        }
    }

    /// Nothing will be read any more, and its container is over.
    pub fn close(&self) {
        self.end();
        self.taps.take().iter().filter_map(Weak::upgrade).for_each(|tap| tap.close());
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

    pub fn is_fast(&self, now: Now, bytes: usize) -> bool {
        let (second, steps, sum) = self.pace.get();
        let pace = if second == now.wall.secs() { (second, steps + 1, sum + bytes) } else { (now.wall.secs(), 1, bytes) };
        self.pace.set(pace);
        pace.1 > FAST_STEPS && pace.2 < FAST_BYTES
    }
}
