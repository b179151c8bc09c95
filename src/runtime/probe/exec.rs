//! A command inside a running container, to its end or its timeout; afterwards nothing of it is left, there or in containerd.
//!
//! ```text
//!  Exec ──> Start ──> Wait ──exit──> DeleteProcess ──> the rest of what it said
//!    └─ exists: end that first          ^
//!              └── late ──> KILL it and its session ──┘
//! ```
//! The exec id is the same each time: what a plinth that was killed left behind is found, ended and replaced, and containerd itself
//! would refuse a second one beside the first.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{SAID_BYTES, cut, go};
use crate::plan::action::Answer;
use crate::pod::Uid;
use crate::runtime::Runtime;
use crate::runtime::error::{Error, Result, chain};
use crate::runtime::exec::{CLEANED, Exec, Stdio};
use crate::runtime::specify::file;
use crate::sys::fifo;
use crate::sys::pidfd::Pidfd;

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
    let exec = Exec { client, id: whose.id.to_string(), exec_id: format!("plinth-{}", whose.word) };
    let output = dir.join(whose.word);
    let ran = run_into(&exec, &output, command, within).await;
    let _ = std::fs::remove_file(&output);
    ran.map_err(|e| chain(&e).to_string())
}

async fn run_into(exec: &Exec, path: &Path, command: &[String], within: Duration) -> Result<Ran> {
    let begun = tokio::time::Instant::now();
    fifo::make(path).map_err(file("make", path))?;
    let mut output = open(path)?;
    let both = path.display().to_string();
    exec.add(command, &Stdio { stdout: both.clone(), stderr: both, ..Stdio::default() }).await?;
    let pid = exec.start(CLEANED.max(within)).await?;
    let witness = Pidfd::open(pid);
    let mut said = Vec::new();
    let code = tokio::select! {
        code = exec.wait() => Some(code?),
        () = listen(&mut output, &mut said) => None,
        () = tokio::time::sleep_until(begun + within) => None,
    };
    let Some(code) = code else {
        // A containerd that hangs makes no command late.
        let ended = witness.map_or(true, |witness| witness.ended().now_or_never().is_some());
        exec.kill(pid).await;
        return if ended {
            Err(Error::Again(format!("hear of the end of a command in `{}`: containerd does not tell", exec.id)))
        } else {
            Ok(Ran::Late)
        };
    };
    if tokio::time::timeout(CLEANED, exec.delete()).await.is_err() {
        // A child of it holds its output open.
        exec.kill(pid).await;
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

pub(in crate::runtime) fn open(path: &Path) -> Result<pipe::Receiver> {
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
