//! The one connection to the API server: made in the background, made anew with growing pauses, given up when it is silent.
//!
//! HTTP/2 where the server speaks it, so that watches and requests share it and a ping finds a black hole; else a connection for
//! each request. Waits are only ever the caller's own. While the server is in trouble as a whole (no connection, 401, 429, 5xx)
//! nobody asks it anything before the pause is over, and then one at a time until it answers.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::dial::Dialer;
use super::error::{Error, Result, Status};
use super::retry::Retry;
use crate::clock::{self, Moment};
use crate::dial::Stream;

/// A request that is not answered within this has failed.
const ANSWER: Duration = Duration::from_secs(10);
/// One that was refused or slow before may have webhooks on its way, of up to half a minute in all.
const ANSWER_OF_WEBHOOKS: Duration = Duration::from_secs(35);
/// While the server is in trouble it is waited for less long, so that one request that is never answered does not hide that others
/// would be; each fourth time as long as ever, for a server that is but slow.
const ANSWER_IN_TROUBLE: Duration = Duration::from_secs(4);
/// A connection that answers no ping for so long is dead. Asked this often.
const PING: Duration = Duration::from_secs(5);
/// An answer larger than this is not read.
const ANSWER_BYTES: usize = 16 << 20;
/// However long the server asks to be left alone, this is the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Patches of built-in kinds.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Hyper's own tasks stay on this thread.
#[derive(Clone, Debug)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as any.
    Usual,
    /// As long as webhooks may take.
    Webhooks,
}

impl Patience {
    /// For a request that failed so often.
    pub fn after(failures: u32) -> Patience {
        if failures > 0 { Patience::Webhooks } else { Patience::Usual }
    }
}

#[derive(Clone)]
enum Way {
    /// One connection for all.
    Shared(http2::SendRequest<Full<Bytes>>),
    /// One for each, until the sender of this is gone: then all of them are given up, or a watch would wait on one that is dead.
    Each(watch::Receiver<()>),
}

/// What a way ends by.
enum Life<F> {
    /// The connection's own end, in words.
    Shared(F),
    /// Connections end with this.
    Each(watch::Sender<()>),
}

/// What was asked so far, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Requests that were answered with success.
    pub done: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those that got no answer.
    pub lost: u64,
}

/// See the file's head.
pub struct Link {
    kubeconfig: PathBuf,
    resolv_conf: PathBuf,
    dialer: RefCell<Option<Dialer>>,
    way: RefCell<Option<Way>>,
    trouble: RefCell<Retry>,
    /// A number that changes when the way or the trouble does.
    moved: watch::Sender<u64>,
    /// The way is to be made anew: nobody answers on it, or who we are is read again.
    stale: tokio::sync::Notify,
    /// Which of the server's histories this is, as far as was noticed.
    history: watch::Sender<u64>,
    /// How often who we are was renewed: a connection made meanwhile is not the one that is wanted.
    renewals: Cell<u64>,
    /// Since when the server does not know us.
    unknown: Cell<Option<Moment>>,
    one_at_a_time: tokio::sync::Mutex<()>,
    asked: Cell<Asked>,
    /// When the last request that was answered was begun.
    answered: Cell<Moment>,
}

