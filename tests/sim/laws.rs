//! The ten laws as judges: each reads the truth and what the plan does, and says which law was broken and how.
//!
//! They know what a pod needs by their own short rules, never by the plan's code.
//!
//! 1 converges, 2 idempotent: `drive` (after the chaos). 4 single flight, 6 order: `Bench::starts` and the host's own refusals.
//! 3 amnesia: `healthy`. 5 ours only: `Bench::starts`. 7 liveness: `alive`. 8 independence: `independent`. 9 grace, 10 back-off: `Bench`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use plinth::clock::Now;
use plinth::plan::action::{Action, Answer, Check, Class, Effect, Outcome, Plan};
use plinth::plan::world::{Link, PodMemory, Sandbox, SeenContainer, SeenPod, State, World};
use plinth::pod::{Hook, Kind, Probe, PullPolicy, RestartPolicy, Uid, WantedContainer, WantedPod};

use crate::host::Host;
use crate::wish::wants_port;

/// A law was broken.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Which, 1 to 10.
    pub law: u8,
    /// How.
    pub what: String,
}

/// Says so.
pub fn breach<T>(law: u8, what: String) -> Result<T, Breach> {
    Err(Breach { law, what })
}

/// Longest time an action takes here, and a KILL may be late by, ms.
const KILL_LATE_MS: u64 = 90_000;

/// What the judges remember between two looks at the world.
#[derive(Default)]
pub struct Bench {
    /// Pods with an action in flight.
    flying: BTreeSet<Uid>,
    /// Images with an action in flight.
    fetching: BTreeSet<String>,
    /// Of those, whose looks may have missed what came since.
    outdated: BTreeSet<String>,
    /// Pods whose removal began in this life.
    pub removing: BTreeSet<Uid>,
    /// TERM of a container: first tried, first delivered, ms.
    termed: BTreeMap<Rc<str>, (u64, Option<u64>)>,
    /// First TERM of a pod that was delivered, ms.
    pod_termed: BTreeMap<Uid, u64>,
    /// Containers whose KILL is watched for, since when (TERM in this life, over this link), ms.
    watched: BTreeMap<Rc<str>, (Uid, u64)>,
    /// Probes under way.
    asking: BTreeSet<Check>,
    /// Failures in a row of a probe.
    failing: BTreeMap<(Rc<str>, Probe), u32>,
    /// Containers a probe (with the grace it gives) or a hook condemned.
    condemned: BTreeMap<Rc<str>, Option<u64>>,
    /// preStop hooks: begun, and over, ms.
    hooks: BTreeMap<Rc<str>, (u64, bool)>,
    /// First preStop hook of a pod, ms.
    pod_hooked: BTreeMap<Uid, u64>,
    /// Crash book by pod and container: the delay booked, when, and which attempt was counted last.
    books: BTreeMap<(Uid, Rc<str>), (u64, u64, u32)>,
    /// Failures in a row by what is tried: how many count, the delay they earned, and when the next try is due, ms.
    failures: BTreeMap<String, (u32, u64, u64)>,
}

fn grace_ms(pod: Option<&WantedPod>) -> u64 {
    pod.map_or(30_000, |p| u64::from(p.grace_s) * 1000).max(2_000)
}

