//! The fake world under the plan: containerd, the host and its processes. It does what an action says, or fails at it in every
//! way the real one does: not at all, half, or in truth but without saying so.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use plinth::clock::Wall;
use plinth::plan::action::{Action, Answer, Check, Class, Effect, Failure, Outcome};
use plinth::plan::world::{Exit, Sandbox, SeenContainer, SeenImage, SeenPod, State};
use plinth::pod::{ImageRef, Kind, Probe, PullPolicy, Uid, WantedPod};

use crate::laws::{Breach, breach};
use crate::rng::Rng;
use crate::wish::Temper;

/// How an action goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    None,
    /// Nothing was done.
    Clean,
    /// Half of it was done.
    Half,
    /// All of it was done, and a timeout is reported.
    Late,
    /// Nothing was done and nothing will help soon.
    Refused,
}

/// One pod in truth.
#[derive(Clone, Debug)]
pub struct TruePod {
    /// What it was made from.
    pub pod: Rc<WantedPod>,
    /// What a look would find.
    pub seen: SeenPod,
    /// Its data directory is there.
    pub data: bool,
    /// Which attempts have a log.
    pub logs: BTreeSet<(Rc<str>, u32)>,
}

/// Everything in truth.
#[derive(Default)]
pub struct Host {
    /// Ours.
    pub pods: BTreeMap<Uid, TruePod>,
    /// Not ours: without our labels.
    pub foreign: BTreeMap<Uid, TruePod>,
    /// All wishes ever, by uid.
    pub wishes: BTreeMap<Uid, Rc<WantedPod>>,
    /// Their tempers.
    pub tempers: BTreeMap<(Uid, Rc<str>), Temper>,
    /// Images that are there.
    pub images: BTreeSet<ImageRef>,
    /// When processes end of themselves, or of TERM: (ms, code), by uid and id.
    pub ends: BTreeMap<(Uid, Rc<str>), (u64, u32)>,
    /// Attempts that fail their liveness probe.
    pub sick: BTreeSet<Rc<str>>,
    /// Sidecars that have passed a startup probe once.
    pub passed: BTreeSet<(Uid, Rc<str>)>,
    /// Mutation: looks also list what is not ours.
    pub lists_foreign: bool,
}

fn failed(class: Class, reason: &str) -> Outcome {
    Outcome::Failed(Failure { class, reason: reason.into(), message: "the simulation says no".into() })
}

impl Host {
    /// Does an action at this time; what it would answer, had nothing gone wrong, becomes what `fault` makes of it.
    pub fn act(&mut self, action: &Action, fault: Fault, ms: u64, wall: Wall) -> Result<Outcome, Breach> {
        let undone = matches!(fault, Fault::Clean | Fault::Refused);
        let outcome = match (undone, fault == Fault::Half) {
            (true, _) => failed(Class::Retry, reason(action)),
            (_, true) => self.half(action, ms, wall)?,
            _ => self.whole(action, ms, wall)?,
        };
        Ok(match fault {
            Fault::None => outcome,
            Fault::Refused => failed(Class::Refused, reason(action)),
            Fault::Clean | Fault::Half | Fault::Late => failed(Class::Retry, reason(action)),
        })
    }

    fn whole(&mut self, action: &Action, ms: u64, wall: Wall) -> Result<Outcome, Breach> {
        Ok(match action {
            Action::LookAll => Outcome::Done(Effect::All(self.look_all())),
            Action::Look { uid } => Outcome::Done(Effect::Pod(self.look(uid).map(Box::new))),
            Action::PrepareImage { image, pull } => self.prepare(image, *pull),
            Action::CreateSandbox { uid } => self.create_sandbox(uid, wall)?,
            Action::CreateContainer { uid, name, attempt } => self.create_container(uid, name, *attempt, wall, State::Created)?,
            Action::StartTask { uid, id } => self.start(uid, id, ms, wall)?,
            Action::RunHook { .. } => Outcome::Done(Effect::Begun),
            Action::Term { uid, id } => self.term(uid, id, ms),
            Action::Kill { uid, id } => self.kill(uid, id, wall),
            Action::DeleteTask { uid, id } => self.delete_task(uid, id),
            Action::DeleteContainer { uid, id } => self.delete_container(uid, id)?,
            Action::DeleteSandbox { uid, keep } => self.delete_sandbox(uid, *keep)?,
        })
    }

