//! A server of grpc.health.v1 as a program, to be probed in a pod: `health PORT DIR`.
//!
//! Of the service it is asked about, or of `server` if of none, a file in DIR says how it is: by what is in it, `SERVING` or another word. There is
//! no such file: it does not know the service. In a file `mute`: it says nothing at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test's program fails by panicking")]
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use h2::server::SendResponse;

fn main() {
    // `cargo test` runs every program it built.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, dir] = args.as_slice() else { return println!("usage: health PORT DIR") };
    let rt = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    rt.block_on(tokio::task::LocalSet::new().run_until(serve(port.parse().unwrap(), PathBuf::from(dir))));
}

async fn serve(port: u16, dir: PathBuf) {
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let dir = dir.clone();
        tokio::task::spawn_local(async move {
            // Who only looks whether the port is open says nothing.
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(answer(request, respond, dir.clone()));
            }
        });
    }
}

async fn answer(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, dir: PathBuf) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        message.extend(part);
    }
    let (code, status) = match (head.uri.path(), service(&message)) {
        ("/grpc.health.v1.Health/Check", Some(name)) => match state(&dir, &name).as_deref() {
            Some("mute") => return std::future::pending().await,
            Some("SERVING") => (0, Some(1)),
            Some(_) => (0, Some(2)),
            None => (5, None),
        },
        _ => (12, None),
    };
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    if let Some(status) = status {
        // HealthCheckResponse: field 1, a number; before it that it is not compressed, and its length.
        let _ = stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false);
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers.insert("grpc-message", http::HeaderValue::from_static(if code == 0 { "" } else { "unknown service" }));
    let _ = stream.send_trailers(trailers);
}

/// Of a HealthCheckRequest: field 1, a text, which may be left out. Before it five bytes of the frame.
fn service(message: &[u8]) -> Option<String> {
    match message.get(5..)? {
        [] => Some(String::new()),
        [0x0a, len, name @ ..] if usize::from(*len) == name.len() => String::from_utf8(name.to_vec()).ok(),
        _ => None,
    }
}

fn state(dir: &Path, service: &str) -> Option<String> {
    let name = if service.is_empty() { "server" } else { service };
    std::fs::read_to_string(dir.join(name)).ok().map(|text| text.trim().to_owned())
}