impl Bench {
    /// An action begins: laws 3, 4, 5, 9, 10.
    pub fn starts(&mut self, action: &Action, world: &World, host: &Host, ms: u64, boot: u64) -> Result<(), Breach> {
        if let Action::PrepareImage { image, .. } = action
            && !self.fetching.insert(image.to_string())
        {
            return breach(4, format!("{action} twice at once"));
        }
        self.backed_off(action, ms)?;
        let Some(uid) = action.uid() else { return Ok(()) };
        if !self.flying.insert(uid.clone()) {
            return breach(4, format!("{uid}: {action} while another action is in flight"));
        }
        if host.foreign.contains_key(uid) || !host.wishes.contains_key(uid) {
            return breach(5, format!("{uid}: {action} on what is not ours"));
        }
        let unwanted = world.wanted.shutdown.is_some() || !world.wanted.pods.values().any(|p| p.uid == *uid);
        if unwanted && !matches!(action, Action::Look { .. }) {
            if !world.wanted.complete && world.wanted.shutdown.is_none() {
                return breach(3, format!("{uid}: {action} before every layer was read"));
            }
            self.removing.insert(uid.clone());
        }
        match action {
            Action::RunHook { id, hook: Hook::PreStop, .. } => {
                self.healthy(action, uid, id, world, host)?;
                self.hooks.entry(id.clone()).or_insert((ms, false));
                if !self.condemned.contains_key(id) {
                    self.pod_hooked.entry(uid.clone()).or_insert(ms);
                }
            }
            Action::Term { id, .. } => {
                self.healthy(action, uid, id, world, host)?;
                self.hook_first(uid, id, world, host, ms)?;
                self.termed.entry(id.clone()).or_insert((ms, None));
            }
            Action::Kill { id, .. } => {
                self.healthy(action, uid, id, world, host)?;
                self.not_early(uid, id, world, host, ms, boot)?;
                self.watched.remove(id);
            }
            Action::CreateContainer { name, attempt, .. } => self.crash_delay(uid, name, *attempt, host, ms)?,
            _ => {}
        }
        Ok(())
    }

    /// A probe begins: law 4.
    pub fn asks(&mut self, check: &Check) -> Result<(), Breach> {
        if self.asking.insert(check.clone()) { Ok(()) } else { breach(4, format!("{check:?} twice at once")) }
    }

    /// A probe has answered.
    pub fn answered(&mut self, check: &Check, answer: &Answer, host: &Host) {
        self.asking.remove(check);
        let key = (check.id.clone(), check.probe);
        match answer {
            Answer::Passed | Answer::Warned(_) => drop(self.failing.remove(&key)),
            Answer::Failed(_) => *self.failing.entry(key.clone()).or_default() += 1,
            Answer::Errored(_) => {}
        }
        let spec = host.wishes[&check.uid].containers.iter().find(|c| c.name == check.name).unwrap();
        let rule = match check.probe {
            Probe::Startup => spec.care.startup,
            Probe::Liveness => spec.care.liveness,
            Probe::Readiness => None,
        };
        if let (Some(rule), Some(n)) = (rule, self.failing.get(&key))
            && *n >= rule.failures
        {
            self.condemned.insert(check.id.clone(), rule.grace_ms);
        }
    }

    /// A hook is over.
    pub fn hooked(&mut self, id: &Rc<str>, hook: Hook, failed: bool) {
        match hook {
            Hook::PostStart if failed => drop(self.condemned.insert(id.clone(), None)),
            Hook::PostStart => {}
            Hook::PreStop => {
                if let Some(hook) = self.hooks.get_mut(id) {
                    hook.1 = true;
                }
            }
        }
    }

    /// The grace of one container, ms.
    fn grace_of(&self, id: &str, pod: &WantedPod) -> u64 {
        self.condemned.get(id).copied().flatten().map_or_else(|| grace_ms(Some(pod)), |ms| ms.max(2_000))
    }

    /// Law 6: a preStop hook is over, or has had its time, before TERM.
    fn hook_first(&self, uid: &Uid, id: &Rc<str>, world: &World, host: &Host, ms: u64) -> Result<(), Breach> {
        let Some(p) = host.pods.get(uid).filter(|_| world.wanted.shutdown.is_none()) else { return Ok(()) };
        let Some(c) = p.seen.containers.get(id).filter(|c| matches!(c.state, State::Running { .. })) else { return Ok(()) };
        let has = p.pod.containers.iter().any(|w| w.name == c.name && w.care.pre_stop);
        let over = self.hooks.get(id).is_some_and(|(begun, over)| *over || ms >= begun + self.grace_of(id, &p.pod));
        if has && !over { breach(6, format!("{id} is told to stop before its preStop hook is over")) } else { Ok(()) }
    }

