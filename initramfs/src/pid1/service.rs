//! One service, decided purely: its state, what happens to it, what is to be done. No clock, no process, no descriptor.
//!
//! ```text
//!            go               Started            Ready
//!  Held ──────────> Waiting ──────────> Starting ──────> Running
//!                      ^                   │ Exited, or     │ Exited, or
//!                      │  back-off         │ too slow       │ not fed
//!                      └───────────────────┴── Ending <─────┘      Stop: ─> Ending ─> Over
//! ```

/// Milliseconds since the kernel began.
pub type Ms = u64;

/// What a service is, fixed when the program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name in lines, files and cgroups.
    pub name: &'static str,
    /// It waits until these are ready (or over, if they run once), or for as long as `HELD_MS`.
    pub after: &'static [&'static str],
    /// It does one thing and ends; it is not started again.
    pub once: bool,
    /// It says READY=1; others are ready when they run.
    pub notifies: bool,
    /// It is killed when it does not say WATCHDOG=1 that often.
    pub watchdog_ms: Option<Ms>,
    /// Descriptors it may park.
    pub fds_max: usize,
    /// From TERM to KILL.
    pub grace_ms: Ms,
}

/// A service whose predecessor does not become ready starts anyway: it can say better than we what it misses.
pub const HELD_MS: Ms = 30_000;
/// A start that takes longer has failed. Generous: an emulated machine with a cold disk, on a host with much else to do, is slow.
pub const START_MS: Ms = 300_000;
/// The first restart comes fast: after `kill -9` of the supervisor no pod should notice. Doubles with each failure in a row.
pub const BACKOFF_FIRST_MS: Ms = 200;
/// And no slower than that.
pub const BACKOFF_CAP_MS: Ms = 30_000;
/// Who ran that long was healthy: its next failure is the first.
pub const HEALTHY_MS: Ms = 60_000;
/// A watchdog's victim gets SIGABRT, for its last words; then that long.
pub const ABORT_MS: Ms = 3_000;

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for another.
    Held {
        /// But no longer.
        until: Ms,
    },
    /// Starts then.
    Waiting {
        /// When.
        until: Ms,
    },
    /// Runs, and was not heard of yet.
    Starting {
        /// Since.
        since: Ms,
    },
    /// Ready.
    Running {
        /// Since.
        since: Ms,
        /// Last sign of life.
        fed: Ms,
    },
    /// Was told to end.
    Ending {
        /// SIGKILL then; `None` when it was sent.
        kill_at: Option<Ms>,
    },
    /// Ended, and is not wanted any more.
    Over,
}

/// One service's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it stands.
    pub phase: Phase,
    /// Failures in a row.
    pub failures: u32,
    /// No restart from here on.
    pub stopping: bool,
}

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Clock,
    /// Those before it are ready.
    Go,
    /// Its process was made.
    Started,
    /// It could not be.
    NotStarted(String),
    /// Its process has ended, so.
    Exited(String),
    /// READY=1.
    Ready,
    /// WATCHDOG=1.
    Fed,
    /// WATCHDOG=trigger: it says itself that it is broken.
    Broken,
    /// It is to end for good; it may be doing so already.
    Stop,
    /// No restart any more, but it ends by itself.
    LetEnd,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Make its process.
    Start,
    /// SIGTERM.
    Term,
    /// SIGABRT.
    Abort,
    /// SIGKILL.
    Kill,
    /// A line.
    Say(String),
}

impl Service {
    /// As a machine comes up.
    pub fn new(spec: &Spec, now: Ms) -> Service {
        let phase = if !spec.after.is_empty() { Phase::Held { until: now + HELD_MS } } else { Phase::Waiting { until: now } };
        Service { phase, failures: 0, stopping: false }
    }

    /// Whether it has a process.
    pub fn runs(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. } | Phase::Ending { .. })
    }

    /// Whether those after it may go.
    pub fn satisfies(&self, spec: &Spec) -> bool {
        if spec.once { self.phase == Phase::Over } else { matches!(self.phase, Phase::Running { .. }) }
    }

    /// When to come back with the clock.
    pub fn wake(&self, spec: &Spec) -> Option<Ms> {
        match self.phase {
            Phase::Held { until } | Phase::Waiting { until } => Some(until),
            Phase::Starting { since } => Some(since + START_MS),
            Phase::Running { fed, .. } => spec.watchdog_ms.map(|w| fed + w),
            Phase::Ending { kill_at } => kill_at,
            Phase::Over => None,
        }
    }
}

