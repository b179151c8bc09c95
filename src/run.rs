//! The only loop: plan -> start actions -> one select! -> apply. The only file that knows every room.
//!
//! Decides nothing and does nothing itself. Everything it awaits is a future it owns; nothing in it blocks.

mod joined;
mod service;
mod shown;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};

use self::service::Service;
use crate::clock::{self, Moment, Now};
use crate::cluster::Cluster;
use crate::manifest::live::Manifests;
use crate::manifest::url::Url;
use crate::plan::action::{Action, Answer, Check, Event, Outcome};
use crate::plan::admit::Refusal;
use crate::plan::record::{self, EventNote, EventRing};
use crate::plan::step::earlier;
use crate::plan::world::{Limits, Link, SeenPod, World};
use crate::plan::{apply, plan, probe};
use crate::pod::{FileReport, ImageRef, PodKey, Uid, WantedPod};
use crate::runtime::{Job, Runtime, net, node};
use crate::settings::Settings;
use crate::socket::{self, Counters, Rates};
use crate::sys::memory;
use crate::sys::signal::Signals;

/// Actions in flight are given this long to end before the process does: ending in the middle is harmless, but dull is better.
const LAST_ACTIONS: Duration = Duration::from_secs(2);
/// A shutdown that an absent containerd keeps from its end is given up so long after its grace: KILLs and deletions were still to come.
const LAST_KILLS: Duration = Duration::from_secs(5);
/// And so long after where containerd answers, but cannot delete what is dead, because its disk is full, or takes calls and is late with its
/// answers. Long enough for many pods on a slow disk.
const LAST_DELETIONS: Duration = Duration::from_secs(60);
/// A socket that is taken is tried this often again, with this pause: two seconds in all.
const TAKEN_TRIES: u32 = 40;
const TAKEN_PAUSE: Duration = Duration::from_millis(50);
/// So long after the last plan, memory that is held and not used is given back: a burst of work is over, and the next is not yet there.
const QUIET: Duration = Duration::from_secs(2);
/// And this often without a plan: questions over the socket hold some too.
const QUIET_AGAIN: Duration = Duration::from_secs(60);
/// Events kept for `plinth events`; 20 pods that crash for ever need about 5 each.
const EVENTS_KEPT: usize = 1000;

/// What the loop keeps and the status socket reads.
struct State {
    settings: Rc<Settings>,
    runtime: Rc<Runtime>,
    world: RefCell<World>,
    files: RefCell<Vec<FileReport>>,
    ring: RefCell<EventRing>,
    counters: RefCell<Counters>,
    rates: RefCell<Rates>,
    /// What the machine's boot found wrong with it, and which of its settings do not count.
    degraded: Vec<String>,
    /// Where there is one to be joined. It is shown, and nothing is decided by it.
    cluster: RefCell<Weak<Cluster>>,
    /// The server of manifests, for those who look.
    url: Option<Rc<Url>>,
    /// Refusals that were told.
    refused: RefCell<BTreeMap<Uid, Refusal>>,
    changes: watch::Sender<u64>,
    /// Something changed that a plan may depend on.
    moved: Cell<bool>,
    asked: Cell<Option<Event>>,
    asking: Notify,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGTERM or SIGINT: the pods run on.
    Left,
    /// `plinth shutdown`: every pod is gone.
    Stopped,
    /// `plinth shutdown`, but containerd is away or cannot do its part: nothing more can be done in its time.
    Stuck,
}

