//! The link to containerd and what is heard over it: events, long waits, and a pidfd per init as the independent witness.
//!
//! ```text
//!  down ── connect, version, subscribe ──> up: Link(Up) ── events, waits, 60 s look ──> hints
//!    ^                                                              │ stream ends
//!    └────────────── Link(Down), back-off 100 ms .. 5 s ────────────┘
//! ```
//! Nothing heard here is a fact: every witness of an exit only makes `plan` look again, once.

use std::rc::Rc;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest, WaitRequest};
use containerd_client::types::Envelope;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prost::Message;
use tokio::sync::mpsc::UnboundedReceiver;
use tonic::{Code, Streaming};

use super::client::{Client, Tried};
use super::error::{Error, Result, Said, chain};
use super::place::Place;
use super::stand_in::stand_in;
use super::{Linked, Runtime};
use crate::clock;
use crate::plan::action::Event;
use crate::plan::world::Link;
use crate::sys::pidfd::Pidfd;

/// First and longest pause between two tries to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Events can be lost (containerd's shims drop them after 15 s): so often everything is looked at anyway.
const SAFETY_LOOK: Duration = Duration::from_secs(60);
/// containerd hears of an exit after the kernel: so long its own word is waited for before the pidfd's counts.
const WITNESS_WAITS: Duration = Duration::from_millis(200);
/// Our own event, by which a subscription shows that it stands; how often it is published, and the pause between two.
const HELLO: &str = "/plinth/hello";
const HELLOS: (u32, Duration) = (100, Duration::from_millis(20));
/// The exit status of a process is readable once its parent has reaped it: tries, and the pause between two.
const REAPED: (u32, Duration) = (50, Duration::from_millis(20));

/// A running container somebody should watch.
pub(super) struct Watched {
    id: Rc<str>,
    pidfd: Option<Rc<Pidfd>>,
}