impl Link {
    /// No connection yet: `run` makes it.
    pub fn new(kubeconfig: PathBuf, resolv_conf: PathBuf) -> Link {
        Link {
            kubeconfig,
            resolv_conf,
            dialer: RefCell::new(None),
            way: RefCell::new(None),
            trouble: RefCell::default(),
            moved: watch::Sender::new(0),
            stale: tokio::sync::Notify::new(),
            history: watch::Sender::new(0),
            renewals: Cell::default(),
            unknown: Cell::default(),
            one_at_a_time: tokio::sync::Mutex::new(()),
            asked: Cell::default(),
            answered: Cell::default(),
        }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Asked {
        self.asked.get()
    }

    /// The server's versions have gone back: it was restored from a backup, or begun anew. A watch that goes on from a version of before
    /// would be told nothing.
    pub fn rewound(&self) {
        log::warn!("the API server has gone back to an earlier state; what it has is listed anew");
        self.history.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Which of its histories this is.
    pub fn history(&self) -> watch::Receiver<u64> {
        self.history.subscribe()
    }

    /// Who we are was renewed on disk: connections are made anew, and what they were asked meanwhile is asked again.
    pub fn renew(&self) {
        self.renewals.set(self.renewals.get() + 1);
        self.unknown.set(None);
        self.stale.notify_one();
    }

    /// How long the server has not known us.
    pub fn unknown_for(&self) -> Duration {
        self.unknown.get().map_or(Duration::ZERO, |since| clock::now().mono - since)
    }

    /// What is wrong with the server or the way to it, in words.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.borrow();
        match (trouble.failures, self.way.borrow().is_some()) {
            (0, true) => None,
            (0, false) => Some("not connected yet".into()),
            _ => Some(trouble.why.clone()),
        }
    }

    /// Something can be asked now.
    pub fn is_up(&self) -> bool {
        self.way.borrow().is_some() && self.trouble.borrow().wait(clock::now().mono).is_none()
    }

    /// Returns when something can be asked.
    pub async fn up(&self) {
        let mut moved = self.moved.subscribe();
        loop {
            let pause = self.trouble.borrow().wait(clock::now().mono);
            match pause {
                None if self.way.borrow().is_some() => return,
                Some(due) => tokio::time::sleep(due - clock::now().mono).await,
                None => drop(moved.changed().await),
            }
        }
    }

    /// Keeps a connection for ever.
    pub async fn run(&self) {
        loop {
            let pause = self.trouble.borrow().wait(clock::now().mono);
            if let Some(due) = pause {
                tokio::time::sleep(due - clock::now().mono).await;
            }
            match self.connect().await {
                Ok((server, Life::Shared(ended))) => {
                    log::info!("connected to the API server {server}");
                    let ended = tokio::select! {
                        why = ended => Some(why),
                        // Whoever gave it up has said why.
                        () = self.stale.notified() => None,
                    };
                    *self.way.borrow_mut() = None;
                    if let Some(why) = ended {
                        self.suffer(&Error::Connect { server, why });
                    }
                }
                Ok((server, Life::Each(life))) => {
                    log::info!("connected to the API server {server} over HTTP/1.1");
                    self.stale.notified().await;
                    *self.way.borrow_mut() = None;
                    drop(life);
                }
                Err(e) => self.suffer(&e),
            }
        }
    }

    /// Dials, and answers how that ends.
    async fn connect(&self) -> Result<(String, Life<impl Future<Output = String>>)> {
        let renewals = self.renewals.get();
        let dialer = Dialer::new(&self.kubeconfig, &self.resolv_conf)?;
        let (server, stream) = (dialer.server(), dialer.dial(true).await?);
        let (way, life) = match stream {
            Stream { io, h2: true } => {
                let (sender, connection) = http2::Builder::new(Local)
                    .timer(TokioTimer::new())
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PING)
                    .keep_alive_while_idle(true)
                    .initial_connection_window_size(1 << 20)
                    .max_header_list_size(64 << 10)
                    .handshake(TokioIo::new(io))
                    .await
                    .map_err(|e| Error::Connect { server: server.clone(), why: chain(&e) })?;
                let ended = async move { connection.await.map_or_else(|e| chain(&e), |()| "closed by the server".into()) };
                (Way::Shared(sender), Life::Shared(ended))
            }
            Stream { .. } => {
                let (life, ends) = watch::channel(());
                (Way::Each(ends), Life::Each(life))
            }
        };
        if dialer.is_unverified() {
            log::warn!("whoever answers at {server} is believed, and told our token: the kubeconfig says insecure-skip-tls-verify");
        }
        // What was given up before is not this one.
        let _ = self.stale.notified().now_or_never();
        if self.renewals.get() != renewals {
            self.stale.notify_one();
        }
        *self.dialer.borrow_mut() = Some(dialer);
        *self.way.borrow_mut() = Some(way);
        self.moved.send_modify(|n| *n = n.wrapping_add(1));
        Ok((server, life))
    }

    /// The server as a whole is in trouble: a pause for everybody. What fails within a pause is the same trouble.
    fn suffer(&self, e: &Error) {
        let now = clock::now().mono;
        let mut trouble = self.trouble.borrow_mut();
        let floor = if let Error::Refused { after, .. } = e { (*after).min(LONGEST_PAUSE) } else { Duration::ZERO };
        if trouble.wait(now).is_none() || !floor.is_zero() {
            let why = e.to_string();
            if trouble.why != why {
                log::warn!("the API server is in trouble: {why}; local pods are untouched, it is tried again");
            }
            trouble.fail(why, floor, now);
        }
        drop(trouble);
        self.moved.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Asks, and reads the whole answer.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, kind: &'static str, body: Option<&Value>) -> Result<T> {
        self.ask_for(Patience::Usual, method, path, kind, body).await
    }