/// Why the supervisor cannot run at all. What fails later is survived.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel gave no event loop.
    #[error("make the event loop")]
    Loop(#[source] std::io::Error),
    /// Signals cannot be awaited.
    #[error("await signals")]
    Signals(#[source] std::io::Error),
    /// The room of containers cannot be made.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::error::Error),
    /// The status socket cannot be served.
    #[error(transparent)]
    Socket(#[from] socket::listen::ListenError),
}

/// Runs the supervisor until it is told to end.
pub fn run(settings: Settings) -> Result<(), RunError> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(RunError::Loop)?;
    tokio::task::LocalSet::new().block_on(&rt, supervise(Rc::new(settings)))
}

async fn supervise(settings: Rc<Settings>) -> Result<(), RunError> {
    let signals = Signals::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).map_err(RunError::Signals)?;
    let listener = listen(&settings).await?;
    // What a reader of the log looks for first: that it came this far, and with whom it talks.
    log::info!(
        "plinth {} serves {}; manifests of {} in {}; containerd at {}",
        env!("CARGO_PKG_VERSION"),
        settings.socket.display(),
        settings.node_name,
        settings.shown_layers().join(", "),
        settings.containerd.display()
    );
    let (hints, mut events) = unbounded_channel();
    let runtime = Runtime::new(settings.clone(), hints)?;
    let mut manifests = Manifests::new(&settings, &settings.node_name);
    let state = Rc::new(State::new(settings, runtime, manifests.url()));
    let mut service = Service::new(state.runtime.logs().manager());
    let (watch, serve) = (state.runtime.clone().watch(), socket::serve(listener, state.clone()));
    let cluster = Cluster::new(&state.settings, state.clone());
    if let Some(cluster) = cluster {
        *state.cluster.borrow_mut() = Rc::downgrade(&cluster);
        // A task of its own, which nobody waits for: it ends with the loop.
        tokio::task::spawn_local(cluster.join());
    }
    joined::serve_kubelet(&state);
    if let Some(url) = manifests.url() {
        tokio::task::spawn_local(url.follow());
    }
    let end = tokio::select! {
        end = state.turn(&mut manifests, &mut events, &signals, &mut service) => end,
        taken = watch => return Err(taken.into()),
        () = serve => End::Left,
    };
    match end {
        End::Left => log::info!("ending; the pods run on and are adopted by the next start"),
        End::Stopped => log::info!("every pod is stopped; ending"),
        End::Stuck => log::error!(
            "ending, but not every pod is stopped and gone: containerd did not do it in time; what is left is adopted by the next start"
        ),
    }
    Ok(())
}

/// The socket; waited for a moment, because a child of a plinth that was just killed may hold it a little longer than its parent.
async fn listen(settings: &Settings) -> Result<socket::Listener, socket::listen::ListenError> {
    let mut tries = 0;
    loop {
        match socket::listen(&settings.socket, settings.socket_group.as_deref()) {
            Err(socket::listen::ListenError::Taken(_)) if tries < TAKEN_TRIES => tries += 1,
            done => return done,
        }
        tokio::time::sleep(TAKEN_PAUSE).await;
    }
}

impl State {
    fn new(settings: Rc<Settings>, runtime: Rc<Runtime>, url: Option<Rc<Url>>) -> State {
        let limits = Limits {
            crash_backoff_first_ms: ms(settings.crash_cap).min(Limits::default().crash_backoff_first_ms),
            crash_backoff_cap_ms: ms(settings.crash_cap),
            pulls: settings.max_parallel_pulls.max(1),
            ..Limits::default()
        };
        State {
            ring: RefCell::new(EventRing::new(&settings.node_name, EVENTS_KEPT)),
            counters: RefCell::new(Counters::new(clock::now())),
            rates: RefCell::default(),
            world: RefCell::new(World { limits, node: node::as_planned(&settings), ..World::default() }),
            files: RefCell::default(),
            degraded: node::degraded().into_iter().chain(settings.left_out.iter().cloned()).collect(),
            cluster: RefCell::default(),
            url,
            refused: RefCell::default(),
            changes: watch::Sender::new(0),
            moved: Cell::new(true),
            asked: Cell::new(None),
            asking: Notify::new(),
            runtime,
            settings,
        }
    }

