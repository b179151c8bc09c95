//! One GET: everything about an answer that can be wrong is an error, everything about it has a bound, and nothing is kept.
//!
//! No proxy, no compression, no redirect to another server. A connection for each request, so that what was renewed on disk
//! (authorities, our certificate) is used.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, ETAG, HOST, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, LOCATION, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::dial::{self, Tls};
use crate::settings::Settings;
use crate::settings::url::Address;

/// An answer begins within this, or never.
const BEGIN: Duration = Duration::from_secs(10);
/// A body of which nothing comes for so long is given up.
const STALL: Duration = Duration::from_secs(10);
/// A request takes no longer, however steadily its answer drips: the kubelet's 10 s would be too short for 10 MiB over a slow line.
const WHOLE: Duration = Duration::from_secs(30);
/// Redirects on the same server that are followed.
const REDIRECTS: usize = 5;
/// Headers of an answer take no more.
const HEADERS_BYTES: usize = 64 << 10;
/// However long a server asks to be left alone, this is the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What a server is told of what we have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its ETag.
    pub etag: Option<String>,
    /// Its Last-Modified.
    pub last_modified: Option<String>,
}

/// A good answer.
#[derive(Debug)]
pub enum Answer {
    /// 304: what we have is what there is.
    Unchanged,
    /// 200.
    Body {
        /// The body.
        bytes: Vec<u8>,
        /// Its length was said, or its end was: no part of it is missing.
        whole: bool,
        /// How to ask whether it changed.
        marks: Marks,
    },
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words that stay the same while the reason does.
    pub why: String,
    /// The server or the way to it is in trouble, which passes; else what it says cannot be used, and somebody must act.
    pub passing: bool,
    /// The server asks to be left alone for so long.
    pub after: Duration,
}

/// Fails, because the server is in trouble.
pub fn away(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), passing: true, after: Duration::ZERO }
}

/// Fails, because what it says cannot be used.
pub fn refused(why: impl Into<String>) -> Failure {
    Failure { why: why.into(), passing: false, after: Duration::ZERO }
}

/// Asks for a path of the settings' server, with at most `most` bytes to come.
pub async fn get(settings: &Settings, address: &Address, path: &str, marks: &Marks, most: usize) -> Result<Answer, Failure> {
    let slow = |_| Err(away(format!("the answer took longer than {} s", WHOLE.as_secs())));
    tokio::time::timeout(WHOLE, follow(settings, address, path, marks, most)).await.unwrap_or_else(slow)
}

async fn follow(settings: &Settings, address: &Address, path: &str, marks: &Marks, most: usize) -> Result<Answer, Failure> {
    let mut path = path.to_owned();
    for _ in 0..=REDIRECTS {
        match once(settings, address, &path, marks, most).await? {
            Ok(answer) => return Ok(answer),
            Err(location) => path = redirected(address, &path, &location)?,
        }
    }
    Err(refused(format!("more than {REDIRECTS} redirects")))
}

/// Asks once: an answer, or where it is to be had.
async fn once(settings: &Settings, address: &Address, path: &str, marks: &Marks, most: usize) -> Result<Result<Answer, String>, Failure> {
    let tls = address.tls.then(|| tls(settings, address)).transpose()?;
    let stream = dial::dial(&address.host, address.dialled_port(), tls, &settings.resolv_conf).await;
    let io = stream.map_err(|why| away(format!("connect: {why}")))?.io;
    exchange(io, request(settings, address, path, marks).map_err(|e| refused(format!("ask for it: {e}")))?, most).await
}

/// A request over a connection, and what comes of it: an answer, or where it is to be had.
pub async fn exchange<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    request: Request<Empty<Bytes>>,
    most: usize,
) -> Result<Result<Answer, String>, Failure> {
    let broken = |e: hyper::Error| away(format!("the answer is broken: {}", chain(&e)));
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEADERS_BYTES).handshake(TokioIo::new(io)).await.map_err(broken)?;
    let exchange = async {
        let begun = tokio::time::timeout(BEGIN, sender.send_request(request)).await;
        let response = begun.map_err(|_| away(format!("no answer within {} s", BEGIN.as_secs())))?.map_err(broken)?;
        judged(response, most).await
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // It may end when all was handed over already.
        _ = connection => exchange.await,
    }
}

fn tls(settings: &Settings, address: &Address) -> Result<Tls, Failure> {
    let url = &settings.url;
    let read = |path: &Option<std::path::PathBuf>| {
        let failed = |path: &std::path::Path, e| refused(format!("read {}: {e}", path.display()));
        path.as_deref().map(|path| std::fs::read(path).map_err(|e| failed(path, e))).transpose()
    };
    let (authority, certificate, key) = (read(&url.ca_file)?, read(&url.cert_file)?, read(&url.key_file)?);
    let own = certificate.as_deref().zip(key.as_deref());
    let config = dial::tls(authority.as_deref().into(), own).map_err(|e| refused(format!("prepare TLS: {e}")))?;
    let bare = address.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|e| refused(format!("prepare TLS: {e}")))?;
    Ok((Arc::new(config), name))
}

