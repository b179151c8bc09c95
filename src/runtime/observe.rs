//! What is there: records, tasks, sandbox records, snapshots and the host's own remains, joined into `SeenPod`s.
//!
//! Reads; the only things it changes are those no decision is about (`look_all`): a snapshot or sandbox record of ours
//! whose container record is gone is removed, and a task of ours whose record is gone gets its record back, so that it
//! can be reached again; pipes of a deleted container are closed, and links to logs that are gone are removed. Nothing without our
//! label is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use containerd_client::services::v1::sandbox::{StoreDeleteRequest, StoreListRequest};
use containerd_client::services::v1::snapshots::{ListSnapshotsRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteRequest as LeaseDelete, GetRequest, ListContainersRequest, ListRequest as LeaseList,
    ListTasksRequest,
};
use containerd_client::types::Sandbox as SandboxRecord;
use containerd_client::types::v1::{Process, Status};
use futures_util::future::{join_all, try_join3};
use tonic::Code;

use super::client::{Client, Tried, Unless};
use super::error::{Result, chain};
use super::labels::{self, Labels, OURS};
use super::task::handler::runs_in_place;
use super::{Known, Runtime, sandbox};
use crate::clock::{self, Wall};
use crate::plan::action::Event;
use crate::plan::world::{Exit, SeenContainer, SeenPod, State};
use crate::pod::Uid;

/// The kubelet's exit code for a container nobody knows the end of.
const UNKNOWN_CODE: u32 = 137;

impl Runtime {
    /// Everything that is ours. What hangs in the air is listed before the records are: a record is made first and removed last,
    /// so what has none in the later list is really left over.
    pub(super) async fn look_all(&self) -> Result<BTreeMap<Uid, SeenPod>> {
        let client = self.client()?;
        let shims = self.shims();
        let mut heard = self.logs.opened();
        heard.retain(|id| !self.making.borrow().contains(id));
        let (tasks, sandboxes, snapshots) = try_join3(tasks(&client), sandboxes(&client), self.snapshots(&client)).await?;
        let mut records = records(&client, OURS.to_owned()).await?;
        let here: BTreeSet<String> = records.iter().map(|r| r.id.clone()).collect();
        for sandbox in sandboxes.into_iter().filter(|s| !here.contains(&s.sandbox_id)) {
            match tasks.get(sandbox.sandbox_id.as_str()) {
                Some(_) => records.push(restore(&client, sandbox).await?),
                None => forget(&client, &sandbox.sandbox_id).await?,
            }
        }
        // What has its exit on record and no task needs none either: an earlier plinth ended between the two.
        let over: BTreeSet<&str> = records.iter().filter(|r| labels::ended(&r.labels)).map(|r| r.id.as_str()).collect();
        let idle = |key: &str| !here.contains(key) || (over.contains(key) && !tasks.contains_key(key));
        let used = |key: &str| self.making.borrow().contains(key) || self.is_volume_in_use(key);
        for key in snapshots.iter().filter(|key| idle(key) && !used(key)) {
            self.remove_snapshot(&client, key).await?;
        }
        self.release_leases(&client).await?;
        let mut known = here.clone();
        known.extend(records.iter().map(|r| r.id.clone()).chain(tasks.keys().cloned()));
        heard.iter().filter(|id| !known.contains(&***id)).for_each(|id| self.logs.forget(id));
        self.end_orphans(&known).await;
        let open = records.iter().filter(|r| !labels::ended(&r.labels)).map(|r| r.id.clone()).chain(tasks.keys().cloned());
        self.end_shims(&shims, &open.collect());
        let mut pods: BTreeMap<Uid, SeenPod> = sandbox::scan(&self.paths).into_iter().map(|(uid, found)| (uid, scanned(found))).collect();
        for record in &records {
            let task = match tasks.get(record.id.as_str()) {
                Some(task) => Some(task.clone()),
                // The tasks were listed earlier than the records: this one may be younger than that list.
                None if !labels::ended(&record.labels) => task(&client, &record.id).await?,
                None => None,
            };
            self.add(&mut pods, record, task.as_ref());
        }
        for (key, uid) in self.logs.pods() {
            pods.entry(uid).or_default().key.get_or_insert(key);
        }
        pods.iter_mut().for_each(|(uid, pod)| self.add_logged(uid, pod));
        self.logs.prune_links();
        self.known.borrow_mut().retain(|id, k| here.contains(&**id) || k.pid == 0);
        self.logs.release_unclaimed();
        Ok(pods)
    }