    /// The loop.
    async fn turn(
        &self,
        manifests: &mut Manifests,
        events: &mut UnboundedReceiver<Event>,
        signals: &Signals,
        service: &mut Service,
    ) -> End {
        let mut in_flight = InFlight::new();
        self.read(manifests);
        service.ready();
        let mut adopted = false;
        let mut wake = None;
        let mut quiet = None;
        let mut collecting = clock::now().mono + self.settings.image_gc.period;
        loop {
            if !adopted && self.world.borrow().seen.listed.is_some() {
                adopted = true;
                manifests.adopt(&self.running());
                self.read(manifests);
                self.take_inventory();
                tokio::task::spawn_local(self.runtime.clone().collect_addresses(self.known()));
            }
            if collecting <= clock::now().mono {
                collecting = clock::now().mono + self.settings.image_gc.period;
                self.take_inventory();
                self.named_images(manifests)
                    .into_iter()
                    .for_each(|named| drop(tokio::task::spawn_local(self.runtime.clone().collect_images(named))));
            }
            let due = wake.is_some_and(|due| due <= clock::now().mono);
            if due {
                // Nobody tells of memory that was plugged in; whom the node does not take is decided on by the clock.
                self.world.borrow_mut().node = node::as_planned(&self.settings);
            }
            if self.moved.take() || due {
                wake = self.start(&mut in_flight);
                self.changes.send_modify(|n| *n = n.wrapping_add(1));
                service.status(&self.world.borrow());
                quiet = Some(clock::now().mono + QUIET);
            }
            if quiet.is_some_and(|due| due <= clock::now().mono) {
                quiet = Some(clock::now().mono + QUIET_AGAIN);
                if in_flight.is_empty()
                    && let Err(e) = memory::give_back()
                {
                    log::debug!("give memory back: {e}");
                }
            }
            let probe = self.probe();
            if self.is_stopped() {
                service.stopping();
                // What may still be in flight is of no pod: a pull that nobody waits for any more.
                self.finish(in_flight).await;
                return End::Stopped;
            }
            let stuck = self.is_stuck_from();
            if stuck.is_some_and(|due| due <= clock::now().mono) {
                service.stopping();
                return End::Stuck;
            }
            tokio::select! {
                Some(ended) = in_flight.next() => self.ended(ended),
                Some(event) = events.recv() => self.happened(event),
                () = manifests.changed() => self.read(manifests),
                () = self.asking.notified() => self.asked.take().into_iter().for_each(|e| self.happened(e)),
                () = until(earlier(Some(collecting), earlier(stuck, earlier(quiet, earlier(wake, probe))))) => {}
                () = service.beat() => {}
                signal = signals.next() => match signal {
                    Ok(Signal::SIGHUP) => { manifests.rescan(); self.read(manifests); }
                    Ok(_) => { service.stopping(); self.finish(in_flight).await; return End::Left; }
                    Err(e) => log::error!("read a signal: {e}"),
                },
            }
            // Whatever else is ready is folded in before the next plan: one plan for a burst.
            while let Ok(event) = events.try_recv() {
                self.happened(event);
            }
            while let Some(Some(ended)) = in_flight.next().now_or_never() {
                self.ended(ended);
            }
        }
    }

    /// Plans, starts what was planned, and says when to plan again.
    fn start(&self, in_flight: &mut InFlight) -> Option<Moment> {
        let now = clock::now();
        let plan = plan(&self.world.borrow(), now);
        for (action, why) in plan.actions {
            let job = self.job(&action);
            match job.key() {
                _ if matches!(action, Action::Look { .. } | Action::LookAll) => log::debug!("{action}: {why}"),
                Some(key) => log::info!("pod={key} {action}: {why}"),
                None => log::info!("{action}: {why}"),
            }
            self.note(record::started(&self.world.borrow(), &action), now);
            apply(&mut self.world.borrow_mut(), Event::Started(action.clone(), why), now);
            let key = job.key().cloned();
            let doing = self.runtime.clone().perform(job);
            in_flight.push(Box::pin(async move { Ended { outcome: doing.await, action, key, began: now.mono } }));
        }
        self.refuse(plan.refused, now);
        plan.wake
    }

    /// Begins the probes that are due, and says when the next one is. What they answer is mostly what they answered before: then
    /// nothing is planned anew.
    fn probe(&self) -> Option<Moment> {
        let now = clock::now();
        let probing = probe::due(&self.world.borrow(), now.mono);
        for check in probing.checks {
            let (pod, seen) = self.whose(&check.uid);
            apply(&mut self.world.borrow_mut(), Event::Asked(check.clone()), now);
            match pod {
                Some(pod) => self.runtime.ask(check, pod, seen.as_ref()),
                None => drop(probe::answered(&mut self.world.borrow_mut(), &check, &Answer::Errored("its manifest is gone".into()), now)),
            }
        }
        probing.wake
    }