    /// Half of an action: where the real one can stop in the middle.
    fn half(&mut self, action: &Action, ms: u64, wall: Wall) -> Result<Outcome, Breach> {
        match action {
            Action::CreateSandbox { uid } => {
                self.create_sandbox(uid, wall)?;
                self.pod(uid).seen.sandbox = Sandbox::Partial;
            }
            Action::CreateContainer { uid, name, attempt } => {
                self.create_container(uid, name, *attempt, wall, State::Record)?;
            }
            Action::DeleteSandbox { uid, .. } if self.pods.contains_key(uid) => self.pod(uid).seen.sandbox = Sandbox::Partial,
            // The start failed in the runtime: the task is gone and the record says so.
            Action::StartTask { uid, id } => {
                self.start(uid, id, ms, wall)?;
                self.ends.remove(&(uid.clone(), id.clone()));
                let exit = Exit { code: 128, started: None, finished: wall, reason: "StartError".into(), message: None };
                if let Some(c) = self.pod(uid).seen.containers.get_mut(id) {
                    c.state = State::Dead(exit);
                }
            }
            _ => {}
        }
        Ok(failed(Class::Retry, reason(action)))
    }

    fn pod(&mut self, uid: &Uid) -> &mut TruePod {
        let pod = self.wishes[uid].clone();
        self.pods.entry(uid.clone()).or_insert_with(|| TruePod { pod, seen: SeenPod::default(), data: false, logs: BTreeSet::new() })
    }

    fn container(&mut self, uid: &Uid, id: &str) -> Option<&mut SeenContainer> {
        self.pods.get_mut(uid)?.seen.containers.get_mut(id)
    }

    /// What a look at one pod finds.
    pub fn look(&self, uid: &Uid) -> Option<SeenPod> {
        let p = self.pods.get(uid)?;
        let mut seen = p.seen.clone();
        seen.key = (p.data || !seen.containers.is_empty() || !p.logs.is_empty()).then(|| p.pod.key.clone());
        seen.made_from = p.data.then(|| p.pod.clone());
        let lost = |(name, n): &&(Rc<str>, u32)| !seen.containers.values().any(|c| c.name == *name && c.attempt == *n);
        // In order, so that the last one of a name is the highest.
        seen.logged = p.logs.iter().filter(lost).cloned().collect();
        let left = p.data || !seen.containers.is_empty() || seen.sandbox != Sandbox::Absent || !p.logs.is_empty();
        left.then_some(seen)
    }

    fn look_all(&self) -> BTreeMap<Uid, SeenPod> {
        let mut all: BTreeMap<_, _> = self.pods.keys().filter_map(|uid| Some((uid.clone(), self.look(uid)?))).collect();
        if self.lists_foreign {
            all.extend(self.foreign.iter().map(|(uid, p)| (uid.clone(), p.seen.clone())));
        }
        all
    }

    fn prepare(&mut self, image: &ImageRef, pull: PullPolicy) -> Outcome {
        if pull != PullPolicy::Never {
            self.images.insert(image.clone());
        }
        let there = self.images.contains(image);
        Outcome::Done(Effect::Image(if there { SeenImage::Ready { id: "sha256:1".into(), local: false } } else { SeenImage::Absent }))
    }

    fn create_sandbox(&mut self, uid: &Uid, wall: Wall) -> Result<Outcome, Breach> {
        let pod = self.pod(uid);
        if pod.seen.sandbox != Sandbox::Absent {
            return breach(6, format!("{uid}: a sandbox is made over another"));
        }
        pod.data = true;
        pod.seen.sandbox = Sandbox::Ready { ips: vec!["10.0.0.1".parse().unwrap()], since: wall };
        Ok(Outcome::Done(Effect::Sandbox(pod.seen.sandbox.clone())))
    }

    fn create_container(&mut self, uid: &Uid, name: &Rc<str>, attempt: u32, wall: Wall, state: State) -> Result<Outcome, Breach> {
        let wish = self.wishes[uid].clone();
        let spec = wish.containers.iter().find(|c| c.name == *name).unwrap();
        let volumes = wish.volume_images.iter().filter(|v| v.users.contains(name)).map(|v| &v.image);
        let there = volumes.chain([&spec.image]).all(|image| self.images.contains(image));
        let pod = self.pod(uid);
        let Sandbox::Ready { since, .. } = pod.seen.sandbox else {
            return breach(6, format!("{uid}: container {name} is made without a sandbox"));
        };
        let lives = |c: &&SeenContainer| c.name == *name && matches!(c.state, State::Created | State::Running { .. });
        if let Some(other) = pod.seen.containers.values().find(lives) {
            return breach(4, format!("{uid}: {name} attempt {attempt} is made beside {}", other.id));
        }
        if !there {
            return Ok(failed(Class::Gone, "CreateContainerError"));
        }
        let id: Rc<str> = format!("{uid}-{name}-{attempt}").into();
        if pod.seen.containers.get(&id).is_some_and(|c| c.state != State::Record) {
            return breach(4, format!("{id} is made twice"));
        }
        let anew = !pod.seen.containers.contains_key(&id);
        if !pod.logs.insert((name.clone(), attempt)) && anew {
            return breach(4, format!("{id} would write into the log of an earlier one"));
        }
        let made = SeenContainer {
            id: id.clone(),
            name: name.clone(),
            kind: spec.kind,
            attempt,
            image: spec.image.clone(),
            image_id: "sha256:1".into(),
            created: wall,
            sandbox: Some(since),
            user: None,
            state,
        };
        pod.seen.containers.insert(id, made.clone());
        Ok(Outcome::Done(Effect::Container(Box::new(made))))
    }

