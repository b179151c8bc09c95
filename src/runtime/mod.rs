//! containerd and this host: the only room that sees tonic or its types. Does what `plan` says and reports what is there.
//!
//! The loop calls `perform` once per action and polls `watch` for ever; nothing else leaves this room. It decides nothing:
//! a failure becomes data (`Failure`) and `plan` sees its consequence, never a status code.
//! - `client`, `error`: one connection, and what can go wrong
//! - `alone`: no other plinth in the same run directory; `place`: nor in the same namespace, and that layers reach the disk
//! - `events`: the link, and who says that something ended; `silence`: that containerd hangs
//! - `observe`: what is there; `labels`: what is written on it
//! - `image`: images, pulled, or imported from `archives`, each an `archive`; `image_mount`: as volumes; `collect`: removed
//! - `stand_in`: this program in place of the shim's
//! - `task`: containers, from record to deletion; `specify`, `users`, `apparmor`, `message`, `starved`, `orphans`: what it asks
//!   of the host
//! - `probe`: how containers are, and their hooks; `session`: commands and terminals held from outside; `exec`: what both stand on
//! - `forward`: ports of pods, reached from outside; `usage`: what pods use
//! - `sandbox`, `net`, `volume`, `cgroup`: what a pod stands on; `oci`: its containers' specifications; `logs`: their output

mod alone;
mod apparmor;
mod archive;
mod archives;
pub mod cgroup;
pub mod client;
mod collect;
pub mod dns;
pub mod downward;
pub mod error;
mod events;
mod exec;
mod forward;
pub mod hosts;
mod image;
pub mod image_config;
mod image_mount;
pub mod image_volume;
mod inventory;
pub mod labels;
pub mod logs;
mod message;
pub mod net;
pub mod node;
mod observe;
pub mod oci;
mod orphans;
pub mod paths;
mod place;
mod probe;
pub mod qos;
pub mod sandbox;
mod session;
pub mod silence;
mod specify;
pub mod stand_in;
mod starved;
mod task;
mod transfer;
mod usage;
pub mod userns;
mod users;
pub mod volume;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::Wall;
use crate::plan::action::{Action, Check, Class, Effect, Event, Failure, Outcome};
use crate::plan::world::{Link, Sandbox, SeenContainer, SeenPod};
use crate::pod::{Hook, PodKey, Uid, WantedPod};
use crate::settings::Settings;
use crate::sys::pidfd::Pidfd;
use client::Client;
use error::{Error, Result};
use events::Watched;
use logs::Logs;
use paths::Paths;
use place::{Held, Place};
use probe::Errand;
use silence::Calls;

/// One action with what it needs to know: the pod as wanted (if it is) and as last seen (if it was).
#[derive(Clone, Debug)]
pub struct Job {
    /// What to do.
    pub action: Action,
    /// The pod it is for, as wanted; of a pod nobody wants any more, `SeenPod::made_from`.
    pub pod: Option<Rc<WantedPod>>,
    /// The pod as last seen.
    pub seen: Option<SeenPod>,
}

impl Job {
    /// Full name of the pod it is for, if it is for one.
    pub fn key(&self) -> Option<&PodKey> {
        self.pod.as_deref().map(|p| &p.key).or(self.seen.as_ref().and_then(|s| s.key.as_ref()))
    }
}

/// The room: settings, the link to containerd, and what it keeps between calls.
pub struct Runtime {
    settings: Rc<Settings>,
    paths: Paths,
    boot: Rc<str>,
    events: UnboundedSender<Event>,
    link: RefCell<Option<Linked>>,
    calls: Rc<Calls>,
    held: RefCell<Option<Held>>,
    unsynced: Notify,
    known: RefCell<BTreeMap<Rc<str>, Known>>,
    waits: UnboundedSender<Watched>,
    pidfds: UnboundedSender<Watched>,
    queues: RefCell<Option<(UnboundedReceiver<Watched>, UnboundedReceiver<Watched>)>>,
    errands: UnboundedSender<Errand>,
    errands_queue: RefCell<Option<UnboundedReceiver<Errand>>>,
    sessions: session::Sessions,
    ages: RefCell<collect::Ages>,
    warned_of_age: Cell<bool>,
    warned_of_apparmor: Cell<bool>,
    /// The last removal of unused images failed.
    collect_failed: Cell<bool>,
    kept: RefCell<image::Kept>,
    inventory: RefCell<Rc<inventory::Inventory>>,
    archives: archives::Archives,
    counter: volume::usage::Counter,
    making: RefCell<BTreeSet<Rc<str>>>,
    leases: RefCell<BTreeSet<String>>,
    logs: Logs,
    _alone: std::fs::File,
}

/// The present connection.
struct Linked {
    client: Client,
    version: Rc<str>,
    place: Place,
    /// What containerd calls in place of its runc shim's program, if it can.
    stand_in: Option<Rc<str>>,
    /// 2.0 or newer: transfers honour a registry hosts directory.
    hosts: bool,
}

