//! A private node and the plinth on it.

#[path = "../skip/mod.rs"]
pub mod skip;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A machine that does much else at the same time is given this many times as long as a quiet one.
const BUSY: u32 = 10;
pub const IMAGE: &str = "docker.io/library/busybox:1.35";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PLINTH: &str = env!("CARGO_BIN_EXE_plinth");

/// Where what was fetched for the tests is.
pub fn cache() -> PathBuf {
    PathBuf::from(std::env::var("PLINTH_CACHE").unwrap_or(format!("{ROOT}/.cache")))
}

/// What a test needs beside the code; a line in the skip list says why it was not run (in CI that is a failure).
pub fn can_run() -> bool {
    can_run_on("sid")
}

/// The same with another suite's containerd.
pub fn can_run_on(suite: &str) -> bool {
    let cache = cache();
    if !rustix_is_root() {
        skip::skip("real containerd: needs root");
        return false;
    }
    is_there(&cache.join("busybox.tar"), FETCH) && is_there(&cache.join(suite).join("usr/bin/containerd"), FETCH)
}

const FETCH: &str = "real containerd: not fetched; run `make test`";

/// Whether a file is there; else the test is skipped, and why.
pub fn is_there(path: &Path, why: &str) -> bool {
    if !path.exists() {
        skip::skip(why);
    }
    path.exists()
}

fn rustix_is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

