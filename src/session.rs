//! A command in a container, or a container's own input and output, held from outside: bytes in, bytes out, signals, an end.
//!
//! `runtime` makes one, `socket` carries it to a client; neither knows the other. Each way is a short queue that is not filled
//! beyond its length: who reads slowly holds up what writes to it and nobody else.
//!
//! ```text
//!  client ── stdin, control ──> Session ──> process      dropping `stdin` is the end of input
//!         <── output, end ─────                          dropping `output` ends the command
//! ```

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::pod::Uid;

/// Messages in a queue at most; one holds [`CHUNK_BYTES`] of output, or what a client put into one message.
const QUEUE: usize = 4;
/// The most output in one message.
pub const CHUNK_BYTES: usize = 32 << 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The pod.
    pub uid: Uid,
    /// The container's attempt, by its id.
    pub id: Rc<str>,
    /// Its name.
    pub container: Rc<str>,
    /// The command; `None`: attach to the container's own process.
    pub command: Option<Vec<String>>,
    /// Input is wanted.
    pub stdin: bool,
    /// Attached: the container's input ends with this client's.
    pub stdin_once: bool,
    /// Output is wanted.
    pub stdout: bool,
    /// Error output is wanted; a terminal has none of its own.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

/// What a client says beside its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The window has this size now.
    Resize {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// A signal for the process, by number.
    Signal(u32),
}

/// What the process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To its standard output.
    Stdout(Bytes),
    /// To its error output.
    Stderr(Bytes),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code; 128 and more: by that signal.
    Exited(u32),
    /// It was not begun, or went out of reach: what failed, on what, why.
    Failed(String),
}

/// The client's side.
#[derive(Debug)]
pub struct Session {
    /// Input; `None`: none is wanted.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// The rest.
    pub control: mpsc::Sender<Control>,
    /// Output; after its last message, `end` is there.
    pub output: mpsc::Receiver<Output>,
    /// How it ended.
    pub end: oneshot::Receiver<End>,
}

/// The process's side.
#[derive(Debug)]
pub struct Served {
    /// Input; its end is the end of input.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// The rest.
    pub control: mpsc::Receiver<Control>,
    /// Output; closed: the client is gone.
    pub output: mpsc::Sender<Output>,
    /// How it ended.
    pub end: oneshot::Sender<End>,
}

/// Both sides of a new session.
pub fn pair(stdin: bool) -> (Session, Served) {
    let (input, inputs) = mpsc::channel(QUEUE);
    let (control, controls) = mpsc::channel(QUEUE);
    let (said, output) = mpsc::channel(QUEUE);
    let (ended, end) = oneshot::channel();
    let session = Session { stdin: stdin.then_some(input), control, output, end };
    (session, Served { stdin: stdin.then_some(inputs), control: controls, output: said, end: ended })
}
