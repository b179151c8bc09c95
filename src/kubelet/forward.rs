//! `/portForward`: a client's connections to ports of a pod, as SPDY streams inside a WebSocket (`SPDY/3.1+portforward.k8s.io`, KEP-4006),
//! or as older ones have it, by SPDY alone (kubelet: `cri-streaming/portforward`).
//!
//! ```text
//!  stream "error" of request 7 ─┐                     one pair a connection; both name the port
//!  stream "data"  of request 7 ─┴─ worker ── TCP ──   to localhost in the pod's network
//! ```
//! Each way has a short queue: a pod that does not read holds up its client's connection, and nobody else. A connection that cannot be made
//! is told on its error stream, and ends; the others go on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::Refusal;
use super::wire::{self, CHUNK_BYTES, QUEUE};
use crate::plan::world::Sandbox;
use crate::pod::{PodKey, Uid};
use crate::socket::View;
use crate::socket::remote::{idle_since, limits, switch};
use crate::spdy::{Encoder, Frame};

/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken on the streams.
const PROTOCOL: &str = "portforward.k8s.io";

/// Connections at once through one client's; the next is refused.
const CONNECTIONS: usize = 64;
/// One stream of a pair waits so long for the other (kubelet: `streamCreationTimeout`).
const PAIRED: Duration = Duration::from_secs(30);
/// A client that vanished is found out by the next of these.
const PING: Duration = Duration::from_secs(5);

/// A pod whose ports are asked for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub key: PodKey,
    /// Its UID.
    pub uid: Uid,
    /// The client speaks SPDY inside a WebSocket.
    tunnel: bool,
}

/// Finds the pod, and the way the client speaks; `path`: what follows `/portForward`.
pub fn begin<B>(request: &Request<B>, path: &[&str], view: &View<'_>) -> Result<(Target, Response<()>), Refusal> {
    let (ns, name, uid) = match path {
        [ns, name] => (ns, name, None),
        [ns, name, uid] => (ns, name, Some(*uid)),
        _ => return Err((StatusCode::NOT_FOUND, "404 page not found: write /portForward/{namespace}/{pod}\n".into())),
    };
    let pod = view.wanted(ns, name, uid);
    let pod = pod.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist in namespace {ns:?}\n")))?;
    let stands = view.world.seen.pods.get(&pod.uid).is_some_and(|seen| matches!(seen.sandbox, Sandbox::Ready { .. }));
    if !stands {
        return Err((StatusCode::NOT_FOUND, format!("pod {name:?} does not run now: `plinth why {ns}/{name}` says why\n")));
    }
    let headers = request.headers();
    let tunnel = !wire::is_asked_for(headers);
    let answer = if tunnel { switch(headers, &[TUNNEL])? } else { wire::turn(headers, PROTOCOL)? };
    Ok((Target { key: pod.key.clone(), uid: pod.uid.clone(), tunnel }, answer))
}

/// Makes a connection to a port.
pub type Dial<'a> = dyn Fn(u16) -> LocalBoxFuture<'static, io::Result<TcpStream>> + 'a;

/// Carries connections until the client goes, or says nothing for so long. `before`: what was read already.
pub async fn carry(stream: impl AsyncRead + AsyncWrite + Unpin, before: &[u8], target: &Target, dial: &Dial<'_>, idle: Duration) {
    if target.tunnel {
        let (to, from) = WebSocketStream::from_partially_read(stream, before.to_vec(), Role::Server, Some(limits())).await.split();
        let from = from.filter_map(async |message| if let Ok(Message::Binary(bytes)) = message { Some(bytes) } else { None });
        let to = to.with(async |bytes| Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::Binary(bytes)));
        return serve(std::pin::pin!(from), std::pin::pin!(to), target, dial, idle).await;
    }
    let (from, to) = wire::halves(stream, before);
    serve(std::pin::pin!(from), std::pin::pin!(to), target, dial, idle).await;
}

/// What is to be said.
enum Say {
    Reply(u32),
    Refuse(u32),
    Reset(u32),
    Pong(u32),
    Data(u32, Bytes),
    Last(u32),
}

/// A connection that is asked for: its streams, as they come.
struct Pair {
    port: u16,
    error: Option<u32>,
    data: Option<u32>,
    since: Instant,
}