fn request(settings: &Settings, address: &Address, path: &str, marks: &Marks) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::get(path).body(Empty::new())?;
    let headers = request.headers_mut();
    for (name, value) in &settings.url.headers {
        headers.append(name, value.clone());
    }
    headers.insert(HOST, HeaderValue::try_from(address.authority())?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("plinth/", env!("CARGO_PKG_VERSION"))));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if let Some(user) = &address.user
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Basic {}", base64(&unescaped(user))))?);
    }
    // RFC 9110: a server that knows the former passes over the latter.
    for (name, mark) in [(IF_NONE_MATCH, &marks.etag), (IF_MODIFIED_SINCE, &marks.last_modified)] {
        if let Some(mark) = mark {
            headers.insert(name, HeaderValue::try_from(mark)?);
        }
    }
    Ok(request)
}

async fn judged(response: Response<Incoming>, most: usize) -> Result<Result<Answer, String>, Failure> {
    let (status, headers) = (response.status(), response.headers());
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).map(str::to_owned);
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED => return Ok(Ok(Answer::Unchanged)),
        s if s.is_redirection() => {
            return text(LOCATION).map(Err).ok_or_else(|| refused(format!("answers {status} without saying where to")));
        }
        _ => {
            let seconds = text(RETRY_AFTER).and_then(|t| t.parse().ok()).unwrap_or(0);
            let after = Duration::from_secs(seconds).min(LONGEST_PAUSE);
            return Err(Failure { after, ..away(format!("answers {status}")) });
        }
    }
    if let Some(coding) = text(CONTENT_ENCODING).filter(|c| !c.eq_ignore_ascii_case("identity")) {
        return Err(refused(format!("the answer is compressed ({coding}), which was not asked for")));
    }
    let marks = Marks { etag: text(ETAG), last_modified: text(LAST_MODIFIED) };
    let whole = response.body().size_hint().exact().is_some() || is_chunked(headers);
    let bytes = body(response.into_body(), most).await?;
    Ok(Ok(Answer::Body { bytes, whole, marks }))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
}

/// Reads a body to its end.
async fn body<B: Body<Data = Bytes, Error: std::error::Error> + Unpin>(mut body: B, most: usize) -> Result<Vec<u8>, Failure> {
    let too_large = || refused(format!("the answer is larger than {} KiB", most >> 10));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let next = tokio::time::timeout(STALL, body.frame()).await;
        let Some(frame) = next.map_err(|_| away(format!("the answer stalled: nothing came for {} s", STALL.as_secs())))? else {
            return Ok(bytes);
        };
        let frame = frame.map_err(|e| away(format!("the answer is cut off: {}", chain(&e))))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// The path a redirect leads to, if it is on the same server.
fn redirected(address: &Address, path: &str, location: &str) -> Result<String, Failure> {
    let at = Address { path: path.to_owned(), ..address.clone() };
    let to = at.join(location).map_err(|_| refused(format!("redirects to `{location}`, which is no URL")))?;
    let same = to.tls == at.tls && to.host.eq_ignore_ascii_case(&at.host) && to.dialled_port() == at.dialled_port();
    if same { Ok(to.path) } else { Err(elsewhere(address, location)) }
}

fn elsewhere(address: &Address, location: &str) -> Failure {
    let scheme = if address.tls { "https" } else { "http" };
    refused(format!("redirects to {location}; only redirects within {scheme}://{} are followed", address.authority()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS.get(n >> (18 - 6 * i) & 63).copied().unwrap_or(b'=');
            out.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// `%40` to `@`: a password is escaped in a URL.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_at_checked(2).filter(|_| *first == b'%');
        let byte = escaped.and_then(|(hex, _)| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { escaped.map_or(after, |(_, tail)| tail) } else { after };
    }
    out
}

/// An error with its causes: hyper's own text is but half of it.
fn chain(e: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_redirect_stays_on_its_server() {
        let at = Address::parse("https://h:443/a/b.yaml?x=1").unwrap();
        for (location, path) in [
            ("/c", "/c"),
            ("c.yaml?y=2", "/a/c.yaml?y=2"),
            ("?y=3", "/a/b.yaml?y=3"),
            ("//h/f", "/f"),
            ("https://H/d#f", "/d"),
            ("https://h:443/e", "/e"),
        ] {
            assert_eq!(redirected(&at, &at.path, location).unwrap(), path);
        }
        for location in ["http://h/c", "https://h:444/c", "https://other/c", "//other/c", "https://h@other/c", "\n"] {
            assert!(!redirected(&at, &at.path, location).unwrap_err().passing, "{location}");
        }
    }

    #[test]
    fn a_password_is_sent_as_it_was_meant() {
        assert_eq!(base64(&unescaped("me:p%40ss%")), base64(b"me:p@ss%"));
        assert_eq!([&b"a"[..], b"ab", b"abc"].map(base64), ["YQ==", "YWI=", "YWJj"]);
    }
}
