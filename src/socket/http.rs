//! Connections of the status socket: how many, how long, how large. One future owns them all; dropping it closes them.
//!
//! A client that sends slowly, reads slowly, sends rubbish or says nothing holds one slot for a bounded time and costs
//! nobody else: every limit below is per connection, and the last slots are kept for root.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use super::listen::Listener;
use super::patient::Patient;
use super::remote::{self, Peer};
use super::{Backend, routes};

/// A request's line and headers together, bytes; more is answered 431.
const HEADER_BYTES: usize = 8192;

/// How much of the loop clients may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; one more is told 503 and closed.
    pub clients: usize,
    /// Of these, kept for uid 0: readers cannot lock the administrator out.
    pub kept_for_root: usize,
    /// Longest wait for a whole request header, from the connection's start or the end of the last answer: also the idle close.
    pub header: Duration,
    /// A client that takes not one byte of an answer for so long is cut off.
    pub stall: Duration,
    /// A connection's whole life: the kubelet's bound for streams.
    pub life: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let s = Duration::from_secs;
        Bounds { clients: 64, kept_for_root: 8, header: s(10), stall: s(30), life: s(4 * 3600) }
    }
}

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 40\r\nconnection: close\r\n\r\ntoo many clients; close one or try later";

/// Accepts and answers until dropped.
pub async fn serve(listener: Listener, backend: Rc<dyn Backend>) {
    serve_within(Bounds::default(), listener, backend).await;
}

/// The same with other bounds.
pub async fn serve_within(bounds: Bounds, listener: Listener, backend: Rc<dyn Backend>) {
    let mut clients = FuturesUnordered::new();
    let mut pause: Option<Pin<Box<Sleep>>> = None;
    loop {
        tokio::select! {
            () = async { if let Some(p) = &mut pause { p.await } }, if pause.is_some() => pause = None,
            accepted = listener.inner.accept(), if pause.is_none() => match accepted {
                Ok((stream, _)) => {
                    if let Some((stream, root)) = admit(&bounds, stream, clients.len()) {
                        clients.push(converse(bounds, stream, root, backend.clone()));
                    }
                }
                // Out of descriptors or memory: the waiting client stays in the backlog, so asking again at once would spin.
                Err(e) => {
                    log::warn!("accept on the status socket: {e}");
                    pause = Some(Box::pin(sleep(Duration::from_secs(1))));
                }
            },
            Some(()) = clients.next() => {}
        }
    }
}

/// Gives the stream back with whether its peer is root, or tells the peer that all slots are taken.
fn admit(bounds: &Bounds, stream: UnixStream, taken: usize) -> Option<(UnixStream, bool)> {
    let root = stream.peer_cred().is_ok_and(|c| c.uid() == 0);
    let limit = if root { bounds.clients } else { bounds.clients.saturating_sub(bounds.kept_for_root) };
    if taken < limit {
        return Some((stream, root));
    }
    // One try: whoever does not take it finds the connection closed.
    let _ = stream.try_write(BUSY);
    None
}

async fn converse(bounds: Bounds, stream: UnixStream, root: bool, backend: Rc<dyn Backend>) {
    let peer = Rc::new(Peer::new(root));
    let (asking, lent) = (peer.clone(), backend.clone());
    let service = service_fn(move |mut request| {
        let answer = routes::answer(&mut request, &asking, &lent);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_header_size(HEADER_BYTES)
        .max_headers(64)
        .max_buf_size(2 * HEADER_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, bounds.stall)), service)
        .with_upgrades();
    if let Ok(Err(e)) = tokio::time::timeout(bounds.life, connection).await {
        log::debug!("status socket client: {e}");
    }
    let Some((upgrade, request)) = peer.upgrade.take() else { return };
    // A terminal may be looked at for as long as one likes: from here on neither a stall nor an age is an offence.
    let Ok(parts) = upgrade.await.map(|u| u.downcast::<TokioIo<Patient<UnixStream>>>()) else { return };
    if let Ok(parts) = parts {
        remote::carry(parts.io.into_inner().into_inner(), &parts.read_buf, backend.session(request), None).await;
    }
}