/// A connection to be made.
struct Job {
    port: u16,
    error: u32,
    data: u32,
    from: mpsc::Receiver<Bytes>,
    broken: Rc<Notify>,
}

/// A data stream, to its connection.
struct Line {
    /// Bytes; `None`: the client has said all.
    to: Option<mpsc::Sender<Bytes>>,
    /// The client broke it off.
    broken: Rc<Notify>,
}

type Lines = RefCell<BTreeMap<u32, Line>>;

async fn serve<S, T>(from: S, mut to: T, target: &Target, dial: &Dial<'_>, idle: Duration)
where
    S: Stream<Item = Bytes> + Unpin,
    T: Sink<Bytes> + Unpin,
{
    let (say, mut said) = mpsc::channel(QUEUE);
    let (job, mut jobs) = mpsc::unbounded_channel();
    let last = Cell::new(Instant::now());
    let lines = Lines::default();
    let hear = async {
        let mut ears = Ears { lines: &lines, pairs: BTreeMap::new(), newest: 0, say: say.clone(), job };
        let what = format!("pod={} port forwarding", target.key);
        let hear = async |frame| {
            if matches!(frame, Frame::Data { .. } | Frame::Open { .. }) {
                last.set(Instant::now());
            }
            ears.hear(frame).await
        };
        wire::frames(from, &what, hear).await;
    };
    let speak = async {
        let mut encoder = Encoder::default();
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        let mut serial = 0;
        loop {
            let bytes = tokio::select! {
                Some(what) = said.recv() => match what {
                    Say::Reply(stream) => encoder.reply(stream),
                    Say::Refuse(stream) => encoder.reset(stream, true),
                    Say::Reset(stream) => encoder.reset(stream, false),
                    Say::Pong(id) => encoder.ping(id),
                    Say::Last(stream) => encoder.data(stream, b"", true),
                    Say::Data(stream, bytes) => {
                        last.set(Instant::now());
                        encoder.data(stream, &bytes, false)
                    }
                },
                _ = ping.tick() => {
                    // A server's are even.
                    serial += 2;
                    encoder.ping(serial)
                }
            };
            if to.send(bytes).await.is_err() {
                return;
            }
        }
    };
    let work = async {
        let mut workers = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(job) = jobs.recv() => workers.push(async {
                    let stream = job.data;
                    connection(job, target, dial, &say).await;
                    lines.borrow_mut().remove(&stream);
                }),
                Some(()) = workers.next() => {}
                else => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = speak => {}
        () = work => {}
        () = idle_since(&last, Some(idle)) => log::info!("pod={} port forwarding was idle for {} s and is ended", target.key, idle.as_secs()),
    }
}

/// The side that hears the client.
struct Ears<'a> {
    /// Connections there are.
    lines: &'a Lines,
    pairs: BTreeMap<String, Pair>,
    /// The newest stream: numbers only grow.
    newest: u32,
    say: mpsc::Sender<Say>,
    job: mpsc::UnboundedSender<Job>,
}

