//! One command in a running container, as containerd's API has it: added, started, waited for, signalled, removed. Every call on its own;
//! `probe` and `session` put them together.
//!
//! The process is the container's own (user, groups, environment, directory, capabilities) with another command.

use std::time::Duration;

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, GetRequest, KillRequest, ResizePtyRequest, StartRequest,
    WaitRequest,
};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;

use super::client::{Client, Tried, Unless};
use super::error::{Error, Result, chain};
use crate::sys::session;

const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// What is killed is gone by then, and so is its exec.
pub const CLEANED: Duration = Duration::from_secs(5);
/// The shim may call a process running for a moment after its end was reported.
const SETTLE: (u32, Duration) = (200, Duration::from_millis(10));

/// Which command of which container. Without an `exec_id`, the container's own process.
#[derive(Clone)]
pub struct Exec {
    /// The link to containerd.
    pub client: Client,
    /// The container.
    pub id: String,
    /// The command's own name there.
    pub exec_id: String,
}

/// FIFOs by path; an empty one is none.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    /// All three are one terminal; of this size, columns and rows, if it is known.
    pub terminal: Option<Option<(u16, u16)>>,
}

impl Exec {
    /// Adds it; what an earlier plinth left under that name is ended first.
    pub async fn add(&self, command: &[String], stdio: &Stdio) -> Result<()> {
        let value = self.process(command, stdio.terminal).await?;
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal.is_some(),
            spec: Some(Any { type_url: PROCESS.to_owned(), value }),
            exec_id: self.exec_id.clone(),
        };
        let add = || async { self.client.tasks().exec(self.client.ask(request.clone())).await.tried("add a command to", &self.id) };
        if add().await.unless(Code::AlreadyExists)?.is_some() {
            return Ok(());
        }
        self.end_left().await?;
        add().await.map(drop)
    }

    async fn process(&self, command: &[String], terminal: Option<Option<(u16, u16)>>) -> Result<Vec<u8>> {
        let request = GetContainerRequest { id: self.id.clone() };
        let record = self.client.containers().get(self.client.ask(request)).await.tried("look at container", &self.id)?.container;
        let spec = record.and_then(|r| r.spec).unwrap_or_default();
        let mut spec: Value =
            serde_json::from_slice(&spec.value).map_err(|e| Error::Refused(format!("read the specification of `{}`: {e}", self.id)))?;
        let Some(Value::Object(mut process)) = spec.get_mut("process").map(Value::take) else {
            return Err(Error::Refused(format!("run a command in `{}`: its specification names no process", self.id)));
        };
        process.insert("args".to_owned(), command.into());
        process.insert("terminal".to_owned(), terminal.is_some().into());
        process.remove("consoleSize");
        if let Some(size) = terminal {
            // As containerd's CRI does; the container's own TERM says nothing of the client's terminal.
            let env = process.get("env").and_then(Value::as_array).into_iter().flatten();
            let kept = env.filter(|v| !v.as_str().is_some_and(|v| v.starts_with("TERM="))).cloned();
            let env: Vec<Value> = kept.chain([json!("TERM=xterm")]).collect();
            process.insert("env".to_owned(), env.into());
            if let Some((columns, rows)) = size {
                process.insert("consoleSize".to_owned(), json!({ "height": rows, "width": columns }));
            }
        }
        Ok(Value::Object(process).to_string().into_bytes())
    }

    /// Starts it; its process id. One that could not be started is removed.
    pub async fn start(&self, within: Duration) -> Result<u32> {
        let request = StartRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        match self.client.tasks().start(self.client.ask_within(request, within)).await.tried("run a command in", &self.id) {
            Ok(started) => Ok(started.pid),
            // Wait would call it a success.
            Err(e) => {
                let _ = self.delete().await;
                Err(e)
            }
        }
    }

    /// Its exit code, however long that takes.
    pub async fn wait(&self) -> Result<u32> {
        let request = WaitRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let ended = self.client.tasks().wait(self.client.ask_for_ever(request)).await.tried("wait for a command in", &self.id)?;
        Ok(ended.exit_status)
    }

    /// Sends it a signal; nobody left to take it is success.
    pub async fn signal(&self, signal: u32) -> Result<()> {
        let request = KillRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), signal, all: false };
        let sent = self.client.tasks().kill(self.client.ask(request)).await.tried("signal a command in", &self.id);
        sent.unless(Code::NotFound).map(drop)
    }

    /// Its terminal's size.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (width, height) = (columns.into(), rows.into());
        let request = ResizePtyRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), width, height };
        self.client.tasks().resize_pty(self.client.ask(request)).await.tried("resize the terminal of a command in", &self.id).map(drop)
    }

    /// The end of its input: the shim holds the FIFO open until then.
    pub async fn close_stdin(&self) -> Result<()> {
        let request = CloseIoRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), stdin: true };
        self.client.tasks().close_io(self.client.ask(request)).await.tried("close the input of a command in", &self.id).map(drop)
    }

    /// Ends it, with everything it started, and removes it.
    pub async fn kill(&self, pid: u32) {
        let cleaning = async {
            session::kill(pid);
            if let Err(e) = self.signal(9).await {
                log::debug!("{}", chain(&e));
            }
            session::kill(pid);
            self.delete().await
        };
        if !matches!(tokio::time::timeout(CLEANED, cleaning).await, Ok(Ok(()))) {
            log::debug!("container={} the command {} is not gone yet", self.id, self.exec_id);
        }
    }

    /// Ends what an earlier plinth left under that name.
    pub async fn end_left(&self) -> Result<()> {
        let request = GetRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let left = self.client.tasks().get(self.client.ask(request)).await.tried("look at a command in", &self.id);
        if let Some(left) = left.unless(Code::NotFound)? {
            self.kill(left.process.map_or(0, |p| p.pid)).await;
        }
        Ok(())
    }

    /// Removes it; it has ended.
    pub async fn delete(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            let request = DeleteProcessRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
            match self.client.tasks().delete_process(self.client.ask(request)).await.tried("remove a command from", &self.id) {
                Ok(_) => return Ok(()),
                Err(e) if e.code() == Some(Code::NotFound) => return Ok(()),
                Err(e) if tries >= SETTLE.0 => return Err(e),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(SETTLE.1).await;
        }
    }
}
