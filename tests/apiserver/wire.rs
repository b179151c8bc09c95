//! Connections: TLS, HTTP/2 or 1.1 as asked for, and their faults.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::{Fault, Shared, http};

/// Tasks of one thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

pub fn serve(listener: TcpListener, config: Arc<ServerConfig>, shared: Arc<Shared>) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut ended = shared.ended.subscribe();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    let (shared, config) = (shared.clone(), config.clone());
                    tokio::task::spawn_local(async move {
                        let mut cut = shared.cut.subscribe();
                        tokio::select! {
                            () = connection(stream, config, &shared) => {}
                            _ = cut.changed() => {}
                        }
                    });
                }
                _ = ended.changed() => return,
            }
        }
    });
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, shared: &Arc<Shared>) {
    if shared.fault() == Fault::Away {
        return;
    }
    let config = match (shared.fault(), stream.local_addr()) {
        (Fault::Untimely(good), Ok(addr)) => shared.ca.server_at(&addr.ip().to_string(), good),
        _ => config,
    };
    let _ = stream.set_nodelay(true);
    let stream = Lossy { stream, shared: shared.clone(), retry: None, since: shared.forgot.load(Relaxed) };
    let Ok(tls) = TlsAcceptor::from(config).accept(stream).await else { return };
    let (_, session) = tls.get_ref();
    let shown = session.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    let h2 = session.alpn_protocol() == Some(b"h2");
    let shared = shared.clone();
    let service = service_fn(move |request| http::answer(shared.clone(), shown.clone(), request));
    let io = TokioIo::new(tls);
    let _ = if h2 {
        hyper::server::conn::http2::Builder::new(Local).timer(TokioTimer::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}

/// A stream that is silent while packets are dropped.
struct Lossy {
    stream: TcpStream,
    shared: Arc<Shared>,
    retry: Option<Pin<Box<tokio::time::Sleep>>>,
    /// How often connections had been forgotten when it was made.
    since: u64,
}

impl Lossy {
    fn lost(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shared.fault() != Fault::BlackHole && self.shared.forgot.load(Relaxed) == self.since {
            return false;
        }
        let mut retry = Box::pin(tokio::time::sleep(Duration::from_millis(20)));
        if retry.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.retry = Some(retry);
        true
    }
}

impl AsyncRead for Lossy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lost(cx) { Poll::Pending } else { Pin::new(&mut self.stream).poll_read(cx, buf) }
    }
}

impl AsyncWrite for Lossy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.lost(cx) { Poll::Pending } else { Pin::new(&mut self.stream).poll_write(cx, buf) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