/// Both ends of the watch: links come and go, the pidfds stay. Ends when the first containerd found is another plinth's.
pub(super) async fn watch(rt: Rc<Runtime>, mut waits: UnboundedReceiver<Watched>, pidfds: UnboundedReceiver<Watched>) -> Error {
    let links = async {
        let mut pause = BACKOFF.0;
        let mut said: Rc<str> = "".into();
        loop {
            let error = match open(&rt).await {
                Ok((client, events)) => {
                    (pause, said) = (BACKOFF.0, "".into());
                    let why = follow(&rt, &client, events, &mut waits).await;
                    rt.unlink();
                    why
                }
                Err(e) => e,
            };
            if matches!(error, Error::Taken(_)) && rt.held.borrow().is_none() {
                return error;
            }
            // One that only answered too late is silent still, and that was said.
            let late = matches!(error.code(), Some(Code::DeadlineExceeded | Code::Cancelled));
            if !late {
                rt.calls.broken();
            }
            let why = chain(&error);
            if why != said && !(late && rt.calls.is_silent()) {
                rt.tell(Event::Link(Link::Down { why: why.clone(), since: clock::now().mono }));
                said = why;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    };
    tokio::select! {
        error = links => error,
        () = witness(rt.clone(), pidfds) => std::future::pending().await,
    }
}

/// Connects, refuses what is too old, subscribes, and only then says the link is up: nothing in between is missed.
async fn open(rt: &Rc<Runtime>) -> Result<(Client, Streaming<Envelope>)> {
    let settings = &rt.settings;
    let client = Client::connect(&settings.containerd, &settings.namespace, rt.calls.clone())
        .await
        .map_err(|e| Error::Again(format!("{e}; start containerd, or set containerRuntimeEndpoint to its socket")))?;
    let version = client
        .version()
        .version(client.ask(()))
        .await
        .tried("ask containerd for its version at", &settings.containerd.display().to_string())?
        .version;
    let age = age(&version);
    if age == Age::TooOld {
        return Err(Error::Refused(format!("use containerd {version}: it is too old; plinth needs 1.7, better 2.0, or newer")));
    }
    let place = Place::of(&client, &settings.snapshotter).await?;
    rt.hold_namespace(&place)?;
    let events = subscribe(&client, &settings.namespace).await?;
    if age == Age::NoMirrors && !rt.warned_of_age.replace(true) {
        log::warn!(
            "containerd {version} ignores registry hosts directories: no mirrors, no plain-http registries, no own CA; 2.0 or newer has them"
        );
    }
    let stand_in = match age {
        Age::Current => stand_in(&client, &settings.run_dir).await.unwrap_or_else(|e| {
            log::warn!("{}; containers are started by containerd's own shim", chain(&e));
            None
        }),
        _ => None,
    };
    rt.link.replace(Some(Linked { client: client.clone(), version: version.into(), place, stand_in, hosts: age == Age::Current }));
    rt.tell_linked();
    Ok((client, events))
}

/// Subscribes, and is sure of it: containerd answers a subscription only with its first event, so one is published until it comes.
async fn subscribe(client: &Client, namespace: &str) -> Result<Streaming<Envelope>> {
    let filters = ["/tasks/exit", "/tasks/oom", HELLO].map(|topic| format!("namespace=={namespace},topic==\"{topic}\"")).to_vec();
    let mut events = client.events();
    let subscribed = events.subscribe(client.ask_for_ever(SubscribeRequest { filters }));
    tokio::pin!(subscribed);
    for _ in 0..HELLOS.0 {
        let hello = async {
            let event = Some(prost_types::Any::default());
            let _ = client.events().publish(client.ask(PublishRequest { topic: HELLO.to_owned(), event })).await;
            tokio::time::sleep(HELLOS.1).await;
        };
        tokio::select! {
            biased;
            answer = &mut subscribed => return answer.tried("subscribe to events of", "containerd"),
            () = hello => {}
        }
    }
    Err(Error::Again("subscribe to events of containerd: it does not deliver any".into()))
}

/// Turns what comes over one link into hints, until it breaks; answers why it did.
async fn follow(rt: &Rc<Runtime>, client: &Client, mut events: Streaming<Envelope>, queue: &mut UnboundedReceiver<Watched>) -> Error {
    let mut waits = FuturesUnordered::new();
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + SAFETY_LOOK, SAFETY_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(envelope)) => heard(rt, &envelope),
                Some(Err(status)) => return lost(Said::from(status)),
                None => return Error::Again("listen to containerd's events: it ended the stream; it was stopped or restarted, plinth connects again by itself".into()),
            },
            Some(watched) = queue.recv() => waits.push(wait(rt, client, watched.id)),
            Some(()) = waits.next(), if !waits.is_empty() => {}
            _ = look.tick() => rt.tell(Event::HintAll),
        }
    }
}

fn lost(source: Said) -> Error {
    Error::Call { verb: "listen to events (plinth connects again by itself; containers run on) of", object: "containerd".into(), source }
}

/// One event: only who it is about matters.
fn heard(rt: &Runtime, envelope: &Envelope) {
    let Some(event) = &envelope.event else { return };
    if let Some(topic) = envelope.topic.strip_prefix("/tasks/") {
        match topic {
            "exit" => {
                if let Ok(exit) = TaskExit::decode(event.value.as_slice())
                    && exit.id == exit.container_id
                {
                    rt.ended(&exit.container_id);
                }
            }
            "oom" => {
                if let Ok(oom) = TaskOom::decode(event.value.as_slice()) {
                    rt.starved(&oom.container_id);
                }
            }
            _ => {}
        }
    }
}

/// A wait as long as the container runs. `NotFound` is an end too.
async fn wait(rt: &Rc<Runtime>, client: &Client, id: Rc<str>) {
    let request = WaitRequest { container_id: id.to_string(), exec_id: String::new() };
    match client.tasks().wait(client.ask_for_ever(request)).await {
        Ok(_) => rt.ended(&id),
        Err(status) if status.code() == Code::NotFound => rt.ended(&id),
        Err(status) => log::debug!("wait for {id}: {status}"),
    }
    rt.unwatch(&id);
}

