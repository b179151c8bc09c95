//! Holds sessions: commands run in a container for a client, and clients attached to a container's own process.
//!
//! ```text
//!  client's queues <──> FIFOs below <io>/exec-<n> <──> shim <──> process       (exec)
//!                  <──> FIFO stdin, tap on the log pump                        (attach)
//! ```
//! Whatever ends first ends the rest: the process, the client, the container, plinth. An exec and its FIFOs go with its session;
//! those of a plinth that was killed are found by their directories and ended by the next one.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Code;

use super::Runtime;
use super::error::{Error, Result, chain};
use super::exec::{CLEANED, Exec, Stdio};
use super::logs::line::Which;
use super::logs::tap::Heard;
use super::probe::Errand;
use super::probe::exec::open;
use super::specify::file;
use crate::clock;
use crate::pod::Uid;
use crate::session::{self, CHUNK_BYTES, Control, End, Output, Request, Served, Session};
use crate::sys::fifo;

/// Sessions at once: each holds three FIFOs and some hundred kilobytes.
const MOST: usize = 32;
/// An OCI runtime is started; on a loaded machine that takes its time.
const START: Duration = Duration::from_secs(60);
/// A terminal is made with its size when the client tells it within this: a program that asks at once is not told 0 by 0.
const SIZE: Duration = Duration::from_millis(200);
/// A process whose client is gone has so long between HUP and KILL.
const HANG_UP: Duration = Duration::from_secs(1);
const SIGHUP: u32 = 1;
/// A process has ended, but something it left behind holds its output open and is silent for so long: its output is over.
const SILENCE: Duration = Duration::from_secs(3);
/// The shim opens its side of the FIFOs while it starts the process.
const OPENED: Duration = Duration::from_secs(5);
/// The code of a process that was killed: what becomes of one whose container ends.
const KILLED: u32 = 137;
/// Where an exec's FIFOs lie beside those of its container.
const PREFIX: &str = "exec-";

/// How many there are, and whether they are to end.
#[derive(Debug)]
pub(super) struct Sessions {
    open: watch::Sender<usize>,
    closing: watch::Sender<bool>,
    /// What the names of this plinth's execs begin with: the clock makes it another one than any before.
    ours: String,
    serial: Cell<u64>,
}

impl Sessions {
    /// None yet.
    pub(super) fn new() -> Sessions {
        let ours = format!("{PREFIX}{:x}-", clock::now().wall.0);
        Sessions { open: watch::Sender::default(), closing: watch::Sender::default(), ours, serial: Cell::new(0) }
    }

    fn name(&self) -> String {
        self.serial.set(self.serial.get() + 1);
        format!("{}{}", self.ours, self.serial.get())
    }

    /// Directories of execs that are not this plinth's.
    fn left(&self, io: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(io).into_iter().flatten().flatten();
        let is_left = |name: &str| name.starts_with(PREFIX) && !name.starts_with(&self.ours);
        entries.filter(|e| e.file_name().to_str().is_some_and(is_left)).map(|e| e.path()).collect()
    }
}

/// Counts one session for as long as it lives.
struct Counted<'a>(&'a Sessions);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.open.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// How a session's process came to its end.
enum Outcome {
    Exited(u32),
    /// The client or plinth goes.
    Left,
}

impl Runtime {
    /// Begins a session; it lives beside the pods' actions until its process or its client goes.
    pub fn open(&self, request: Request) -> Session {
        let (session, served) = session::pair(request.stdin);
        let _ = self.errands.send(Errand::Session { request, served });
        session
    }