    /// An action took effect.
    pub fn took_effect(&mut self, action: &Action, outcome: &Outcome, world: &World, host: &Host, ms: u64) {
        match (action, outcome) {
            (Action::Term { uid, id }, _) if host.look(uid).is_some_and(|p| p.containers.contains_key(id)) => {
                if let Some(term) = self.termed.get_mut(id).filter(|t| t.1.is_none()) {
                    term.1 = Some(ms);
                }
                self.pod_termed.entry(uid.clone()).or_insert(ms);
                if matches!(outcome, Outcome::Done(_)) {
                    self.watched.entry(id.clone()).or_insert((uid.clone(), ms));
                }
            }
            (Action::CreateContainer { uid, name, attempt }, _) => self.count_restart(uid, name, *attempt, world, host, ms),
            _ => {}
        }
    }

    /// An action ended, and its outcome was told.
    pub fn ends(&mut self, action: &Action, outcome: &Outcome, ms: u64) {
        if let Some(uid) = action.uid() {
            self.flying.remove(uid);
        }
        if let Action::PrepareImage { image, .. } = action {
            self.fetching.remove(&image.to_string());
            let outdated = self.outdated.remove(&image.to_string());
            if outdated && key(action).is_some_and(|k| k.starts_with("look")) {
                return;
            }
        }
        if let (Action::RunHook { id, hook: Hook::PreStop, .. }, Outcome::Failed(_)) = (action, outcome) {
            self.hooked(id, Hook::PreStop, true);
        }
        match (action, outcome) {
            (Action::Look { uid }, Outcome::Done(Effect::Pod(None))) | (Action::DeleteSandbox { uid, keep: false }, Outcome::Done(_)) => {
                self.begins_anew(uid);
            }
            (Action::LookAll, Outcome::Done(Effect::All(all))) => {
                let gone: Vec<Uid> = self.removing.iter().filter(|uid| !all.contains_key(uid)).cloned().collect();
                gone.iter().for_each(|uid| self.begins_anew(uid));
            }
            _ => {}
        }
        match outcome {
            Outcome::Done(_) => {
                for key in cleared(action) {
                    self.failures.remove(&key);
                }
            }
            Outcome::Failed(f) => {
                let Some(key) = key(action) else { return };
                let (first, cap) = if matches!(action, Action::PrepareImage { .. }) { (10_000, 300_000) } else { (1_000, 60_000) };
                let (count, delay, _) = self.failures.get(&key).copied().unwrap_or((0, 0, 0));
                let (counts, earned, wait) = match f.class {
                    Class::Unreachable => (0, delay, delay.max(1_000)),
                    // Looks and images are tried again at their pace whatever is wrong (`Failure::eased`).
                    Class::Refused if !matches!(action, Action::PrepareImage { .. } | Action::Look { .. } | Action::LookAll) => {
                        (1, cap, cap)
                    }
                    // Somebody else did it: once more at once.
                    Class::Gone if count == 0 => (1, 0, 0),
                    Class::Gone | Class::Retry | Class::Refused => (1, (delay * 2).clamp(first, cap), (delay * 2).clamp(first, cap)),
                };
                self.failures.insert(key, (count + counts, earned, ms + wait));
            }
        }
    }

    /// A pod whose removal is complete begins anew, if it is wanted again, with all its failures forgotten.
    fn begins_anew(&mut self, uid: &Uid) {
        if self.removing.remove(uid) {
            self.failures.retain(|key, _| key.split(' ').nth(1) != Some(&*uid.0));
        }
    }