pub struct Node {
    pub dir: PathBuf,
    pub manifests: PathBuf,
    pub overlay: PathBuf,
    /// `key=value` settings beside the private ones.
    pub extra: Vec<String>,
    /// What plinth finds in its environment beside the test's own.
    pub env: Vec<(String, String)>,
    plinth: Option<Child>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Node {
    /// containerd 2.x, runc, nothing running yet.
    pub fn up() -> Node {
        Node::with("sid", &[])
    }

    /// As `up`, with plinth at work; `None` where that cannot be run.
    pub fn started() -> Option<Node> {
        can_run().then(|| {
            let mut node = Node::up();
            node.start();
            node
        })
    }

    /// `suite`'s containerd, and `key=value` settings beside the private ones.
    pub fn with(suite: &str, extra: &[&str]) -> Node {
        let dir = PathBuf::from(format!("/tmp/plit-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
        let node = Node {
            manifests: dir.join("work/image"),
            overlay: dir.join("work/overlay"),
            dir,
            plinth: None,
            env: Vec::new(),
            extra: extra.iter().map(|s| (*s).to_string()).collect(),
        };
        let cache = cache();
        node.script("up", &[cache.join(suite).to_str().unwrap()]);
        for d in [&node.manifests, &node.overlay, &node.dir.join("work/archives"), &node.dir.join("work/hosts.d")] {
            fs::create_dir_all(d).unwrap();
        }
        fs::copy(cache.join("busybox.tar"), node.dir.join("work/archives/busybox.tar")).unwrap();
        node
    }

    fn script(&self, verb: &str, args: &[&str]) -> Output {
        let out = Command::new(format!("{ROOT}/tests/node.sh")).arg(verb).arg(&self.dir).args(args).stdin(Stdio::null()).output().unwrap();
        assert!(
            out.status.success() || verb == "leaks",
            "node.sh {verb} {args:?}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        out
    }

    /// A command inside the node's namespaces; its standard output.
    pub fn exec(&self, cmd: &[&str]) -> String {
        String::from_utf8_lossy(&self.script("exec", cmd).stdout).into_owned()
    }

    /// The same of what may fail.
    pub fn tried(&self, cmd: &[String]) -> String {
        let out = Command::new(format!("{ROOT}/tests/node.sh")).arg("exec").arg(&self.dir).args(cmd).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `ctr` on the node's containerd, in plinth's namespace.
    pub fn ctr(&self, args: &[&str]) -> String {
        let (ctr, sock) = (self.path("containerd/usr/bin/ctr"), self.path("containerd.sock"));
        let mut cmd = vec![ctr.as_str(), "-a", sock.as_str(), "-n", "plinth"];
        cmd.extend(args);
        self.exec(&cmd)
    }

    pub fn containerd(&self, what: &str) {
        self.script("containerd", &[what]);
    }

    pub fn path(&self, below: &str) -> String {
        self.dir.join(below).to_str().unwrap().to_string()
    }

    fn settings(&self) -> Vec<String> {
        let d = self.dir.to_str().unwrap();
        let name = self.dir.file_name().unwrap().to_str().unwrap();
        let mut v = vec![
            "--manifests".into(),
            self.path("work/image"),
            "--manifests".into(),
            self.path("work/overlay"),
            "--node-name".into(),
            "it".into(),
        ];
        let mut set = vec![
            format!("containerRuntimeEndpoint=unix://{d}/containerd.sock"),
            format!("dataDir={d}/data"),
            format!("runDir={d}/run"),
            format!("socket={d}/plinth.sock"),
            format!("podLogsDir={d}/logs/pods"),
            format!("containerLinksDir={d}/logs/containers"),
            format!("cniConfDir={d}/cni"),
            "cniBinDirs=/usr/lib/cni".into(),
            format!("cniCacheDir={d}/data/cni"),
            format!("imageDirs={d}/work/archives"),
            format!("registryHostsDir={d}/work/hosts.d"),
            format!("cgroupRoot=/plinth-{name}"),
            "logLevel=debug".into(),
        ];
        set.extend(self.extra.iter().cloned());
        for s in set {
            v.extend(["--set".into(), s]);
        }
        v
    }

    /// Starts `plinth run` and waits until its socket answers.
    pub fn start(&mut self) {
        self.launch();
        self.until("plinth's socket answers", 10, |n| n.get("/healthz").is_some());
    }

    /// Another `plinth run` with the same settings but its socket and these; it writes `second.log`.
    pub fn second(&self, socket: &str, other: &[String]) -> Child {
        let log = File::create(self.dir.join("second.log")).unwrap();
        let holder = fs::read_to_string(self.dir.join("holder.pid")).unwrap();
        Command::new("nsenter")
            .args(["--target", holder.trim(), "--mount", "--net", "--", PLINTH, "run"])
            .args(self.settings())
            .args(["--set", &format!("socket={}", self.path(socket))])
            .args(other.iter().flat_map(|s| ["--set", s]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Starts `plinth run`.
    pub fn launch(&mut self) {
        self.launch_with(&BTreeMap::new());
    }

    /// As `start`, with descriptors a service manager kept: two at most.
    pub fn start_with(&mut self, kept: &BTreeMap<String, OwnedFd>) {
        self.launch_with(kept);
        self.until("plinth's socket answers", 10, |n| n.get("/healthz").is_some());
    }

    fn launch_with(&mut self, kept: &BTreeMap<String, OwnedFd>) {
        let holder = fs::read_to_string(self.dir.join("holder.pid")).unwrap();
        let fd = |i| kept.values().nth(i).map_or_else(Stdio::null, |fd| Stdio::from(fd.try_clone().unwrap()));
        assert!(kept.len() <= 2, "there are but two ways in: {kept:?}");
        // They go in as standard input and output, which no other child of the tests can inherit, and are moved to where the
        // protocol wants them: from 3 on, for the process with this id, in the order of the names.
        let moved = "[ -z \"$LISTEN_FDS\" ] || { exec 3<&0; [ $LISTEN_FDS = 1 ] || exec 4<&1; LISTEN_PID=$$; export LISTEN_PID; }
            exec </dev/null >>\"$LOG\" 2>&1; exec \"$@\"";
        let mut c = Command::new("sh");
        c.args(["-c", moved, "sh", "nsenter", "--target", holder.trim(), "--mount", "--net", "--", PLINTH, "run"]).args(self.settings());
        c.env("LOG", self.dir.join("plinth.log")).stdin(fd(0)).stdout(fd(1));
        c.envs(self.env.iter().cloned());
        if !kept.is_empty() {
            c.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", kept.keys().cloned().collect::<Vec<_>>().join(":"));
        }
        self.plinth = Some(c.spawn().unwrap());
    }

    /// `kill -9` of plinth.
    pub fn kill(&mut self) {
        let mut c = self.plinth.take().unwrap();
        c.kill().unwrap();
        c.wait().unwrap();
    }

    /// SIGTERM to plinth, and its exit.
    pub fn term(&mut self) {
        self.signal("TERM");
        self.ended();
    }

    /// A signal to plinth.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap().success());
    }

    /// plinth ends, with 0.
    pub fn ended(&mut self) {
        let end = Instant::now() + Duration::from_secs(10) * BUSY;
        let status = loop {
            if let Some(status) = self.plinth.as_mut().unwrap().try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "plinth does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        self.plinth = None;
        assert!(status.success(), "plinth ends with 0, not {status}\n{}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.plinth.as_ref().unwrap().id()
    }

    /// `plinth VERB ARGS` over the socket.
    pub fn plinth(&self, args: &[&str]) -> Output {
        Command::new(PLINTH).args(args).env("PLINTH_SOCKET", self.dir.join("plinth.sock")).stdin(Stdio::null()).output().unwrap()
    }

    /// Its standard output, which must have come with exit status 0.
    pub fn said(&self, args: &[&str]) -> String {
        let out = self.plinth(args);
        assert!(out.status.success(), "plinth {args:?}: {}{}", String::from_utf8_lossy(&out.stderr), self.log());
        String::from_utf8(out.stdout).unwrap()
    }

    /// Its standard output, whatever became of it.
    pub fn said_or_nothing(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.plinth(args).stdout).into_owned()
    }

    /// GET over the status socket; `None` when nobody answers or it is not a 200.
    pub fn get(&self, path: &str) -> Option<String> {
        self.asked(path).and_then(|(head, body)| head.lines().next()?.contains(" 200 ").then_some(body))
    }

    /// Head and body of the answer to a GET over the status socket.
    pub fn asked(&self, path: &str) -> Option<(String, String)> {
        let mut s = UnixStream::connect(self.dir.join("plinth.sock")).ok()?;
        s.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(s, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut text = Vec::new();
        s.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.to_string(), body.to_string()))
    }

    /// The pod of that short name, as /pods shows it.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let text = self.get("/pods")?;
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("/pods is no JSON: {e}: {text}"));
        list["items"].as_array()?.iter().find(|p| p["metadata"]["name"] == format!("{name}-it")).cloned()
    }

    /// Nothing of that pod is left, as far as plinth knows: a pod no manifest wants is in no list, but shown until it is gone.
    pub fn gone(&self, name: &str) -> bool {
        self.get("/v1/status").is_some_and(|s| !s.contains(&format!("\"{name}-it\"")))
    }

    /// The machine loses its power and comes back, as far as plinth can tell: processes, mounts and /run are gone, the boot id is new.
    pub fn reboot(&mut self) {
        self.kill();
        self.script("reboot", &[]);
    }

    pub fn ready(&self, name: &str) -> bool {
        self.pod(name).is_some_and(|p| condition(&p, "Ready"))
    }

    /// Restart count of a container, over all attempts.
    pub fn restarts(&self, pod: &str) -> u64 {
        self.pod(pod).map_or(0, |p| {
            p["status"]["containerStatuses"].as_array().into_iter().flatten().filter_map(|c| c["restartCount"].as_u64()).sum()
        })
    }

    /// How many processes have these words, with a NUL between two arguments, on their command line.
    pub fn running(&self, words: &str) -> usize {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(words)).count()
    }

    /// Writes a manifest beside and renames it in.
    pub fn put(&self, file: &str, text: &str) {
        put(&self.manifests, file, text);
    }

    pub fn put_overlay(&self, file: &str, text: &str) {
        put(&self.overlay, file, text);
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.manifests.join(file)).unwrap();
    }

    /// Waits until that holds. `secs` is what a quiet machine needs at most; not before `BUSY` times as long it counts as never. What
    /// `holds` looks at may not be there yet: it answers no then and does not panic.
    pub fn until(&mut self, what: &str, secs: u64, mut holds: impl FnMut(&Node) -> bool) {
        let end = Instant::now() + Duration::from_secs(secs) * BUSY;
        while !holds(self) {
            if let Some(status) = self.plinth.as_mut().and_then(|c| c.try_wait().unwrap()) {
                panic!("plinth ended with {status} while waiting until {what}\n{}", self.log());
            }
            assert!(self.containerd_lives(), "containerd died while waiting until {what}\n{}", self.log());
            assert!(Instant::now() < end, "not within {} s: {what}\n{}", secs * u64::from(BUSY), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// False if it ended though nobody ended it: `node.sh` removes the pid of one that it ends.
    fn containerd_lives(&self) -> bool {
        let Ok(pid) = fs::read_to_string(self.dir.join("containerd.pid")) else { return true };
        fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    pub fn until_ready(&mut self, pod: &str) {
        self.until(&format!("{pod} is Ready"), 30, |n| n.ready(pod));
    }

    /// The end of plinth's log, and of containerd's, and what plinth shows.
    pub fn log(&self) -> String {
        let tail = |f: &str| match fs::read(self.dir.join(f)) {
            Err(e) => format!("({f}: {e})"),
            Ok(t) if t.is_empty() => format!("({f} is empty)"),
            Ok(t) => {
                let t = String::from_utf8_lossy(&t);
                let lines: Vec<&str> = t.lines().collect();
                lines[lines.len().saturating_sub(60)..].join("\n")
            }
        };
        let shown = |path: &str| self.get(path).unwrap_or_else(|| format!("(no answer to {path})"));
        let (plinth, containerd) = (tail("plinth.log"), tail("containerd.log"));
        format!(
            "--- plinth\n{plinth}\n--- containerd\n{containerd}\n--- pods\n{}\n--- manifests\n{}",
            shown("/pods"),
            shown("/v1/manifests")
        )
    }

    /// Stops every pod and plinth; nothing may be left.
    pub fn shutdown(mut self) {
        self.said(&["shutdown", "--grace", "10s"]);
        self.ended();
        self.assert_stopped();
    }

    /// Nothing is left but what pods that are still wanted keep: data and records.
    pub fn assert_stopped(&self) {
        self.assert_clean_of("stopped");
    }

    /// Nothing of any pod is left.
    pub fn assert_clean(&self) {
        self.assert_clean_of("");
    }

    /// The kernel and containerd take their time with some of it: veths of a network namespace that is gone, a shim that exits. What
    /// stays is a leak.
    fn assert_clean_of(&self, what: &str) {
        let end = Instant::now() + Duration::from_secs(2) * BUSY;
        loop {
            let left = self.script("leaks", &[what]);
            if left.status.success() {
                return;
            }
            let said = [left.stdout, left.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
            assert!(Instant::now() < end, "left behind:\n{said}{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut c) = self.plinth.take() {
            let _ = c.kill();
            let _ = c.wait();
        }
        let _ = Command::new(format!("{ROOT}/tests/node.sh")).arg("down").arg(&self.dir).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn put(layer: &Path, file: &str, text: &str) {
    fs::write(layer.join(format!(".{file}")), text).unwrap();
    fs::rename(layer.join(format!(".{file}")), layer.join(file)).unwrap();
}

pub fn condition(pod: &Value, kind: &str) -> bool {
    pod["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}

/// The status of the container of that name.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    pod["status"]["containerStatuses"].as_array().and_then(|c| c.iter().find(|c| c["name"] == name)).unwrap_or(&Value::Null)
}

/// A hostNetwork pod of one container `c` that runs a script.
pub fn script(name: &str, script: &str) -> String {
    pod(name, "hostNetwork: true", script)
}

/// A pod of one container `c`; `spec` is put among the fields of the spec.
pub fn pod(name: &str, spec: &str, script: &str) -> String {
    let script = script.replace('\n', "\n      ");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  {spec}\n  terminationGracePeriodSeconds: 3\n  containers:\n  - name: c\n    image: {IMAGE}\n    command: [sh, -c]\n    args:\n    - |\n      {script}\n"
    )
}

/// Runs until TERM.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
