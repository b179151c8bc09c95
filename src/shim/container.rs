//! A container and the commands run in it: their states, and the calls of the OCI runtime that take them from one to the next.
//!
//! ```text
//!  created ──start──> running ──> stopped ──delete──> gone
//!     │                 │ ^          ^
//!     │             pause resume     │
//!     └──────── its process ends ────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use containerd_client::types::v1::Status as TaskStatus;
use prost::Message;
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use rustix::process::{Pid, Signal, kill_process};

use super::api::{Code, CreateTaskRequest, Options};
use super::oci::{Call, Oci};
use super::reap::{Children, Exit};
use super::stdio::{ConsoleSocket, Held, Paths, open_fifos};
use super::ttrpc::Status;
use super::{is_name, rootfs};
use crate::sys::pidfd::Pidfd;

/// What a terminal still shows when its process is deleted is waited for so long, as by containerd's own shim.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// Where a process stands. The runtime's own word is not asked: it would take as long as starting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Created,
    Running,
    Pausing,
    Paused,
    Stopped,
}

impl State {
    pub fn number(self) -> i32 {
        match self {
            State::Created => TaskStatus::Created,
            State::Running => TaskStatus::Running,
            State::Pausing => TaskStatus::Pausing,
            State::Paused => TaskStatus::Paused,
            State::Stopped => TaskStatus::Stopped,
        }
        .into()
    }

    fn word(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Stopped => "stopped",
        }
    }
}

/// A container's own process, or a command's.
pub(super) struct Process {
    pub paths: Paths,
    pub pid: Cell<u32>,
    pub state: Cell<State>,
    /// Told once, at its end; a command that could not be started ends with 0.
    pub exit: watch::Sender<Option<Exit>>,
    pub held: RefCell<Option<Held>>,
    /// Its input has no more to say, which may be known before its process is there.
    input_closed: Cell<bool>,
    /// Of a command: the runtime is asked to start it.
    launching: Cell<bool>,
    /// One change at a time.
    changing: Mutex<()>,
    /// Of a command: what to run, in JSON.
    spec: Vec<u8>,
}

impl Process {
    fn new(paths: Paths, spec: Vec<u8>) -> Process {
        Process {
            paths,
            pid: Cell::new(0),
            state: Cell::new(State::Created),
            exit: watch::channel(None).0,
            held: RefCell::new(None),
            input_closed: Cell::new(false),
            launching: Cell::new(false),
            changing: Mutex::new(()),
            spec,
        }
    }

    /// Its process is no more.
    pub fn end(&self, exit: Exit) {
        self.state.set(State::Stopped);
        if let Some(held) = &mut *self.held.borrow_mut() {
            held.ended();
        }
        self.exit.send_replace(Some(exit));
    }

    /// The end of its input, once its last writer is gone too.
    pub fn close_input(&self) {
        self.input_closed.set(true);
        if let Some(held) = &mut *self.held.borrow_mut() {
            held.close_input();
        }
    }

    fn hold(&self, mut held: Held) {
        if self.input_closed.get() {
            held.close_input();
        }
        self.held.replace(Some(held));
    }

    /// Whether it runs, or will in a moment.
    pub fn runs(&self) -> bool {
        self.launching.get() || self.pid.get() != 0 && self.state.get() != State::Stopped
    }

    /// Its end, for a message: status and time.
    pub fn told(&self) -> (u32, Option<prost_types::Timestamp>) {
        match *self.exit.borrow() {
            Some(exit) => (exit.code, Some(exit.at.into())),
            None => (0, None),
        }
    }

