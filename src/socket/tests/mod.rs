//! The server on a real socket, over a world of the test's own making.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod limits;
mod metrics;
mod remote;
mod routes;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use super::http::{Bounds, serve_within};
use super::{Backend, Counters, Layers, LogError, LogRequest, LogStream, Rates, View, Volume, listen};
use crate::clock::{Moment, Now, Wall};
use crate::plan::action::{Action, Answer, Check, Class, Failure, Outcome};
use crate::plan::record::{EventNote, EventRing};
use crate::plan::status::pod_status;
use crate::plan::view::Scene;
use crate::plan::world::{Exit, Link, Retry, Sandbox, SeenContainer, SeenPod, State, World};
use crate::pod::{FileReport, Finding, ImageRef, Kind, Origin, PodKey, Probe, Uid, Verdict, WantedPod};
use crate::session;
use crate::settings::Settings;
use crate::sys::interfaces::Interface;

/// Everything waits at most this long.
const PATIENCE: Duration = Duration::from_secs(120);
pub const T0: i64 = 1_767_225_600_000_000_000; // 2026-01-01T00:00:00Z

pub fn second(s: i64) -> Wall {
    Wall(T0 + s * 1_000_000_000)
}

pub struct Fake {
    pub world: RefCell<World>,
    pub files: RefCell<Vec<FileReport>>,
    pub ring: RefCell<EventRing>,
    pub degraded: RefCell<Vec<String>>,
    settings: Settings,
    counters: Counters,
    rates: RefCell<Rates>,
    /// Everything uses one processor for as long as there is time.
    pub busy: Cell<bool>,
    news: watch::Sender<u64>,
    pub asked: RefCell<Vec<LogRequest>>,
    pub stopped: Cell<Option<Option<Duration>>>,
    /// What was asked for, and the process's side of it, which is the test's to play.
    pub sessions: RefCell<Vec<(session::Request, session::Served)>>,
}

impl Fake {
    /// web runs and is ready, crash waits for its next start, old is on its way out; `bad.yaml` is refused.
    pub fn new() -> Rc<Fake> {
        let mut world = World::default();
        world.wanted.complete = true;
        world.seen.link = Link::Up { version: "v2.1.9".into() };
        world.seen.listed = Some(Moment(1));
        for (name, seen) in [("web", State::Running { since: second(10) }), ("crash", State::Dead(exit(1)))] {
            let pod = wanted(name);
            let id: Rc<str> = format!("{name}-id").into();
            let seen = SeenPod { made_from: Some(pod.clone()), ..seen_pod(&pod.key, container(&id, "main", seen)) };
            world.seen.pods.insert(pod.uid.clone(), seen);
            world.wanted.pods.insert(pod.key.clone(), pod);
        }
        let uid = wanted("crash").uid.clone();
        let memory = world.memory.pods.entry(uid).or_default();
        let main = memory.containers.entry("main".into()).or_default();
        main.exit = Some((2, Moment(70_000)));
        main.crash = Retry { failures: 3, delay_ms: 40_000, at: Some(Moment(60_000)), ..Retry::default() };
        let old = PodKey { namespace: "default".into(), name: "old-n1".into() };
        world.seen.pods.insert(Uid("old-uid".into()), seen_pod(&old, container("old-id", "main", State::Running { since: second(1) })));
        let mut ring = EventRing::new("n1", 8);
        ring.push(note("web-n1", "Started"), second(10));
        ring.push(note("crash-n1", "BackOff"), second(20));
        Rc::new(Fake {
            world: RefCell::new(world),
            files: RefCell::new(files()),
            ring: RefCell::new(ring),
            degraded: RefCell::default(),
            settings: Settings { node_name: "n1".into(), ..Settings::default() },
            counters: counted(),
            rates: RefCell::default(),
            busy: Cell::default(),
            news: watch::Sender::new(0),
            asked: RefCell::default(),
            stopped: Cell::new(None),
            sessions: RefCell::default(),
        })
    }

    pub fn changed(&self) {
        self.news.send_modify(|n| *n += 1);
    }
}

