//! Ends an attempt: its log drained, its exit written down, its task, snapshot and record deleted.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::{Container, DeleteTaskRequest, UpdateContainerRequest};
use containerd_client::types::v1::Status;
use futures_util::future::try_join;
use tonic::Code;

use super::{START, delete_record, record, target};
use crate::plan::world::{Exit, SeenContainer};
use crate::pod::WantedPod;
use crate::runtime::Runtime;
use crate::runtime::client::{Client, Tried, Unless};
use crate::runtime::error::{Error, Result, chain};
use crate::runtime::labels::Labels;
use crate::runtime::message;
use crate::runtime::observe::{forget, task};
use crate::runtime::specify::file;

/// So long the rest of a dead container's output is waited for.
const DRAIN: Duration = Duration::from_secs(5);
/// The shim may call a process running for a moment after its end was reported: tries, and the pause between two.
const SETTLE: (u32, Duration) = (50, Duration::from_millis(20));

impl Runtime {
    /// Drains the log, writes the exit down, deletes task, snapshot, sandbox record and FIFOs.
    pub(in crate::runtime) async fn end(&self, pod: Option<&WantedPod>, id: &Rc<str>) -> Result<SeenContainer> {
        let client = self.client()?;
        let (record, labels) = self.own(&client, id).await?;
        let task = task(&client, id).await?;
        let started = self.started(&labels, id);
        let mut exit = match (&labels.exit, &task) {
            (Some(exit), _) => exit.clone(),
            (None, Some(t)) if t.status() == Status::Created => {
                // The shim waits ten seconds for the output of a process that lives, and this one waits to be started.
                self.signal(id, true).await?;
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
            exit.message = pod.and_then(|pod| message::read(&self.paths, pod, &labels, exit.code)).map(Into::into);
        }
        self.write_down(&client, &record, &labels, exit).await
    }

    /// Exit onto the record first: from then on it survives whatever happens to the rest.
    pub(super) async fn write_down(&self, client: &Client, record: &Container, labels: &Labels, exit: Exit) -> Result<SeenContainer> {
        let labels = Labels { exit: Some(exit), ..labels.clone() };
        let update = Container { id: record.id.clone(), labels: labels.write(), ..Container::default() };
        let mask = prost_types::FieldMask { paths: vec!["labels".to_owned()] };
        let request = UpdateContainerRequest { container: Some(update), update_mask: Some(mask) };
        client.containers().update(client.ask(request)).await.tried("write the exit of container", &record.id)?;
        self.clear(client, &record.id.as_str().into()).await?;
        Ok(self.seen(record, &labels, None))
    }

    /// Removes all of a container but its record and its log.
    pub(super) async fn clear(&self, client: &Client, id: &Rc<str>) -> Result<()> {
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
    pub(in crate::runtime) async fn delete(&self, id: &Rc<str>) -> Result<()> {
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
    pub(super) fn end_cut_short(&self, labels: &Labels, id: &Rc<str>) {
        self.end_shim_of(id);
        if self.paths.io(&labels.uid, id).join("stdout").exists() {
            let target = target(labels, id);
            let _ = self.logs.open(&target);
            self.logs.abandon(&target);
        }
    }
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
