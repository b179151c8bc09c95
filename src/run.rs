//! The only loop: plan -> start actions -> one select! -> apply. The only file that knows every room.
//!
//! Decides nothing and does nothing itself. Everything it awaits is a future it owns; nothing in it blocks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::clock::{self, Moment};
use crate::manifest::Manifests;
use crate::plan::action::{Action, Event, Failure, Outcome, Why};
use crate::plan::record::EventRing;
use crate::plan::world::{Limits, Link, World};
use crate::plan::{apply, plan, record};
use crate::pod::FileReport;
use crate::runtime::{Job, Runtime};
use crate::settings::Settings;
use crate::socket;
use crate::sys::signal::Signals;

/// Actions in flight are given this long to end before the process does: ending in the middle is harmless, but dull is better.
const LAST_ACTIONS: Duration = Duration::from_secs(2);

/// What the loop keeps and the status socket reads.
struct State {
    settings: Rc<Settings>,
    world: RefCell<World>,
    files: RefCell<Vec<FileReport>>,
    ring: RefCell<EventRing>,
    runtime: Rc<Runtime>,
    changed: socket::Changed,
    /// `plinth shutdown` asks for this grace.
    asked: Cell<Option<Duration>>,
}

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM or SIGINT: the pods run on.
    Left,
    /// `plinth shutdown`: every pod is gone.
    Stopped,
}