    /// A container's record is gone, or made anew: what was known of its id is void.
    pub fn tidy(&mut self, host: &Host, world: &World) {
        let alive = |id: &str| host.pods.values().any(|p| p.seen.containers.get(id).is_some_and(|c| !matches!(c.state, State::Dead(_))));
        self.termed.retain(|id, _| alive(id));
        self.watched.retain(|id, _| alive(id));
        let running = |uid: &Uid| {
            let pod = host.pods.get(uid);
            pod.is_some_and(|p| p.seen.containers.values().any(|c| matches!(c.state, State::Running { .. })))
        };
        self.pod_termed.retain(|uid, _| running(uid));
        self.pod_hooked.retain(|uid, _| running(uid));
        self.hooks.retain(|id, _| alive(id));
        self.condemned.retain(|id, _| alive(id));
        self.failing.retain(|(id, _), _| alive(id));
        self.books.retain(|(uid, _), _| host.pods.contains_key(uid));
        let is_known = |uid: &Uid| host.pods.contains_key(uid) || world.wanted.pods.values().any(|p| p.uid == *uid);
        let exists = |key: &String| {
            let mut parts = key.split(' ').skip(1);
            parts.next().is_none_or(|uid| !uid.starts_with("pod") || is_known(&Uid(uid.into())))
        };
        // An image nobody wants is forgotten with its failures; so is a pod that is gone.
        let asked = |key: &String| {
            let image = key.split_once("image:").map(|(_, image)| image);
            image.is_none_or(|image| world.wanted.pods.values().flat_map(|p| p.images()).any(|i| &*i.0 == image))
        };
        let has_container = |key: &String| {
            let mut words = key.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("term" | "delete" | "bury"), Some(uid), Some(id)) => {
                    host.pods.get(&Uid(uid.into())).is_some_and(|p| p.seen.containers.contains_key(id))
                }
                _ => true,
            }
        };
        self.failures.retain(|key, _| exists(key) && asked(key) && has_container(key));
    }

    /// plinth forgot everything.
    pub fn forget(&mut self) {
        *self = Bench { termed: std::mem::take(&mut self.termed), pod_termed: std::mem::take(&mut self.pod_termed), ..Bench::default() };
    }

    /// containerd went or came: looks begin anew, and nothing is promised of kills meanwhile.
    pub fn relink(&mut self) {
        self.watched.clear();
        self.failures.retain(|key, _| !key.starts_with("look"));
    }

    /// There are new archives: every image is looked for again, at once.
    pub fn relooks(&mut self) {
        self.outdated = self.fetching.clone();
        self.failures.retain(|key, _| !key.starts_with("look-image"));
    }

    /// Law 3: nobody healthy is told to stop.
    fn healthy(&self, action: &Action, uid: &Uid, id: &str, world: &World, host: &Host) -> Result<(), Breach> {
        let Some(p) = host.pods.get(uid) else { return Ok(()) };
        let Some(c) = p.seen.containers.get(id).filter(|c| matches!(c.state, State::Running { .. })) else { return Ok(()) };
        let wanted = world.wanted.shutdown.is_none() && world.wanted.pods.values().any(|w| w.uid == *uid) && !self.removing.contains(uid);
        let at_home = matches!(p.seen.sandbox, Sandbox::Ready { since, .. } if c.sandbox == Some(since));
        if wanted && at_home && !is_over(&p.pod, &p.seen) && !self.condemned.contains_key(id) {
            return breach(3, format!("{action}: it is wanted and healthy"));
        }
        Ok(())
    }

    /// Law 9, first half: not before the grace is over.
    fn not_early(&self, uid: &Uid, id: &Rc<str>, world: &World, host: &Host, ms: u64, boot: u64) -> Result<(), Breach> {
        let Some(p) = host.pods.get(uid) else { return Ok(()) };
        let Some(c) = p.seen.containers.get(id).filter(|c| matches!(c.state, State::Running { .. })) else { return Ok(()) };
        let Some((tried, delivered)) = self.termed.get(id).copied() else {
            return breach(9, format!("{id} is killed without having been asked"));
        };
        let grace = self.grace_of(id, &p.pod);
        let asked = delivered.unwrap_or(tried);
        let begun = self.hooks.get(id).map_or(asked, |(begun, _)| *begun);
        let mut due = (begun + grace).max(asked + 2_000);
        if c.kind == Kind::Sidecar {
            let first = [self.pod_termed.get(uid), self.pod_hooked.get(uid), Some(&begun)].into_iter().flatten().min().unwrap();
            due = (first + grace).max(asked + 2_000);
        }
        if let Some(s) = &world.wanted.shutdown {
            let window = if p.pod.critical { s.deadline.0 } else { s.critical_from().0 };
            due = due.min((window + boot).max(tried + 2_000));
        }
        if ms < due {
            return breach(9, format!("{id} is killed {} ms early", due - ms));
        }
        Ok(())
    }

    /// Law 9, second half: whoever ignores TERM is killed.
    pub fn not_forgotten(&self, host: &Host, ms: u64) -> Result<(), Breach> {
        for (id, (uid, since)) in &self.watched {
            let Some(p) = host.pods.get(uid) else { continue };
            let running = p.seen.containers.get(id).is_some_and(|c| matches!(c.state, State::Running { .. }));
            if running && ms > since + grace_ms(None).max(grace_ms(Some(&*p.pod))) + KILL_LATE_MS {
                return breach(9, format!("{id} was asked to stop {} ms ago and is not killed", ms - since));
            }
        }
        Ok(())
    }

    /// Law 10, crashes: the kubelet's numbers, from the exit.
    fn crash_delay(&self, uid: &Uid, name: &Rc<str>, attempt: u32, host: &Host, ms: u64) -> Result<(), Breach> {
        let Some((delay, at, _)) = self.books.get(&(uid.clone(), name.clone())) else { return Ok(()) };
        let seen = host.pods.get(uid).map(|p| &p.seen);
        let last = seen.and_then(|s| s.containers.values().find(|c| c.name == *name && c.attempt + 1 == attempt));
        let Some(State::Exited(exit) | State::Lost(exit) | State::Dead(exit)) = last.map(|l| &l.state) else { return Ok(()) };
        let Some(ended) = crate::drive::ms_of(exit.finished) else { return Ok(()) };
        if ended < at + 590_000 && ms < ended + delay {
            return breach(10, format!("{uid}: {name} restarts {} ms after its end, {delay} ms are due", ms - ended));
        }
        Ok(())
    }

    fn count_restart(&mut self, uid: &Uid, name: &Rc<str>, attempt: u32, world: &World, host: &Host, ms: u64) {
        let made = host.pods.get(uid).is_some_and(|p| p.seen.containers.values().any(|c| c.name == *name && c.attempt == attempt));
        if attempt == 0 || !made {
            return;
        }
        let limits = &world.limits;
        let book = self.books.entry((uid.clone(), name.clone())).or_insert((0, ms, 0));
        if book.2 == attempt {
            return;
        }
        let seen = &host.pods[uid].seen;
        let last = seen.containers.values().find(|c| c.name == *name && c.attempt + 1 == attempt);
        // It follows one whose record is lost, and no crash.
        if last.is_none() {
            book.2 = attempt;
            return;
        }
        let ended = last.and_then(|l| match &l.state {
            State::Exited(e) | State::Lost(e) | State::Dead(e) => crate::drive::ms_of(e.finished),
            _ => None,
        });
        // An end whose time nobody knows, or long after the last restart, may have closed the book: only the first delay is certain.
        let fresh = ended.is_none_or(|e| e > book.1 + 590_000);
        let grown = if fresh { limits.crash_backoff_first_ms } else { (book.0 * 2).max(limits.crash_backoff_first_ms) };
        *book = (grown.min(limits.crash_backoff_cap_ms), ms, attempt);
    }

    /// Law 10, failures: at least the doubled delay between tries.
    fn backed_off(&self, action: &Action, ms: u64) -> Result<(), Breach> {
        let Some((count, _, due)) = key(action).and_then(|k| self.failures.get(&k)) else { return Ok(()) };
        if ms < *due {
            return breach(10, format!("{action} again {} ms too early after failure {count}", due - ms));
        }
        Ok(())
    }
}

