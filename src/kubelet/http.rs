//! Connections of the kubelet API: how many, how long, how large. One future owns them all; dropping it closes them.
//!
//! Whoever has not said who he is has little time to do so; a client that is slow, hostile or gone holds one place for a bounded time.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::Door;
use super::authenticate::{self, User};
use super::forward::{self, Target};
use super::tls::Tls;
use super::{enter, wire};
use crate::socket::patient::Patient;
use crate::socket::query::{Query, decode};
use crate::socket::remote::{self, Peer};
use crate::socket::routes::{self, Body, text};

/// How much of the loop clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; one more is closed.
    pub clients: usize,
    /// From the connection to the end of TLS, and from there to a request of somebody known.
    pub introduced: Duration,
    /// Between two requests (kubelet: `IdleTimeout`), and for one whole header.
    pub idle: Duration,
    /// A client that takes not one byte of an answer for so long is cut off.
    pub stall: Duration,
    /// A connection's whole life (kubelet: `WriteTimeout`), unless it became a session.
    pub life: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let s = Duration::from_secs;
        Bounds { clients: 128, introduced: s(10), idle: s(90), stall: s(30), life: s(4 * 3600) }
    }
}

/// A request's line and headers together, bytes: tokens are large.
const HEADER_BYTES: usize = 32 << 10;
/// A port that is taken, or out of descriptors: tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Listens, accepts and answers until dropped.
pub async fn serve(at: SocketAddr, door: Rc<Door>, tls: Tls) {
    serve_within(Bounds::default(), listen(at).await, door, tls).await;
}

/// Accepts and answers until dropped.
pub async fn serve_within(bounds: Bounds, listener: TcpListener, door: Rc<Door>, mut tls: Tls) {
    let mut clients = FuturesUnordered::new();
    let mut pause = None;
    loop {
        tokio::select! {
            () = async { if let Some(p) = &mut pause { p.await } }, if pause.is_some() => pause = None,
            accepted = listener.accept(), if pause.is_none() => match accepted {
                Ok((stream, from)) if clients.len() < bounds.clients => {
                    if let Some(config) = tls.current() {
                        clients.push(converse(bounds, stream, from, config, door.clone()));
                    }
                }
                Ok((_, from)) => log::debug!("kubelet API: {from}: there are {} connections already", bounds.clients),
                // Out of descriptors or memory: those that are here go on meanwhile.
                Err(e) => {
                    log::warn!("accept on the kubelet API: {e}");
                    pause = Some(Box::pin(sleep(AGAIN)));
                }
            },
            Some(()) = clients.next() => {}
        }
    }
}

