//! One attempt of one container, from record to deletion. Every step may be repeated: what is there already is what was wanted.
//!
//! ```text
//!  create:  snapshot > record, sandbox record > FIFOs > task       (dies anywhere: look_all or the next create cleans up)
//!  start:   mark, wait armed > Start                                (Start fails: written down as StartError, 128)
//!  end:     drain log > exit onto the record > task > snapshot, sandbox record, FIFOs
//!  delete:  whatever of these is left > record
//! ```
//! The snapshot comes before the record because the specification needs the image's /etc/passwd; a label of its own keeps
//! garbage collection away. The sandbox record is what makes containerd keep exit codes over its own restart.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::sandbox::StoreCreateRequest;
use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, CreateTaskResponse, DeleteContainerRequest, DeleteTaskRequest,
    GetContainerRequest, KillRequest, StartRequest, UpdateContainerRequest,
};
use containerd_client::to_any;
use containerd_client::types::v1::Status;
use containerd_client::types::{Mount, Sandbox as SandboxRecord, sandbox};
use futures_util::future::try_join;
use prost_types::Any;
use tonic::Code;

use super::Runtime;
use super::client::{Client, Tried, Unless};
use super::error::{Error, Result, chain};
use super::image::Image;
use super::labels::{self, Labels, SCHEME};
use super::logs::LogTarget;
use super::observe::{forget, task};
use super::specify::{Specified, Whose, file, refused};
use crate::clock;
use crate::plan::action::Failure;
use crate::plan::world::{Exit, Sandbox, SeenContainer, SeenPod};
use crate::pod::WantedPod;
use crate::settings::RuntimeClass;
use crate::sys::fifo;

/// A create starts a shim and an OCI runtime; on a loaded machine that takes its time. Giving up does not stop it.
const CREATE: Duration = Duration::from_secs(120);
/// Likewise.
const START: Duration = Duration::from_secs(60);
/// So long the rest of a dead container's output is waited for.
const DRAIN: Duration = Duration::from_secs(5);
/// The shim may call a process running for a moment after its end was reported: tries, and the pause between two.
const SETTLE: (u32, Duration) = (50, Duration::from_millis(20));
/// The kubelet's exit code of a container whose start failed (CRI: `errorStartExitCode`).
const START_ERROR: u32 = 128;
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// `containerd.runc.v1.Options`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
}

impl prost::Name for RuncOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

