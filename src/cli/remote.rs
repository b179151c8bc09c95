//! The client's side of `/exec` and `/attach`: standard streams, signals and this terminal's size over one WebSocket.
//!
//! Four things go on at once, and none waits for another: input is read and sent, signals are passed on, messages are sent, messages
//! are heard. A process that answers before it has read all its input would else stand still, and we with it.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::Fail;
use super::client::{Client, plain, refused};
use super::terminal::{self, Input, Raw};
use crate::session::{CHUNK_BYTES, Control, End, Output};
use crate::socket::remote::{self, PROTOCOL, Told};
use crate::sys::signal::Signals;

/// A process that does not heed a signal is left, and thereby ended, at the so-many-th.
const SIGNALS: u32 = 3;
/// Ctrl-p, then Ctrl-q: leaves a container's terminal, as docker has it.
const LEAVE: [u8; 2] = [0x10, 0x11];

/// What is asked for.
pub struct Wish {
    /// Path and query.
    pub path: String,
    /// Standard input is passed on.
    pub stdin: bool,
    /// On a terminal.
    pub tty: bool,
    /// The process outlives this client: signals are for us, and a terminal can be left.
    pub attach: bool,
}

/// How it ended on our side.
enum Ended {
    There(End),
    Signalled(i32),
    Left,
    Lost,
    Broken(io::Error),
}

/// Does it to its end; the exit status.
pub fn hold(client: &Client, wish: &Wish) -> Result<u8, Fail> {
    let failed = |e: io::Error| Fail::failed(format!("make the event loop: {}", plain(&e)));
    let rt = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
    let ended = rt.block_on(async {
        let socket = connect(client, &wish.path).await?;
        let stdin = wish.stdin.then(Input::stdin).transpose().map_err(|e| Fail::failed(format!("read standard input: {}", plain(&e))))?;
        let _raw = (wish.stdin && wish.tty).then(Raw::stdin).transpose().map_err(|e| Fail::failed(format!("set up this terminal: {e}")))?;
        converse(socket, stdin, wish).await
    });
    match ended? {
        Ended::There(End::Exited(code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        Ended::There(End::Failed(why)) => Err(Fail::failed(why)),
        Ended::Signalled(number) => Err(Fail { code: u8::try_from(128 + number).unwrap_or(u8::MAX), text: String::new() }),
        Ended::Left => Ok(0),
        Ended::Lost => Err(Fail::failed("the connection to plinth was lost; is it still running? `plinth status`")),
        Ended::Broken(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Fail { code: 128 + 13, text: String::new() }),
        Ended::Broken(e) => Err(Fail::failed(format!("write what was said: {}", plain(&e)))),
    }
}

async fn connect(client: &Client, path: &str) -> Result<WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>>, Fail> {
    let stream = UnixStream::connect(client.socket()).await.map_err(|e| client.unreachable(&e))?;
    let at = client.socket().display();
    let failed = |e: hyper::Error| Fail::failed(format!("ask `{at}` for a session: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(path)
        .header("host", "plinth")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header("sec-websocket-protocol", PROTOCOL)
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|e| Fail::failed(format!("ask for {path}: {e}")))?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status().as_u16();
        let text = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(refused(code, &String::from_utf8_lossy(&text)));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(failed)?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(remote::limits())).await)
}

async fn converse(socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>, stdin: Option<Input>, wish: &Wish) -> Result<Ended, Fail> {
    let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];
    let signals = Signals::new(&all).map_err(|e| Fail::failed(format!("await signals: {}", plain(&e))))?;
    let (mut to, mut from) = socket.split();
    let (say, mut said) = mpsc::channel(4);
    let send = async {
        while let Some(message) = said.recv().await {
            if to.send(message).await.is_err() {
                break;
            }
        }
        // What the server still says is heard all the same.
        std::future::pending::<Ended>().await
    };
    let hear = async {
        while let Some(Ok(message)) = from.next().await {
            let Message::Binary(bytes) = message else { continue };
            let written = match remote::told(bytes) {
                Some(Told::Output(Output::Stdout(bytes))) => terminal::write_all(io::stdout(), &bytes),
                Some(Told::Output(Output::Stderr(bytes))) => terminal::write_all(io::stderr(), &bytes),
                Some(Told::End(end)) => return Ended::There(end),
                None => Ok(()),
            };
            if let Err(e) = written {
                return Ended::Broken(e);
            }
        }
        Ended::Lost
    };
    if wish.tty
        && let Some((columns, rows)) = terminal::size()
    {
        let _ = say.try_send(remote::said(Control::Resize { columns, rows }));
    }
    Ok(tokio::select! {
        ended = hear => ended,
        ended = send => ended,
        ended = read(stdin, &say, wish) => ended,
        ended = heed(&signals, &say, wish) => ended,
    })
}

/// Passes input on, to its end.
async fn read(stdin: Option<Input>, say: &mpsc::Sender<Message>, wish: &Wish) -> Ended {
    let mut last = 0;
    if let Some(mut stdin) = stdin {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = stdin.read(&mut chunk).await {
            let bytes = chunk.get(..n).unwrap_or_default();
            let leaves = std::iter::once(&last).chain(bytes).zip(bytes).any(|pair| pair == (&LEAVE[0], &LEAVE[1]));
            if wish.attach && wish.tty && leaves {
                return Ended::Left;
            }
            last = bytes.last().copied().unwrap_or_default();
            let _ = say.send(remote::input(bytes)).await;
        }
        let _ = say.send(remote::input_ends()).await;
    }
    std::future::pending().await
}

/// Passes signals on; on a raw terminal they come from elsewhere and are for us.
async fn heed(signals: &Signals, say: &mpsc::Sender<Message>, wish: &Wish) -> Ended {
    let mut count = 0;
    loop {
        let signal = match signals.next().await {
            Ok(Signal::SIGWINCH) => {
                if let Some((columns, rows)) = terminal::size().filter(|_| wish.tty) {
                    let _ = say.try_send(remote::said(Control::Resize { columns, rows }));
                }
                continue;
            }
            Ok(signal) => signal as i32,
            Err(_) => return std::future::pending().await,
        };
        count += 1;
        if wish.attach || (wish.tty && wish.stdin) || count >= SIGNALS {
            return Ended::Signalled(signal);
        }
        // Input that nobody reads may stand in the way: then the next one counts.
        let _ = say.try_send(remote::said(Control::Signal(signal.unsigned_abs())));
    }
}