async fn listen(at: SocketAddr) -> TcpListener {
    let mut told = String::new();
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => {
                log::info!("the kubelet API is served at {at}");
                return listener;
            }
            Err(e) if e.to_string() != told => {
                log::error!("listen on {at} for the kubelet API: {e}; tried again each {} s, pods run on", AGAIN.as_secs());
                told = e.to_string();
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

type Stream = Patient<TlsStream<TcpStream>>;

async fn converse(bounds: Bounds, stream: TcpStream, from: SocketAddr, config: Arc<ServerConfig>, door: Rc<Door>) {
    let _ = stream.set_nodelay(true);
    let greeted = timeout(bounds.introduced, TlsAcceptor::from(config).accept(stream)).await;
    let tls = match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(tls) => tls,
        Err(e) => return log::debug!("kubelet API: {from}: TLS: {e}"),
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Rc::new(Caller {
        user: shown.and_then(|der| authenticate::by_certificate(der)),
        known: Cell::new(false),
        peer: Peer::new(true),
        spdy: Cell::new(false),
        forward: RefCell::default(),
        door: door.clone(),
    });
    let asking = caller.clone();
    let service = service_fn(move |request| {
        let asking = asking.clone();
        async move { Ok::<_, Infallible>(asking.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_header_size(HEADER_BYTES)
        .max_headers(64)
        .max_buf_size(2 * HEADER_BYTES)
        .serve_connection(TokioIo::new(Patient::new(tls, bounds.stall)), service)
        .with_upgrades();
    let stranger = async {
        sleep(bounds.introduced).await;
        if caller.known.get() {
            std::future::pending().await
        }
    };
    tokio::select! {
        ended = timeout(bounds.life, connection) => if let Ok(Err(e)) = ended {
            log::debug!("kubelet API: {from}: {e}");
        },
        () = stranger => return log::debug!("kubelet API: {from}: it did not say who it is"),
    }
    let turned = async |upgrade: OnUpgrade| {
        let parts = upgrade.await.ok()?.downcast::<TokioIo<Stream>>().ok()?;
        Some((parts.io.into_inner().into_inner(), parts.read_buf))
    };
    if let Some((upgrade, request)) = caller.peer.upgrade.take()
        && let Some((stream, before)) = turned(upgrade).await
    {
        if caller.spdy.get() {
            enter::carry(stream, &before, request, |request| door.backend.session(request), door.api.idle).await;
        } else {
            remote::carry(stream, &before, door.backend.session(request), Some(door.api.idle)).await;
        }
    }
    if let Some((upgrade, target)) = caller.forward.take()
        && let Some((stream, before)) = turned(upgrade).await
    {
        let dial = |port| door.backend.forward(&target.uid, port);
        forward::carry(stream, &before, &target, &dial, door.api.idle).await;
    }
}

/// The other end of a connection.
struct Caller {
    /// By his certificate.
    user: Option<User>,
    /// He was let in once.
    known: Cell<bool>,
    peer: Peer,
    /// His session is by SPDY alone.
    spdy: Cell<bool>,
    /// A pod's ports, once the connection is free.
    forward: RefCell<Option<(OnUpgrade, Target)>>,
    door: Rc<Door>,
}

impl Caller {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let path: Option<Vec<String>> = request.uri().path().split('/').skip(1).map(|s| decode(s, false)).collect();
        let Some(path) = path else { return text(hyper::StatusCode::BAD_REQUEST, "read the path: a percent escape in it is broken\n") };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let allowed = async {
            let user = self.door.who(self.user.as_ref(), request.headers()).await?;
            self.known.set(true);
            self.door.may(&user, request.method(), &path).await?;
            Ok::<_, super::Refusal>(user)
        };
        let user = match allowed.await {
            Ok(user) => user,
            Err((code, why)) => return text(code, &why),
        };
        if !is_ours(&path) {
            return text(hyper::StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if enters(&path) {
            log::info!("kubelet API: {} asks for /{}", user.name, path.join("/"));
        }
        if let ["portForward", rest @ ..] = path.as_slice() {
            return match self.begin(&mut request, rest) {
                Ok(answer) => answer.map(|()| Body::Left(Full::default())),
                Err((code, why)) => text(code, &why),
            };
        }
        if let ([kind @ ("exec" | "attach"), rest @ ..], true) = (path.as_slice(), wire::is_asked_for(request.headers())) {
            return match self.enter(&mut request, *kind == "attach", rest) {
                Ok(answer) => answer.map(|()| Body::Left(Full::default())),
                Err((code, why)) => text(code, &why),
            };
        }
        routes::answer(&mut request, &self.peer, &self.door.backend)
    }

    fn enter(&self, request: &mut Request<Incoming>, attach: bool, path: &[&str]) -> Result<Response<()>, super::Refusal> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let broken = || (hyper::StatusCode::BAD_REQUEST, "read the query: a percent escape in it is broken\n".to_owned());
        let wanted = remote::wanted(attach, path, &query.ok_or_else(broken)?, &self.door.backend)?;
        let answer = wire::turn(request.headers(), enter::PROTOCOL)?;
        self.spdy.set(true);
        self.peer.upgrade.replace(Some((hyper::upgrade::on(request), wanted)));
        Ok(answer)
    }

    fn begin(&self, request: &mut Request<Incoming>, path: &[&str]) -> Result<Response<()>, super::Refusal> {
        let mut found = None;
        self.door.backend.with(&mut |view| found = Some(forward::begin(request, path, view)));
        let nothing = || Err((hyper::StatusCode::SERVICE_UNAVAILABLE, "nothing to show yet; try again\n".to_owned()));
        let (target, answer) = found.unwrap_or_else(nothing)?;
        self.forward.replace(Some((hyper::upgrade::on(request), target)));
        Ok(answer)
    }
}

/// What of the status socket's answers a kubelet gives, too.
fn is_ours(path: &[&str]) -> bool {
    matches!(path, ["healthz" | "pods" | "runningpods" | "metrics"] | ["pods" | "runningpods", ""])
        || matches!(path, ["metrics", "probes" | "resource"] | ["stats", "summary"] | ["containerLogs", ..])
        || enters(path)
}

/// It is more than looking.
fn enters(path: &[&str]) -> bool {
    matches!(path, ["exec" | "attach" | "portForward", ..])
}