impl Backend for Fake {
    fn with(&self, f: &mut dyn FnMut(&View<'_>)) {
        let (world, now) = (self.world.borrow(), Now { mono: Moment(100_000), wall: second(100) });
        f(&View {
            world: &world,
            files: &self.files.borrow(),
            settings: &self.settings,
            degraded: &self.degraded.borrow(),
            counters: &self.counters,
            now,
            status: &|uid| pod_status(&Scene::new(&world, now.mono), uid, now.wall),
            cluster: None,
            url: None,
            unshown: &|_| None,
            is_mirror: &|key, uid| &*key.name == "web-n1" && uid == "mirror-uid",
            events: &|after, visit| self.ring.borrow().visit(after, visit),
        });
    }

    /// Two chunks; an endless log when it is followed.
    fn logs(&self, request: LogRequest) -> Result<LogStream, LogError> {
        let follow = request.options.follow;
        self.asked.borrow_mut().push(request);
        let line = || Ok(Bytes::from_static(b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n"));
        let two = stream::iter([line(), line()]);
        Ok(if follow { Box::pin(stream::repeat_with(line)) } else { Box::pin(two) })
    }

    fn session(&self, request: session::Request) -> session::Session {
        let (session, served) = session::pair(request.stdin);
        self.sessions.borrow_mut().push((request, served));
        session
    }

    /// The pods of this world are in the test's own network.
    fn forward(&self, _: &Uid, port: u16) -> LocalBoxFuture<'static, std::io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(("127.0.0.1", port)))
    }

    fn usage(&self, _: Option<&crate::pod::Uid>, containers: &[Rc<str>]) -> Vec<crate::sys::cgroup::Usage> {
        let elapsed = u64::try_from(crate::clock::now().wall.0).unwrap();
        let cpu_ns = if self.busy.get() { elapsed } else { 1_500_000_000 };
        let memory = crate::sys::cgroup::Memory {
            used_bytes: 3000,
            working_set_bytes: 2000,
            limit_bytes: Some(10_000),
            swap_bytes: Some(100),
            swap_limit_bytes: Some(500),
            ..Default::default()
        };
        let usage = crate::sys::cgroup::Usage { cpu_ns: Some(cpu_ns), memory: Some(memory), processes: Some(2) };
        vec![usage; 1 + containers.len()]
    }

    fn rates(&self) -> &RefCell<Rates> {
        &self.rates
    }

    /// old is on the host's network.
    fn network(&self, pod: Option<&crate::pod::Uid>, _: &[Rc<str>]) -> Vec<Interface> {
        let interface = |name: &str| Interface { name: name.into(), rx_bytes: 10, rx_errors: 1, tx_bytes: 20, tx_errors: 2 };
        match pod.map(|uid| &*uid.0) {
            None => vec![interface("lo"), interface("ens3"), interface("veth12ab")],
            Some("old-uid") => Vec::new(),
            Some(_) => vec![interface("lo"), interface("eth0")],
        }
    }

    fn layers(&self, containers: Vec<Rc<str>>) -> LocalBoxFuture<'static, Layers> {
        let written = containers.iter().map(|_| Some((4096, 3))).collect();
        Box::pin(async { Layers { dir: Some("/".into()), written } })
    }

    /// One in memory and two on the disk each; one of old's could not be counted in time.
    fn volumes(&self, pods: Vec<Uid>) -> LocalBoxFuture<'static, Vec<Vec<Volume>>> {
        let volume = |name: &str, on_disk, held: Option<(u64, u64)>| Volume {
            name: name.into(),
            on_disk,
            counted: held.map(|held| (second(90), held)),
            disk: rustix::fs::statvfs("/").ok(),
        };
        let of = |uid: &Uid| {
            let late = (&*uid.0 != "old-uid").then_some((8192, 2));
            vec![volume("disk", true, Some((65_536, 5))), volume("memory", false, Some((512, 1))), volume("late", true, late)]
        };
        let all = pods.iter().map(of).collect();
        Box::pin(async { all })
    }