    /// A signal to this very process.
    pub fn signal(&self, number: u32) -> Result<(), Status> {
        if self.pid.get() == 0 {
            return Err(Code::FailedPrecondition.says("process not created"));
        }
        if self.state.get() == State::Stopped {
            return Err(Code::NotFound.says("process already finished"));
        }
        // Its end was not told, so it was not reaped and the number is its own.
        match Pidfd::open(self.pid.get()).and_then(|fd| fd.signal(number)) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Err(Code::NotFound.says("process already finished"))
            }
            other => other.map_err(|e| Code::Unknown.says(format!("unknown error after kill: {e}"))),
        }
    }

    async fn all_shown(&self) {
        let showing = self.held.borrow_mut().as_mut().and_then(Held::showing);
        if let Some(showing) = showing {
            let abort = showing.abort_handle();
            if timeout(SHOWN_WITHIN, showing).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// One container.
pub(super) struct Container {
    pub id: String,
    bundle: String,
    oci: Oci,
    rootfs: PathBuf,
    pub init: Rc<Process>,
    pub commands: RefCell<BTreeMap<String, Rc<Process>>>,
    /// Of its own process, once that ended, until the last command is through: its end is told last.
    pub last: Cell<Option<Exit>>,
    /// What it left is being killed.
    pub killing: Cell<bool>,
    /// Without a PID namespace of its own, what it started outlives its first process.
    pub outlived: bool,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: String,
}

/// As containerd's own shim: a specification that cannot be read is one of a container that outlives itself.
fn is_outlived(bundle: &Path) -> bool {
    let spec = fs::read(bundle.join("config.json")).ok().and_then(|text| serde_json::from_slice::<Spec>(&text).ok());
    spec.is_none_or(|s| !s.linux.namespaces.iter().any(|n| n.r#type == "pid" && n.path.is_empty()))
}

fn read_pid(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path).map_err(|e| io::Error::other(format!("read {}: {e}", path.display())))?;
    text.trim().parse().map_err(|e| io::Error::other(format!("read {}: {e}", path.display())))
}

fn unknown(what: &str) -> impl Fn(io::Error) -> Status {
    move |e| Code::Unknown.says(format!("{what}: {e}"))
}

impl Container {
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Mounts its root and has its process made, which does not run yet.
    pub async fn create(
        request: &CreateTaskRequest,
        namespace: &str,
        children: &Children,
        within: Option<Duration>,
    ) -> Result<Container, Status> {
        if !request.checkpoint.is_empty() {
            return Err(Code::Unimplemented.says("restore from a checkpoint: plinth's shim does not; use containerd's own"));
        }
        let bundle = Path::new(&request.bundle);
        let options = request.options.as_ref().map(|any| Options::decode(any.value.as_slice())).transpose();
        let options = options.map_err(|e| Code::InvalidArgument.says(format!("read the runtime's options: {e}")))?.unwrap_or_default();
        keep(&options, bundle).map_err(unknown("write down the runtime's options"))?;
        let oci =
            Oci::new(&options, namespace, bundle).map_err(unknown("OCI runtime create failed: unable to retrieve OCI runtime error"))?;
        let rootfs = bundle.join("rootfs");
        if !request.rootfs.is_empty() {
            match fs::create_dir(&rootfs) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(unknown("make the directory of the root")(e)),
                _ => rootfs::mount_all(&request.rootfs, &rootfs).map_err(unknown("failed to mount rootfs component"))?,
            }
        }
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let container = Container {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            oci,
            rootfs,
            init: Rc::new(Process::new(paths, Vec::new())),
            commands: RefCell::default(),
            last: Cell::new(None),
            killing: Cell::new(false),
            outlived: is_outlived(bundle),
        };
        let bundle = request.bundle.as_str();
        let pid_file = format!("{bundle}/init.pid");
        let args = ["create", "--bundle", bundle, "--pid-file", &pid_file];
        match container.launch(&container.init, &args, &[&request.id], "create", Path::new(&pid_file), children, within).await {
            Ok(()) => Ok(container),
            Err(e) => {
                let _ = rootfs::unmount_all(&container.rootfs);
                Err(e)
            }
        }
    }

    /// Has the runtime make a process, with its inputs and outputs.
    #[expect(clippy::too_many_arguments, reason = "what a container's process and a command's have in common, in one place")]
    async fn launch(
        &self,
        process: &Process,
        args: &[&str],
        rest: &[&str],
        log: &str,
        pid_file: &Path,
        children: &Children,
        within: Option<Duration>,
    ) -> Result<(), Status> {
        let what = format!("OCI runtime {} failed", args.first().unwrap_or(&"call"));
        let mut args = args.to_vec();
        let held = if process.paths.terminal {
            let socket = ConsoleSocket::new(&self.oci.bundle, log).map_err(unknown("failed to create OCI runtime console socket"))?;
            let path = socket.path.display().to_string();
            args.extend(["--console-socket", &path]);
            args.extend(rest);
            let call = Call { args: &args, stdio: None, log, within };
            self.oci.call(children, &call).await.map_err(|e| e.status(&what))?;
            socket.attach(&process.paths).map_err(|e| {
                // It runs, and nobody would know of it.
                let pid = read_pid(pid_file).ok().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::KILL);
                }
                unknown("failed to retrieve console master")(e)
            })?
        } else {
            let ([stdin, stdout, stderr], held) = open_fifos(&process.paths).map_err(unknown("failed to create init process I/O"))?;
            args.extend(rest);
            let call = Call { args: &args, stdio: Some([&stdin, &stdout, &stderr]), log, within };
            self.oci.call(children, &call).await.map_err(|e| e.status(&what))?;
            held
        };
        process.hold(held);
        process.pid.set(read_pid(pid_file).map_err(unknown("failed to retrieve OCI runtime container pid"))?);
        Ok(())
    }

    /// Runs a verb on the container that starts nothing.
    async fn verb(&self, args: &[&str], what: &str, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let call = Call { args, stdio: None, log: args.first().unwrap_or(&"call"), within };
        self.oci.call(children, &call).await.map(drop).map_err(|e| e.status(what))
    }

    /// Lets the container's process go.
    pub async fn start(&self, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let _one = self.init.changing.lock().await;
        match self.init.state.get() {
            State::Created => {}
            other => return Err(Code::Unknown.says(format!("cannot start a {} process", other.word()))),
        }
        self.verb(&["start", &self.id], "OCI runtime start failed", children, within).await?;
        if self.init.state.get() == State::Created {
            self.init.state.set(State::Running);
        }
        Ok(())
    }

    /// Adds a command, which does not run yet.
    pub fn add(&self, name: &str, paths: Paths, spec: &[u8]) -> Result<(), Status> {
        // It becomes part of a file's name.
        if !is_name(name) {
            return Err(Code::InvalidArgument.says(format!("invalid exec id {name}")));
        }
        match self.init.state.get() {
            State::Created | State::Running => {}
            other => return Err(Code::Unknown.says(format!("cannot exec in a {} state", other.word()))),
        }
        let mut spec: serde_json::Value = serde_json::from_slice(spec).map_err(|e| Code::Unknown.says(format!("read the process: {e}")))?;
        if let Some(process) = spec.as_object_mut() {
            process.insert("terminal".into(), paths.terminal.into());
        }
        let mut commands = self.commands.borrow_mut();
        if commands.contains_key(name) {
            return Err(Code::AlreadyExists.says(format!("id {name}")));
        }
        commands.insert(name.to_owned(), Rc::new(Process::new(paths, spec.to_string().into_bytes())));
        Ok(())
    }

    /// Runs a command that was added.
    pub async fn run(&self, name: &str, process: &Process, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let _one = process.changing.lock().await;
        match process.state.get() {
            State::Created if process.exit.borrow().is_none() => {}
            State::Created => return Err(Code::Unknown.says("cannot start a stopped process")),
            other => return Err(Code::Unknown.says(format!("cannot start a {} process", other.word()))),
        }
        if self.last.get().is_some() || self.init.state.get() == State::Stopped {
            return Err(Code::FailedPrecondition.says(format!("container {} init process is not running", self.id)));
        }
        let (bundle, name) = (&self.oci.bundle, format!("exec-{name}"));
        let (spec, pid_file) = (bundle.join(format!("{name}.json")), bundle.join(format!("{name}.pid")));
        fs::write(&spec, &process.spec).map_err(unknown("write down the process"))?;
        let (spec_path, pid_path) = (spec.display().to_string(), pid_file.display().to_string());
        let args = ["exec", "--process", &spec_path, "--detach", "--pid-file", &pid_path];
        process.launching.set(true);
        let ran = self.launch(process, &args, &[&self.id], &name, &pid_file, children, within).await;
        process.launching.set(false);
        for path in [&spec, &pid_file] {
            let _ = fs::remove_file(path);
        }
        match &ran {
            Ok(()) if process.state.get() == State::Created => process.state.set(State::Running),
            Ok(()) => {}
            // Whoever waits for it hears of an end, as of containerd's own shim.
            Err(_) => drop(process.exit.send_replace(Some(Exit { code: 0, at: std::time::SystemTime::now() }))),
        }
        ran
    }

    /// The end of all that is left of the container itself.
    pub async fn delete(&self, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let _one = self.init.changing.lock().await;
        let (state, ended) = (self.init.state.get(), self.init.exit.borrow().is_some());
        if !(state == State::Created || state == State::Stopped && ended) {
            let word = if state == State::Stopped { "running" } else { state.word() };
            return Err(Code::Unknown.says(format!("cannot delete a {word} process")));
        }
        self.init.all_shown().await;
        let call = Call { args: &["delete", &self.id], stdio: None, log: "delete", within };
        match self.oci.call(children, &call).await {
            Err(e) if !e.is_gone() => return Err(e.status("failed to delete task")),
            _ => drop(self.init.held.take()),
        }
        rootfs::unmount_all(&self.rootfs).map_err(unknown("failed rootfs umount"))
    }

    /// The end of a command.
    pub async fn remove(&self, name: &str, process: &Process) -> Result<(), Status> {
        let _one = process.changing.lock().await;
        match process.state.get() {
            State::Created | State::Stopped => {}
            other => return Err(Code::Unknown.says(format!("cannot delete a {} process", other.word()))),
        }
        process.all_shown().await;
        process.held.take();
        self.commands.borrow_mut().remove(name);
        Ok(())
    }

    /// Signals everything in it.
    pub async fn signal_all(&self, number: u32, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let call = Call { args: &["kill", "--all", &self.id, &number.to_string()], stdio: None, log: "kill", within };
        match self.oci.call(children, &call).await {
            Err(e) if e.is_over() => Err(Code::NotFound.says("process already finished")),
            called => called.map(drop).map_err(|e| e.status("OCI runtime killall failed")),
        }
    }

    pub async fn pause(&self, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let _one = self.init.changing.lock().await;
        if self.init.state.get() != State::Running {
            return Err(Code::Unknown.says(format!("cannot pause a {} container", self.init.state.get().word())));
        }
        self.init.state.set(State::Pausing);
        let paused = self.verb(&["pause", &self.id], "OCI runtime pause failed", children, within).await;
        if self.init.state.get() == State::Pausing {
            self.init.state.set(if paused.is_ok() { State::Paused } else { State::Running });
        }
        paused
    }

    pub async fn resume(&self, children: &Children, within: Option<Duration>) -> Result<(), Status> {
        let _one = self.init.changing.lock().await;
        if self.init.state.get() != State::Paused {
            return Err(Code::Unknown.says(format!("cannot resume a {} process", self.init.state.get().word())));
        }
        self.verb(&["resume", &self.id], "OCI runtime resume failed", children, within).await?;
        if self.init.state.get() == State::Paused {
            self.init.state.set(State::Running);
        }
        Ok(())
    }

    /// Other limits, as JSON.
    pub async fn update(&self, resources: &[u8], children: &Children, within: Option<Duration>) -> Result<(), Status> {
        if self.init.state.get() == State::Stopped {
            return Err(Code::Unknown.says("cannot update a stopped container"));
        }
        let path = self.oci.bundle.join("resources.json");
        fs::write(&path, resources).map_err(unknown("write down the resources"))?;
        let name = path.display().to_string();
        let updated = self.verb(&["update", "--resources", &name, &self.id], "OCI runtime update failed", children, within).await;
        let _ = fs::remove_file(&path);
        updated
    }

    /// Every process in it.
    pub async fn pids(&self, children: &Children, within: Option<Duration>) -> Result<Vec<u32>, Status> {
        let call = Call { args: &["ps", "--format", "json", &self.id], stdio: None, log: "ps", within };
        let printed = self.oci.call(children, &call).await.map_err(|e| e.status("OCI runtime ps failed"))?;
        let pids: Option<Vec<u32>> =
            serde_json::from_slice(&printed).map_err(|e| Code::Unknown.says(format!("OCI runtime ps failed: {e}")))?;
        Ok(pids.unwrap_or_default())
    }
}

/// For the shim's own program, which removes what is left should this one be killed.
fn keep(options: &Options, bundle: &Path) -> io::Result<()> {
    let Options { binary_name, root, systemd_cgroup } = options;
    let text = serde_json::json!({ "binary_name": binary_name, "root": root, "systemd_cgroup": systemd_cgroup });
    fs::write(bundle.join("options.json"), text.to_string())?;
    fs::write(bundle.join("runtime"), binary_name)
}