    fn answered(&self, check: &Check, answer: &Answer) {
        let now = clock::now();
        self.note(record::answered(&self.world.borrow(), check, answer).into_iter().collect(), now);
        let took = probe::asked_at(&self.world.borrow(), check).map(|asked| now.mono - asked);
        self.counters.borrow_mut().answered(check, answer, took);
        let moved = probe::answered(&mut self.world.borrow_mut(), check, answer, now);
        if moved {
            log::info!("container={} {} probe: {answer:?}", check.id, check.probe);
            self.moved.set(true);
        }
    }

    /// A pod as it was made, else as it is wanted, and what is seen of it.
    fn whose(&self, uid: &Uid) -> (Option<Rc<WantedPod>>, Option<SeenPod>) {
        let world = self.world.borrow();
        let seen = world.seen.pods.get(uid).cloned();
        let wanted = || world.wanted.pods.values().find(|p| p.uid == *uid).cloned();
        (seen.as_ref().and_then(|s| s.made_from.clone()).or_else(wanted), seen)
    }

    /// Says once who is not taken, and why. While nothing is decided, nothing is said.
    fn refuse(&self, refused: BTreeMap<Uid, Refusal>, now: Now) {
        let world = self.world.borrow();
        if world.memory.looking || world.seen.listed.is_none() || matches!(world.seen.link, Link::Down { .. }) {
            return;
        }
        let told = self.refused.replace(refused);
        for (uid, refusal) in self.refused.borrow().iter().filter(|(uid, r)| !r.passing && told.get(*uid) != Some(r)) {
            let note = record::refused(&world, uid, refusal);
            self.counters.borrow_mut().refused(refusal.reason);
            note.iter().for_each(|n| log::warn!("pod={} is not taken: {}: {}", n.key, refusal.reason, refusal.message));
            self.note(note.into_iter().collect(), now);
        }
    }

    fn job(&self, action: &Action) -> Job {
        let world = self.world.borrow();
        let seen = action.uid().and_then(|uid| world.seen.pods.get(uid)).cloned();
        let wanted = action.uid().and_then(|uid| world.wanted.pods.values().find(|p| p.uid == *uid)).cloned();
        Job { pod: wanted.or_else(|| seen.as_ref().and_then(|s| s.made_from.clone())), seen, action: action.clone() }
    }

    fn ended(&self, Ended { action, outcome, key, began }: Ended) {
        self.moved.set(true);
        let now = clock::now();
        if let Outcome::Failed(f) = &outcome {
            let pod = key.map(|key| format!("pod={key} ")).unwrap_or_default();
            log::warn!("{pod}{action} failed ({}): {}", f.reason, f.message);
        }
        self.note(record::ended(&self.world.borrow(), &action, &outcome, now), now);
        apply(&mut self.world.borrow_mut(), Event::Ended(action.clone(), outcome.clone()), now);
        self.counters.borrow_mut().ended(&action, &outcome, now.mono - began, &self.world.borrow(), now);
        if matches!(action, Action::PrepareImage { .. }) {
            self.take_inventory();
        }
    }

    fn happened(&self, event: Event) {
        match &event {
            Event::Answered(check, answer) => return self.answered(check, answer),
            Event::Told { of, reason, message } => return self.told(of.as_ref(), reason, message),
            _ => {}
        }
        self.moved.set(true);
        match &event {
            Event::Hooked { uid, id, hook, failure } => {
                if let Some(why) = failure {
                    log::warn!("container={id} its {hook:?} hook failed: {why}");
                }
                let now = clock::now();
                self.note(record::hooked(&self.world.borrow(), uid, id, *hook, failure.as_deref()).into_iter().collect(), now);
            }
            Event::HookInClear { uid, id, message } => {
                self.counters.borrow_mut().hook_in_clear();
                let note = record::hook_in_clear(&self.world.borrow(), uid, id, message);
                self.note(note.into_iter().collect(), clock::now());
            }
            Event::Measured { uid, volume, used, limit } => {
                let note = record::measured(&self.world.borrow(), uid, volume, *used, *limit);
                self.note(note.into_iter().collect(), clock::now());
            }
            Event::Shutdown { .. } => self.note(vec![record::shutting_down(&self.world.borrow())], clock::now()),
            Event::Link(Link::Up { version }) => match &self.world.borrow().seen.link {
                Link::Down { since, .. } if since.0 > 0 => {
                    log::info!("containerd {version} answers, after {} s without", clock::now().mono.since_ms(*since) / 1000);
                }
                _ => log::info!("containerd {version} answers"),
            },
            Event::Link(Link::Down { why, .. }) => log::warn!("containerd is away: {why}; pods run on, nothing is done until it is back"),
            _ => {}
        }
        apply(&mut self.world.borrow_mut(), event, clock::now());
    }