    fn start(&mut self, uid: &Uid, id: &Rc<str>, ms: u64, wall: Wall) -> Result<Outcome, Breach> {
        let Some(c) = self.container(uid, id).filter(|c| c.state == State::Created) else {
            return Ok(failed(Class::Gone, "RunContainerError"));
        };
        c.state = State::Running { since: wall };
        let (c, key) = (c.clone(), (uid.clone(), c.name.clone()));
        self.check_init_order(uid, &c)?;
        let temper = self.tempers.get_mut(&key).unwrap();
        let end = if temper.crashes > 0 {
            temper.crashes -= 1;
            Some((ms + temper.crash_ms, 1))
        } else {
            temper.life_ms.map(|life| (ms + life, temper.code))
        };
        if temper.sick > 0 {
            temper.sick -= 1;
            self.sick.insert(id.clone());
        }
        if let Some(end) = end {
            self.ends.insert((uid.clone(), id.clone()), end);
        }
        Ok(Outcome::Done(Effect::Container(Box::new(c))))
    }

    /// What a probe finds now.
    pub fn answer(&mut self, check: &Check, ms: u64, luck: &mut Rng, calm: bool) -> Answer {
        if !calm && luck.percent(5) {
            return Answer::Errored("the simulation says no".into());
        }
        let Some(c) = self.container(&check.uid, &check.id).cloned() else { return Answer::Failed("gone".into()) };
        let State::Running { since } = c.state else { return Answer::Failed("ended".into()) };
        let since = crate::drive::ms_of(since).unwrap();
        let well = match check.probe {
            Probe::Startup => ms >= since + self.tempers[&(check.uid.clone(), check.name.clone())].startup_ms,
            Probe::Liveness => !self.sick.contains(&check.id),
            Probe::Readiness => calm || luck.percent(70),
        };
        if well && check.probe == Probe::Startup {
            self.passed.insert((check.uid.clone(), check.name.clone()));
        }
        if well { Answer::Passed } else { Answer::Failed("no".into()) }
    }

    /// Law 6: what comes before it in the spec's init order is through, in this very sandbox.
    fn check_init_order(&self, uid: &Uid, started: &SeenContainer) -> Result<(), Breach> {
        let p = &self.pods[uid];
        for before in p.pod.containers.iter().take_while(|c| c.name != started.name && c.kind != Kind::Main) {
            let here = || p.seen.containers.values().filter(|c| c.name == before.name && c.sandbox == started.sandbox);
            let through = |c: &SeenContainer| match (&c.state, before.kind) {
                (State::Exited(e) | State::Dead(e), Kind::Init) => e.code == 0,
                // A sidecar has to have run once; it may be crashing while the others go on.
                (State::Running { .. } | State::Exited(_) | State::Dead(_) | State::Lost(_), Kind::Sidecar) => true,
                _ => false,
            };
            let made = before.kind == Kind::Sidecar && here().next().is_some();
            let first = started.attempt == 0 && before.kind == Kind::Sidecar && before.care.startup.is_some();
            if first && !self.passed.contains(&(uid.clone(), before.name.clone())) {
                return breach(6, format!("{} starts before {} has passed its startup probe", started.id, before.name));
            }
            if !made && !here().any(through) {
                return breach(6, format!("{} starts before {} is through", started.id, before.name));
            }
        }
        Ok(())
    }

    fn term(&mut self, uid: &Uid, id: &Rc<str>, ms: u64) -> Outcome {
        let Some(c) = self.container(uid, id) else { return failed(Class::Gone, "KillContainerError") };
        if matches!(c.state, State::Running { .. }) {
            let temper = self.tempers[&(uid.clone(), self.pods[uid].seen.containers[id].name.clone())].clone();
            if let Some(after) = temper.term_ms {
                let end = self.ends.entry((uid.clone(), id.clone())).or_insert((u64::MAX, 0));
                *end = (*end).min((ms + after, 143));
            }
        }
        Outcome::Done(Effect::Signalled)
    }

    fn kill(&mut self, uid: &Uid, id: &Rc<str>, wall: Wall) -> Outcome {
        if self.container(uid, id).is_none() {
            return failed(Class::Gone, "KillContainerError");
        }
        self.end(uid, id, 137, wall, false);
        Outcome::Done(Effect::Signalled)
    }

