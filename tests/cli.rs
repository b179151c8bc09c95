//! The real binary against a real status socket, served over a world of the test's own making.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod skip;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream;
use plinth::clock::{Moment, Now, Wall, now};
use plinth::plan::record::{EventNote, EventRing};
use plinth::plan::status::pod_status;
use plinth::plan::view::Scene;
use plinth::plan::world::{Link, Sandbox, SeenContainer, SeenPod, State, World};
use plinth::pod::{FileReport, Finding, ImageRef, Kind, Origin, PodKey, Uid, Verdict, WantedPod};
use plinth::settings::Settings;
use plinth::socket::{Backend, Counters, LogError, LogRequest, LogStream, View, listen, serve};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc as tokio_mpsc, watch};

/// What a test does to the world behind the socket.
enum Change {
    /// The pod's container starts.
    Start(&'static str),
    /// A manifest is refused.
    Refuse,
    /// The machine lost its state.
    Degrade,
    /// The server ends.
    End,
}

struct Fake {
    world: RefCell<World>,
    files: RefCell<Vec<FileReport>>,
    ring: RefCell<EventRing>,
    degraded: RefCell<Vec<String>>,
    settings: Settings,
    counters: Counters,
    rates: RefCell<plinth::socket::Rates>,
    news: watch::Sender<u64>,
    stopping: Cell<bool>,
}

fn seconds_ago(s: i64) -> Wall {
    Wall(now().wall.0 - s * 1_000_000_000)
}

fn key(ns: &str, name: &str) -> PodKey {
    PodKey { namespace: ns.into(), name: name.into() }
}

fn wanted(ns: &str, name: &str) -> Rc<WantedPod> {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": ns, "uid": format!("{ns}.{name}")},
        "spec": {"containers": [{"name": "main", "image": "busybox"}, {"name": "side", "image": "busybox"}]}});
    let origin = Origin { layer: "/etc/m".into(), path: format!("/etc/m/{name}.yaml").into(), line: 3 };
    Rc::new(WantedPod::from_object(serde_json::from_value(object).unwrap(), origin).unwrap())
}

impl Fake {
    /// default/web-n1 and kube-system/web-n1 run; default/slow-n1 does not yet.
    fn new() -> Rc<Fake> {
        let mut world = World::default();
        world.wanted.complete = true;
        world.seen.link = Link::Up { version: "v2.1.9".into() };
        world.seen.listed = Some(Moment(1));
        let mut ring = EventRing::new("n1", 8);
        for (ns, name) in [("default", "web-n1"), ("default", "slow-n1"), ("kube-system", "web-n1"), ("kube-system", "dns-n1")] {
            let pod = wanted(ns, name);
            world.wanted.pods.insert(pod.key.clone(), pod.clone());
            if name != "slow-n1" {
                world.seen.pods.insert(pod.uid.clone(), running(&pod));
            }
            let message = "Created by \x1b[2Jtest".into();
            ring.push(
                EventNote {
                    kind: "Pod",
                    key: pod.key.clone(),
                    uid: pod.uid.clone(),
                    container: None,
                    reason: "Created",
                    warning: false,
                    message,
                },
                now().wall,
            );
        }
        Rc::new(Fake {
            world: RefCell::new(world),
            files: RefCell::default(),
            ring: RefCell::new(ring),
            degraded: RefCell::default(),
            settings: Settings { node_name: "n1".into(), ..Settings::default() },
            counters: Counters::new(now()),
            rates: RefCell::default(),
            news: watch::Sender::new(0),
            stopping: Cell::new(false),
        })
    }

    fn change(&self, change: Change) {
        match change {
            Change::Start(name) => {
                let mut world = self.world.borrow_mut();
                let pod = world.wanted.pods.get(&key("default", name)).unwrap().clone();
                world.seen.pods.insert(pod.uid.clone(), running(&pod));
            }
            Change::Refuse => {
                let finding = Finding { message: "is not YAML".into(), field: String::new(), line: 2, column: 5 };
                self.files.borrow_mut().push(FileReport {
                    path: "/etc/m/bad.yaml".into(),
                    layer: "/etc/m".into(),
                    verdict: Verdict::Rejected,
                    by: None,
                    pods: Vec::new(),
                    stale: false,
                    errors: vec![finding],
                    warnings: Vec::new(),
                });
            }
            Change::Degrade => self.degraded.borrow_mut().push("nothing is kept beyond this boot: no disk".into()),
            Change::End => self.stopping.set(true),
        }
        self.news.send_modify(|n| *n += 1);
    }
}