    /// One pod: one list, and one question per container that may have a task.
    pub(super) async fn look(&self, uid: &Uid) -> Result<Option<SeenPod>> {
        let client = self.client()?;
        let records = records(&client, labels::of_pod(uid)).await?;
        let open = records.iter().filter(|r| !labels::ended(&r.labels));
        let tasks = join_all(open.map(|r| task(&client, &r.id))).await.into_iter().collect::<Result<Vec<_>>>()?;
        let tasks: BTreeMap<String, Process> = tasks.into_iter().flatten().map(|t| (t.container_id.clone(), t)).collect();
        let mut pods: BTreeMap<Uid, SeenPod> =
            sandbox::scan_one(&self.paths, uid).into_iter().map(|found| (uid.clone(), scanned(found))).collect();
        for record in &records {
            self.add(&mut pods, record, tasks.get(&record.id));
        }
        let logs_alone =
            || self.logs.pods().into_iter().find(|(_, u)| u == uid).map(|(key, _)| SeenPod { key: Some(key), ..SeenPod::default() });
        Ok(pods.remove(uid).or_else(logs_alone).map(|mut pod| {
            self.add_logged(uid, &mut pod);
            pod
        }))
    }

    /// What the names of log files tell of attempts that have no record.
    fn add_logged(&self, uid: &Uid, pod: &mut SeenPod) {
        let Some(key) = &pod.key else { return };
        for (name, attempt) in self.logs.attempts(key, uid) {
            if !pod.containers.values().any(|c| c.name == name && c.attempt == attempt) {
                let last = pod.logged.entry(name).or_default();
                *last = attempt.max(*last);
            }
        }
    }

    fn add(&self, pods: &mut BTreeMap<Uid, SeenPod>, record: &Container, task: Option<&Process>) {
        let Some(labels) = Labels::read(&record.labels) else { return };
        let container = self.seen(record, &labels, task);
        let pod = pods.entry(labels.uid).or_default();
        pod.key.get_or_insert(labels.key);
        pod.containers.insert(container.id.clone(), container);
    }

    /// One record as `plan` sees it; what runs is watched from here on.
    pub(super) fn seen(&self, record: &Container, labels: &Labels, task: Option<&Process>) -> SeenContainer {
        let id: Rc<str> = record.id.as_str().into();
        self.know(&id, labels);
        let state = self.state(record, labels, task);
        if let (State::Running { .. }, Some(task)) = (&state, task) {
            // An end that was told before this look, and is not in it: of an earlier task of that id, or so fresh that this look was
            // already under way. Which of the two, only another look tells; the next end is told again.
            let told = self.known.borrow_mut().get_mut(&id).is_some_and(|known| std::mem::take(&mut known.ended));
            if told {
                self.tell(Event::Hint(labels.uid.clone()));
            }
            self.watch_container(&id, task.pid, runs_in_place(record));
            self.end_left_sessions(&labels.uid, &id);
        }
        // What an earlier plinth started writes into FIFOs nobody reads until they are opened again; of what has ended meanwhile,
        // the last lines still stand in FIFOs that came back from the service manager, until `end` takes them.
        if matches!(state, State::Created | State::Running { .. } | State::Exited(_) | State::Lost(_))
            && let Err(e) = self.logs.open(&super::task::target(labels, &id))
        {
            log::warn!("container={id} {}", chain(&e));
        }
        SeenContainer {
            name: labels.name.clone(),
            kind: labels.kind,
            attempt: labels.attempt,
            image: labels.image.clone(),
            image_id: labels.image_id.clone(),
            created: record.created_at.as_ref().map(wall).unwrap_or_default(),
            sandbox: labels.sandbox,
            user: labels.user.clone(),
            state,
            id,
        }
    }