/// One step.
pub fn next(spec: &Spec, service: &Service, event: Event, now: Ms) -> (Service, Vec<Do>) {
    let mut s = *service;
    let due = s.wake(spec).is_some_and(|t| t <= now);
    let done = match (s.phase, event) {
        (Phase::Held { .. }, Event::Clock) if due => s.start(now),
        (Phase::Held { .. }, Event::Go) => s.start(now),
        (Phase::Waiting { .. }, Event::Clock) if due => s.start(now),
        (Phase::Held { .. } | Phase::Waiting { .. }, Event::Stop | Event::LetEnd) => {
            (s.phase, s.stopping) = (Phase::Over, true);
            Vec::new()
        }
        (Phase::Starting { since }, Event::Started) if !spec.notifies => s.ready(spec, since, now),
        (Phase::Starting { since }, Event::Ready) => s.ready(spec, since, now),
        (Phase::Starting { .. }, Event::Clock) if due => s.end(spec, format!("not ready after {} s", START_MS / 1000), now),
        (Phase::Running { since, .. }, Event::Fed | Event::Ready) => {
            s.phase = Phase::Running { since, fed: now };
            Vec::new()
        }
        (Phase::Running { .. }, Event::Clock) if due => s.abort("gave no sign of life", now),
        (Phase::Starting { .. } | Phase::Running { .. }, Event::Broken) => s.abort("says that it is broken", now),
        (Phase::Starting { .. } | Phase::Running { .. }, Event::Stop) => {
            s.stopping = true;
            s.phase = Phase::Ending { kill_at: Some(now + spec.grace_ms) };
            vec![Do::Term]
        }
        (Phase::Ending { kill_at: Some(_) }, Event::Clock) if due => {
            s.phase = Phase::Ending { kill_at: None };
            vec![Do::Kill]
        }
        (Phase::Ending { .. } | Phase::Starting { .. } | Phase::Running { .. }, Event::LetEnd) | (Phase::Ending { .. }, Event::Stop) => {
            s.stopping = true;
            Vec::new()
        }
        (Phase::Starting { .. }, Event::NotStarted(why)) => s.gone(spec, &format!("cannot start: {why}"), now),
        (Phase::Starting { since } | Phase::Running { since, .. }, Event::Exited(how)) => {
            if now.saturating_sub(since) >= HEALTHY_MS {
                s.failures = 0;
            }
            s.gone(spec, &how, now)
        }
        (Phase::Ending { .. }, Event::Exited(how)) => s.gone(spec, &how, now),
        _ => Vec::new(),
    };
    let named = |d| if let Do::Say(text) = d { Do::Say(format!("{}: {text}", spec.name)) } else { d };
    (s, done.into_iter().map(named).collect())
}

impl Service {
    fn start(&mut self, now: Ms) -> Vec<Do> {
        self.phase = Phase::Starting { since: now };
        vec![Do::Start]
    }

    fn ready(&mut self, spec: &Spec, since: Ms, now: Ms) -> Vec<Do> {
        self.phase = Phase::Running { since, fed: now };
        vec![Do::Say(if spec.notifies { format!("ready after {} ms", now.saturating_sub(since)) } else { "started".into() })]
    }

    fn end(&mut self, spec: &Spec, why: String, now: Ms) -> Vec<Do> {
        self.phase = Phase::Ending { kill_at: Some(now + spec.grace_ms) };
        vec![Do::Say(format!("{why}: ending it")), Do::Term]
    }

    fn abort(&mut self, why: &str, now: Ms) -> Vec<Do> {
        self.phase = Phase::Ending { kill_at: Some(now + ABORT_MS) };
        vec![Do::Say(format!("{why}: aborting it")), Do::Abort]
    }

    fn gone(&mut self, spec: &Spec, how: &str, now: Ms) -> Vec<Do> {
        if self.stopping || spec.once {
            self.phase = Phase::Over;
            return vec![Do::Say(how.to_owned())];
        }
        let delay = (BACKOFF_FIRST_MS << self.failures.min(16)).min(BACKOFF_CAP_MS);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting { until: now + delay };
        vec![Do::Say(format!("{how}; starts again in {delay} ms"))]
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
