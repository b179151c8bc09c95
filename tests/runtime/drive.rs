//! Actions done by hand on one `Runtime`, and the events it tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plinth::plan::action::{Action, Effect, Event, Failure, Outcome};
use plinth::plan::world::{Link, SeenContainer, SeenImage, SeenPod, State};
use plinth::pod::{ImageRef, Origin, PullPolicy, Uid, WantedPod};
use plinth::runtime::{Job, Runtime};
use plinth::settings::Settings;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::node::{self, IMAGE, Node};

/// What is not there after so long does not come.
const PATIENCE: Duration = Duration::from_secs(120);
const INSIDE: &str = "PLINTH_TEST_NODE";

/// Runs the test inside a node's namespaces: outside, by running itself again there.
pub fn inside(name: &str, suite: &str, test: impl AsyncFnOnce(Drive)) {
    if let Ok(dir) = std::env::var(INSIDE) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        return tokio::task::LocalSet::new().block_on(&rt, test(Drive::new(dir.into())));
    }
    if !node::can_run() {
        return;
    }
    let node = Node::with(suite, &[]);
    let holder = std::fs::read_to_string(node.path("holder.pid")).unwrap();
    let me = std::env::current_exe().unwrap();
    let enter = ["--target", holder.trim(), "--mount", "--net", "--"];
    let out = Command::new("nsenter").args(enter).arg(me).args(["--exact", name, "--nocapture"]).env(INSIDE, &node.dir).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{}", node.log());
    println!("{text}");
    node.assert_clean();
}

pub struct Drive {
    pub dir: PathBuf,
    pub image: ImageRef,
    settings: Settings,
    runtime: Option<Rc<Runtime>>,
    events: Option<UnboundedReceiver<Event>>,
    watch: Option<tokio::task::JoinHandle<()>>,
}