    /// Nothing follows from it but that it is shown to those who follow.
    fn told(&self, of: Option<&Uid>, reason: &'static str, message: &str) {
        let note = record::told(&self.world.borrow(), of, reason, message);
        note.iter().for_each(|n| log::warn!("{}={} {reason}: {message}", n.kind.to_lowercase(), n.key));
        self.note(note.into_iter().collect(), clock::now());
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Reads the layers: what is wanted, and what became of each file.
    fn read(&self, manifests: &mut Manifests) {
        if self.world.borrow().host_ips.is_empty() {
            let known = self.settings.node_ips.clone();
            self.world.borrow_mut().host_ips = if known.is_empty() { net::default_address().into_iter().collect() } else { known };
        }
        let (wanted, files) = manifests.read(clock::now());
        *self.files.borrow_mut() = files;
        self.happened(Event::Wanted(wanted));
    }

    /// Every pod that is wanted or there.
    fn known(&self) -> BTreeSet<Uid> {
        let world = self.world.borrow();
        world.wanted.pods.values().map(|p| &p.uid).chain(world.seen.pods.keys()).cloned().collect()
    }

    /// The images that manifests name, and those of pods that are there; `None` while not all of either is known.
    fn named_images(&self, manifests: &Manifests) -> Option<BTreeSet<ImageRef>> {
        let world = self.world.borrow();
        let known = world.wanted.complete && world.seen.listed.is_some() && world.wanted.shutdown.is_none();
        let made = world.seen.pods.values().filter_map(|p| p.made_from.as_ref());
        known.then(|| world.wanted.pods.values().chain(made).flat_map(|p| p.named_images()).chain(manifests.images()).collect())
    }

    /// What the pods that are there were made from: they stand in for manifests that are broken since before we started.
    fn running(&self) -> Vec<Rc<WantedPod>> {
        self.world.borrow().seen.pods.values().filter_map(|p| p.made_from.clone()).collect()
    }

    fn note(&self, notes: Vec<EventNote>, now: Now) {
        let mut ring = self.ring.borrow_mut();
        notes.into_iter().for_each(|note| ring.push(note, now.wall));
    }

    /// Lets what was begun end, but not for long.
    async fn finish(&self, mut in_flight: InFlight) {
        let all = async { while in_flight.next().await.is_some() {} };
        if tokio::time::timeout(LAST_ACTIONS, join(all, self.runtime.end_sessions())).await.is_err() {
            log::info!("some actions are left half done; the next start finishes them");
        }
    }

    fn is_stopped(&self) -> bool {
        let world = self.world.borrow();
        world.wanted.shutdown.is_some() && world.all_gone()
    }

    /// A shutdown waits for containerd to come back, or to do what it failed at, but the machine's own end does not wait for ever.
    fn is_stuck_from(&self) -> Option<Moment> {
        let world = self.world.borrow();
        let is_absent = matches!(world.seen.link, Link::Down { .. }) && !self.runtime.is_silent();
        let last = if is_absent { LAST_KILLS } else { LAST_DELETIONS };
        Some(world.wanted.shutdown.as_ref()?.deadline + last)
    }
}

/// An action that ended.
struct Ended {
    action: Action,
    outcome: Outcome,
    key: Option<PodKey>,
    began: Moment,
}

type InFlight = FuturesUnordered<LocalBoxFuture<'static, Ended>>;

async fn until(wake: Option<Moment>) {
    match wake {
        Some(due) => tokio::time::sleep(due - clock::now().mono).await,
        None => std::future::pending().await,
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