    /// The recovery table: what record, task and the mark beside the FIFOs say together.
    fn state(&self, record: &Container, labels: &Labels, task: Option<&Process>) -> State {
        let started = self.started(labels, &record.id);
        match (&labels.exit, task) {
            (Some(exit), None) => State::Dead(exit.clone()),
            (Some(exit), Some(_)) => State::Exited(exit.clone()),
            (None, Some(task)) => match task.status() {
                Status::Created => State::Created,
                Status::Stopped => State::Exited(self.exit(record, task, started)),
                Status::Running | Status::Paused | Status::Pausing | Status::Unknown => {
                    State::Running { since: started.unwrap_or_default() }
                }
            },
            (None, None) if started.is_some() || labels.boot != self.boot => State::Lost(self.lost(record, started)),
            (None, None) => State::Record,
        }
    }

    /// How a task ended that is still there.
    pub(super) fn exit(&self, record: &Container, task: &Process, started: Option<Wall>) -> Exit {
        let finished = task.exited_at.as_ref().map(wall).filter(|at| at.0 > 0).unwrap_or_else(|| clock::now().wall);
        let oom = self.known.borrow().get(record.id.as_str()).is_some_and(|k| k.oom) || super::starved::by_cgroup(record);
        Exit { code: task.exit_status, started, finished, reason: reason(task.exit_status, oom).into(), message: None }
    }

    /// How one ended whose task is gone: the kernel's word if it was heard, else the kubelet's for what nobody knows.
    pub(super) fn lost(&self, record: &Container, started: Option<Wall>) -> Exit {
        let known = self.known.borrow();
        let known = known.get(record.id.as_str());
        if let Some((Some(code), finished)) = known.and_then(|k| k.witnessed) {
            let oom = known.is_some_and(|k| k.oom);
            return Exit { code, started, finished, reason: reason(code, oom).into(), message: None };
        }
        let finished =
            known.and_then(|k| k.witnessed).map_or_else(|| record.updated_at.as_ref().map(wall).unwrap_or_default(), |(_, at)| at);
        Exit {
            code: UNKNOWN_CODE,
            started,
            finished,
            reason: "ContainerStatusUnknown".into(),
            message: Some("its task is gone and nobody saw how it ended: containerd or the machine was restarted meanwhile".into()),
        }
    }

    /// What the mark says that is made just before a task is started; it is gone after a reboot.
    pub(super) fn started(&self, labels: &Labels, id: &str) -> Option<Wall> {
        let text = std::fs::read_to_string(self.paths.io(&labels.uid, id).join("started")).ok()?;
        Some(Wall(text.trim().parse().unwrap_or_default()))
    }

    /// Keeps in memory who this is.
    pub(super) fn know(&self, id: &Rc<str>, labels: &Labels) {
        self.known.borrow_mut().entry(id.clone()).or_insert_with(|| Known {
            uid: labels.uid.clone(),
            stop_signal: labels.stop_signal,
            pid: 0,
            init: std::rc::Weak::new(),
            waited: false,
            ended: false,
            oom: false,
            witnessed: None,
        });
    }

    pub(super) async fn snapshots(&self, client: &Client) -> Result<Vec<String>> {
        let request = ListSnapshotsRequest { snapshotter: self.settings.snapshotter.clone(), filters: vec![OURS.to_owned()] };
        let mut stream = client.snapshots().list(client.ask(request)).await.tried("list snapshots of", &self.settings.snapshotter)?;
        let mut keys = Vec::new();
        while let Some(page) = stream.message().await.map(|m| m.map(tonic::Response::new)).transpose() {
            keys.extend(page.tried("list snapshots of", &self.settings.snapshotter)?.info.into_iter().map(|i| i.name));
        }
        Ok(keys)
    }

