//! A command inside a running container, to its end or its timeout; afterwards nothing of it is left, there or in containerd.
//!
//! ```text
//!  Exec ──> Start ──> Wait ──exit──> DeleteProcess ──> the rest of what it said
//!    └─ exists: end that first          ^
//!              └── late ──> KILL it and its session ──┘
//! ```
//! The exec id is the same each time: what a plinth that was killed left behind is found, ended and replaced, and containerd itself
//! would refuse a second one beside the first.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, GetRequest, KillRequest, StartRequest, WaitRequest,
};
use futures_util::FutureExt;
use prost_types::Any;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tonic::Code;

use super::{SAID_BYTES, cut, go};
use crate::plan::action::Answer;
use crate::pod::Uid;
use crate::runtime::Runtime;
use crate::runtime::client::{Client, Tried, Unless};
use crate::runtime::error::{Error, Result, chain};
use crate::runtime::specify::file;
use crate::sys::pidfd::Pidfd;
use crate::sys::{fifo, session};

const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// What is killed is gone by then, and so is its exec.
const CLEANED: Duration = Duration::from_secs(5);
/// The shim may call a process running for a moment after its end was reported.
const SETTLE: (u32, Duration) = (200, Duration::from_millis(10));

/// In which container, and for what: `word` names the exec.
pub struct Whose<'a> {
    pub uid: &'a Uid,
    pub id: &'a Rc<str>,
    pub word: &'static str,
}

/// How it went.
pub enum Ran {
    /// It ended.
    Exited { code: u32, said: Vec<u8> },
    /// It did not, and was killed.
    Late,
}

/// Asks once.
pub async fn probe(rt: &Rc<Runtime>, whose: &Whose<'_>, command: &[String], within: Duration) -> Answer {
    match run(rt, whose, command, within).await {
        Ok(Ran::Exited { code: 0, .. }) => Answer::Passed,
        Ok(Ran::Exited { said, .. }) => Answer::Failed(cut(&said).into()),
        Ok(Ran::Late) => Answer::Failed(format!("command timed out: \"{}\" timed out after {}", command.join(" "), go(within)).into()),
        Err(e) => Answer::Errored(e.into()),
    }
}

/// Runs a command to its end, or kills it.
pub async fn run(rt: &Rc<Runtime>, whose: &Whose<'_>, command: &[String], within: Duration) -> std::result::Result<Ran, String> {
    let client = rt.client().map_err(|e| e.to_string())?;
    let dir = rt.paths.io(whose.uid, whose.id);
    let exec = Exec { client, id: whose.id.to_string(), exec_id: format!("plinth-{}", whose.word), output: dir.join(whose.word) };
    let ran = exec.run(command, within).await;
    let _ = std::fs::remove_file(&exec.output);
    ran.map_err(|e| chain(&e).to_string())
}

struct Exec {
    client: Client,
    id: String,
    exec_id: String,
    output: PathBuf,
}

impl Exec {
    async fn run(&self, command: &[String], within: Duration) -> Result<Ran> {
        let begun = tokio::time::Instant::now();
        let spec = self.process(command).await?;
        fifo::make(&self.output).map_err(file("make", &self.output))?;
        let mut output = open(&self.output)?;
        self.add(spec).await?;
        let request = StartRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let started =
            self.client.tasks().start(self.client.ask_within(request, CLEANED.max(within))).await.tried("run a command in", &self.id);
        // Wait would call a command that could not be started a success.
        let pid = match started {
            Ok(started) => started.pid,
            Err(e) => {
                let _ = self.delete().await;
                return Err(e);
            }
        };
        let witness = Pidfd::open(pid);
        let mut said = Vec::new();
        let code = tokio::select! {
            code = self.wait() => Some(code?),
            () = listen(&mut output, &mut said) => None,
            () = tokio::time::sleep_until(begun + within) => None,
        };
        let Some(code) = code else {
            // A containerd that hangs makes no command late.
            let ended = witness.map_or(true, |witness| witness.ended().now_or_never().is_some());
            self.kill(pid).await;
            return if ended {
                Err(Error::Again(format!("hear of the end of a command in `{}`: containerd does not tell", self.id)))
            } else {
                Ok(Ran::Late)
            };
        };
        if tokio::time::timeout(CLEANED, self.delete()).await.is_err() {
            // A child of it holds its output open.
            self.kill(pid).await;
        }
        while said.len() < SAID_BYTES {
            let mut more = [0; 4096];
            match output.try_read(&mut more) {
                Ok(n) if n > 0 => said.extend_from_slice(more.get(..n).unwrap_or_default()),
                _ => break,
            }
        }
        Ok(Ran::Exited { code, said })
    }