fn running(pod: &WantedPod) -> SeenPod {
    let container = |name: &str| SeenContainer {
        id: format!("{}-{name}", pod.uid).into(),
        name: name.into(),
        kind: Kind::Main,
        attempt: 0,
        image: ImageRef::normalised("busybox"),
        image_id: "sha256:00".into(),
        created: seconds_ago(301),
        sandbox: None,
        user: None,
        state: State::Running { since: seconds_ago(300) },
    };
    SeenPod {
        key: Some(pod.key.clone()),
        sandbox: Sandbox::Ready { ips: vec!["10.0.0.2".parse().unwrap()], since: seconds_ago(302) },
        containers: ["main", "side"].map(|n| (container(n).id, container(n))).into(),
        ..SeenPod::default()
    }
}

impl Backend for Fake {
    fn with(&self, f: &mut dyn FnMut(&View<'_>)) {
        let (world, now): (_, Now) = (self.world.borrow(), now());
        f(&View {
            world: &world,
            files: &self.files.borrow(),
            settings: &self.settings,
            degraded: &self.degraded.borrow(),
            counters: &self.counters,
            now,
            status: &|uid: &Uid| pod_status(&Scene::new(&world, now.mono), uid, now.wall),
            cluster: None,
            url: None,
            unshown: &|_| None,
            is_mirror: &|_, _| false,
            events: &|after, visit| self.ring.borrow().visit(after, visit),
        });
    }

    fn logs(&self, request: LogRequest) -> Result<LogStream, LogError> {
        let o = &request.options;
        let line = format!("{} {} tail={:?} timestamps={}\n", request.key, request.container, o.tail_lines, o.timestamps);
        // Larger than any buffer on the way.
        Ok(Box::pin(stream::iter([Ok(Bytes::from(line)), Ok(Bytes::from(vec![b'x'; 300_000])), Ok(Bytes::from_static(b"\nend\n"))])))
    }

    /// One that is over before it began.
    fn session(&self, request: plinth::session::Request) -> plinth::session::Session {
        plinth::session::pair(request.stdin).0
    }

    fn forward(&self, _: &Uid, _: u16) -> LocalBoxFuture<'static, std::io::Result<TcpStream>> {
        Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
    }

    fn usage(&self, _: Option<&plinth::pod::Uid>, containers: &[Rc<str>]) -> Vec<plinth::sys::cgroup::Usage> {
        let memory =
            plinth::sys::cgroup::Memory { used_bytes: 3000, working_set_bytes: 2000, limit_bytes: Some(10_000), ..Default::default() };
        let usage = plinth::sys::cgroup::Usage { cpu_ns: Some(1_500_000_000), memory: Some(memory), processes: Some(2) };
        vec![usage; 1 + containers.len()]
    }

    fn rates(&self) -> &RefCell<plinth::socket::Rates> {
        &self.rates
    }

    fn network(&self, _: Option<&plinth::pod::Uid>, _: &[Rc<str>]) -> Vec<plinth::sys::interfaces::Interface> {
        Vec::new()
    }

    fn layers(&self, _: Vec<Rc<str>>) -> LocalBoxFuture<'static, plinth::socket::Layers> {
        Box::pin(async { plinth::socket::Layers::default() })
    }

    fn volumes(&self, _: Vec<plinth::pod::Uid>) -> LocalBoxFuture<'static, Vec<Vec<plinth::socket::Volume>>> {
        Box::pin(async { Vec::new() })
    }

    fn logged(&self, _: &PodKey, _: &plinth::pod::Uid, _: &str) -> (u64, u64) {
        (77, 2)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn shutdown(&self, _: Option<Duration>) {
        self.change(Change::End);
    }
}

/// The server on a thread of the test's; gone with it.
struct Server {
    dir: PathBuf,
    changes: tokio_mpsc::UnboundedSender<Change>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(name: &str) -> Server {
        let mut server = Server::absent(name);
        server.serve();
        server
    }