    fn logged(&self, _: &PodKey, _: &crate::pod::Uid, _: &str) -> (u64, u64) {
        (77, 2)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn shutdown(&self, grace: Option<Duration>) {
        self.stopped.set(Some(grace));
    }
}

/// A probe of web that passed twice and failed once, and a sandbox that could not be made.
fn counted() -> Counters {
    let mut counters = Counters::new(Now { mono: Moment(0), wall: second(0) });
    let check = Check { uid: Uid("web-uid".into()), id: "web-id".into(), name: "main".into(), probe: Probe::Liveness };
    let took = Some(Duration::from_millis(30));
    counters.answered(&check, &Answer::Passed, took);
    counters.answered(&check, &Answer::Passed, took);
    counters.answered(&check, &Answer::Failed("no".into()), took);
    counters.refused("NodePorts");
    counters.hook_in_clear();
    let failure = Failure { class: Class::Retry, reason: "CreatePodSandboxError".into(), message: "no".into() };
    let (action, now) = (Action::CreateSandbox { uid: Uid("crash-uid".into()) }, Now { mono: Moment(1), wall: second(1) });
    counters.ended(&action, &Outcome::Failed(failure), Duration::from_millis(250), &World::default(), now);
    counters
}

pub fn wanted(name: &str) -> Rc<WantedPod> {
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-n1"), "namespace": "default", "uid": format!("{name}-uid")},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]}});
    let origin = Origin { layer: "/etc/m".into(), path: format!("/etc/m/{name}.yaml").into(), line: 3 };
    Rc::new(WantedPod::from_object(serde_json::from_value(object).unwrap(), origin).unwrap())
}

fn exit(code: u32) -> Exit {
    Exit { code, started: Some(second(10)), finished: second(60), reason: "Error".into(), message: None }
}

pub fn container(id: &str, name: &str, state: State) -> SeenContainer {
    SeenContainer {
        id: id.into(),
        name: name.into(),
        kind: Kind::Main,
        attempt: 2,
        image: ImageRef::normalised("busybox"),
        image_id: "sha256:00".into(),
        created: second(9),
        sandbox: None,
        user: None,
        state,
    }
}

fn seen_pod(key: &PodKey, c: SeenContainer) -> SeenPod {
    SeenPod {
        key: Some(key.clone()),
        sandbox: Sandbox::Ready { ips: vec!["10.0.0.2".parse().unwrap()], since: second(5) },
        containers: [(c.id.clone(), c)].into(),
        ..SeenPod::default()
    }
}

pub fn note(pod: &str, reason: &'static str) -> EventNote {
    let key = PodKey { namespace: "default".into(), name: pod.into() };
    EventNote { kind: "Pod", key, uid: Uid("u".into()), container: None, reason, warning: false, message: format!("{reason} it") }
}

fn files() -> Vec<FileReport> {
    let file = |layer: &str, name: &str, verdict| FileReport {
        path: Path::new(layer).join(name),
        layer: layer.into(),
        verdict,
        by: None,
        pods: Vec::new(),
        stale: false,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let key = |name: &str| PodKey { namespace: "default".into(), name: name.into() };
    let finding = Finding { message: "must be a number".into(), field: "spec.x".into(), line: 7, column: 9 };
    vec![
        FileReport { by: Some("/etc/m/web.yaml".into()), ..file("/usr/m", "web.yaml", Verdict::Overridden) },
        FileReport { pods: vec![key("web-n1")], ..file("/etc/m", "web.yaml", Verdict::Accepted) },
        FileReport { pods: vec![key("crash-n1")], ..file("/etc/m", "crash.yaml", Verdict::Accepted) },
        FileReport { errors: vec![finding], ..file("/etc/m", "bad.yaml", Verdict::Rejected) },
    ]
}

/// A directory of the test's own, gone with it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plinth-socket-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("s.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves the fake while the test runs, all on this thread, and fails a test that hangs.
pub fn serving<F: Future<Output = ()>>(bounds: Bounds, test: impl FnOnce(PathBuf, Rc<Fake>) -> F) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scratch = Scratch::new();
    rt.block_on(async {
        let fake = Fake::new();
        let listener = listen(&scratch.socket(), None).unwrap();
        tokio::select! {
            () = serve_within(bounds, listener, fake.clone()) => unreachable!(),
            done = tokio::time::timeout(PATIENCE, test(scratch.socket(), fake.clone())) => done.expect("in time"),
        }
    });
}

/// The whole answer to raw bytes, until the server closes.
pub async fn talk(socket: &Path, bytes: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // A server that is full has answered and closed already.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

pub struct Reply {
    pub code: u16,
    pub head: String,
    pub body: String,
}

pub async fn ask(socket: &Path, method: &str, path: &str) -> Reply {
    let text = talk(socket, &format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { code, head: head.to_lowercase(), body: body.to_owned() }
}

pub async fn get(socket: &Path, path: &str) -> Reply {
    ask(socket, "GET", path).await
}