    /// Leases of transfers that an earlier plinth began and did not end.
    async fn release_leases(&self, client: &Client) -> Result<()> {
        let request = LeaseList { filters: vec![OURS.to_owned()] };
        let leases = client.leases().list(client.ask(request)).await.tried("list leases of", "containerd")?.leases;
        for lease in leases.into_iter().filter(|l| !self.leases.borrow().contains(&l.id)) {
            let request = LeaseDelete { id: lease.id.clone(), sync: false };
            client.leases().delete(client.ask(request)).await.tried("delete lease", &lease.id).unless(Code::NotFound)?;
        }
        Ok(())
    }

    /// Removes a snapshot; one that is not there is removed.
    pub(super) async fn remove_snapshot(&self, client: &Client, key: &str) -> Result<()> {
        let request = RemoveSnapshotRequest { snapshotter: self.settings.snapshotter.clone(), key: key.to_owned() };
        client.snapshots().remove(client.ask(request)).await.tried("remove snapshot", key).unless(Code::NotFound).map(drop)
    }
}

fn scanned(found: sandbox::Scanned) -> SeenPod {
    let key = found.made_from.as_ref().map(|p| p.key.clone());
    SeenPod { key, made_from: found.made_from, sandbox: found.sandbox, ..SeenPod::default() }
}

/// `Completed`, `Error`, `OOMKilled`, as containerd's CRI words them.
fn reason(code: u32, oom: bool) -> &'static str {
    match (oom, code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

/// A protobuf timestamp as ours.
pub(super) fn wall(at: &prost_types::Timestamp) -> Wall {
    Wall(at.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(at.nanos)))
}

pub(super) async fn records(client: &Client, filter: String) -> Result<Vec<Container>> {
    let request = ListContainersRequest { filters: vec![filter] };
    Ok(client.containers().list(client.ask(request)).await.tried("list containers of", "containerd")?.containers)
}

async fn tasks(client: &Client) -> Result<BTreeMap<String, Process>> {
    let request = ListTasksRequest { filter: String::new() };
    let tasks = client.tasks().list(client.ask(request)).await.tried("list tasks of", "containerd")?.tasks;
    Ok(tasks.into_iter().map(|t| (t.id.clone(), t)).collect())
}

/// One task, if it is there.
pub(super) async fn task(client: &Client, id: &str) -> Result<Option<Process>> {
    let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let answer = client.tasks().get(client.ask(request)).await.tried("look at task", id).unless(Code::NotFound)?;
    Ok(answer.and_then(|a| a.process).map(|p| Process { container_id: id.to_owned(), ..p }))
}

async fn sandboxes(client: &Client) -> Result<Vec<SandboxRecord>> {
    let request = StoreListRequest { filters: vec![OURS.to_owned()] };
    Ok(client.sandboxes().list(client.ask(request)).await.tried("list sandbox records of", "containerd")?.list)
}

/// Removes a sandbox record; one that is not there is removed.
pub(super) async fn forget(client: &Client, id: &str) -> Result<()> {
    let request = StoreDeleteRequest { sandbox_id: id.to_owned() };
    let deleted = client.sandboxes().delete(client.ask(request)).await.tried("delete sandbox record", id);
    match deleted.unless(Code::NotFound) {
        // containerd 1.7 has no code of its own for it.
        Err(e) if chain(&e).contains("bucket not found") => Ok(()),
        other => other.map(drop),
    }
}

/// A task without a record cannot be reached: its record is made again from the sandbox record, which carries the same labels.
async fn restore(client: &Client, sandbox: SandboxRecord) -> Result<Container> {
    log::warn!("container {} runs without its record: somebody deleted it; made again", sandbox.sandbox_id);
    let runtime = sandbox.runtime.map(|r| containerd_client::services::v1::container::Runtime { name: r.name, options: r.options });
    let record = Container { id: sandbox.sandbox_id, labels: sandbox.labels, runtime, spec: sandbox.spec, ..Container::default() };
    let id = record.id.clone();
    let request = CreateContainerRequest { container: Some(record.clone()) };
    let made = client.containers().create(client.ask(request)).await.tried("restore container", &id).unless(Code::AlreadyExists)?;
    Ok(made.and_then(|m| m.container).unwrap_or(record))
}
