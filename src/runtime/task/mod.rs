//! One attempt of one container, from record to deletion. Every step may be repeated: what is there already is what was wanted.
//!
//! ```text
//!  create:  snapshot > record, sandbox record > FIFOs > task       (dies anywhere: look_all or the next create cleans up)
//!  start:   mark, wait armed > Start                                (Start fails: written down as StartError, 128)
//!  end:     drain log > exit onto the record > task > snapshot, sandbox record, FIFOs
//!  delete:  whatever of these is left > record
//! ```
//! `create`, `start` (and signals), `end` (and deletion): one file each; `handler`: which shim and OCI runtime a pod has.

mod create;
mod end;
pub(super) mod handler;
mod start;

use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::{Container, DeleteContainerRequest, GetContainerRequest};
use tonic::Code;

use super::Runtime;
use super::client::{Client, Tried, Unless};
use super::error::{Error, Result, chain};
use super::labels::Labels;
use super::logs::LogTarget;
use crate::clock;
use crate::plan::world::{Exit, SeenContainer};

/// Starting and deleting a task ask its shim, which asks an OCI runtime; on a loaded machine that takes its time. Giving up does not stop it.
pub(super) const START: Duration = Duration::from_secs(60);
/// The kubelet's exit code of a container whose start failed (CRI: `errorStartExitCode`).
const START_ERROR: u32 = 128;

impl Runtime {
    /// An attempt whose task was refused: over before it began, and written down as such.
    pub(super) async fn never_ran(&self, client: &Client, record: &Container, labels: &Labels, why: &Error) -> Result<SeenContainer> {
        let now = clock::now().wall;
        self.logs.abandon(&target(labels, &record.id.as_str().into()));
        let exit = Exit { code: START_ERROR, started: Some(now), finished: now, reason: "StartError".into(), message: Some(chain(why)) };
        self.write_down(client, record, labels, exit).await
    }

    pub(super) async fn own(&self, client: &Client, id: &Rc<str>) -> Result<(Container, Labels)> {
        let record = record(client, id).await?.ok_or_else(|| Error::Gone(format!("find container `{id}`: its record is gone")))?;
        let labels = Labels::read(&record.labels).ok_or_else(|| Error::Refused(format!("touch container `{id}`: it is not plinth's")))?;
        self.know(id, &labels);
        Ok((record, labels))
    }
}

/// Whose log it is.
pub(in crate::runtime) fn target(labels: &Labels, id: &Rc<str>) -> LogTarget {
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