/// What failures in a row are counted by.
fn key(action: &Action) -> Option<String> {
    Some(match action {
        Action::LookAll => "look".into(),
        Action::Look { uid } => format!("look {uid}"),
        Action::PrepareImage { image, pull: PullPolicy::Never } => format!("look-image image:{image}"),
        Action::PrepareImage { image, .. } => format!("pull image:{image}"),
        Action::CreateSandbox { uid } => format!("sandbox {uid}"),
        Action::DeleteSandbox { uid, .. } => format!("unsandbox {uid}"),
        Action::CreateContainer { uid, name, .. } => format!("create {uid} {name}"),
        Action::StartTask { uid, id } => format!("create {uid} {}", id.rsplit('-').nth(1)?),
        Action::RunHook { hook: Hook::PreStop, .. } => return None,
        Action::RunHook { uid, id, hook: Hook::PostStart, .. } => format!("create {uid} {}", id.rsplit('-').nth(1)?),
        // A signal is not held back by another's failure: KILL follows TERM at the deadline, whatever became of TERM.
        Action::Term { uid, id } => format!("term {uid} {id}"),
        Action::Kill { .. } => return None,
        Action::DeleteTask { uid, id } => format!("delete {uid} {id}"),
        Action::DeleteContainer { uid, id } => format!("bury {uid} {id}"),
    })
}

