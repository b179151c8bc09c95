//! SPDY on a connection that was turned: how it is agreed upon, and its bytes as frames.

use std::io;

use bytes::Bytes;
use futures_util::{Sink, Stream, StreamExt};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Refusal;
use crate::socket::remote::words;
use crate::spdy::{Decoder, Frame};

const SPDY: &str = "SPDY/3.1";
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What is read at once, bytes.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Messages in a queue; those from the client have up to 32 KiB.
pub const QUEUE: usize = 4;

/// The client speaks SPDY without a WebSocket around it.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    words(headers, UPGRADE).any(|w| w.eq_ignore_ascii_case(SPDY))
}

/// The answer that turns the connection into SPDY, with this protocol on its streams.
pub fn turn(headers: &HeaderMap, protocol: &'static str) -> Result<Response<()>, Refusal> {
    if !words(headers, VERSION).any(|w| w == protocol) {
        return Err((StatusCode::FORBIDDEN, format!("agree on a protocol: this address speaks {protocol}\n")));
    }
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = answer.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static(SPDY));
    fields.insert(VERSION, HeaderValue::from_static(protocol));
    Ok(answer)
}

/// What the client says and what is said to it. `before`: what was read already.
pub fn halves(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    before: &[u8],
) -> (impl Stream<Item = Bytes>, impl Sink<Bytes, Error = io::Error>) {
    let (from, to) = tokio::io::split(stream);
    let first = futures_util::stream::iter((!before.is_empty()).then(|| Bytes::copy_from_slice(before)));
    let rest = futures_util::stream::unfold(from, async |mut from| {
        let mut chunk = vec![0; CHUNK_BYTES];
        let n = from.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        chunk.truncate(n);
        Some((chunk.into(), from))
    });
    let to = futures_util::sink::unfold(to, async |mut to, bytes: Bytes| {
        to.write_all(&bytes).await?;
        Ok::<_, io::Error>(to)
    });
    (first.chain(rest), to)
}

/// Every frame, until the client goes, says what is no SPDY, or is not listened to any more.
pub async fn frames(mut from: impl Stream<Item = Bytes> + Unpin, what: &str, mut hear: impl AsyncFnMut(Frame) -> Option<()>) {
    let mut decoder = Decoder::default();
    while let Some(bytes) = from.next().await {
        decoder.push(&bytes);
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => {
                    if hear(frame).await.is_none() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(e) => return log::debug!("{what}: {e}"),
            }
        }
    }
}

/// A header of a stream; empty: it has none of that name.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str())
}
