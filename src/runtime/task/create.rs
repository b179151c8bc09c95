//! Makes an attempt: snapshot, record, sandbox record, FIFOs, task.
//!
//! The snapshot comes before the record because the specification needs the image's /etc/passwd; a label of its own keeps
//! garbage collection away. The sandbox record is what makes containerd keep exit codes over its own restart.

use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::sandbox::StoreCreateRequest;
use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use containerd_client::services::v1::{Container, CreateContainerRequest, CreateTaskRequest, CreateTaskResponse};
use containerd_client::types::v1::Status;
use containerd_client::types::{Mount, Sandbox as SandboxRecord, sandbox};
use futures_util::future::try_join;
use prost_types::Any;
use tonic::Code;

use super::{delete_record, left_over, record, refused_by_runtime, target};
use crate::plan::action::Failure;
use crate::plan::world::{Sandbox, SeenContainer, SeenPod};
use crate::pod::WantedPod;
use crate::runtime::Runtime;
use crate::runtime::client::{Client, Tried, Unless};
use crate::runtime::error::{Error, Result, chain};
use crate::runtime::image::Image;
use crate::runtime::labels::{self, Labels, SCHEME};
use crate::runtime::logs::LogTarget;
use crate::runtime::observe::task;
use crate::runtime::specify::{Specified, Whose, file, refused};
use crate::runtime::userns;
use crate::sys::fifo;

/// A create starts a shim and an OCI runtime; on a loaded machine that takes its time. Giving up does not stop it.
const CREATE: Duration = Duration::from_secs(120);
/// A container's root takes a few directories and mount points: with less than that on its file system it may not get them.
const ROOM_BYTES: u64 = 64 << 10;
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Runtime {
    /// Record, snapshot, FIFOs with their readers, created task. A task the runtime refuses is an attempt that ended: `StartError`.
    pub(in crate::runtime) async fn create(
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
            user: None,
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
        let base = userns::base(&self.paths, &whose.pod.uid).filter(|_| userns::own(whose.pod));
        let mounts = self.snapshot(client, &id, &image.chain, base).await.map_err(failed)?;
        let mut labels = labels.clone();
        let made = match self.specify(whose, image, &mounts).await.map_err(|e| e.into_failure()) {
            Ok(spec) => {
                labels.user = Some(Rc::clone(&spec.user));
                self.make_record(client, whose.pod, &id, spec, &labels).await.map_err(failed)
            }
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
        self.know(&id, &labels);
        let target = target(&labels, &id);
        let mut answer = self.make_task(client, whose, &target, &mounts).await;
        if answer.as_ref().is_err_and(refused_by_runtime) {
            // A create that was cut short may still be under way in the shim and stand in the way of this one: only a no that is
            // said twice is the container's own fault.
            self.end_leftover(&id).await;
            answer = self.make_task(client, whose, &target, &mounts).await;
        }
        if userns::own(whose.pod) {
            userns::unmap(&self.paths, &whose.pod.uid);
        }
        match answer {
            Ok(created) => {
                let created =
                    containerd_client::types::v1::Process { pid: created.pid, status: Status::Created.into(), ..Default::default() };
                Ok(self.seen(&record, &labels, Some(&created)))
            }
            Err(e) if refused_by_runtime(&e) && is_full(&mounts) => {
                self.end_leftover(&id).await;
                let full = upper(&mounts).unwrap_or_default();
                Err(failed(Error::Again(format!(
                    "create container `{id}`: the file system of {full} is full: free space there; the runtime said: {}",
                    chain(&e)
                ))))
            }
            Err(e) if refused_by_runtime(&e) => self.never_ran(client, &record, &labels, &e).await.map_err(failed),
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

    /// The mounts of a fresh root file system, for a pod with users of its own as they see it.
    async fn snapshot(&self, client: &Client, id: &str, chain: &str, base: Option<u32>) -> Result<Vec<Mount>> {
        let mounts = self.prepared(client, id, chain, base).await?;
        let mapped = |m: &Mount| m.options.iter().any(|o| o.starts_with("uidmap="));
        if base.is_some() && !mounts.iter().all(mapped) {
            self.remove_snapshot(client, id).await?;
            let snapshotter = &self.settings.snapshotter;
            return Err(Error::Refused(format!(
                "make the root of container `{id}` for users of its own (hostUsers: false): snapshotter {snapshotter} maps no ids; it takes overlayfs of containerd 2 on Linux 5.19"
            )));
        }
        Ok(mounts)
    }

    async fn prepared(&self, client: &Client, id: &str, chain: &str, base: Option<u32>) -> Result<Vec<Mount>> {
        let snapshotter = self.settings.snapshotter.clone();
        let ours = [("containerd.io/gc.root", "plinth"), SCHEME].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let labels = ours.into_iter().chain(base.into_iter().flat_map(userns::snapshot_labels)).collect();
        let request = PrepareSnapshotRequest { snapshotter, key: id.to_owned(), parent: chain.to_owned(), labels };
        let prepared = client.snapshots().prepare(client.ask(request.clone())).await.tried("prepare snapshot", id);
        if let Some(prepared) = prepared.unless(Code::AlreadyExists)? {
            return Ok(prepared.mounts);
        }
        self.remove_snapshot(client, id).await?;
        Ok(client.snapshots().prepare(client.ask(request)).await.tried("prepare snapshot", id)?.mounts)
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
}

/// Where what a container writes into its root goes.
fn upper(mounts: &[Mount]) -> Option<&str> {
    mounts.iter().flat_map(|m| &m.options).find_map(|o| o.strip_prefix("upperdir="))
}

/// Nothing more can be made in a container's root: no fault of the container's, and crun says "No such file or directory" of a mount point it
/// cannot make. overlayfs lets nobody have a file system's reserved blocks (it gives up CAP_SYS_RESOURCE), whoever it writes for.
fn is_full(mounts: &[Mount]) -> bool {
    let room = upper(mounts).and_then(|dir| rustix::fs::statvfs(dir).ok());
    room.is_some_and(|room| room.f_bavail * room.f_frsize < ROOM_BYTES || (room.f_files > 0 && room.f_favail == 0))
}
