//! One run: a seed makes wishes, chaos and faults; the plan's actions are carried out in virtual time; the laws watch every step.
//!
//! ```text
//!  chaos ─────────────────> calm ──────────────> settled ─> amnesia ─> settled, and nobody was touched
//!  edits, crashes, faults,   no fault, every       (law 1)    (laws 2, 3)
//!  restarts, amnesia         process behaves
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use plinth::clock::{Moment, Now, Wall};
use plinth::plan::action::{Action, Check, Event, Outcome, Plan};
use plinth::plan::step::earlier;
use plinth::plan::world::{ContainerMemory, Link, PodMemory, Seen, State, Wanted, World};
use plinth::plan::{apply, probe};
use plinth::pod::{Hook, PodKey, Probe, Uid, WantedPod};

use crate::host::{Fault, Host, TruePod};
use crate::laws::{Bench, Breach, alive, at_rest, breach, independent, is_crowded_out};
use crate::mutate::Mutation;
use crate::rng::Rng;
use crate::story;
use crate::wish::{IMAGES, wish};

/// Virtual time starts here, ms: far from zero, so that a reboot can begin again at zero.
const EPOCH_MS: u64 = 1_000_000;

/// The wall clock at the epoch, ms since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// All must be settled so long after the chaos, ms: the longest back-offs (300 s of a pull, then of a crash) with room.
const CALM_MS: u64 = 3_600_000;

/// The slow look at everything, ms.
const PERIODIC_MS: u64 = 60_000;

/// What may go wrong in a run; a failing run is tried again with less, to show the smallest that still fails.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Pods at once.
    pub pods: u64,
    /// Length of the chaos, ms.
    pub chaos_ms: u64,
    /// Actions that fail, of a hundred.
    pub faults: u64,
    /// Kinds of chaos left out, by bit.
    pub off: u32,
    /// Write down what happens.
    pub trace: bool,
}

/// What is due at a moment.
#[derive(Debug)]
pub enum Item {
    Effect(u64),
    End(u64),
    Hint(Uid),
    Answer(Check),
    Hooked(Uid, Rc<str>, Hook),
    Periodic,
    Chaos,
    LinkUp,
    Complete,
}

/// One action in flight.
pub(crate) struct Job {
    pub(crate) action: Action,
    fault: Fault,
    pub(crate) outcome: Option<Outcome>,
}

/// One run.
pub struct Sim {
    pub(crate) knobs: Knobs,
    mutation: Mutation,
    planner: fn(&World, Now) -> Plan,
    pub(crate) rng: Rng,
    /// Virtual time, ms.
    pub(crate) ms: u64,
    /// When this boot began, ms.
    pub(crate) boot: u64,
    pub(crate) host: Host,
    pub(crate) world: World,
    pub(crate) wishes: BTreeMap<PodKey, Rc<WantedPod>>,
    queue: BTreeMap<(u64, u64), Item>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    serial: u64,
    revision: u64,
    pub(crate) calm: bool,
    /// And all is as it should be.
    settled: bool,
    /// Hints that were lost are made up for by a slow look before then, ms.
    quiet_from: u64,
    pub(crate) bench: Bench,
    /// Actions that were started, looks not counted.
    pub acts: u64,
    /// What happened, if it is written down.
    pub trace: Vec<String>,
}

/// Wall times are the virtual time plus a constant, so the judges can read them back; an unknown one is `None`.
pub fn ms_of(wall: Wall) -> Option<u64> {
    u64::try_from(wall.0 / 1_000_000).ok()?.checked_sub(WALL_MS)
}

/// A startup probe or a postStart hook has not come to its end.
pub(crate) fn is_starting(memory: &PodMemory) -> bool {
    let starting = |c: &ContainerMemory| {
        let gate = c.watch.as_ref().is_some_and(|w| w.rounds.iter().any(|r| r.probe == Probe::Startup && r.verdict != Some(true)));
        gate || c.post_start.as_ref().is_some_and(|h| !h.done)
    };
    memory.containers.values().any(starting)
}

