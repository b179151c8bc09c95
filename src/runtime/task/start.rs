//! Starts a created task, and signals a running one.

use std::rc::Rc;

use containerd_client::services::v1::{KillRequest, StartRequest};
use containerd_client::types::v1::Status;
use tonic::Code;

use super::{START, refused_by_runtime};
use crate::clock;
use crate::plan::world::SeenContainer;
use crate::runtime::Runtime;
use crate::runtime::client::{Tried, Unless};
use crate::runtime::error::{Result, chain};
use crate::runtime::observe::task;
use crate::runtime::specify::file;

impl Runtime {
    /// Starts the created task.
    pub(in crate::runtime) async fn start(&self, id: &Rc<str>) -> Result<SeenContainer> {
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
    pub(in crate::runtime) async fn signal(&self, id: &Rc<str>, kill: bool) -> Result<()> {
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

    /// The stop signal straight to the container's init: what `runc kill` does, without a shim and a process between (20 ms). SIGKILL
    /// is left to containerd, which has it sent to everything in the container.
    fn signal_init(&self, id: &str, signal: u32) -> bool {
        let init = self.known.borrow().get(id).and_then(|k| k.init.upgrade());
        init.is_some_and(|init| init.signal(signal).is_ok())
    }
}
