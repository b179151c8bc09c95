//! `/exec` and `/attach`: the kubelet's addresses and queries, and its WebSocket protocol `v5.channel.k8s.io`, so that one protocol
//! serves our own command, kubectl and the API server.
//!
//! Binary messages; the first byte is the channel. Client: 0 input, 4 `{"Width":80,"Height":24}`, 5 a signal's number in decimal
//! (plinth's own), 255 and a channel: that channel ends. Server: 1 output, 2 error output, 3 a `v1.Status`, last of all.
//! (k8s.io/apimachinery `remotecommand`, KEP-4006.)

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::logs::Refusal;
use super::query::Query;
use super::{Backend, View};
use crate::plan::world::State;
use crate::session::{self, CHUNK_BYTES, Control, End, Output, Session};

/// The protocol our own client asks for.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// Those that are spoken; the older one has no end of input.
const PROTOCOLS: [&str; 2] = [PROTOCOL, "v4.channel.k8s.io"];
/// The largest message a client may send, bytes; kubectl's are 32 KiB.
const MESSAGE_BYTES: usize = 1 << 20;
/// A client that vanished while its input waits is found out by the next of these.
pub const PING: Duration = Duration::from_secs(5);
/// After the status a client has so long to close its side, and to take what is on the way.
pub const LINGER: Duration = Duration::from_secs(5);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const SIGNAL: u8 = 5;
const CLOSE: u8 = 255;

/// Who asks, and what his connection turns into after the answer.
#[derive(Debug)]
pub struct Peer {
    /// It is uid 0.
    pub root: bool,
    /// A session, once the connection is free.
    pub upgrade: RefCell<Option<(OnUpgrade, session::Request)>>,
}

impl Peer {
    /// Nothing asked yet.
    pub fn new(root: bool) -> Peer {
        Peer { root, upgrade: RefCell::new(None) }
    }
}

/// Checks a request for a session and leaves it with the peer; `path`: what follows `/exec` or `/attach`.
pub fn begin<B>(
    request: &mut Request<B>,
    attach: bool,
    path: &[&str],
    query: &Query,
    peer: &Peer,
    backend: &Rc<dyn Backend>,
) -> Result<Response<()>, Refusal> {
    let what = if attach { "attach to" } else { "run a command in" };
    if !peer.root {
        let text = format!("{what} a container: only uid 0 may, readers of the socket may not; run it as root\n");
        return Err((StatusCode::FORBIDDEN, text));
    }
    let wanted = wanted(attach, path, query, backend)?;
    let answer = switch(request.headers(), &PROTOCOLS)?;
    peer.upgrade.replace(Some((hyper::upgrade::on(request), wanted)));
    Ok(answer)
}

/// The session that is asked for.
pub fn wanted(attach: bool, path: &[&str], query: &Query, backend: &Rc<dyn Backend>) -> Result<session::Request, Refusal> {
    let (ns, pod, uid, container) = match path {
        [ns, pod, container] => (ns, pod, None, container),
        [ns, pod, uid, container] => (ns, pod, Some(*uid), container),
        _ => return Err((StatusCode::NOT_FOUND, "404 page not found: write /exec/{namespace}/{pod}/{container}\n".into())),
    };
    let mut found = None;
    backend.with(&mut |view| found = Some(find(view, [ns, pod, container], uid, attach, query)));
    found.unwrap_or_else(|| Err((StatusCode::SERVICE_UNAVAILABLE, "nothing to show yet; try again\n".into())))
}