    /// The container's own process with another command: nothing of it is inherited by containerd.
    async fn process(&self, command: &[String]) -> Result<Vec<u8>> {
        let request = GetContainerRequest { id: self.id.clone() };
        let record = self.client.containers().get(self.client.ask(request)).await.tried("look at container", &self.id)?.container;
        let spec = record.and_then(|r| r.spec).unwrap_or_default();
        let spec: Value =
            serde_json::from_slice(&spec.value).map_err(|e| Error::Refused(format!("read the specification of `{}`: {e}", self.id)))?;
        let Some(Value::Object(mut process)) = spec.get("process").cloned() else {
            return Err(Error::Refused(format!("run a command in `{}`: its specification names no process", self.id)));
        };
        process.insert("args".to_owned(), command.into());
        process.insert("terminal".to_owned(), false.into());
        process.remove("consoleSize");
        Ok(Value::Object(process).to_string().into_bytes())
    }

    async fn add(&self, process: Vec<u8>) -> Result<()> {
        let output = self.output.display().to_string();
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            stdout: output.clone(),
            stderr: output,
            spec: Some(Any { type_url: PROCESS.to_owned(), value: process }),
            exec_id: self.exec_id.clone(),
            ..ExecProcessRequest::default()
        };
        let add = || async { self.client.tasks().exec(self.client.ask(request.clone())).await.tried("add a command to", &self.id) };
        if add().await.unless(Code::AlreadyExists)?.is_some() {
            return Ok(());
        }
        let request = GetRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let left =
            self.client.tasks().get(self.client.ask(request)).await.tried("look at a command in", &self.id).unless(Code::NotFound)?;
        self.kill(left.and_then(|l| l.process).map_or(0, |p| p.pid)).await;
        add().await.map(drop)
    }

    async fn wait(&self) -> Result<u32> {
        let request = WaitRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone() };
        let ended = self.client.tasks().wait(self.client.ask_for_ever(request)).await.tried("wait for a command in", &self.id)?;
        Ok(ended.exit_status)
    }

    /// Ends it, with everything it started, and removes it.
    async fn kill(&self, pid: u32) {
        let cleaning = async {
            session::kill(pid);
            let request = KillRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), signal: 9, all: false };
            let killed = self.client.tasks().kill(self.client.ask(request)).await.tried("kill a command in", &self.id);
            if let Err(e) = killed.unless(Code::NotFound) {
                log::debug!("{}", chain(&e));
            }
            session::kill(pid);
            self.delete().await
        };
        if !matches!(tokio::time::timeout(CLEANED, cleaning).await, Ok(Ok(()))) {
            log::debug!("container={} the command {} is not gone yet; its next run ends it", self.id, self.exec_id);
        }
    }

    async fn delete(&self) -> Result<()> {
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

fn open(path: &std::path::Path) -> Result<pipe::Receiver> {
    let fd = fifo::open(path).map_err(file("open", path))?;
    pipe::Receiver::from_owned_fd(fd).map_err(file("watch", path))
}

/// Reads what it says, keeps the beginning, never ends.
async fn listen(output: &mut pipe::Receiver, said: &mut Vec<u8>) {
    let mut more = [0; 4096];
    while let Ok(n) = output.read(&mut more).await {
        if n == 0 {
            break;
        }
        let room = SAID_BYTES.saturating_sub(said.len());
        said.extend_from_slice(more.get(..n.min(room)).unwrap_or_default());
    }
    std::future::pending().await
}
