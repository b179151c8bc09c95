//! `httpGet`: one GET, redirects on the same host followed, 200 to 399 is a success. No proxy, no connection kept, no certificate checked.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;

use super::target::{Address, Target, said};
use super::{SAID_BYTES, VERSION, cut, tls};
use crate::plan::action::Answer;
use crate::settings::url;

/// As Go's client has it: so many requests, and no more.
const REDIRECTS: usize = 10;

/// What was answered.
pub struct Reply {
    pub status: u16,
    pub body: String,
    location: Option<String>,
}

/// A request that can be made again elsewhere on the same host.
pub struct Get<'a> {
    address: Address<'a>,
    https: bool,
    path: String,
    headers: HeaderMap,
}

/// Asks once.
pub async fn probe(target: &Target<'_>, action: &HTTPGetAction, within: Duration) -> Answer {
    let mut get = match Get::new(target, action, &format!("kube-probe/{VERSION}")) {
        Ok(get) => get,
        Err(e) => return Answer::Errored(e.into()),
    };
    let first = get.url();
    match tokio::time::timeout(within, get.follow()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => Answer::Failed(format!("Get \"{}\": {e}", get.url()).into()),
        Err(_) => {
            Answer::Failed(format!("Get \"{first}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)").into())
        }
    }
}

impl<'a> Get<'a> {
    /// What a manifest asks for.
    pub fn new(target: &Target<'a>, action: &HTTPGetAction, agent: &str) -> Result<Get<'a>, String> {
        let address = target.address(action.host.as_deref(), &action.port)?;
        let path = action.path.as_deref().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let mut headers = HeaderMap::new();
        for h in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(h.name.as_str()).map_err(|_| format!("invalid header name `{}`", h.name))?;
            let value = HeaderValue::try_from(h.value.as_str()).map_err(|_| format!("invalid value of header `{}`", h.name))?;
            headers.append(name, value);
        }
        // One that is there but empty is left out (kubelet).
        for (name, default) in [("user-agent", agent), ("accept", "*/*")] {
            match headers.get(name) {
                Some(value) if value.is_empty() => drop(headers.remove(name)),
                Some(_) => {}
                None => drop(HeaderValue::try_from(default).map(|v| headers.insert(HeaderName::from_static(name), v))),
            }
        }
        if !headers.contains_key(HOST) {
            let host = HeaderValue::try_from(address.shown()).map_err(|_| format!("invalid host `{}`", address.host))?;
            headers.insert(HOST, host);
        }
        headers.insert("connection", HeaderValue::from_static("close"));
        Ok(Get { address, https: action.scheme.as_deref() == Some("HTTPS"), path, headers })
    }

    /// Where it leads now.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.address.shown(), self.path)
    }

    /// Host and port, as dialled.
    pub fn host(&self) -> String {
        self.address.shown()
    }

    /// Asks, and asks again where that leads on the same host.
    pub async fn follow(&mut self) -> Result<Answer, String> {
        for _ in 0..REDIRECTS {
            let reply = self.once().await?;
            let redirects = matches!(reply.status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = reply.location.as_deref().filter(|l| redirects && !l.is_empty()) else {
                return Ok(judged(&reply));
            };
            if !self.moved(location)? {
                return Ok(Answer::Warned(format!("Probe terminated redirects, Response body: {}", reply.body).into()));
            }
        }
        Err(format!("stopped after {REDIRECTS} redirects"))
    }

    /// Turns to where a redirect leads; false if that is another host.
    fn moved(&mut self, location: &str) -> Result<bool, String> {
        let absolute = url::scheme(location);
        if absolute.is_some_and(|s| !s.eq_ignore_ascii_case("http") && !s.eq_ignore_ascii_case("https")) {
            return Ok(false);
        }
        let (host, port) = (self.address.host.clone(), Some(self.address.port));
        let here = url::Address { tls: self.https, host, port, path: self.path.clone(), user: None };
        let to = here.join(location).map_err(|e| format!("failed to parse Location header \"{location}\": {e}"))?;
        let bare = |host: &str| host.trim_matches(['[', ']']).to_ascii_lowercase();
        if bare(&to.host) != bare(&here.host) {
            return Ok(false);
        }
        // A Host of the manifest's own outlives a redirect that does not name the server anew (Go).
        let own = self.headers.get(HOST).is_some_and(|h| h.as_bytes() != self.address.shown().as_bytes());
        self.https = to.tls;
        self.address = self.address.with_port(to.dialled_port());
        if absolute.is_some() || !own {
            let host = HeaderValue::try_from(self.address.shown()).map_err(|e| e.to_string())?;
            self.headers.insert(HOST, host);
        }
        self.path = to.path;
        Ok(true)
    }

    /// One request and its answer, however long that takes.
    async fn once(&self) -> Result<Reply, String> {
        let stream = self.address.dial().await.map_err(|e| self.address.refused(&e))?;
        if self.https { self.exchange(tls::over(stream, &self.address.host).await?).await } else { self.exchange(stream).await }
    }

    /// The same without TLS.
    pub fn in_clear(&mut self) {
        self.https = false;
    }

    async fn exchange<S>(&self, stream: S) -> Result<Reply, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        let mut request = Request::get(&self.path).body(Empty::<Bytes>::new()).map_err(|e| format!("invalid path `{}`: {e}", self.path))?;
        *request.headers_mut() = self.headers.clone();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| why(&e))?;
        let exchange = async {
            let mut response = sender.send_request(request).await.map_err(|e| why(&e))?;
            let mut body = Vec::new();
            while let Some(frame) = response.frame().await {
                let frame = frame.map_err(|e| why(&e))?;
                body.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
                if body.len() >= SAID_BYTES {
                    break;
                }
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
            Ok(Reply { status: response.status().as_u16(), body: cut(&body), location })
        };
        let driven = async {
            // Its end is the exchange's to notice.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            reply = exchange => reply,
            () = driven => Err("EOF".into()),
        }
    }
}

fn judged(reply: &Reply) -> Answer {
    if (200..400).contains(&reply.status) {
        Answer::Passed
    } else {
        Answer::Failed(format!("HTTP probe failed with statuscode: {}", reply.status).into())
    }
}

/// The cause of hyper's error in Go's words.
fn why(e: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(io) => format!("read: {}", said(io)),
        None if e.is_incomplete_message() => "EOF".into(),
        None => format!("malformed HTTP response: {cause}"),
    }
}