fn find(
    view: &View<'_>,
    [ns, pod, container]: [&str; 3],
    uid: Option<&str>,
    attach: bool,
    query: &Query,
) -> Result<session::Request, Refusal> {
    let not_found = |text: String| (StatusCode::NOT_FOUND, text);
    let bad = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
    let world = view.world;
    let wanted = view.wanted(ns, pod, uid);
    let wanted = wanted.ok_or_else(|| not_found(format!("pod {pod:?} does not exist in namespace {ns:?}\n")))?;
    let spec = wanted.container(container).ok_or_else(|| not_found(format!("container {container:?} not found in pod {pod:?}\n")))?;
    let attempts = world.seen.pods.get(&wanted.uid).into_iter().flat_map(|p| p.containers.values());
    let running = attempts.filter(|c| &*c.name == container).find(|c| matches!(c.state, State::Running { .. }));
    let running = running
        .ok_or_else(|| not_found(format!("container {container:?} in pod {pod:?} does not run now: `plinth why {ns}/{pod}` says why\n")))?;
    let is = |kubelet: &str, api: &str| query.is_set(kubelet) || query.is_set(api);
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    let mut request = session::Request {
        uid: wanted.uid.clone(),
        id: running.id.clone(),
        container: running.name.clone(),
        command: (!attach).then_some(command),
        stdin: is("input", "stdin"),
        stdin_once: false,
        stdout: is("output", "stdout"),
        stderr: is("error", "stderr"),
        tty: query.is_set("tty"),
    };
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(bad("you must specify at least 1 of stdin, stdout, stderr\n"));
    }
    if request.command.as_ref().is_some_and(Vec::is_empty) {
        return Err(bad("you must specify at least 1 command for the container\n"));
    }
    if attach {
        if request.stdin && spec.stdin != Some(true) {
            return Err(bad(&format!("container {container:?} takes no input: its manifest does not set `stdin: true`\n")));
        }
        request.tty = spec.tty == Some(true);
        request.stdin_once = request.stdin && spec.stdin_once == Some(true);
    }
    Ok(request)
}

/// The answer that turns the connection into a WebSocket (RFC 6455, section 4.2).
pub fn switch(headers: &HeaderMap, protocols: &[&'static str]) -> Result<Response<()>, Refusal> {
    let bad = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
    let has = |name: HeaderName, word: &str| words(headers, name).any(|w| w.eq_ignore_ascii_case(word));
    let key = headers.get("sec-websocket-key").filter(|_| has(UPGRADE, "websocket") && has(CONNECTION, "upgrade"));
    let key = key.ok_or_else(|| bad("upgrade the connection to a WebSocket: this address speaks nothing else\n"))?;
    let offered = || words(headers, HeaderName::from_static("sec-websocket-protocol"));
    let protocol = protocols.iter().find(|p| offered().any(|o| o == **p));
    let protocol = protocol.ok_or_else(|| bad(&format!("agree on a protocol: this address speaks {}\n", protocols.join(" and "))))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|e| bad(&format!("read Sec-WebSocket-Key: {e}\n")))?;
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert("sec-websocket-accept", accept);
    fields.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    Ok(answer)
}

/// The words of a header that is a list, in all its lines.
pub fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Small buffers: the session's queues are what holds data.
pub fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(CHUNK_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES))
}

/// Carries a session over a connection that was turned, until either ends. `before`: what was read of it already; `idle`: it ends where
/// neither side says anything for so long.
pub async fn carry(stream: impl AsyncRead + AsyncWrite + Unpin, before: &[u8], session: Session, idle: Option<Duration>) {
    let socket = WebSocketStream::from_partially_read(stream, before.to_vec(), Role::Server, Some(limits())).await;
    let (mut to, mut from) = socket.split();
    let Session { mut stdin, control, mut output, end } = session;
    let last = Cell::new(Instant::now());
    let up = async {
        while let Some(Ok(message)) = from.next().await {
            let Message::Binary(bytes) = message else { continue };
            last.set(Instant::now());
            match heard(bytes) {
                // A process that does not read holds up its client, and one that reads no more is spared the rest.
                Some(Heard::Input(bytes)) => match &stdin {
                    Some(to) if to.send(bytes).await.is_err() => stdin = None,
                    _ => {}
                },
                Some(Heard::InputEnds) => stdin = None,
                Some(Heard::Control(c)) => drop(control.send(c).await),
                None => {}
            }
        }
    };
    let down = async {
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        loop {
            let message = tokio::select! {
                said = output.recv() => {
                    last.set(Instant::now());
                    match said {
                        Some(Output::Stdout(bytes)) => on(STDOUT, &bytes),
                        Some(Output::Stderr(bytes)) => on(STDERR, &bytes),
                        None => break,
                    }
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if to.send(message).await.is_err() {
                return false;
            }
        }
        let end = end.await.unwrap_or_else(|_| End::Failed("plinth is ending".into()));
        // A close without a code is an error to kubectl.
        let close = Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }));
        to.send(on(STATUS, status(&end).to_string().as_bytes())).await.is_ok() && to.send(close).await.is_ok()
    };
    let mut up = std::pin::pin!(up);
    let told = tokio::select! {
        () = &mut up => false,
        told = down => told,
        () = idle_since(&last, idle) => false,
    };
    if told {
        let _ = tokio::time::timeout(LINGER, up).await;
    }
}