impl Ears<'_> {
    /// `None`: there is nothing more to be heard.
    async fn hear(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::Open { stream, headers, .. } => {
                let answer = if self.takes(stream, &headers) { Say::Reply(stream) } else { Say::Refuse(stream) };
                self.say.send(answer).await.ok()?;
                for stream in self.outdated() {
                    self.say.send(Say::Reset(stream)).await.ok()?;
                }
                self.pair_up();
            }
            Frame::Data { stream, bytes, last } => {
                let to = self.lines.borrow().get(&stream).and_then(|line| line.to.clone());
                if let (Some(to), false) = (to, bytes.is_empty()) {
                    // One that is over takes no more, and that is no harm to the others.
                    let _ = to.send(bytes).await;
                }
                if let (Some(line), true) = (self.lines.borrow_mut().get_mut(&stream), last) {
                    line.to = None;
                }
            }
            Frame::Reset { stream } => {
                if let Some(line) = self.lines.borrow().get(&stream) {
                    line.broken.notify_one();
                }
            }
            // Ours are even, and theirs that answer them.
            Frame::Ping(id) if !id.is_multiple_of(2) => self.say.send(Say::Pong(id)).await.ok()?,
            Frame::Ping(_) | Frame::GoAway | Frame::Other => {}
        }
        Some(())
    }

    /// Notes one stream of a pair; false: it makes no sense, or is one too many.
    fn takes(&mut self, stream: u32, headers: &[(String, String)]) -> bool {
        let get = |name: &str| wire::header(headers, name);
        let Some(port) = get("port").parse().ok().filter(|port| *port > 0) else { return false };
        if stream.is_multiple_of(2) || stream <= self.newest {
            return false;
        }
        self.newest = stream;
        let kind = get("streamtype");
        if !matches!(kind, "error" | "data") || self.lines.borrow().len() + self.pairs.len() >= CONNECTIONS {
            return false;
        }
        // Clients from before 1.2 sent no request id: the error stream came first, the data stream's number is the next.
        let id = match get("requestid") {
            "" if kind == "error" => stream.to_string(),
            "" => stream.saturating_sub(2).to_string(),
            id => id.to_owned(),
        };
        let pair = self.pairs.entry(id).or_insert(Pair { port, error: None, data: None, since: Instant::now() });
        let place = if kind == "error" { &mut pair.error } else { &mut pair.data };
        // A second one of its kind would take the first one's place.
        place.is_none() && pair.port == port && place.replace(stream).is_none()
    }

    /// Streams that wait for the other of their pair for too long.
    fn outdated(&mut self) -> Vec<u32> {
        let mut old = Vec::new();
        self.pairs.retain(|_, pair| {
            let waits = pair.since.elapsed() <= PAIRED;
            if !waits {
                old.extend(pair.error.into_iter().chain(pair.data));
            }
            waits
        });
        old
    }

    /// Hands over the pairs that are complete.
    fn pair_up(&mut self) {
        let mut whole = Vec::new();
        self.pairs.retain(|_, pair| match (pair.error, pair.data) {
            (Some(error), Some(data)) => {
                whole.push((pair.port, error, data));
                false
            }
            _ => true,
        });
        for (port, error, data) in whole {
            let (to, from) = mpsc::channel(QUEUE);
            let broken = Rc::new(Notify::new());
            self.lines.borrow_mut().insert(data, Line { to: Some(to), broken: broken.clone() });
            let _ = self.job.send(Job { port, error, data, from, broken });
        }
    }
}

/// One connection, from its making to its end in both directions.
async fn connection(Job { port, error, data, from, broken }: Job, target: &Target, dial: &Dial<'_>, say: &mpsc::Sender<Say>) {
    let done = match dial(port).await {
        Ok(stream) => tokio::select! {
            done = copy(stream, from, data, error, say) => done,
            () = broken.notified() => say.send(Say::Last(error)).await.ok(),
        },
        Err(e) => {
            let name = &target.key.name;
            let why = format!("error forwarding port {port} to pod {name}, uid {}: connect to its localhost:{port}: {e}", target.uid.0);
            log::debug!("{why}");
            async {
                say.send(Say::Data(error, why.into())).await.ok()?;
                say.send(Say::Last(error)).await.ok()?;
                say.send(Say::Reset(data)).await.ok()
            }
            .await
        }
    };
    // Nobody is left to be told.
    let _ = done;
}

/// Bytes both ways. The pod's end of speech is told at once, on both streams: clients wait for it. What it may still hear goes on.
async fn copy(stream: TcpStream, mut from: mpsc::Receiver<Bytes>, data: u32, error: u32, say: &mpsc::Sender<Say>) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let (mut pod, mut to_pod) = stream.into_split();
    let down = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        let end = loop {
            match pod.read(&mut chunk).await {
                Ok(0) => break Say::Last(data),
                Ok(n) => say.send(Say::Data(data, Bytes::copy_from_slice(chunk.get(..n)?))).await.ok()?,
                Err(_) => break Say::Reset(data),
            }
        };
        say.send(end).await.ok()?;
        say.send(Say::Last(error)).await.ok()
    };
    let up = async {
        while let Some(bytes) = from.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // What comes from here on is refused, and the pod is told that no more does.
        from.close();
        let _ = to_pod.shutdown().await;
    };
    futures_util::join!(down, up).0
}