    /// The same, for as long as that takes.
    pub async fn ask_for<T: DeserializeOwned>(
        &self,
        patience: Patience,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Option<&Value>,
    ) -> Result<T> {
        let what = format!("{method} {path}");
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let whole = async {
            let response = self.send(method, path, kind, body).await?;
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            let bytes = body.map_err(|e| Error::Broken { what: what.clone(), why: e.to_string() })?.to_bytes();
            serde_json::from_slice(&bytes).map_err(|e| Error::Unread { what: what.clone(), why: e.to_string() })
        };
        self.judged(patience, &what, whole).await
    }

    /// Asks, and hands over the answer's body as it comes.
    pub async fn follow(&self, path: &str) -> Result<Incoming> {
        let what = format!("GET {path}");
        let begun = async { Ok(self.send(Method::GET, path, "application/json", Vec::new()).await?.into_body()) };
        self.judged(Patience::Usual, &what, begun).await
    }

    /// Gives a request its time, and learns from what becomes of it.
    async fn judged<T>(&self, patience: Patience, what: &str, request: impl Future<Output = Result<T>>) -> Result<T> {
        let troubled = self.trouble.borrow().failures > 0;
        let _turn = if troubled { Some(self.one_at_a_time.lock().await) } else { None };
        let within = match (self.trouble.borrow().failures, patience) {
            (0, Patience::Webhooks) => ANSWER_OF_WEBHOOKS,
            (failures, _) if failures.is_multiple_of(4) => ANSWER,
            _ => ANSWER_IN_TROUBLE,
        };
        if !self.is_up() {
            return Err(Error::Away);
        }
        let (renewals, began) = (self.renewals.get(), clock::now().mono);
        let slow = || Error::Slow { what: what.to_owned(), within, alone: self.answered.get() > began };
        let done = tokio::time::timeout(within, request).await.unwrap_or_else(|_| Err(slow()));
        let mut asked = self.asked.get();
        match &done {
            Ok(_) => {
                self.answered.set(self.answered.get().max(began));
                asked.done += 1;
            }
            Err(Error::Refused { .. }) => asked.refused += 1,
            Err(_) => asked.lost += 1,
        }
        self.asked.set(asked);
        match &done {
            Err(Error::Refused { code: 401, .. }) => self.unknown.set(self.unknown.get().or(Some(clock::now().mono))),
            Ok(_) => self.unknown.set(None),
            Err(_) => {}
        }
        match &done {
            // It was on a connection that was given up on purpose.
            Err(e) if e.code().is_none() && renewals != self.renewals.get() => {}
            Err(e) if e.is_general() => {
                self.suffer(e);
                // Who we are may have been renewed on disk; what is broken or does not answer is not asked on.
                if e.code().is_none_or(|code| code == 401) {
                    self.stale.notify_one();
                }
            }
            _ => {
                let mut trouble = self.trouble.borrow_mut();
                if trouble.failures > 0 {
                    log::info!("the API server answers again");
                    trouble.succeed();
                }
            }
        }
        done
    }

    async fn send(&self, method: Method, path: &str, kind: &'static str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let what = format!("{method} {path}");
        let broken = |e: hyper::Error| Error::Broken { what: what.clone(), why: chain(&e) };
        let dialer = self.dialer.borrow().clone().ok_or(Error::Away)?;
        let way = self.way.borrow().clone().ok_or(Error::Away)?;
        let shared = matches!(way, Way::Shared(_));
        let mut request = Request::builder().method(method).uri(if shared { dialer.url(path) } else { dialer.path(path) });
        request = request.header(USER_AGENT, concat!("plinth/", env!("CARGO_PKG_VERSION"))).header(ACCEPT, "application/json");
        if !shared {
            request = request.header(hyper::header::HOST, dialer.authority());
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(token) = dialer.token()? {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| Error::Unusable(e.to_string()))?;
        let response = match way {
            Way::Shared(mut sender) => sender.send_request(request).await.map_err(broken)?,
            Way::Each(mut ends) => {
                let stream = dialer.dial(false).await?;
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream.io)).await.map_err(broken)?;
                drop(tokio::task::spawn_local(async move {
                    tokio::select! {
                        _ = connection => {}
                        _ = ends.changed() => {}
                    }
                }));
                sender.send_request(request).await.map_err(broken)?
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

async fn refusal(response: Response<Incoming>) -> Error {
    let code = response.status().as_u16();
    let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).unwrap_or(0);
    let body = http_body_util::Limited::new(response.into_body(), 64 << 10).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status: Status = serde_json::from_slice(&body).unwrap_or_default();
    let message = if status.message.is_empty() { format!("the API server answers {code}") } else { status.message };
    Error::Refused { code, reason: status.reason, message, after: Duration::from_secs(after) }
}

/// An error with its causes: hyper's own text is but half of it.
fn chain(e: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}
