//! The only loop: plan -> start actions -> one select! -> apply. The only file that knows every room.
//!
//! Decides nothing and does nothing itself. Everything it awaits is a future it owns; nothing in it blocks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};

use crate::clock::{self, Moment};
use crate::manifest::Manifests;
use crate::plan::action::{Action, Effect, Event, Outcome};
use crate::plan::record::{self, EventRing};
use crate::plan::world::{Limits, World};
use crate::plan::{apply, plan, status};
use crate::pod::{FileReport, Uid};
use crate::runtime::{Job, Runtime};
use crate::settings::Settings;
use crate::socket::{self, Counters, LogError, LogRequest, LogStream, View};
use crate::sys::signal::Signals;

/// Actions in flight are given this long to end before the process does: ending in the middle is harmless, but dull is better.
const LAST_ACTIONS: Duration = Duration::from_secs(2);

type InFlight = FuturesUnordered<LocalBoxFuture<'static, (Action, Outcome)>>;

/// What the loop keeps and the status socket reads.
struct State {
    settings: Rc<Settings>,
    runtime: Rc<Runtime>,
    world: RefCell<World>,
    files: RefCell<Vec<FileReport>>,
    ring: RefCell<EventRing>,
    counters: RefCell<Counters>,
    changes: watch::Sender<u64>,
    asked: Cell<Option<Duration>>,
    asking: Notify,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGTERM or SIGINT: the pods run on.
    Left,
    /// `plinth shutdown`: every pod is gone.
    Stopped,
}

/// What the loop was woken by.
enum Woken {
    Ended(Action, Outcome),
    Event(Event),
    Manifests,
    Asked,
    Signal(Signal),
    Clock,
}