    /// Ends all sessions and waits until nothing is left of them.
    pub async fn end_sessions(&self) {
        self.sessions.closing.send_replace(true);
        let _ = self.sessions.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Looks for what an earlier plinth left of its sessions in a container that runs.
    pub(super) fn end_left_sessions(&self, uid: &Uid, id: &Rc<str>) {
        if !self.sessions.left(&self.paths.io(uid, id)).is_empty() {
            let _ = self.errands.send(Errand::EndLeft { uid: uid.clone(), id: id.clone() });
        }
    }
}

/// Holds one session to its end.
pub(super) async fn serve(rt: &Rc<Runtime>, request: Request, served: Served) {
    let sessions = &rt.sessions;
    sessions.open.send_modify(|n| *n += 1);
    let _counted = Counted(sessions);
    if *sessions.open.borrow() > MOST {
        let _ = served.end.send(End::Failed(format!("open a session: there are {MOST} already; end one of them")));
        return;
    }
    let ended = match &request.command {
        Some(command) => exec(rt, &request, command, served).await,
        None => attach(rt, &request, served).await,
    };
    if let Err(e) = ended {
        log::debug!("container={} session: {}", request.id, chain(&e));
    }
}

/// Ends what sessions of an earlier plinth left.
pub(super) async fn end_left(rt: &Rc<Runtime>, uid: &Uid, id: &Rc<str>) {
    for dir in rt.sessions.left(&rt.paths.io(uid, id)) {
        let exec_id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(client) = rt.client() else { return };
        log::info!("container={id} ending the command {exec_id} of an earlier session");
        match (Exec { client, id: id.to_string(), exec_id }).end_left().await {
            Ok(()) => drop(std::fs::remove_dir_all(&dir)),
            Err(e) => log::warn!("container={id} {}", chain(&e)),
        }
    }
}

async fn exec(rt: &Rc<Runtime>, request: &Request, command: &[String], served: Served) -> Result<()> {
    let exec_id = rt.sessions.name();
    let dir = rt.paths.io(&request.uid, &request.id).join(&exec_id);
    let client = rt.client();
    let Served { stdin, mut control, output, end } = served;
    let begun = async {
        let exec = Exec { client: client?, id: request.id.to_string(), exec_id };
        let size = if request.tty { first_size(&mut control).await } else { None };
        let (stdio, ears) = fifos(&dir, request, size)?;
        exec.add(command, &stdio).await?;
        let pid = exec.start(START).await?;
        Ok((exec, pid, stdio, ears))
    };
    let (exec, pid, stdio, ears) = match begun.await {
        Ok(begun) => begun,
        Err(e) => {
            let _ = std::fs::remove_dir_all(&dir);
            let _ = end.send(End::Failed(chain(&e).to_string()));
            return Err(e);
        }
    };
    let pace = Pace { heard: Cell::new(Instant::now()), sending: Cell::new(0) };
    let mut closing = rt.sessions.closing.subscribe();
    let outcome = {
        let [out, err] = ears;
        let said = join(copy(out, Output::Stdout, &output, &pace), copy(err, Output::Stderr, &output, &pace));
        let told = join(feed(&exec, stdin, Path::new(&stdio.stdin), true), obey(&exec, control, request.tty));
        tokio::select! {
            code = through(ended(rt, &exec), said, &pace) => Outcome::Exited(code),
            _ = told => Outcome::Left,
            () = output.closed() => Outcome::Left,
            _ = closing.wait_for(|closing| *closing) => Outcome::Left,
        }
    };
    drop(output);
    match outcome {
        Outcome::Exited(code) => {
            let _ = end.send(End::Exited(code));
            if tokio::time::timeout(CLEANED, exec.delete()).await.is_err() {
                log::warn!("container={} the command {} is not removed yet: something it began holds its output", exec.id, exec.exec_id);
            }
        }
        Outcome::Left => {
            let _ = exec.signal(SIGHUP).await;
            let _ = tokio::time::timeout(HANG_UP, exec.wait()).await;
            exec.kill(pid).await;
            let _ = end.send(End::Failed("plinth is ending; the command was ended with it".into()));
        }
    }
    std::fs::remove_dir_all(&dir).map_err(file("remove", &dir))
}

/// The size a client tells at once, if it does.
async fn first_size(control: &mut mpsc::Receiver<Control>) -> Option<(u16, u16)> {
    match tokio::time::timeout(SIZE, control.recv()).await {
        Ok(Some(Control::Resize { columns, rows })) => Some((columns, rows)),
        _ => None,
    }
}

type Ears = [Option<pipe::Receiver>; 2];

/// The FIFOs of an exec, and our ends of those it speaks into.
fn fifos(dir: &Path, request: &Request, size: Option<(u16, u16)>) -> Result<(Stdio, Ears)> {
    std::fs::create_dir_all(dir).map_err(file("make", dir))?;
    let make = |name: &str, wanted: bool| {
        let path = dir.join(name);
        if wanted {
            fifo::make(&path).map_err(file("make", &path))?;
        }
        Ok::<_, Error>(if wanted { path } else { PathBuf::new() })
    };
    let hear = |path: &Path| if path.as_os_str().is_empty() { Ok(None) } else { open(path).map(Some) };
    let stdin = make("stdin", request.stdin)?;
    let stdout = make("stdout", request.stdout || request.tty)?;
    let stderr = make("stderr", request.stderr && !request.tty)?;
    let ears = [hear(&stdout)?, hear(&stderr)?];
    let text = |path: PathBuf| path.display().to_string();
    Ok((Stdio { stdin: text(stdin), stdout: text(stdout), stderr: text(stderr), terminal: request.tty.then_some(size) }, ears))
}

/// How lively a process's output is.
struct Pace {
    heard: Cell<Instant>,
    sending: Cell<u32>,
}

impl Pace {
    fn is_silent(&self) -> bool {
        self.sending.get() == 0 && self.heard.get().elapsed() >= SILENCE
    }
}

/// Output to the client's queue, until its end. Not read faster than it is taken.
async fn copy(from: Option<pipe::Receiver>, said: fn(bytes::Bytes) -> Output, to: &mpsc::Sender<Output>, pace: &Pace) {
    let Some(mut from) = from else { return };
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        pace.sending.set(pace.sending.get() + 1);
        let sent = to.send(said(bytes::Bytes::copy_from_slice(chunk.get(..n).unwrap_or_default()))).await;
        pace.sending.set(pace.sending.get() - 1);
        pace.heard.set(Instant::now());
        if sent.is_err() {
            return;
        }
    }
}