/// Which of them a success ends: a container that is made has not started yet, and an image that was pulled can be seen.
fn cleared(action: &Action) -> Vec<String> {
    let seen = match action {
        Action::PrepareImage { image, .. } => Some(format!("look-image image:{image}")),
        _ => None,
    };
    if let Action::CreateContainer { .. } = action { Vec::new() } else { key(action).into_iter().chain(seen).collect() }
}

fn latest<'a>(seen: &'a SeenPod, c: &WantedContainer) -> Option<&'a SeenContainer> {
    seen.containers.values().filter(|s| s.name == c.name).max_by_key(|s| s.attempt)
}

fn code(c: &SeenContainer) -> Option<u32> {
    match &c.state {
        State::Exited(e) | State::Dead(e) => Some(e.code),
        State::Record | State::Created | State::Running { .. } | State::Lost(_) => None,
    }
}

fn is_final(c: &WantedContainer, seen: &SeenPod) -> bool {
    matches!((latest(seen, c).and_then(code), c.restart), (Some(_), RestartPolicy::Never) | (Some(0), RestartPolicy::OnFailure))
}

/// The pod has run its course.
pub fn is_over(pod: &WantedPod, seen: &SeenPod) -> bool {
    let init_failed = |c: &&WantedContainer| {
        c.kind == Kind::Init && c.restart == RestartPolicy::Never && latest(seen, c).and_then(code).is_some_and(|e| e != 0)
    };
    let mains = || pod.containers.iter().filter(|c| c.kind == Kind::Main);
    let homeless = !matches!(seen.sandbox, Sandbox::Ready { .. });
    pod.containers.iter().any(|c| init_failed(&c))
        || mains().all(|c| is_final(c, seen))
        || (homeless && mains().all(|c| c.restart == RestartPolicy::Never) && mains().any(|c| is_final(c, seen)))
}

/// Nothing of it runs or is held.
fn is_idle(seen: &SeenPod) -> bool {
    seen.sandbox == Sandbox::Absent && seen.containers.values().all(|c| matches!(c.state, State::Dead(_)))
}

/// The node has no room for it: another pod has the port it wants.
pub fn is_crowded_out(pod: &WantedPod, host: &Host) -> bool {
    let holds = |uid: &Uid, p: &crate::host::TruePod| *uid != pod.uid && wants_port(&p.pod) && !is_idle(&p.seen);
    wants_port(pod) && host.pods.get(&pod.uid).is_none_or(|p| is_idle(&p.seen)) && host.pods.iter().any(|(uid, p)| holds(uid, p))
}