impl Runtime {
    /// Record, snapshot, FIFOs with their readers, created task. A task the runtime refuses is an attempt that ended: `StartError`.
    pub(super) async fn create(
        &self,
        pod: &Rc<WantedPod>,
        seen: Option<&SeenPod>,
        name: &str,
        attempt: u32,
    ) -> std::result::Result<SeenContainer, Failure> {
        let failed = |e: Error| e.into_failure("CreateContainerError");
        let client = self.client().map_err(failed)?;
        let wanted = pod.containers.iter().find(|c| &*c.name == name);
        let wanted = wanted
            .ok_or_else(|| refused("CreateContainerError", format!("create container `{name}`: pod {} has none of that name", pod.key)))?;
        let Some(Sandbox::Ready { ips, since }) = seen.map(|s| &s.sandbox) else {
            return Err(failed(Error::Gone(format!("create container `{name}`: the sandbox of pod {} is not ready", pod.key))));
        };
        let id = labels::id(&pod.uid, name, attempt);
        if let Some(found) = self.remade(&client, &id).await.map_err(failed)? {
            return Ok(found);
        }
        let image = self.resolve(&client, &wanted.image).await.map_err(failed)?;
        let image = image.ok_or_else(|| failed(Error::Gone(format!("create container `{name}`: image `{}` is gone", wanted.image))))?;
        let mounted = self.mount_images(&client, pod, name).await;
        mounted.map_err(|e| e.into_failure("ImageVolumeMountFailed"))?;
        let own = pod.container(name).and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.stop_signal.as_deref());
        let stop = own.unwrap_or(&image.config.config.stop_signal);
        let labels = Labels {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            name: name.into(),
            kind: wanted.kind,
            attempt,
            image: wanted.image.clone(),
            image_id: image.id.clone(),
            boot: self.boot.clone(),
            sandbox: Some(*since),
            stop_signal: labels::signal(stop).unwrap_or(labels::SIGTERM),
            exit: None,
        };
        self.making.borrow_mut().insert(id.clone());
        let whose = Whose { pod, name, attempt, id: &id, ips };
        let made = self.make(&client, &whose, &image, &labels).await;
        self.making.borrow_mut().remove(&id);
        made
    }

    /// What an earlier try for the same attempt left: a task is kept, the rest is cleared away.
    async fn remade(&self, client: &Client, id: &Rc<str>) -> Result<Option<SeenContainer>> {
        let Some(record) = record(client, id).await? else { return Ok(None) };
        let labels = Labels::read(&record.labels)
            .ok_or_else(|| Error::Refused(format!("create container `{id}`: there is one of that id that is not plinth's")))?;
        if let Some(task) = task(client, id).await? {
            return Ok(Some(self.seen(&record, &labels, Some(&task))));
        }
        self.know(id, &labels);
        self.end_cut_short(&labels, id);
        self.clear(client, id).await?;
        delete_record(client, id).await?;
        Ok(None)
    }

    async fn make(
        &self,
        client: &Client,
        whose: &Whose<'_>,
        image: &Image,
        labels: &Labels,
    ) -> std::result::Result<SeenContainer, Failure> {
        let id: Rc<str> = whose.id.into();
        let failed = |e: Error| e.into_failure("CreateContainerError");
        let mounts = self.snapshot(client, &id, &image.chain).await.map_err(failed)?;
        let made = match self.specify(whose, image, &mounts).await.map_err(|e| e.into_failure()) {
            Ok(spec) => self.make_record(client, whose.pod, &id, spec, labels).await.map_err(failed),
            Err(e) => Err(e),
        };
        let record = match made {
            Ok(record) => record,
            // Nothing names the snapshot yet, so nobody else would remove it before the next full look.
            Err(e) => {
                let _ = self.remove_snapshot(client, &id).await;
                return Err(e);
            }
        };
        self.know(&id, labels);
        let target = target(labels, &id);
        let mut answer = self.make_task(client, whose, &target, &mounts).await;
        if answer.as_ref().is_err_and(refused_by_runtime) {
            // A create that was cut short may still be under way in the shim and stand in the way of this one: only a no that is
            // said twice is the container's own fault.
            self.end_leftover(&id).await;
            answer = self.make_task(client, whose, &target, &mounts).await;
        }
        match answer {
            Ok(created) => {
                let created =
                    containerd_client::types::v1::Process { pid: created.pid, status: Status::Created.into(), ..Default::default() };
                Ok(self.seen(&record, labels, Some(&created)))
            }
            Err(e) if refused_by_runtime(&e) => self.never_ran(client, &record, labels, &e).await.map_err(failed),
            Err(e) => {
                if left_over(&e) {
                    self.end_leftover(&id).await;
                }
                Err(failed(e))
            }
        }
    }

    /// `stdin: true`: a FIFO the shim holds both ends of, so that who reads it waits and meets no end (as with the kubelet and nobody
    /// attached). Otherwise there is none, and reading finds the end at once.
    fn stdin(&self, whose: &Whose<'_>, id: &str) -> Result<String> {
        if !whose.pod.container(whose.name).and_then(|c| c.stdin).unwrap_or(false) {
            return Ok(String::new());
        }
        let path = self.paths.stdin(&whose.pod.uid, id);
        fifo::make(&path).map_err(file("make", &path))?;
        Ok(path.display().to_string())
    }

    async fn make_task(&self, client: &Client, whose: &Whose<'_>, target: &LogTarget, mounts: &[Mount]) -> Result<CreateTaskResponse> {
        let terminal = whose.pod.container(whose.name).and_then(|c| c.tty).unwrap_or(false);
        let fifos = self.logs.open(target).map_err(|e| Error::Again(chain(&e).to_string()))?;
        let request = CreateTaskRequest {
            container_id: target.id.to_string(),
            rootfs: mounts.to_vec(),
            stdin: self.stdin(whose, &target.id)?,
            stdout: fifos.stdout.display().to_string(),
            // A terminal has one stream; the shim must be told of it as the specification is, or the OCI runtime refuses.
            stderr: if terminal { String::new() } else { fifos.stderr.display().to_string() },
            terminal,
            ..CreateTaskRequest::default()
        };
        client.tasks().create(client.ask_within(request, CREATE)).await.tried("create task", &target.id)
    }

    async fn end_leftover(&self, id: &str) {
        if self.has_oci_state(id)
            && let Err(e) = self.end_orphan(id).await
        {
            log::warn!("container={id} end what is left of it: {e}");
        }
    }

    async fn snapshot(&self, client: &Client, id: &str, chain: &str) -> Result<Vec<Mount>> {
        let snapshotter = self.settings.snapshotter.clone();
        let labels = [("containerd.io/gc.root", "plinth"), SCHEME].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let request = PrepareSnapshotRequest { snapshotter, key: id.to_owned(), parent: chain.to_owned(), labels };
        let prepared = client.snapshots().prepare(client.ask(request.clone())).await.tried("prepare snapshot", id);
        if let Some(prepared) = prepared.unless(Code::AlreadyExists)? {
            return Ok(prepared.mounts);
        }
        self.remove_snapshot(client, id).await?;
        Ok(client.snapshots().prepare(client.ask(request)).await.tried("prepare snapshot", id)?.mounts)
    }

    /// Shim and its options for a pod. A class nobody knows is not admitted; the settings may have changed since.
    fn handler(&self, pod: &WantedPod) -> Result<(String, Option<Any>)> {
        let settings = &*self.settings;
        let name = pod.object.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty());
        let class = match name {
            None => &RuntimeClass::default(),
            Some(name) => settings
                .runtime_classes
                .get(name)
                .ok_or_else(|| Error::Refused(format!("find RuntimeClass `{name}`: the setting runtimeClasses does not have it")))?,
        };
        let shim = class.shim.clone().unwrap_or_else(|| settings.shim.clone());
        let options = RuncOptions {
            binary_name: class.oci_runtime.clone().unwrap_or_else(|| settings.oci_runtime.clone()),
            // runc's own default is one directory for the whole host, whoever calls it: two containerds would collide.
            root: settings.run_dir.join("oci").display().to_string(),
        };
        // Shims of another kind have options of another type.
        let options = shim.contains("runc").then(|| to_any(&options));
        Ok((shim, options))
    }

    async fn make_record(&self, client: &Client, pod: &WantedPod, id: &str, spec: Specified, labels: &Labels) -> Result<Container> {
        let (shim, options) = self.handler(pod)?;
        // What makes a lost record again (`observe::restore`) needs no more of the specification than the cgroup.
        let short = serde_json::json!({ "linux": { "cgroupsPath": spec.cgroup } }).to_string().into_bytes();
        let runtime = containerd_client::services::v1::container::Runtime { name: shim.clone(), options: options.clone() };
        let record = Container {
            id: id.to_owned(),
            labels: labels.write(),
            image: labels.image.to_string(),
            runtime: Some(runtime),
            spec: Some(Any { type_url: SPEC.to_owned(), value: spec.json }),
            snapshotter: self.settings.snapshotter.clone(),
            snapshot_key: id.to_owned(),
            ..Container::default()
        };
        let sandbox = SandboxRecord {
            sandbox_id: id.to_owned(),
            runtime: Some(sandbox::Runtime { name: shim, options }),
            spec: Some(Any { type_url: SPEC.to_owned(), value: short }),
            labels: labels.write(),
            ..SandboxRecord::default()
        };
        let record = CreateContainerRequest { container: Some(record) };
        let make = async { client.containers().create(client.ask(record.clone())).await.tried("create container", id) };
        let keep = async {
            let request = StoreCreateRequest { sandbox: Some(sandbox) };
            client.sandboxes().create(client.ask(request)).await.tried("create sandbox record", id).unless(Code::AlreadyExists)
        };
        let (made, _) = try_join(make, keep).await?;
        Ok(made.container.or(record.container).unwrap_or_default())
    }

    /// An attempt whose task was refused: over before it began, and written down as such.
    async fn never_ran(&self, client: &Client, record: &Container, labels: &Labels, why: &Error) -> Result<SeenContainer> {
        let now = clock::now().wall;
        self.logs.abandon(&target(labels, &record.id.as_str().into()));
        let exit = Exit { code: START_ERROR, started: Some(now), finished: now, reason: "StartError".into(), message: Some(chain(why)) };
        self.write_down(client, record, labels, exit).await
    }

    /// Starts the created task.
    pub(super) async fn start(&self, id: &Rc<str>) -> Result<SeenContainer> {
        let client = self.client()?;
        let (record, labels) = self.own(&client, id).await?;
        let now = clock::now().wall;
        let dir = self.paths.io(&labels.uid, id);
        let mark = dir.join("started");
        std::fs::create_dir_all(&dir).map_err(file("make", &dir))?;
        std::fs::write(&mark, now.0.to_string()).map_err(file("write", &mark))?;
        let request = StartRequest { container_id: id.to_string(), exec_id: String::new() };
        match client.tasks().start(client.ask_within(request, START)).await.tried("start task", id) {
            Ok(started) => {
                let process =
                    containerd_client::types::v1::Process { pid: started.pid, status: Status::Running.into(), ..Default::default() };
                Ok(self.seen(&record, &labels, Some(&process)))
            }
            Err(e) if e.code() == Some(Code::Unknown) => match task(&client, id).await? {
                Some(found) if matches!(found.status(), Status::Running | Status::Paused | Status::Pausing) => {
                    Ok(self.seen(&record, &labels, Some(&found)))
                }
                // Somebody started it before, and it is over.
                Some(found) if found.status() == Status::Stopped && chain(&e).contains("stopped process") => {
                    Ok(self.seen(&record, &labels, Some(&found)))
                }
                _ if refused_by_runtime(&e) => self.never_ran(&client, &record, &labels, &e).await,
                _ => Err(e),
            },
            // Whether it runs is not known; the mark says it may.
            Err(e) => Err(e),
        }
    }

    /// Sends a signal; nobody left to take it is success.
    pub(super) async fn signal(&self, id: &Rc<str>, kill: bool) -> Result<()> {
        let client = self.client()?;
        let known = self.known.borrow().get(id).map(|k| k.stop_signal);
        let signal = match (kill, known) {
            (true, _) => 9,
            (false, Some(signal)) => signal,
            (false, None) => self.own(&client, id).await?.1.stop_signal,
        };
        if !kill && self.signal_init(id, signal) {
            return Ok(());
        }
        let request = KillRequest { container_id: id.to_string(), exec_id: String::new(), signal, all: kill };
        let sent = client.tasks().kill(client.ask(request)).await.tried(if kill { "kill task" } else { "stop task" }, id);
        sent.unless(Code::NotFound).map(drop)
    }

    /// The stop signal straight to the container's init: what `runc kill` does, without a shim and a process between (20 ms). Only where
    /// the init is the container's own process: not with a runtime that may put a virtual machine there. SIGKILL is left to containerd,
    /// which has it sent to everything in the container.
    fn signal_init(&self, id: &str, signal: u32) -> bool {
        let runtime = Path::new(&self.settings.oci_runtime).file_name().and_then(|name| name.to_str());
        let init = self.known.borrow().get(id).and_then(|k| k.init.upgrade());
        match (init, runtime) {
            (Some(init), Some("runc" | "crun")) => init.signal(signal).is_ok(),
            _ => false,
        }
    }

    /// Drains the log, writes the exit down, deletes task, snapshot, sandbox record and FIFOs.
    pub(super) async fn end(&self, pod: Option<&WantedPod>, id: &Rc<str>) -> Result<SeenContainer> {
        let client = self.client()?;
        let (record, labels) = self.own(&client, id).await?;
        let task = task(&client, id).await?;
        let started = self.started(&labels, id);
        let mut exit = match (&labels.exit, &task) {
            (Some(exit), _) => exit.clone(),
            (None, Some(t)) if t.status() == Status::Created => {
                self.logs.abandon(&target(&labels, id));
                self.clear(&client, id).await?;
                return Ok(self.seen(&record, &labels, None));
            }
            (None, Some(t)) if t.status() == Status::Stopped => self.exit(&record, t, started),
            (None, Some(_)) => return Err(Error::Again(format!("delete task `{id}`: it is still running"))),
            (None, None) => self.lost(&record, started),
        };
        self.logs.finish(&target(&labels, id), DRAIN).await;
        if exit.message.is_none() {
            exit.message = pod.and_then(|pod| super::message::read(&self.paths, pod, &labels, exit.code)).map(Into::into);
        }
        self.write_down(&client, &record, &labels, exit).await
    }

    /// Exit onto the record first: from then on it survives whatever happens to the rest.
    async fn write_down(&self, client: &Client, record: &Container, labels: &Labels, exit: Exit) -> Result<SeenContainer> {
        let labels = Labels { exit: Some(exit), ..labels.clone() };
        let update = Container { id: record.id.clone(), labels: labels.write(), ..Container::default() };
        let mask = prost_types::FieldMask { paths: vec!["labels".to_owned()] };
        let request = UpdateContainerRequest { container: Some(update), update_mask: Some(mask) };
        client.containers().update(client.ask(request)).await.tried("write the exit of container", &record.id)?;
        self.clear(client, &record.id.as_str().into()).await?;
        Ok(self.seen(record, &labels, None))
    }

    /// Removes all of a container but its record and its log.
    async fn clear(&self, client: &Client, id: &Rc<str>) -> Result<()> {
        delete_task(client, id).await?;
        if self.has_oci_state(id) {
            self.end_orphan(id).await.map_err(file("end what is left of", Path::new(&**id)))?;
        }
        try_join(self.remove_snapshot(client, id), forget(client, id)).await?;
        let uid = self.known.borrow().get(id).map(|k| k.uid.clone());
        if let Some(uid) = uid {
            let dir = self.paths.io(&uid, id);
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", &dir)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes the record and what is left beside it: its log too, as the kubelet's collection of dead containers does.
    pub(super) async fn delete(&self, id: &Rc<str>) -> Result<()> {
        let client = self.client()?;
        if let Some(record) = record(&client, id).await? {
            let labels =
                Labels::read(&record.labels).ok_or_else(|| Error::Refused(format!("delete container `{id}`: it is not plinth's")))?;
            self.know(id, &labels);
            if labels.exit.is_none() && self.started(&labels, id).is_none() && task(&client, id).await?.is_none() {
                self.end_cut_short(&labels, id);
            }
            let target = target(&labels, id);
            self.logs.abandon(&target);
            self.clear(&client, id).await?;
            if let Err(e) = self.logs.remove_container(&target) {
                log::warn!("container={id} {}", chain(&e));
            }
            let _ = std::fs::remove_file(self.paths.termination_log(&labels.uid, &labels.name, labels.attempt));
            delete_record(&client, id).await?;
        }
        self.known.borrow_mut().remove(id);
        Ok(())
    }

    /// After a create that was cut short its shim may wait for somebody to read the FIFOs, and every container of the pod behind it.
    /// If it has nothing else it is ended; else a reader lets it go on, and what it makes is found by the next create.
    fn end_cut_short(&self, labels: &Labels, id: &Rc<str>) {
        self.end_shim_of(id);
        if self.paths.io(&labels.uid, id).join("stdout").exists() {
            let target = target(labels, id);
            let _ = self.logs.open(&target);
            self.logs.abandon(&target);
        }
    }

    async fn own(&self, client: &Client, id: &Rc<str>) -> Result<(Container, Labels)> {
        let record = record(client, id).await?.ok_or_else(|| Error::Gone(format!("find container `{id}`: its record is gone")))?;
        let labels = Labels::read(&record.labels).ok_or_else(|| Error::Refused(format!("touch container `{id}`: it is not plinth's")))?;
        self.know(id, &labels);
        Ok((record, labels))
    }
}

/// Whose log it is.
pub(super) fn target(labels: &Labels, id: &Rc<str>) -> LogTarget {
    LogTarget { key: labels.key.clone(), uid: labels.uid.clone(), container: labels.name.clone(), attempt: labels.attempt, id: id.clone() }
}

async fn record(client: &Client, id: &str) -> Result<Option<Container>> {
    let request = GetContainerRequest { id: id.to_owned() };
    let found = client.containers().get(client.ask(request)).await.tried("look at container", id).unless(Code::NotFound)?;
    Ok(found.and_then(|f| f.container))
}

async fn delete_record(client: &Client, id: &str) -> Result<()> {
    let request = DeleteContainerRequest { id: id.to_owned() };
    client.containers().delete(client.ask(request)).await.tried("delete container", id).unless(Code::NotFound).map(drop)
}

/// Deletes a task that is over or never ran.
async fn delete_task(client: &Client, id: &str) -> Result<()> {
    let request = || client.ask_within(DeleteTaskRequest { container_id: id.to_owned() }, START);
    let mut tries = 0;
    loop {
        match client.tasks().delete(request()).await.tried("delete task", id).unless(Code::NotFound) {
            Ok(_) => return Ok(()),
            Err(e) if tries < SETTLE.0 && chain(&e).contains("running process") => tries += 1,
            Err(e) => return Err(e),
        }
        tokio::time::sleep(SETTLE.1).await;
    }
}

/// The OCI runtime itself said no, as it does to a command that is not there: the container's own fault, and an end of it. containerd
/// passes its words on as `Unknown`. Whatever else went wrong (a broken link, a deadline, what an earlier create that was cut
/// short still holds) says nothing of the container, and is tried again.
fn refused_by_runtime(e: &Error) -> bool {
    let text = chain(e);
    // Without a word of its own it was not asked, or its bundle was taken from under it.
    let said = text.contains("OCI runtime") && !text.contains("unable to retrieve OCI runtime error");
    e.code() == Some(Code::Unknown) && said && !left_over(e)
}

/// Shim or OCI runtime still have one of that id: a create that was cut short while the shim worked on it (containerd then gives
/// it up; the shim does not).
fn left_over(e: &Error) -> bool {
    let text = chain(e);
    e.code() == Some(Code::Unknown) && (text.contains("already exists") || text.contains("file exists"))
}