impl Drive {
    fn new(dir: PathBuf) -> Drive {
        struct Print;
        impl log::Log for Print {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                if record.target().starts_with("plinth") {
                    eprintln!("{} {}", record.level(), record.args());
                }
            }
            fn flush(&self) {}
        }
        log::set_logger(&Print).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let settings = Settings {
            containerd: dir.join("containerd.sock"),
            data_dir: dir.join("data"),
            run_dir: dir.join("run"),
            pod_logs_dir: dir.join("logs/pods"),
            container_links_dir: Some(dir.join("logs/containers")),
            cni_conf_dir: dir.join("cni"),
            cni_cache_dir: dir.join("data/cni"),
            image_dirs: vec![dir.join("work/archives")],
            registry_hosts_dir: dir.join("work/hosts.d"),
            cgroup_root: format!("/plinth-{name}"),
            node_ips: vec!["127.0.0.1".parse().unwrap()],
            ..Settings::default()
        };
        Drive { dir, image: ImageRef::normalised(IMAGE), settings, runtime: None, events: None, watch: None }
    }

    pub fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    /// A new runtime, and its link.
    pub async fn up(&mut self) {
        let (tell, events) = unbounded_channel();
        let runtime = Runtime::new(Rc::new(self.settings.clone()), tell).unwrap();
        self.watch = Some(tokio::task::spawn_local(futures_util::FutureExt::map(runtime.clone().watch(), drop)));
        self.runtime = Some(runtime);
        self.events = Some(events);
        self.until(|e| matches!(e, Event::Link(Link::Up { .. }))).await;
    }

    /// As if plinth were killed and started again.
    pub async fn reborn(mut self) -> Drive {
        self.watch.take().unwrap().abort();
        tokio::task::yield_now().await;
        self.runtime = None;
        self.up().await;
        self
    }

    pub async fn until(&mut self, mut holds: impl FnMut(&Event) -> bool) {
        let events = self.events.as_mut().unwrap();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.recv().await.unwrap();
                eprintln!("{event:?}");
                if holds(&event) {
                    break;
                }
            }
        });
        assert!(found.await.is_ok(), "the event did not come");
    }

    pub fn drain(&mut self) {
        while self.events.as_mut().unwrap().try_recv().is_ok() {}
    }

    async fn perform(&self, action: Action, pod: Option<&Rc<WantedPod>>, seen: Option<SeenPod>) -> Outcome {
        let text = format!("{action:?}");
        let t = Instant::now();
        let job = Job { action, pod: pod.cloned(), seen };
        let outcome = tokio::time::timeout(PATIENCE, self.runtime.clone().unwrap().perform(job)).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {text}"));
        eprintln!("{:?} {text} -> {outcome:?}", t.elapsed());
        outcome
    }

    pub async fn done(&self, action: Action, pod: Option<&Rc<WantedPod>>) -> Effect {
        match self.perform(action.clone(), pod, None).await {
            Outcome::Done(effect) => effect,
            Outcome::Failed(failure) => panic!("{action:?}: {failure:?}"),
        }
    }

    pub async fn failed(&self, action: Action) -> Failure {
        match self.perform(action.clone(), None, None).await {
            Outcome::Failed(failure) => failure,
            Outcome::Done(effect) => panic!("{action:?}: {effect:?}"),
        }
    }

    pub async fn image(&self, pull: PullPolicy) {
        let done = self.done(Action::PrepareImage { image: self.image.clone(), pull }, None).await;
        assert!(matches!(done, Effect::Image(SeenImage::Ready { .. })), "{done:?}");
    }

    pub async fn sandbox(&self, name: &str, script: &str) -> Rc<WantedPod> {
        self.sandbox_of(name, json!(["sh", "-c", script])).await
    }

    pub async fn sandbox_of(&self, name: &str, command: Value) -> Rc<WantedPod> {
        let pod = pod(name, command);
        self.done(Action::CreateSandbox { uid: pod.uid.clone() }, Some(&pod)).await;
        pod
    }

    /// A pod of that spec, its container named `c`.
    pub async fn sandbox_with(&self, name: &str, spec: Value) -> Rc<WantedPod> {
        let pod = pod_of(name, spec);
        self.done(Action::CreateSandbox { uid: pod.uid.clone() }, Some(&pod)).await;
        pod
    }

    pub async fn create(&self, pod: &Rc<WantedPod>, attempt: u32) -> SeenContainer {
        self.try_create(pod, attempt).await.unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    pub async fn try_create(&self, pod: &Rc<WantedPod>, attempt: u32) -> Result<SeenContainer, Failure> {
        let seen = self.look(pod).await;
        let action = Action::CreateContainer { uid: pod.uid.clone(), name: "c".into(), attempt };
        match self.perform(action, Some(pod), seen).await {
            Outcome::Done(Effect::Container(c)) => Ok(*c),
            Outcome::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// A create that is given up after so long, as if plinth were killed then.
    pub async fn cut_create(&self, pod: &Rc<WantedPod>, attempt: u32, after: Duration) {
        let seen = self.look(pod).await;
        let action = Action::CreateContainer { uid: pod.uid.clone(), name: "c".into(), attempt };
        let _ = tokio::time::timeout(after, self.perform(action, Some(pod), seen)).await;
    }

    /// As `plan` would: again after a failure, and after a look.
    pub async fn create_in_the_end(&self, pod: &Rc<WantedPod>, attempt: u32) -> SeenContainer {
        for _ in 0..20 {
            if let Ok(c) = self.try_create(pod, attempt).await {
                return c;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let script = format!(
            "cd {}; find state/io.containerd.runtime.v2.task root/io.containerd.runtime.v2.task run/oci | head -40; for f in state/io.containerd.runtime.v2.task/plinth/*/*; do echo \"== $f\"; [ -f $f ] && head -c 300 $f; done; ps axo pid,ppid,stat,args | grep {}; grep -c io.containerd /proc/self/mountinfo || true; tail -5 containerd.log",
            self.dir.display(),
            self.dir.display()
        );
        panic!("twenty creates failed: {}", self.shell(&script));
    }

    pub async fn start(&self, pod: &Rc<WantedPod>, id: &Rc<str>) -> SeenContainer {
        self.container(Action::StartTask { uid: pod.uid.clone(), id: id.clone() }, pod).await
    }

    pub async fn end(&self, pod: &Rc<WantedPod>, id: &Rc<str>) -> SeenContainer {
        self.container(Action::DeleteTask { uid: pod.uid.clone(), id: id.clone() }, pod).await
    }

    async fn container(&self, action: Action, pod: &Rc<WantedPod>) -> SeenContainer {
        match self.done(action, Some(pod)).await {
            Effect::Container(c) => *c,
            other => panic!("{other:?}"),
        }
    }

    pub async fn gone(&self, pod: &Rc<WantedPod>, id: &Rc<str>) {
        assert_eq!(self.done(Action::DeleteContainer { uid: pod.uid.clone(), id: id.clone() }, Some(pod)).await, Effect::Gone);
        assert_eq!(self.done(Action::DeleteSandbox { uid: pod.uid.clone(), keep: false }, Some(pod)).await, Effect::Gone);
    }

    pub async fn look(&self, pod: &Rc<WantedPod>) -> Option<SeenPod> {
        match self.done(Action::Look { uid: pod.uid.clone() }, None).await {
            Effect::Pod(pod) => pod.map(|p| *p),
            other => panic!("{other:?}"),
        }
    }

    pub async fn look_all(&self) -> BTreeMap<Uid, SeenPod> {
        match self.done(Action::LookAll, None).await {
            Effect::All(pods) => pods,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for hints until one was about this end: an event of an earlier life of the same id may come late.
    pub async fn until_exited(&mut self, pod: &Rc<WantedPod>, id: &Rc<str>) {
        loop {
            self.until(|e| matches!(e, Event::Hint(uid) if *uid == pod.uid)).await;
            let seen = self.look(pod).await.unwrap();
            if matches!(seen.containers[id].state, State::Exited(_)) {
                return;
            }
        }
    }

    pub fn log(&self, pod: &WantedPod, attempt: u32) -> String {
        let path = self.dir.join(format!("logs/pods/{}_{}_{}/c/{attempt}.log", pod.key.namespace, pod.key.name, pod.uid));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub async fn until_log(&self, pod: &WantedPod, attempt: u32, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log(pod, attempt).contains(text) {
            assert!(Instant::now() < end, "{text:?} is not in the log: {}", self.log(pod, attempt));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn shell(&self, script: &str) -> String {
        let out = Command::new("sh").args(["-c", script]).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn ctr(&self, args: &[&str]) -> String {
        let ctr = self.dir.join("containerd/usr/bin/ctr");
        let out = Command::new(ctr).arg("-a").arg(self.dir.join("containerd.sock")).args(["-n", "plinth"]).args(args).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }

    /// How long `ctr run -d` takes to start as much.
    pub fn ctr_run(&self, id: &str) -> Duration {
        let t = Instant::now();
        let said = self.ctr(&["run", "-d", "--net-host", "--null-io", IMAGE, id, "sleep", "1000"]);
        let took = t.elapsed();
        assert_eq!(said, "");
        self.ctr(&["tasks", "delete", "-f", id]);
        assert_eq!(self.ctr(&["containers", "delete", id]), "");
        took
    }

    pub fn pid(&self, id: &str) -> u32 {
        let list = self.ctr(&["tasks", "list"]);
        list.lines().find(|l| l.starts_with(id)).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// containerd killed, and all it knew removed; what is mounted below stays mounted, as after a removal by hand.
    pub fn wipe(&self) {
        self.node("kill");
        self.shell(&format!(
            "rm -rf {0}/root {0}/state/io.containerd.*/plinth/*/[a-q]* {0}/state/io.containerd.metadata* || true",
            self.dir.display()
        ));
        self.shell(&format!("find {0}/state -xdev -type f -delete; true", self.dir.display()));
    }

    /// `containerd start|stop|kill|wipe` of the node.
    pub fn node(&self, what: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node.sh");
        let out = Command::new(script).args(["containerd".as_ref(), self.dir.as_os_str(), what.as_ref()]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

fn pod(name: &str, command: Value) -> Rc<WantedPod> {
    pod_of(
        name,
        json!({ "hostNetwork": true, "containers": [{
            "name": "c", "image": IMAGE, "command": command,
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }] }),
    )
}

fn pod_of(name: &str, spec: Value) -> Rc<WantedPod> {
    let uid = plinth_uid(name);
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("{name}-it"), "namespace": "default", "uid": uid },
        "spec": spec,
    });
    Rc::new(WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap())
}

fn plinth_uid(name: &str) -> String {
    name.bytes().cycle().take(16).map(|b| format!("{b:02x}")).collect()
}