    /// A place for a server that is not there yet.
    fn absent(name: &str) -> Server {
        let dir = std::env::temp_dir().join(format!("plinth-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Server { dir, changes: tokio_mpsc::unbounded_channel().0, thread: None }
    }

    fn serve(&mut self) {
        let (changes, mut asked) = tokio_mpsc::unbounded_channel();
        let (ready, up) = mpsc::channel();
        let socket = self.socket();
        self.changes = changes;
        self.thread = Some(std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(async {
                let fake = Fake::new();
                let listener = listen(&socket, None).unwrap();
                ready.send(()).unwrap();
                let mut news = fake.news.subscribe();
                let changing = async {
                    while !fake.stopping.get() {
                        tokio::select! {
                            change = asked.recv() => fake.change(change.unwrap_or(Change::End)),
                            _ = news.changed() => {}
                        }
                    }
                    // The answer to the shutdown is still on its way.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                };
                tokio::select! { () = serve(listener, fake.clone()) => {}, () = changing => {} }
            });
        }));
        up.recv().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s.sock")
    }

    fn change(&self, change: Change) {
        self.changes.send(change).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
        command.args(args).env("PLINTH_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// Exit status, standard output and error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        shown(self.command(args).output().unwrap())
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.changes.send(Change::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn shown(out: Output) -> (i32, String, String) {
    let text = |b| String::from_utf8(b).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

#[test]
fn status_shows_pods_and_its_formats() {
    let server = Server::start("status");
    let (code, out, err) = server.run(&["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"]);
    assert_eq!(lines[1], ["default", "slow-n1", "0/2", "ContainerCreating", "0", "<unknown>", "<none>"]);
    assert_eq!(lines[2][..5], ["default", "web-n1", "2/2", "Running", "0"]);
    let (_, names, _) = server.run(&["status", "-oname"]);
    assert_eq!(names, "default/slow-n1\ndefault/web-n1\nkube-system/dns-n1\nkube-system/web-n1\n");
    let (_, json, _) = server.run(&["status", "-o", "json"]);
    let whole: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&whole["kind"], &whole["apiVersion"]), (&json!("Status"), &json!("plinth.dev/v1alpha1")));
    let (code, json, _) = server.run(&["status", "default/web", "-o", "json"]);
    let pod: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &pod["kind"], &pod["status"]["phase"]), (0, &json!("Pod"), &json!("Running")));
    let (_, yaml, _) = server.run(&["status", "dns", "-o", "yaml"]);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n  name: dns-n1\n"), "{yaml}");
}

#[test]
fn a_degraded_machine_is_said_beside_its_pods() {
    let server = Server::start("degraded");
    server.change(Change::Degrade);
    // The change is on its way to the server's thread.
    let until = Instant::now() + Duration::from_secs(20);
    let (code, out, err) = loop {
        let shown = server.run(&["status"]);
        if !shown.2.is_empty() || Instant::now() > until {
            break shown;
        }
    };
    assert_eq!(code, 0);
    assert!(err.contains("the machine is degraded: nothing is kept beyond this boot: no disk"), "{err}");
    assert!(out.contains("web-n1"), "{out}");
}

#[test]
fn names_that_are_not_there_or_not_clear_are_explained() {
    let server = Server::start("names");
    let (code, _, err) = server.run(&["status", "web"]);
    assert_eq!((code, err.as_str()), (3, "plinth status: \"web\" is ambiguous: say which of default/web-n1, kube-system/web-n1\n"));
    let (code, _, err) = server.run(&["logs", "nobody"]);
    assert_eq!(code, 3);
    assert!(err.contains("find pod \"nobody\": there is none of that name"), "{err}");
    assert_eq!(server.run(&["status", "slow"]).0, 3, "there, and not ready");
    let (code, _, err) = server.run(&["logs", "default/slow", "-c", "main"]);
    assert_eq!((code, err.as_str()), (3, "plinth logs: container \"main\" in pod \"slow-n1\" is waiting to start: ContainerCreating\n"));
    let (code, _, err) = server.run(&["logs", "dns", "-c", "x"]);
    assert_eq!((code, err.as_str()), (3, "plinth logs: find container \"x\" in pod kube-system/dns-n1: it has main, side\n"));
}

#[test]
fn wait_ends_when_all_are_ready_or_time_is_up() {
    let server = Server::start("wait");
    let (code, out, err) = server.run(&["status", "--wait=200ms"]);
    assert_eq!(code, 3);
    assert!(out.contains("slow-n1"));
    assert!(err.contains("not ready after ") && err.contains("s: default/slow-n1 (ContainerCreating)"), "{err}");
    assert_eq!(server.run(&["status", "--wait", "default/web"]).0, 0);
    let child = server.spawn(&["status", "--wait=120s"]);
    server.change(Change::Start("slow-n1"));
    let (code, out, _) = shown(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{out}");
    server.change(Change::Refuse);
    while !server.run(&["status"]).1.contains("bad.yaml") {}
    let (code, out, _) = server.run(&["status", "--wait"]);
    assert_eq!(code, 4);
    assert!(out.ends_with("MANIFEST              VERDICT   PROBLEM\n/etc/m/bad.yaml:2:5   refused   is not YAML\n"), "{out}");
    let (_, _, err) = server.run(&["why", "nobody"]);
    assert!(err.contains("refused manifests: /etc/m/bad.yaml"), "{err}");
}

#[test]
fn watch_goes_on_with_what_changed() {
    let server = Server::start("watch");
    let mut child = server.spawn(&["status", "-w"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("NAMESPACE "));
    assert_eq!(lines.by_ref().take(4).filter(|l| l.contains("slow-n1")).count(), 1);
    server.change(Change::Start("slow-n1"));
    let next = lines.next().unwrap();
    assert!(next.contains("slow-n1") && next.contains("Running"), "{next}");
    server.change(Change::End);
    assert_eq!(child.wait().unwrap().code(), Some(1), "the supervisor ended");
}

#[test]
fn wait_waits_for_the_socket_too() {
    let mut server = Server::absent("late");
    let began = Instant::now();
    let (code, _, err) = server.run(&["status", "--wait=300ms"]);
    assert!(began.elapsed() < Duration::from_secs(60), "300 ms took {:?}", began.elapsed());
    assert_eq!(code, 3);
    assert!(err.contains("no such file or directory; is `plinth run` up?"), "{err}");
    let child = server.spawn(&["status", "dns", "--wait=120s"]);
    server.serve();
    assert_eq!(shown(child.wait_with_output().unwrap()).0, 0);
}

#[test]
fn logs_are_whole_and_options_arrive() {
    let server = Server::start("logs");
    let (code, out, err) = server.run(&["logs", "dns", "--tail", "5", "--timestamps"]);
    assert_eq!((code, err.as_str()), (0, "note: defaulted container \"main\" out of: main, side\n"));
    assert!(out.starts_with("kube-system/dns-n1 main tail=Some(5) timestamps=true\nxxxx") && out.ends_with("x\nend\n"));
    assert_eq!(out.len(), "kube-system/dns-n1 main tail=Some(5) timestamps=true\n".len() + 300_000 + "\nend\n".len());
    let (code, out, _) = server.run(&["logs", "-fcside", "dns", "--tail=-1", "--since=5m"]);
    assert!(code == 0 && out.starts_with("kube-system/dns-n1 side tail=None"));
    let mut child = server.spawn(&["logs", "dns"]);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141), "a reader that went away ends it quietly");
}

#[test]
fn events_are_shown_tame() {
    let server = Server::start("events");
    let (code, out, _) = server.run(&["events", "dns"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(
        lines[0].starts_with("LAST SEEN ") && lines[1].contains("pod/dns-n1") && lines[1].contains("Created by \u{fffd}[2Jtest"),
        "{out}"
    );
    let (_, json, _) = server.run(&["events", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["items"].as_array().unwrap().len(), 4);
}

#[test]
fn why_and_shutdown_speak() {
    let server = Server::start("why");
    let (code, out, _) = server.run(&["why", "default/slow"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("Pod        default/slow-n1 (ContainerCreating)\n") && out.contains("\nSandbox    absent, pod network\n"),
        "{out}"
    );
    let (code, out, err) = server.run(&["shutdown", "--grace", "1s"]);
    assert_eq!((code, out.as_str()), (0, "all pods are stopped, and plinth has ended\n"), "{err}");
    assert_eq!(server.run(&["status"]).0, 3);
}

#[test]
fn command_lines_that_are_wrong_exit_2() {
    let server = Server::absent("usage");
    for args in [
        &["stat"][..],
        &[],
        &["status", "--nope"],
        &["logs"],
        &["status", "-o", "xml"],
        &["status", "-w", "--wait"],
        &["logs", "p", "--tail", "x"],
    ] {
        let (code, out, err) = server.run(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.starts_with("plinth"), "{args:?}: {err}");
    }
    for args in [&["help"][..], &["--help"], &["status", "--help"], &["help", "logs"], &["--version"], &["check", "-h"]] {
        let (code, out, err) = server.run(args);
        assert!(code == 0 && out.starts_with("plinth") && err.is_empty(), "{args:?}");
    }
}

#[test]
fn man_pages_are_written_and_read_by_man() {
    let server = Server::absent("man");
    let dir = server.dir.join("man1");
    fs::create_dir(&dir).unwrap();
    assert_eq!(server.run(&["man", dir.to_str().unwrap()]).0, 0);
    let page: &Path = &dir.join("plinth-status.1");
    assert!(fs::metadata(page).unwrap().len() > 500 && dir.join("plinth.1").exists());
    let man = Command::new("man").args(["-l", "--warnings=w", "-Tutf8"]).arg(page).env("MANPAGER", "cat").env("LC_ALL", "C").output();
    match man {
        Ok(out) if out.status.success() => assert_eq!(String::from_utf8_lossy(&out.stderr), ""),
        _ => skip::skip("tests/cli.rs: man does not work here"),
    }
}