/// Returns when nothing has happened for so long.
pub async fn idle_since(last: &Cell<Instant>, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    while last.get().elapsed() < idle {
        tokio::time::sleep_until(last.get() + idle).await;
    }
}

/// A message on a channel.
pub fn on(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Input, as a client sends it.
pub fn input(bytes: &[u8]) -> Message {
    on(STDIN, bytes)
}

/// The end of input, likewise.
pub fn input_ends() -> Message {
    on(CLOSE, &[STDIN])
}

/// Anything else a client says.
pub fn said(control: Control) -> Message {
    match control {
        Control::Resize { columns, rows } => on(RESIZE, json!({ "Width": columns, "Height": rows }).to_string().as_bytes()),
        Control::Signal(number) => on(SIGNAL, number.to_string().as_bytes()),
    }
}

/// What a server's message says; `None`: nothing known.
pub fn told(mut bytes: Bytes) -> Option<Told> {
    let channel = *bytes.first()?;
    let rest = bytes.split_off(1);
    match channel {
        STDOUT => Some(Told::Output(Output::Stdout(rest))),
        STDERR => Some(Told::Output(Output::Stderr(rest))),
        STATUS => Some(Told::End(ended(&serde_json::from_slice(&rest).ok()?))),
        _ => None,
    }
}

/// A server's message.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Output.
    Output(Output),
    /// The last word.
    End(End),
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Input(Bytes),
    InputEnds,
    Control(Control),
}

fn heard(mut bytes: Bytes) -> Option<Heard> {
    let channel = *bytes.first()?;
    let rest = bytes.split_off(1);
    match channel {
        STDIN => Some(Heard::Input(rest)),
        CLOSE if *rest == [STDIN] => Some(Heard::InputEnds),
        RESIZE => resized(&rest).map(Heard::Control),
        SIGNAL => {
            let number = std::str::from_utf8(&rest).ok()?.parse().ok()?;
            (1..=64).contains(&number).then_some(Heard::Control(Control::Signal(number)))
        }
        _ => None,
    }
}

/// A window's size, as clients write it.
pub fn resized(text: &[u8]) -> Option<Control> {
    let size: Value = serde_json::from_slice(text).ok()?;
    let side = |name| u16::try_from(size.get(name)?.as_u64()?).ok();
    Some(Control::Resize { columns: side("Width")?, rows: side("Height")? })
}

/// The last word, as the kubelet words it.
pub fn status(end: &End) -> Value {
    match end {
        End::Exited(0) => json!({ "metadata": {}, "status": "Success" }),
        End::Exited(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        End::Failed(why) => json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": why, "code": 500 }),
    }
}

fn ended(status: &Value) -> End {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str);
    let code = text("/details/causes/0/message").filter(|_| text("/details/causes/0/reason") == Some("ExitCode"));
    match (text("/status"), code.and_then(|c| c.parse().ok())) {
        (Some("Success"), _) => End::Exited(0),
        (_, Some(code)) => End::Exited(code),
        _ => End::Failed(text("/message").unwrap_or("it failed, and nothing says why").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn bytes(message: Message) -> Bytes {
        let Message::Binary(bytes) = message else { panic!("{message:?}") };
        bytes
    }

    #[test]
    fn what_a_client_says_is_heard() {
        assert_eq!(heard(bytes(input(b"abc"))), Some(Heard::Input("abc".into())));
        assert_eq!(heard(bytes(input_ends())), Some(Heard::InputEnds));
        for control in [Control::Resize { columns: 80, rows: 24 }, Control::Signal(15)] {
            assert_eq!(heard(bytes(said(control))), Some(Heard::Control(control)));
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_heard() {
        let hostile: [&[u8]; 9] =
            [b"", b"\x04", b"\x04{}", b"\x04{\"Width\":70000,\"Height\":1}", b"\x05", b"\x050", b"\x0565", b"\x07x", b"\xff\x01"];
        for message in hostile {
            assert_eq!(heard(Bytes::from_static(message)), None, "{message:?}");
        }
    }

    #[test]
    fn the_end_is_told_as_the_kubelet_tells_it() {
        for end in [End::Exited(0), End::Exited(3), End::Failed("no such file".into())] {
            assert_eq!(told(bytes(on(STATUS, status(&end).to_string().as_bytes()))), Some(Told::End(end)));
        }
        let cause = json!({ "reason": "ExitCode", "message": "3" });
        assert_eq!(status(&End::Exited(3)).pointer("/details/causes/0"), Some(&cause));
    }
}
