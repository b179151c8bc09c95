//! `/exec` and `/attach` by SPDY alone, `v4.channel.k8s.io`: how kubectl before 1.31 comes, and API servers that translate.
//!
//! ```text
//!  stream "stdin", "resize" ──> session ──> "stdout", "stderr", at last "error": a v1.Status
//! ```
//! The client opens the streams it wants; the session begins when all that are needed are there.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::wire::{self, QUEUE};
use crate::session::{Control, End, Output, Request, Session};
use crate::socket::remote::{LINGER, PING, idle_since, resized, status};
use crate::spdy::{Encoder, Frame};

/// What is spoken on the streams.
pub const PROTOCOL: &str = "v4.channel.k8s.io";
/// Streams must be there within this (kubelet: `streamCreationTimeout`).
const OPENED: Duration = Duration::from_secs(30);
/// A window's size as text is no longer.
const SIZE_BYTES: usize = 1 << 10;

/// Numbers of the client's streams.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Streams {
    /// Notes one; false: it makes no sense, or is there already.
    fn take(&mut self, kind: &str, stream: u32) -> bool {
        let place = match kind {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return false,
        };
        place.is_none() && !stream.is_multiple_of(2) && place.replace(stream).is_none()
    }

    /// All that the session needs are there; the size of a window may come later.
    fn are_all(&self, wanted: &Request) -> bool {
        let has = |wanted: bool, stream: Option<u32>| !wanted || stream.is_some();
        let stderr = wanted.stderr && !wanted.tty;
        has(true, self.error) && has(wanted.stdin, self.stdin) && has(wanted.stdout, self.stdout) && has(stderr, self.stderr)
    }
}

enum Say {
    Reply(u32),
    Refuse(u32),
    Pong(u32),
}

/// What the speaking side gets of a session that begins.
type Begun = (Streams, mpsc::Receiver<Output>, oneshot::Receiver<End>);

/// Carries a session until either side ends it, or neither says anything for so long. `before`: what was read of it already.
pub async fn carry(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    before: &[u8],
    wanted: Request,
    begin: impl Fn(Request) -> Session,
    idle: Duration,
) {
    let (from, to) = wire::halves(stream, before);
    let (from, mut to) = (std::pin::pin!(from), std::pin::pin!(to));
    let (say, mut said) = mpsc::channel(QUEUE);
    let (ready, begun) = oneshot::channel();
    let last = Cell::new(Instant::now());
    let what = format!("container={} session", wanted.id);
    let mut ears =
        Ears { wanted, begin, say, ready: Some(ready), streams: Streams::default(), stdin: None, control: None, size: Vec::new() };
    let hear = wire::frames(from, &what, async |frame| {
        if matches!(frame, Frame::Data { .. } | Frame::Open { .. }) {
            last.set(Instant::now());
        }
        ears.hear(frame).await
    });
    let speak = async {
        let (mut encoder, mut serial) = (Encoder::default(), 0);
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        let mut begun = std::pin::pin!(timeout(OPENED, begun));
        let mut session: Option<Begun> = None;
        loop {
            let bytes = tokio::select! {
                // Answers first: a client waits for them before it says more.
                biased;
                Some(what) = said.recv() => match what {
                    Say::Reply(stream) => encoder.reply(stream),
                    Say::Refuse(stream) => encoder.reset(stream, true),
                    Say::Pong(id) => encoder.ping(id),
                },
                there = &mut begun, if session.is_none() => {
                    let Ok(Ok(there)) = there else { return false };
                    session = Some(there);
                    continue;
                }
                output = heard(&mut session), if session.is_some() => {
                    last.set(Instant::now());
                    let Some((streams, _, _)) = &session else { return false };
                    match output {
                        None => break,
                        Some(Output::Stdout(bytes)) => data(&encoder, streams.stdout, &bytes),
                        Some(Output::Stderr(bytes)) => data(&encoder, streams.stderr, &bytes),
                    }
                }
                _ = ping.tick() => {
                    // A server's are even.
                    serial += 2;
                    encoder.ping(serial)
                }
            };
            if to.send(bytes).await.is_err() {
                return false;
            }
        }
        let Some((streams, _, end)) = session else { return false };
        let end = end.await.unwrap_or_else(|_| End::Failed("plinth is ending".into()));
        let mut words = data(&encoder, streams.error, status(&end).to_string().as_bytes()).to_vec();
        for stream in [streams.stdout, streams.stderr, streams.error].into_iter().flatten() {
            words.extend(encoder.data(stream, b"", true));
        }
        to.send(words.into()).await.is_ok()
    };
    let mut hear = std::pin::pin!(hear);
    let told = tokio::select! {
        () = &mut hear => false,
        told = speak => told,
        () = idle_since(&last, Some(idle)) => false,
    };
    if told {
        let _ = timeout(LINGER, hear).await;
    }
}