/// The kernel's word on each init, over every link: keeps the exit code, and speaks up when containerd does not.
async fn witness(rt: Rc<Runtime>, mut queue: UnboundedReceiver<Watched>) {
    let mut ends = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(watched) = queue.recv() => ends.push(end(&rt, watched)),
            Some(()) = ends.next(), if !ends.is_empty() => {}
        }
    }
}

async fn end(rt: &Rc<Runtime>, watched: Watched) {
    let Some(pidfd) = watched.pidfd else { return };
    if pidfd.ended().await.is_err() {
        return;
    }
    let at = clock::now().wall;
    rt.witnessed(&watched.id, None, at);
    for _ in 0..REAPED.0 {
        if let Some(code) = pidfd.exit_code() {
            rt.witnessed(&watched.id, Some(code), at);
            break;
        }
        tokio::time::sleep(REAPED.1).await;
    }
    drop(pidfd);
    tokio::time::sleep(WITNESS_WAITS).await;
    rt.ended(&watched.id);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    TooOld,
    /// 1.7: transfers know no hosts directory.
    NoMirrors,
    Current,
}

/// `v2.1.9`, `1.7.24~ds1`; what has no number in it is taken as current.
fn age(version: &str) -> Age {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), _) | (Some(Ok(1)), Some(Ok(0..=6))) => Age::TooOld,
        (Some(Ok(1)), Some(Ok(_))) => Age::NoMirrors,
        _ => Age::Current,
    }
}

impl Runtime {
    /// Has a container's end watched: by containerd over this link, and by the kernel over all of them. `own`: its init is its own process,
    /// and may be signalled.
    pub(super) fn watch_container(&self, id: &Rc<str>, pid: u32, own: bool) {
        let mut known = self.known.borrow_mut();
        let Some(known) = known.get_mut(id) else { return };
        if !std::mem::replace(&mut known.waited, true) {
            let _ = self.waits.send(Watched { id: id.clone(), pidfd: None });
        }
        if known.pid != pid {
            known.pid = pid;
            let pidfd = Pidfd::open(pid).ok().filter(|_| is_container(pid, id)).map(Rc::new);
            known.init = pidfd.as_ref().filter(|_| own).map(Rc::downgrade).unwrap_or_default();
            let _ = self.pidfds.send(Watched { id: id.clone(), pidfd });
        }
    }

    fn unwatch(&self, id: &str) {
        if let Some(known) = self.known.borrow_mut().get_mut(id) {
            known.waited = false;
        }
    }

    /// Somebody says this container ended: one hint for the first who does.
    fn ended(&self, id: &str) {
        let uid = self.known.borrow_mut().get_mut(id).and_then(|k| (!std::mem::replace(&mut k.ended, true)).then(|| k.uid.clone()));
        if let Some(uid) = uid {
            self.tell(Event::Hint(uid));
        }
    }

    fn starved(&self, id: &str) {
        if let Some(known) = self.known.borrow_mut().get_mut(id) {
            known.oom = true;
        }
    }

    fn witnessed(&self, id: &str, code: Option<u32>, at: clock::Wall) {
        if let Some(known) = self.known.borrow_mut().get_mut(id) {
            known.witnessed = Some((code, at));
        }
    }

    fn unlink(&self) {
        self.link.borrow_mut().take();
        self.known.borrow_mut().values_mut().for_each(|k| k.waited = false);
    }
}

/// A number may have gone to another process since containerd named it: the init's cgroup carries the container's id.
fn is_container(pid: u32, id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containerd_before_1_7_is_refused() {
        for (version, expected) in [
            ("1.6.20~ds1", Age::TooOld),
            ("v1.6.33", Age::TooOld),
            ("1.7.24~ds1", Age::NoMirrors),
            ("v2.1.9", Age::Current),
            ("2.3.4", Age::Current),
            ("unknown", Age::Current),
        ] {
            assert_eq!(age(version), expected, "{version}");
        }
    }
}