/// Whether a wanted pod is as it should be, for good; else what is missing.
pub fn at_rest(pod: &WantedPod, seen: &SeenPod) -> Result<(), String> {
    for c in seen.containers.values() {
        let others = seen.containers.values().filter(|o| o.name == c.name && matches!(o.state, State::Dead(_)));
        if others.count() > 1 {
            return Err(format!("{} keeps more than one dead record", c.name));
        }
        if matches!(c.state, State::Record | State::Created | State::Exited(_) | State::Lost(_)) {
            return Err(format!("{} is left {:?}", c.id, c.state));
        }
    }
    if is_over(pod, seen) {
        let running = seen.containers.values().find(|c| !matches!(c.state, State::Dead(_)));
        return match (running, &seen.sandbox) {
            (Some(c), _) => Err(format!("is over and {} runs", c.id)),
            (None, Sandbox::Absent) => Ok(()),
            (None, s) => Err(format!("is over and its sandbox is {s:?}")),
        };
    }
    let Sandbox::Ready { since, .. } = &seen.sandbox else { return Err("has no sandbox".into()) };
    for c in &pod.containers {
        let last = latest(seen, c).ok_or(format!("{} is missing", c.name))?;
        let here = last.sandbox == Some(*since);
        match (&last.state, c.kind) {
            (State::Running { .. }, Kind::Main | Kind::Sidecar) if here => {}
            (State::Dead(e), Kind::Init) if here && e.code == 0 => {}
            (State::Dead(_), Kind::Main) if is_final(c, seen) => {}
            (state, _) => return Err(format!("{} is {state:?}", c.name)),
        }
    }
    Ok(())
}

/// Law 7: what is not settled has an action, one in flight, or a wake time.
pub fn alive(plan: &Plan, world: &World) -> Result<(), Breach> {
    let flying = world.memory.looking
        || world.memory.pods.values().any(|m| m.in_flight.is_some())
        || world.memory.images.values().any(|m| m.in_flight.is_some());
    if !plan.actions.is_empty() || plan.wake.is_some() || flying || matches!(world.seen.link, Link::Down { .. }) {
        return Ok(());
    }
    for (uid, seen) in &world.seen.pods {
        let wanted = world.wanted.pods.values().any(|p| p.uid == *uid);
        let resting = seen.sandbox == Sandbox::Absent && seen.containers.values().all(|c| matches!(c.state, State::Dead(_)));
        let kept = wanted && resting && world.wanted.shutdown.is_some();
        if !wanted && (world.wanted.complete || world.wanted.shutdown.is_some()) || (world.wanted.shutdown.is_some() && !kept) {
            return breach(7, format!("{uid} is unwanted and nothing is done or waited for"));
        }
    }
    if world.wanted.shutdown.is_some() || world.seen.listed.is_none() {
        return Ok(());
    }
    for pod in world.wanted.pods.values() {
        // A startup probe is asked until it is settled one way or the other, and a hook ends.
        if world.memory.pods.get(&pod.uid).is_some_and(crate::drive::is_starting) {
            continue;
        }
        let nothing = SeenPod::default();
        let seen = world.seen.pods.get(&pod.uid).unwrap_or(&nothing);
        let initializing = seen.containers.values().any(|c| c.kind == Kind::Init && matches!(c.state, State::Running { .. }));
        let displaced =
            world.seen.pods.iter().any(|(uid, s)| *uid != pod.uid && s.key.as_ref() == Some(&pod.key)) && !world.wanted.complete;
        if let (Err(why), false, false) = (at_rest(pod, seen), initializing, displaced) {
            return breach(7, format!("{} {why}, and nothing is done or waited for", pod.uid));
        }
    }
    Ok(())
}

/// Law 8: with one pod's memory wiped clean, as if nothing had ever failed for it, what is done for the others is the same.
pub fn independent(plan: &Plan, world: &World, now: Now, victim: &Uid, planner: fn(&World, Now) -> Plan) -> Result<(), Breach> {
    let mut other = world.clone();
    // What is in flight for it is no failure: it holds the port it is being given.
    if let Some(memory) = other.memory.pods.get_mut(victim) {
        *memory = PodMemory { in_flight: memory.in_flight.take(), ..PodMemory::default() };
    }
    let spared = planner(&other, now);
    let rest = |p: &Plan| -> Vec<String> {
        let theirs = p.actions.iter().filter(|(a, _)| a.uid().is_some_and(|uid| uid != victim));
        theirs.map(|(a, _)| format!("{} {a}", a.uid().unwrap())).collect()
    };
    let (with, without) = (rest(plan), rest(&spared));
    if with != without {
        return breach(8, format!("what {victim} remembers changes the others' actions: {with:?}, else {without:?}"));
    }
    Ok(())
}