    /// A process ends.
    pub fn end(&mut self, uid: &Uid, id: &Rc<str>, code: u32, wall: Wall, lost: bool) {
        self.ends.remove(&(uid.clone(), id.clone()));
        let Some(c) = self.container(uid, id) else { return };
        if let State::Running { since } = c.state {
            let reason = if code == 0 { "Completed" } else { "Error" };
            let exit = Exit { code, started: Some(since), finished: wall, reason: reason.into(), message: None };
            c.state = if lost { State::Lost(Exit { code: 137, ..exit }) } else { State::Exited(exit) };
        }
    }

    fn delete_task(&mut self, uid: &Uid, id: &Rc<str>) -> Outcome {
        let Some(c) = self.container(uid, id) else { return failed(Class::Gone, "KillContainerError") };
        c.state = match c.state.clone() {
            State::Exited(exit) | State::Lost(exit) | State::Dead(exit) => State::Dead(exit),
            State::Created | State::Record => State::Record,
            State::Running { .. } => return failed(Class::Retry, "KillContainerError"),
        };
        Outcome::Done(Effect::Container(Box::new(c.clone())))
    }

    fn delete_container(&mut self, uid: &Uid, id: &Rc<str>) -> Result<Outcome, Breach> {
        let Some(p) = self.pods.get_mut(uid) else { return Ok(Outcome::Done(Effect::Gone)) };
        if let Some(c) = p.seen.containers.get(id)
            && !matches!(c.state, State::Record | State::Dead(_))
        {
            return breach(6, format!("{id}: its record is deleted before its task"));
        }
        if let Some(c) = p.seen.containers.remove(id) {
            p.logs.remove(&(c.name, c.attempt));
        }
        self.sweep(uid);
        Ok(Outcome::Done(Effect::Gone))
    }

    fn delete_sandbox(&mut self, uid: &Uid, keep: bool) -> Result<Outcome, Breach> {
        if let Some(p) = self.pods.get_mut(uid) {
            let held = |c: &&SeenContainer| !matches!(c.state, State::Record | State::Dead(_));
            if let Some(c) = p.seen.containers.values().find(held) {
                return breach(6, format!("{uid}: its sandbox goes before {}", c.id));
            }
            p.seen.sandbox = Sandbox::Absent;
            p.data &= keep;
            if !keep {
                p.logs.clear();
            }
            self.sweep(uid);
        }
        Ok(Outcome::Done(Effect::Gone))
    }

    fn sweep(&mut self, uid: &Uid) {
        if self.look(uid).is_none() {
            self.pods.remove(uid);
        }
    }

    /// Everything that runs dies, with or without a trace; pins and mounts are gone.
    pub fn reboot(&mut self) {
        self.ends.clear();
        for p in self.pods.values_mut() {
            if p.seen.sandbox != Sandbox::Absent {
                p.seen.sandbox = Sandbox::Partial;
            }
            for c in p.seen.containers.values_mut() {
                c.state = match c.state.clone() {
                    State::Running { since } => {
                        let reason = "ContainerStatusUnknown".into();
                        State::Lost(Exit { code: 137, started: Some(since), finished: Wall(0), reason, message: None })
                    }
                    State::Exited(exit) => State::Lost(exit),
                    State::Created => State::Record,
                    state @ (State::Record | State::Lost(_) | State::Dead(_)) => state,
                };
            }
        }
    }

    /// containerd comes back with nothing: no records, no images, and no tasks.
    pub fn wipe(&mut self) {
        self.ends.clear();
        self.images.clear();
        self.pods.values_mut().for_each(|p| p.seen.containers.clear());
        let uids: Vec<Uid> = self.pods.keys().cloned().collect();
        uids.iter().for_each(|uid| self.sweep(uid));
    }

    /// What plinth keeps on the disk is gone too; logs are not.
    pub fn lose_data(&mut self) {
        for p in self.pods.values_mut() {
            p.data = false;
            if p.seen.sandbox != Sandbox::Absent {
                p.seen.sandbox = Sandbox::Partial;
            }
        }
    }
}

fn reason(action: &Action) -> &'static str {
    match action {
        Action::RunHook { .. } => "RunHookError",
        Action::LookAll | Action::Look { .. } => "LookError",
        Action::PrepareImage { .. } => "ErrImagePull",
        Action::CreateSandbox { .. } => "CreatePodSandboxError",
        Action::CreateContainer { .. } => "CreateContainerError",
        Action::StartTask { .. } => "RunContainerError",
        Action::Term { .. } | Action::Kill { .. } | Action::DeleteTask { .. } => "KillContainerError",
        Action::DeleteContainer { .. } | Action::DeleteSandbox { .. } => "KillPodSandboxError",
    }
}