/// The next output of a session that has begun.
async fn heard(session: &mut Option<Begun>) -> Option<Output> {
    match session {
        Some((_, output, _)) => output.recv().await,
        None => std::future::pending().await,
    }
}

/// A data frame; what nobody asked for is nothing.
fn data(encoder: &Encoder, stream: Option<u32>, bytes: &[u8]) -> Bytes {
    stream.map(|stream| encoder.data(stream, bytes, false)).unwrap_or_default()
}

/// The side that hears the client.
struct Ears<F> {
    wanted: Request,
    begin: F,
    say: mpsc::Sender<Say>,
    /// Told once the session begins.
    ready: Option<oneshot::Sender<Begun>>,
    streams: Streams,
    stdin: Option<mpsc::Sender<Bytes>>,
    control: Option<mpsc::Sender<Control>>,
    /// The beginning of a size that is not whole yet.
    size: Vec<u8>,
}

impl<F: Fn(Request) -> Session> Ears<F> {
    /// `None`: there is nothing more to be heard.
    async fn hear(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::Open { stream, headers, last } => {
                let answer =
                    if self.streams.take(wire::header(&headers, "streamtype"), stream) { Say::Reply(stream) } else { Say::Refuse(stream) };
                self.say.send(answer).await.ok()?;
                if self.streams.are_all(&self.wanted) {
                    self.start();
                }
                if last {
                    self.ends(stream);
                }
            }
            Frame::Data { stream, bytes, last } => {
                if Some(stream) == self.streams.stdin && !bytes.is_empty() {
                    // A process that does not read holds up its client, and one that reads no more is spared the rest.
                    match &self.stdin {
                        Some(to) if to.send(bytes).await.is_err() => self.stdin = None,
                        _ => {}
                    }
                } else if Some(stream) == self.streams.resize {
                    self.resize(&bytes).await;
                }
                if last {
                    self.ends(stream);
                }
            }
            Frame::Reset { stream } => self.ends(stream),
            // Ours are even, and theirs that answer them.
            Frame::Ping(id) if !id.is_multiple_of(2) => self.say.send(Say::Pong(id)).await.ok()?,
            Frame::Ping(_) | Frame::GoAway | Frame::Other => {}
        }
        Some(())
    }

    fn start(&mut self) {
        let Some(ready) = self.ready.take() else { return };
        let Session { stdin, control, output, end } = (self.begin)(self.wanted.clone());
        (self.stdin, self.control) = (stdin, Some(control));
        let _ = ready.send((self.streams, output, end));
    }

    fn ends(&mut self, stream: u32) {
        if Some(stream) == self.streams.stdin {
            self.stdin = None;
        }
    }

    /// Sizes come as lines of JSON, cut anywhere.
    async fn resize(&mut self, bytes: &[u8]) {
        self.size.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.size) {
            let line: Vec<u8> = self.size.drain(..=end).collect();
            if let (Some(size), Some(control)) = (resized(&line), &self.control) {
                let _ = control.send(size).await;
            }
        }
        if self.size.len() > SIZE_BYTES {
            self.size.clear();
        }
    }
}