/// What is kept in memory of a container whose record is there; all of it may be forgotten.
struct Known {
    uid: Uid,
    stop_signal: u32,
    /// Its init, once it runs.
    pid: u32,
    /// The same, if it is the container's own process; held by its witness for as long as it lives.
    init: Weak<Pidfd>,
    /// A wait is under way over the present link.
    waited: bool,
    /// Its end was told to `plan`.
    ended: bool,
    /// The kernel's out-of-memory killer was in it, says containerd.
    oom: bool,
    /// The kernel says it ended then, and how.
    witnessed: Option<(Option<u32>, Wall)>,
}

impl Runtime {
    /// A room with no link yet: `watch` makes it. To be called within the event loop's runtime.
    pub fn new(settings: Rc<Settings>, events: UnboundedSender<Event>) -> Result<Rc<Runtime>> {
        let paths = Paths::new(&settings);
        let alone = alone::hold(&settings.run_dir)?;
        let logs = Logs::new(&settings).map_err(|e| Error::Again(error::chain(&e).to_string()))?;
        logs.adopt_listen_fds();
        let ((waits, waited), (pidfds, witnessed)) = (unbounded_channel(), unbounded_channel());
        let (errands, errands_queue) = unbounded_channel();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Rc::new(Runtime {
            settings,
            paths,
            boot: boot.trim().into(),
            events,
            link: RefCell::new(None),
            calls: Rc::default(),
            held: RefCell::default(),
            unsynced: Notify::new(),
            known: RefCell::default(),
            waits,
            pidfds,
            queues: RefCell::new(Some((waited, witnessed))),
            errands,
            errands_queue: RefCell::new(Some(errands_queue)),
            sessions: session::Sessions::new(),
            ages: RefCell::default(),
            warned_of_age: Cell::new(false),
            warned_of_apparmor: Cell::new(false),
            collect_failed: Cell::new(false),
            kept: RefCell::default(),
            inventory: RefCell::default(),
            archives: archives::Archives::default(),
            counter: volume::usage::Counter::default(),
            making: RefCell::default(),
            leases: RefCell::default(),
            logs,
            _alone: alone,
        }))
    }

    /// The logs, for who reads them back.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Does one action. Never panics, never lasts for ever: every call has a deadline.
    pub async fn perform(self: Rc<Runtime>, job: Job) -> Outcome {
        let Job { action, pod, seen } = job;
        self.act(action, pod, seen).await.map_or_else(|failure| Outcome::Failed(self.blamed(failure)), Outcome::Done)
    }

    /// While containerd answers nothing, no failure is the pod's fault.
    fn blamed(&self, failure: Failure) -> Failure {
        let class = if self.calls.is_silent() { Class::Unreachable } else { failure.class };
        Failure { class, ..failure }
    }

    async fn act(&self, action: Action, pod: Option<Rc<WantedPod>>, seen: Option<SeenPod>) -> std::result::Result<Effect, Failure> {
        let container = |c: SeenContainer| Effect::Container(Box::new(c));
        match action {
            Action::LookAll => self.look_all().await.map(Effect::All).map_err(|e| e.into_failure("LookError")),
            Action::Look { uid } => self.look(&uid).await.map(|p| Effect::Pod(p.map(Box::new))).map_err(|e| e.into_failure("LookError")),
            Action::PrepareImage { image, pull } => self.prepare(&image, pull).await.map(Effect::Image),
            Action::CreateSandbox { uid } => {
                let pod = pod.ok_or_else(|| unknown(&uid))?;
                let made = sandbox::create(&self.settings, &self.paths, &pod).await.map_err(|e| e.into_failure())?;
                for (reason, message) in sandbox::name_service(&self.settings, &pod) {
                    self.tell(Event::Told { of: Some(uid.clone()), reason, message: message.into() });
                }
                Ok(Effect::Sandbox(made))
            }
            Action::CreateContainer { uid, name, attempt } => {
                let pod = pod.ok_or_else(|| unknown(&uid))?;
                self.create(&pod, seen.as_ref(), &name, attempt).await.map(container)
            }
            Action::StartTask { id, .. } => self.start(&id).await.map(container).map_err(|e| e.into_failure("RunContainerError")),
            Action::RunHook { uid, id, hook, within_ms } => {
                let pod = pod.ok_or_else(|| unknown(&uid))?;
                self.begin_hook(pod, seen.as_ref(), uid, id, hook, within_ms.map(Duration::from_millis))
            }
            Action::Term { id, .. } => {
                self.signal(&id, false).await.map(|()| Effect::Signalled).map_err(|e| e.into_failure("KillContainerError"))
            }
            Action::Kill { id, .. } => {
                self.signal(&id, true).await.map(|()| Effect::Signalled).map_err(|e| e.into_failure("KillContainerError"))
            }
            Action::DeleteTask { id, .. } => {
                self.end(pod.as_deref(), &id).await.map(container).map_err(|e| e.into_failure("KillContainerError"))
            }
            Action::DeleteContainer { id, .. } => {
                self.delete(&id).await.map(|()| Effect::Gone).map_err(|e| e.into_failure("KillContainerError"))
            }
            Action::DeleteSandbox { uid, keep } => self.delete_sandbox(&uid, pod.as_ref(), seen.as_ref(), keep).await,
        }
    }

    /// Begins a probe; its answer is an event. `plan` bounds how many there are.
    pub fn ask(&self, check: Check, pod: Rc<WantedPod>, seen: Option<&SeenPod>) {
        let _ = self.errands.send(Errand::Probe { check, pod, ips: ips(seen) });
    }

    fn begin_hook(
        &self,
        pod: Rc<WantedPod>,
        seen: Option<&SeenPod>,
        uid: Uid,
        id: Rc<str>,
        hook: Hook,
        within: Option<Duration>,
    ) -> std::result::Result<Effect, Failure> {
        let name = seen.and_then(|s| s.containers.get(&id)).map(|c| c.name.clone());
        let name = name.ok_or_else(|| Error::Gone(format!("run a hook of `{id}`: it is gone")).into_failure("RunHookError"))?;
        let _ = self.errands.send(Errand::Hook { uid, id, name, hook, within, pod, ips: ips(seen) });
        Ok(Effect::Begun)
    }

    async fn delete_sandbox(
        &self,
        uid: &Uid,
        pod: Option<&Rc<WantedPod>>,
        seen: Option<&SeenPod>,
        keep: bool,
    ) -> std::result::Result<Effect, Failure> {
        let failed = |f: Failure| Failure { reason: "KillPodSandboxError".into(), ..f };
        let key = pod.map(|p| &p.key).or(seen.and_then(|s| s.key.as_ref()));
        // Before the pod is forgotten: nobody would come back for them after a crash in between.
        if let (Some(key), false) = (key, keep) {
            // A log that cannot be removed is no reason to keep the pod.
            self.logs.remove_pod(key, uid).unwrap_or_else(|e| log::warn!("pod={key} {}", error::chain(&e)));
        }
        sandbox::delete(&self.settings, &self.paths, uid, keep).await.map_err(|e| failed(e.into_failure()))?;
        self.end_shims_of(uid).await;
        // Of a pod nobody knows any more, the next full look removes what is left.
        if pod.is_some_and(|p| !p.volume_images.is_empty()) {
            self.release_images(uid).await.map_err(|e| e.into_failure("KillPodSandboxError"))?;
        }
        Ok(Effect::Gone)
    }

    /// Once, when it is known what is there and what is wanted: lets CNI plugins collect what no pod of these holds.
    pub async fn collect_addresses(self: Rc<Runtime>, keep: BTreeSet<Uid>) {
        if let Err(e) = net::release_stale(&self.settings, &self.paths, &keep).await {
            log::warn!("give back addresses nobody holds: {}; done again at the next start", error::chain(&e));
        }
    }

    /// Keeps the link to containerd, turns what happens there into events, and moves the containers' output. Ends only when another
    /// plinth turns out to work in our namespace. To be called once.
    pub async fn watch(self: Rc<Runtime>) -> Error {
        let queues = self.queues.borrow_mut().take();
        let errands = self.errands_queue.borrow_mut().take();
        if let (Some((waits, pidfds)), Some(errands)) = (queues, errands) {
            let logs = self.logs.clone();
            let (asked, silent) = (probe::serve(self.clone(), errands), silence::watch(self.clone()));
            let (archives, usage) = (archives::watch(self.clone()), volume::usage::watch(self.clone()));
            let (syncs, kernel) = (place::watch(self.clone()), starved::watch(self.clone()));
            let others = async { _ = futures_util::join!(asked, silent, archives, usage, syncs, kernel, logs.run()) };
            return tokio::select! {
                error = events::watch(self, waits, pidfds) => error,
                () = others => std::future::pending().await,
            };
        }
        std::future::pending().await
    }

    /// containerd takes calls and answers none: it may yet.
    pub fn is_silent(&self) -> bool {
        self.calls.is_silent()
    }

    fn tell(&self, event: Event) {
        // The receiver is the loop itself: when it is gone, so is everybody who could care.
        let _ = self.events.send(event);
    }

    /// Says that there is a link, if there is one.
    fn tell_linked(&self) {
        if let Some(linked) = self.link.borrow().as_ref() {
            self.tell(Event::Link(Link::Up { version: linked.version.clone() }));
        }
    }

    fn client(&self) -> Result<Client> {
        self.link.borrow().as_ref().map(|l| l.client.clone()).ok_or(Error::Unlinked)
    }
}

/// The addresses of a pod.
fn ips(seen: Option<&SeenPod>) -> Vec<IpAddr> {
    match seen.map(|s| &s.sandbox) {
        Some(Sandbox::Ready { ips, .. }) => ips.clone(),
        _ => Vec::new(),
    }
}

fn unknown(uid: &Uid) -> Failure {
    let message = format!("make pod {uid}: neither its manifest nor its saved object is there");
    Failure { class: Class::Gone, reason: "CreatePodSandboxError".into(), message: message.into() }
}