impl Sim {
    /// Prepares a run.
    pub fn new(seed: u64, knobs: Knobs, mutation: Mutation) -> Sim {
        let mut sim = Sim {
            knobs,
            mutation,
            planner: mutation.planner(),
            rng: Rng::new(seed),
            ms: EPOCH_MS,
            boot: 0,
            host: Host::default(),
            world: World::default(),
            wishes: BTreeMap::new(),
            queue: BTreeMap::new(),
            jobs: BTreeMap::new(),
            serial: 0,
            revision: 0,
            calm: false,
            settled: false,
            quiet_from: 0,
            bench: Bench::default(),
            acts: 0,
            trace: Vec::new(),
        };
        sim.world.limits.pulls = usize::try_from(sim.rng.between(1, 3)).unwrap();
        sim.host.lists_foreign = mutation == Mutation::ListForeign;
        for image in IMAGES {
            if sim.rng.percent(60) {
                sim.host.images.insert(plinth::pod::ImageRef(image.into()));
            }
        }
        let stranger = wish(&mut sim.rng, 99, 0).pod;
        let seen = plinth::plan::world::SeenPod { key: Some(stranger.key.clone()), ..Default::default() };
        sim.host.foreign.insert(Uid("stranger".into()), TruePod { pod: stranger, seen, data: false, logs: Default::default() });
        for index in 0..knobs.pods {
            if sim.rng.percent(70) {
                sim.want(index);
            }
        }
        sim
    }

    /// Runs it through.
    pub fn run(&mut self) -> Result<(), Breach> {
        self.begin_life();
        self.at(0, Item::Periodic);
        self.at(1, Item::Chaos);
        let end = self.ms + self.knobs.chaos_ms;
        self.until(end, |_| false)?;
        if self.rng.percent(25) {
            self.shut_down()?;
        }
        self.calm_down();
        let settled = self.until(self.ms + CALM_MS, Sim::is_quiet)?;
        self.check_settled(settled)?;
        self.check_idempotent()?;
        self.check_amnesia()
    }

    pub(crate) fn now(&self) -> Now {
        let wall = i64::try_from((WALL_MS + self.ms) * 1_000_000).unwrap();
        Now { mono: Moment(self.ms - self.boot), wall: Wall(wall) }
    }

    pub(crate) fn at(&mut self, after_ms: u64, item: Item) {
        self.serial += 1;
        self.queue.insert((self.ms + after_ms, self.serial), item);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.knobs.trace {
            let line = format!("{:>9} {}", self.ms, line());
            self.trace.push(line);
        }
    }

    pub(crate) fn apply(&mut self, event: Event) {
        let now = self.now();
        apply(&mut self.world, event, now);
        self.mutation.spoil(&mut self.world);
    }