/// The client's input to the FIFO, then its end. Once nobody reads there any more, the rest is refused.
async fn feed(exec: &Exec, input: Option<mpsc::Receiver<bytes::Bytes>>, path: &Path, close: bool) {
    let Some(mut input) = input else { return };
    match open_writer(path).await {
        Ok(mut fifo) => {
            while let Some(bytes) = input.recv().await {
                if fifo.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        Err(e) => log::debug!("{}", chain(&e)),
    }
    drop(input);
    if close && let Err(e) = exec.close_stdin().await {
        log::debug!("{}", chain(&e));
    }
}

async fn open_writer(path: &Path) -> Result<pipe::Sender> {
    let until = Instant::now() + OPENED;
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) && Instant::now() < until => {}
            opened => return opened.map_err(file("open", path)),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the client says beside its input, for ever.
async fn obey(exec: &Exec, mut control: mpsc::Receiver<Control>, tty: bool) {
    while let Some(control) = control.recv().await {
        let done = match control {
            Control::Resize { columns, rows } if tty => exec.resize(columns, rows).await,
            Control::Resize { .. } => Ok(()),
            Control::Signal(signal) => exec.signal(signal).await,
        };
        if let Err(e) = done {
            log::debug!("{}", chain(&e));
        }
    }
    // The client is gone, which its output tells, or says no more.
    std::future::pending().await
}

/// The exit code, across restarts of containerd; a process that went with its container was killed.
async fn ended(rt: &Runtime, exec: &Exec) -> u32 {
    let mut exec = exec.clone();
    loop {
        match exec.wait().await {
            Ok(code) => return code,
            Err(e) if e.code() == Some(Code::NotFound) => return KILLED,
            Err(e) => log::debug!("{}", chain(&e)),
        }
        if rt.known.borrow().get(exec.id.as_str()).is_none_or(|k| k.ended) {
            return KILLED;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Ok(client) = rt.client() {
            exec.client = client;
        }
    }
}

/// The exit code once all output is through: to its end, or to silence where something that was left behind holds it open.
async fn through(code: impl Future<Output = u32>, said: impl Future, pace: &Pace) -> u32 {
    let (mut code, mut said) = (std::pin::pin!(code), std::pin::pin!(said));
    let mut all_said = false;
    let code = loop {
        tokio::select! {
            code = &mut code => break code,
            _ = &mut said, if !all_said => all_said = true,
        }
    };
    pace.heard.set(Instant::now());
    while !all_said && !pace.is_silent() {
        tokio::select! {
            _ = &mut said => all_said = true,
            () = tokio::time::sleep(SILENCE / 10) => {}
        }
    }
    code
}

/// Input to, and output of, the container's own process. It goes on when the client leaves.
async fn attach(rt: &Rc<Runtime>, request: &Request, served: Served) -> Result<()> {
    let Served { stdin, control, output, end } = served;
    let (client, tap) = (rt.client(), rt.logs.listen(&request.id));
    let (client, tap) = match (client, tap) {
        (Ok(client), Some(tap)) => (client, tap),
        (client, _) => {
            let e = client.err().unwrap_or_else(|| Error::Gone(format!("attach to container `{}`: it does not run", request.container)));
            let _ = end.send(End::Failed(chain(&e).to_string()));
            return Err(e);
        }
    };
    let init = Exec { client, id: request.id.to_string(), exec_id: String::new() };
    let path = rt.paths.stdin(&request.uid, &request.id);
    let mut closing = rt.sessions.closing.subscribe();
    let heard = async {
        loop {
            let said = match tap.next().await {
                Heard::Output(Which::Stdout, bytes) if request.stdout => Output::Stdout(bytes),
                Heard::Output(Which::Stderr, bytes) if request.stderr => Output::Stderr(bytes),
                Heard::Output(..) => continue,
                Heard::Closed => return End::Exited(0),
                Heard::Lost => return End::Failed("its output came faster than it was taken; `plinth logs -f` shows all of it".into()),
            };
            if output.send(said).await.is_err() {
                return End::Exited(0);
            }
        }
    };
    let fed = async {
        feed(&init, stdin, &path, request.stdin_once).await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = heard => ended,
        ((), ()) = join(fed, obey(&init, control, request.tty)) => End::Exited(0),
        () = output.closed() => End::Exited(0),
        _ = closing.wait_for(|closing| *closing) => End::Failed("plinth is ending; the container runs on".into()),
    };
    if request.stdin_once {
        let _ = init.close_stdin().await;
    }
    let _ = end.send(ended);
    Ok(())
}
