//! Which probe of which container is due, and what its answers mean: thresholds, delays, the startup gate, and the end of those
//! that fail. Pure; works on memory alone, so a pod without probes costs nothing. Does not ask and does not stop anybody.
//!
//! ```text
//!  running ──> startup (if any) ──passed──> liveness, readiness, each every period
//!                 └─failed─┐                   └─ liveness failed ─> doom: sweep ends it, the restart policy goes on
//!                          └──────────────────────────^
//! ```
//! Numbers and initial results are the kubelet's (`prober/worker.go`): readiness begins as failed, liveness as passed, startup as
//! unknown; a failure that counts puts the worker on hold until there is another container id.

use std::rc::Rc;

use crate::clock::{Moment, Now, Wall};
use crate::plan::action::{Answer, Check};
use crate::plan::backoff::moment_of;
use crate::plan::world::{ContainerMemory, Doom, PodMemory, PostStart, Round, SeenContainer, State, Watch, World};
use crate::pod::{Care, Hook, Probe, Uid};

/// Probes at once over all pods: each holds a socket or a process, and an answer makes room.
const AT_ONCE: usize = 128;

/// A container that ran so long before we knew of it passes for ready until it is asked, ns (kubelet: 10 s).
const ADOPTED_NS: i64 = 10_000_000_000;

/// What is to be asked now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probing {
    /// To be begun now.
    pub checks: Vec<Check>,
    /// The next one is due then.
    pub wake: Option<Moment>,
}

/// The probes that are due.
pub fn due(world: &World, now: Moment) -> Probing {
    let mut probing = Probing::default();
    let mut ready: Vec<(Moment, Check)> = Vec::new();
    let mut asked = 0;
    for (uid, memory) in &world.memory.pods {
        for (name, c) in &memory.containers {
            let Some(watch) = &c.watch else { continue };
            asked += watch.rounds.iter().filter(|r| r.asked.is_some()).count();
            for round in watch.rounds.iter().filter(|r| r.asked.is_none() && is_open(world, uid, memory, c, watch, r)) {
                if round.due > now {
                    probing.wake = Some(probing.wake.map_or(round.due, |w| w.min(round.due)));
                } else {
                    ready.push((round.due, Check { uid: uid.clone(), name: name.clone(), id: watch.id.clone(), probe: round.probe }));
                }
            }
        }
    }
    ready.sort();
    probing.checks = ready.into_iter().take(AT_ONCE.saturating_sub(asked)).map(|(_, check)| check).collect();
    probing
}

/// Whether a probe is asked at all now.
fn is_open(world: &World, uid: &Uid, memory: &PodMemory, c: &ContainerMemory, watch: &Watch, round: &Round) -> bool {
    let seen = world.seen.pods.get(uid).and_then(|p| p.containers.get(&watch.id));
    if !seen.is_some_and(|c| matches!(c.state, State::Running { .. })) || is_starting(c, &watch.id) {
        return false;
    }
    // While a pod ends, its readiness is asked to the last; the others would only end it twice (kubelet: StopLivenessAndStartup).
    let ending = memory.terminating || world.wanted.shutdown.is_some() || memory.stops.get(&watch.id).is_some_and(|s| s.has_begun());
    let doomed = c.doom.as_ref().is_some_and(|d| d.id == watch.id);
    match round.probe {
        Probe::Startup => watch.verdict(Probe::Startup) != Some(true) && !ending && !doomed,
        Probe::Liveness => watch.has_started() && !ending && !doomed,
        Probe::Readiness => watch.has_started(),
    }
}

/// Its postStart hook is not over yet.
pub fn is_starting(c: &ContainerMemory, id: &str) -> bool {
    c.post_start.as_ref().is_some_and(|h| &*h.id == id && !h.done)
}

impl Watch {
    /// What a probe says, if it has said anything that counts.
    pub fn verdict(&self, probe: Probe) -> Option<bool> {
        self.rounds.iter().find(|r| r.probe == probe)?.verdict
    }

    fn has(&self, probe: Probe) -> bool {
        self.rounds.iter().any(|r| r.probe == probe)
    }

    /// The startup gate is open: the probe has passed in our own time, whatever status shows of an adopted container.
    pub fn has_started(&self) -> bool {
        !self.has(Probe::Startup) || self.verdict(Probe::Startup) == Some(true)
    }

    /// `started` as status shows it.
    pub fn is_started(&self) -> bool {
        !self.has(Probe::Startup) || self.verdict(Probe::Startup).unwrap_or(self.adopted)
    }

    /// `ready` as status shows it.
    pub fn is_ready(&self) -> bool {
        self.is_started() && (!self.has(Probe::Readiness) || self.verdict(Probe::Readiness).unwrap_or(self.adopted))
    }
}

/// A probe was begun.
pub(super) fn asked(world: &mut World, check: &Check, now: Moment) {
    if let Some(round) = round(world, check) {
        round.asked = Some(now);
    }
}

/// When a probe was begun that has not answered yet.
pub fn asked_at(world: &World, check: &Check) -> Option<Moment> {
    let memory = world.memory.pods.get(&check.uid)?.containers.get(&check.name)?;
    let watch = memory.watch.as_ref().filter(|w| w.id == check.id)?;
    watch.rounds.iter().find(|r| r.probe == check.probe)?.asked
}