    /// Goes on until a time, or until a condition holds; says whether it did.
    fn until(&mut self, end: u64, done: fn(&Sim) -> bool) -> Result<bool, Breach> {
        loop {
            let wake = self.decide()?;
            if done(self) {
                return Ok(true);
            }
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let process = self.host.ends.values().map(|(at, _)| *at).min();
            let next = [queued, process, wake.map(|w| w.0 + self.boot)].into_iter().flatten().min().unwrap_or(end);
            if next > end {
                self.ms = end;
                return Ok(done(self));
            }
            self.ms = self.ms.max(next);
            self.bench.not_forgotten(&self.host, self.ms)?;
            self.processes();
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.ms) {
                let item = entry.remove();
                self.handle(item)?;
            }
            self.bench.tidy(&self.host, &self.world);
        }
    }

    /// Plans, checks the plan, starts its actions.
    fn decide(&mut self) -> Result<Option<Moment>, Breach> {
        let mut plan = (self.planner)(&self.world, self.now());
        self.mutation.bend(&mut plan, &self.world, self.settled);
        alive(&plan, &self.world)?;
        self.check_independence(&plan)?;
        let mut wake = plan.wake;
        for (action, why) in plan.actions {
            self.note(|| format!("{} {action}: {why}", action.uid().map_or(String::new(), ToString::to_string)));
            self.bench.starts(&action, &self.world, &self.host, self.ms, self.boot)?;
            self.acts += u64::from(!matches!(action, Action::LookAll | Action::Look { .. }));
            if self.mutation != Mutation::ForgetStarted {
                self.apply(Event::Started(action.clone(), why));
            }
            self.launch(action);
        }
        if wake.is_some_and(|w| w <= self.now().mono) {
            return breach(7, format!("wakes at once: {wake:?}"));
        }
        let probing = probe::due(&self.world, self.now().mono);
        for check in probing.checks {
            self.bench.asks(&check)?;
            self.apply(Event::Asked(check.clone()));
            let after = if self.rng.percent(20) { 1_000 } else { self.rng.between(0, 30) };
            self.at(after, Item::Answer(check));
        }
        // What was begun just now has room made for it by its answer.
        wake = earlier(wake, probing.wake);
        Ok(wake)
    }

    fn check_independence(&mut self, plan: &Plan) -> Result<(), Breach> {
        let count = self.world.memory.pods.len() as u64;
        if count < 2 || !self.rng.percent(10) {
            return Ok(());
        }
        let victim = usize::try_from(self.rng.below(count)).unwrap();
        let victim = self.world.memory.pods.keys().nth(victim).unwrap().clone();
        independent(plan, &self.world, self.now(), &victim, self.planner)
    }

    fn launch(&mut self, action: Action) {
        let fault = self.fault(&action);
        let slow = matches!(action, Action::PrepareImage { .. }) || self.rng.percent(3);
        let half = if slow { self.rng.between(1, 4_000) } else { self.rng.between(0, 12) };
        let rest = if slow { self.rng.between(1, 4_000) } else { self.rng.between(0, 12) };
        self.serial += 1;
        let job = self.serial;
        self.jobs.insert(job, Job { action, fault, outcome: None });
        self.at(half, Item::Effect(job));
        self.at(half + rest, Item::End(job));
    }

    fn fault(&mut self, action: &Action) -> Fault {
        if self.mutation.fails_for_ever(action) {
            return Fault::Clean;
        }
        if self.calm || !self.rng.percent(self.knobs.faults) {
            return Fault::None;
        }
        self.rng.pick(&[Fault::Clean, Fault::Clean, Fault::Half, Fault::Late, Fault::Late, Fault::Refused])
    }

    fn handle(&mut self, item: Item) -> Result<(), Breach> {
        match item {
            Item::Effect(job) => self.effect(job),
            Item::End(job) => {
                if let Some(Job { action, outcome: Some(outcome), .. }) = self.jobs.remove(&job) {
                    self.note(|| {
                        format!("{} {action} ended: {}", action.uid().map_or(String::new(), ToString::to_string), story::tell(&outcome))
                    });
                    self.bench.ends(&action, &outcome, self.ms);
                    self.apply(Event::Ended(action, outcome));
                }
                Ok(())
            }
            Item::Hint(uid) => {
                self.apply(Event::Hint(uid));
                Ok(())
            }
            Item::Answer(check) => {
                let answer = self.host.answer(&check, self.ms, &mut self.rng, self.calm);
                self.note(|| format!("{} {} {:?}", check.id, check.probe, answer));
                self.bench.answered(&check, &answer, &self.host);
                self.apply(Event::Answered(check, answer));
                Ok(())
            }
            Item::Hooked(uid, id, hook) => {
                let failure = (!self.calm && self.rng.percent(20)).then(|| "the simulation says no".into());
                self.note(|| format!("{id} {hook:?} is over: {failure:?}"));
                self.bench.hooked(&id, hook, failure.is_some());
                self.apply(Event::Hooked { uid, id, hook, failure });
                Ok(())
            }
            Item::Periodic => {
                self.apply(Event::HintAll);
                self.at(PERIODIC_MS, Item::Periodic);
                Ok(())
            }
            Item::LinkUp => {
                self.note(|| "containerd is back".into());
                self.bench.relink();
                self.apply(Event::Link(Link::Up { version: "v2".into() }));
                Ok(())
            }
            Item::Complete => {
                self.tell_wishes(true);
                Ok(())
            }
            Item::Chaos => {
                self.chaos();
                Ok(())
            }
        }
    }

    pub(crate) fn effect(&mut self, job: u64) -> Result<(), Breach> {
        let now = self.now();
        let Some(Job { action, fault, .. }) = self.jobs.get(&job) else { return Ok(()) };
        let (action, fault) = (action.clone(), *fault);
        let mut outcome = self.host.act(&action, fault, self.ms, now.wall)?;
        self.mutation.lie(&action, &mut outcome);
        if !matches!(fault, Fault::Clean | Fault::Refused) {
            self.bench.took_effect(&action, &outcome, &self.world, &self.host, self.ms);
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.outcome = Some(outcome);
        }
        if let (Action::RunHook { uid, id, hook, .. }, false) = (&action, matches!(fault, Fault::Clean | Fault::Refused)) {
            let name = self.host.look(uid).and_then(|p| Some(p.containers.get(id)?.name.clone()));
            let temper = name.and_then(|name| self.host.tempers.get(&(uid.clone(), name)));
            let took = temper.map_or(0, |t| t.hook_ms) + 30;
            self.at(took, Item::Hooked(uid.clone(), id.clone(), *hook));
        }
        // SIGKILL is the end of a process, and that is an event like any other.
        if let (Action::Kill { uid, .. }, false) = (&action, fault == Fault::Clean) {
            self.hint_soon(uid.clone());
        }
        Ok(())
    }

    fn hint_soon(&mut self, uid: Uid) {
        let up = matches!(self.world.seen.link, Link::Up { .. });
        if up && (self.calm || self.rng.percent(85)) {
            let after = self.rng.between(0, 5);
            self.at(after, Item::Hint(uid));
        }
    }

    fn processes(&mut self) {
        let due: Vec<_> = self.host.ends.iter().filter(|(_, (at, _))| *at <= self.ms).map(|(k, v)| (k.clone(), *v)).collect();
        let down = matches!(self.world.seen.link, Link::Down { .. });
        for ((uid, id), (_, code)) in due {
            let lost = down && self.rng.percent(30);
            self.note(|| format!("{uid} {id} ends with {code}{}", if lost { ", unseen" } else { "" }));
            let wall = self.now().wall;
            self.host.end(&uid, &id, code, wall, lost);
            self.hint_soon(uid);
        }
    }

    pub(crate) fn want(&mut self, index: u64) {
        self.revision += 1;
        let wish = wish(&mut self.rng, index, self.revision);
        for (name, temper) in wish.tempers {
            self.host.tempers.insert((wish.pod.uid.clone(), name), temper);
        }
        self.host.wishes.insert(wish.pod.uid.clone(), wish.pod.clone());
        self.wishes.insert(wish.pod.key.clone(), wish.pod);
    }

    pub(crate) fn tell_wishes(&mut self, complete: bool) {
        let mut pods = self.wishes.clone();
        if !complete {
            pods.retain(|_, _| self.rng.percent(50));
        }
        self.apply(Event::Wanted(Wanted { complete, whole: complete, pods, shutdown: None }));
        self.bench.tidy(&self.host, &self.world);
    }

    /// plinth starts, knowing nothing.
    pub(crate) fn begin_life(&mut self) {
        let limits = self.world.limits.clone();
        self.world = World { limits, ..World::default() };
        self.jobs.clear();
        self.queue.retain(|_, item| {
            !matches!(
                item,
                Item::Effect(_) | Item::End(_) | Item::Hint(_) | Item::Answer(_) | Item::Hooked(..) | Item::LinkUp | Item::Complete
            )
        });
        self.bench.forget();
        self.tell_wishes(false);
        let (link, layers) = (self.rng.between(0, 40), self.rng.between(0, 40));
        self.at(link, Item::LinkUp);
        self.at(layers, Item::Complete);
        self.mutation.reborn();
    }

    /// From here on nothing goes wrong any more.
    fn calm_down(&mut self) {
        self.note(|| "calm".into());
        self.calm = true;
        self.quiet_from = self.ms + PERIODIC_MS + 10_000;
        self.host.tempers.values_mut().for_each(|t| (t.crashes, t.sick) = (0, 0));
        self.host.sick.clear();
        self.host.images.extend(IMAGES.map(|i| plinth::pod::ImageRef(i.into())));
        self.jobs.values_mut().for_each(|j| j.fault = Fault::None);
        self.tell_wishes(true);
        self.acts = 0;
    }

    /// `plinth shutdown`: all is gone in time, critical pods last, and the next life begins.
    fn shut_down(&mut self) -> Result<(), Breach> {
        self.note(|| "shutdown".into());
        let faults = std::mem::replace(&mut self.knobs.faults, 0);
        self.calm = true;
        self.apply(Event::Shutdown { grace: Duration::from_secs(30), critical: Duration::from_secs(10) });
        let gone = self.until(self.ms + 600_000, |s| s.world.all_gone())?;
        if !gone {
            return breach(1, "a shutdown leaves pods behind".into());
        }
        for (uid, p) in &self.host.pods {
            if p.seen.containers.values().any(|c| !matches!(c.state, State::Dead(_))) {
                return breach(1, format!("a shutdown leaves {uid} behind"));
            }
        }
        self.knobs.faults = faults;
        self.calm = false;
        self.begin_life();
        Ok(())
    }

    /// Nothing in flight, nothing to do, nothing to wait for.
    fn is_quiet(&self) -> bool {
        let mut plan = (self.planner)(&self.world, self.now());
        if plan.actions.is_empty() && !plan.refused.is_empty() {
            // Who is not taken waits by the clock for ever; the rest must wait for nothing.
            let mut taken = self.world.clone();
            taken.wanted.pods.retain(|_, p| !plan.refused.contains_key(&p.uid));
            taken.seen.pods.retain(|uid, _| !plan.refused.contains_key(uid));
            plan = (self.planner)(&taken, self.now());
        }
        let pending = |i: &Item| matches!(i, Item::Hint(_) | Item::LinkUp | Item::Complete);
        self.ms >= self.quiet_from
            && self.world.seen.listed.is_some()
            && self.jobs.is_empty()
            && plan == Plan::default()
            && !self.world.memory.pods.values().any(is_starting)
            && self.host.ends.is_empty()
            && !self.queue.values().any(pending)
            && matches!(self.world.seen.link, Link::Up { .. })
    }

    /// Law 1.
    fn check_settled(&self, quiet: bool) -> Result<(), Breach> {
        for (uid, p) in &self.host.pods {
            match self.wishes.get(&p.pod.key).filter(|w| w.uid == *uid) {
                None => return breach(1, format!("{uid} is not wanted and still there: {:?}", p.seen)),
                Some(wish) if is_crowded_out(wish, &self.host) => {}
                Some(wish) => at_rest(wish, &p.seen).or_else(|why| breach(1, format!("{uid} {why}")))?,
            }
        }
        for wish in self.wishes.values() {
            if !self.host.pods.contains_key(&wish.uid) && !is_crowded_out(wish, &self.host) {
                return breach(1, format!("{} is wanted and not there", wish.uid));
            }
        }
        if !quiet {
            return breach(1, format!("no peace: {:?}", (self.planner)(&self.world, self.now())));
        }
        let bound = 120 * (self.knobs.pods + 2);
        if self.acts > bound {
            return breach(1, format!("{} actions to settle, {bound} would do", self.acts));
        }
        Ok(())
    }

    /// Law 2: ten more minutes of slow looks change nothing.
    fn check_idempotent(&mut self) -> Result<(), Breach> {
        self.acts = 0;
        self.settled = true;
        self.until(self.ms + 600_000, |_| false)?;
        if self.acts > 0 {
            return breach(2, format!("{} actions in a settled world", self.acts));
        }
        Ok(())
    }

    /// Law 3: a settled world that is looked at by somebody who knows nothing stays as it is.
    fn check_amnesia(&mut self) -> Result<(), Breach> {
        self.note(|| "amnesia".into());
        let before: Vec<_> = self.host.pods.values().map(|p| p.seen.clone()).collect();
        self.begin_life();
        self.until(self.ms + 600_000, |_| false)?;
        let after: Vec<_> = self.host.pods.values().map(|p| p.seen.clone()).collect();
        if before != after || self.acts > 0 {
            return breach(3, format!("{} actions after amnesia in a settled world", self.acts));
        }
        self.world.seen = Seen::default();
        Ok(())
    }
}