fn round<'a>(world: &'a mut World, check: &Check) -> Option<&'a mut Round> {
    let memory = world.memory.pods.get_mut(&check.uid)?.containers.get_mut(&check.name)?;
    let watch = memory.watch.as_mut().filter(|w| w.id == check.id)?;
    watch.rounds.iter_mut().find(|r| r.probe == check.probe)
}

/// A probe has answered; says whether that changes what counts.
pub fn answered(world: &mut World, check: &Check, answer: &Answer, now: Now) -> bool {
    let Some(round) = round(world, check) else { return false };
    let began = round.asked.take().unwrap_or(now.mono);
    round.due = Moment(began.0.saturating_add(round.rule.period_ms)).max(now.mono);
    round.wrong = match answer {
        Answer::Passed | Answer::Warned(_) => None,
        Answer::Failed(why) | Answer::Errored(why) => Some(why.clone()),
    };
    let (well, why) = match answer {
        Answer::Passed | Answer::Warned(_) => (true, None),
        Answer::Failed(why) => (false, Some(why)),
        Answer::Errored(_) => return false,
    };
    let run = match round.last {
        Some((last, run)) if last == well => run.saturating_add(1),
        _ => 1,
    };
    round.last = Some((well, run));
    if run < if well { round.rule.successes } else { round.rule.failures } {
        return false;
    }
    let changed = round.verdict != Some(well);
    round.verdict = Some(well);
    if let (Some(why), Probe::Startup | Probe::Liveness) = (why, check.probe) {
        round.last = None;
        let (message, grace_ms) = (why.clone(), round.rule.grace_ms);
        let doom = Doom { id: check.id.clone(), probe: Some(check.probe), grace_ms, message };
        if let Some(c) = world.memory.pods.get_mut(&check.uid).and_then(|m| m.containers.get_mut(&check.name)) {
            c.doom = Some(Box::new(doom));
        }
    }
    if changed {
        super::status::note(world, &check.uid, now);
    }
    changed
}

/// A hook is over. A postStart hook that failed is the end of its container (kubelet: PostStartHookError).
pub(super) fn hooked(world: &mut World, uid: &Uid, id: &Rc<str>, hook: Hook, failure: Option<Rc<str>>, now: Now) {
    let Some(memory) = world.memory.pods.get_mut(uid) else { return };
    match hook {
        Hook::PreStop => {
            if let Some(stop) = memory.stops.get_mut(id) {
                stop.hook_done = true;
            }
        }
        Hook::PostStart => {
            let found = memory.containers.values_mut().find(|c| c.post_start.as_ref().is_some_and(|h| h.id == *id));
            let Some(c) = found else { return };
            if let Some(hook) = &mut c.post_start {
                hook.done = true;
            }
            if let Some(message) = failure {
                c.doom = Some(Box::new(Doom { id: id.clone(), probe: None, grace_ms: None, message }));
            }
        }
    }
    super::status::note(world, uid, now);
}

/// An attempt is about to be started: its postStart hook will be due when it runs.
pub(super) fn starting(memory: &mut ContainerMemory, care: &Care, id: &Rc<str>) {
    memory.post_start = care.post_start.then(|| PostStart { id: id.clone(), begun: false, done: false });
}

/// The newest attempt of a container was seen: begins to watch it, or forgets the one before.
pub(super) fn attend(memory: &mut ContainerMemory, uid: &Uid, c: &SeenContainer, care: Option<&Care>, now: Now) {
    // After everything of a pod was lost, an attempt is made again under the same id.
    let unborn = matches!(c.state, State::Record | State::Created);
    if memory.doom.as_ref().is_some_and(|d| d.id != c.id || unborn) {
        memory.doom = None;
    }
    let over = matches!(c.state, State::Exited(_) | State::Lost(_) | State::Dead(_));
    if memory.post_start.as_ref().is_some_and(|h| h.id != c.id || over) {
        memory.post_start = None;
    }
    let State::Running { since } = c.state else {
        memory.watch = None;
        return;
    };
    if memory.watch.as_ref().is_none_or(|w| w.id != c.id) {
        memory.watch = care.and_then(|care| watch(uid, c, since, care, now));
    }
}

fn watch(uid: &Uid, c: &SeenContainer, since: Wall, care: &Care, now: Now) -> Option<Box<Watch>> {
    let started = moment_of(since, now);
    let adopted = now.wall.0.saturating_sub(since.0) >= ADOPTED_NS;
    let due = |probe, initial_delay_ms: u64, period_ms: u64| {
        // After a start of ours all would come at once (kubelet: a random delay within the period).
        let spread = if adopted { phase(uid, &c.id, probe) % period_ms.max(1) } else { 0 };
        Moment(started.0.saturating_add(initial_delay_ms)).max(Moment(now.mono.0.saturating_add(spread)))
    };
    let rounds: Vec<Round> = care
        .probes()
        .map(|(probe, rule)| {
            let due = due(probe, rule.initial_delay_ms, rule.period_ms);
            Round { probe, rule, due, asked: None, last: None, verdict: None, wrong: None }
        })
        .collect();
    (!rounds.is_empty()).then(|| Box::new(Watch { id: c.id.clone(), started, adopted, rounds }))
}

/// A number that is another one for each probe (FNV-1a), and the same after every start.
fn phase(uid: &Uid, id: &str, probe: Probe) -> u64 {
    let bytes = uid.0.bytes().chain(id.bytes()).chain([probe as u8]);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
