//! Asks containers how they are, and runs their hooks: what `plan::probe` says is due is done here, and told as an event.
//!
//! Decides nothing about what an answer means. Probes and hooks run beside the pods' actions; each ends by itself: a probe at its
//! timeout, a hook with its grace or its container. `http`, `tcp`, `grpc`, `exec`: one handler each; `tls`: under http;
//! `target`: whom to dial.

pub(super) mod exec;
mod grpc;
mod hook;
mod http;
mod target;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1 as api;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Runtime, session};
use crate::plan::action::{Answer, Check, Event};
use crate::pod::{Hook, Probe, Uid, WantedPod};
use crate::session::{Request, Served};
use target::Target;

/// An error says nothing about the container, so it is tried again at once (kubelet: `maxProbeRetries`).
const TRIES: u32 = 3;
/// What is kept of what a probed container says, bytes (kubelet: 10 KiB).
const SAID_BYTES: usize = 10 << 10;
/// The version the kubelet's clients name themselves by.
const VERSION: &str = "1.36";

/// Something to be done beside the pods' actions.
pub(super) enum Errand {
    Probe {
        check: Check,
        pod: Rc<WantedPod>,
        ips: Vec<IpAddr>,
    },
    Hook {
        uid: Uid,
        id: Rc<str>,
        name: Rc<str>,
        hook: Hook,
        within: Option<Duration>,
        pod: Rc<WantedPod>,
        ips: Vec<IpAddr>,
    },
    Session {
        request: Request,
        served: Served,
    },
    /// Ends the commands of sessions an earlier plinth held.
    EndLeft {
        uid: Uid,
        id: Rc<str>,
    },
}

/// Does errands, side by side, for ever.
pub(super) async fn serve(rt: Rc<Runtime>, mut queue: UnboundedReceiver<Errand>) {
    let mut under_way: FuturesUnordered<LocalBoxFuture<'static, Option<Event>>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(errand) = queue.recv() => under_way.push(run(rt.clone(), errand).boxed_local()),
            Some(event) = under_way.next(), if !under_way.is_empty() => event.into_iter().for_each(|e| rt.tell(e)),
            else => return,
        }
    }
}

async fn run(rt: Rc<Runtime>, errand: Errand) -> Option<Event> {
    match errand {
        Errand::Probe { check, pod, ips } => {
            let mut answer = ask(&rt, &check, &pod, &ips).await;
            for _ in 1..TRIES {
                if !matches!(answer, Answer::Errored(_)) {
                    break;
                }
                answer = ask(&rt, &check, &pod, &ips).await;
            }
            Some(Event::Answered(check, answer))
        }
        Errand::Hook { uid, id, name, hook, within, pod, ips } => {
            let whose = hook::Whose { rt: &rt, uid: &uid, id: &id, name: &name, pod: &pod, ips: &ips };
            let failure = hook::run(&whose, hook, within).await.err();
            Some(Event::Hooked { uid, id, hook, failure: failure.map(Into::into) })
        }
        Errand::Session { request, served } => {
            session::serve(&rt, request, served).await;
            None
        }
        Errand::EndLeft { uid, id } => {
            session::end_left(&rt, &uid, &id).await;
            None
        }
    }
}

async fn ask(rt: &Rc<Runtime>, check: &Check, pod: &WantedPod, ips: &[IpAddr]) -> Answer {
    let errored = |what: &str| Answer::Errored(what.into());
    let Some(container) = pod.container(&check.name) else { return errored("its manifest has no container of that name") };
    let probe = match check.probe {
        Probe::Startup => &container.startup_probe,
        Probe::Liveness => &container.liveness_probe,
        Probe::Readiness => &container.readiness_probe,
    };
    let Some(probe) = probe else { return errored("its manifest has no such probe") };
    let seconds = probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1);
    let within = Duration::from_secs(seconds);
    let target = Target { pod, container, ips, resolv_conf: &rt.settings.resolv_conf };
    if let Some(action) = &probe.exec {
        let whose = exec::Whose { uid: &check.uid, id: &check.id, word: word(check.probe) };
        let command = expanded(container, action.command.as_deref().unwrap_or_default());
        return exec::probe(rt, &whose, &command, within).await;
    }
    if let Some(action) = &probe.http_get {
        return http::probe(&target, action, within).await;
    }
    if let Some(action) = &probe.tcp_socket {
        return tcp::probe(&target, action, within).await;
    }
    match &probe.grpc {
        Some(action) => grpc::probe(&target, action, within).await,
        None => errored("missing probe handler"),
    }
}

fn word(probe: Probe) -> &'static str {
    match probe {
        Probe::Startup => "startup",
        Probe::Liveness => "liveness",
        Probe::Readiness => "readiness",
    }
}

/// `$(VAR)` in a probe's command: only variables written as literal values count (kubelet: `ExpandContainerCommandOnlyStatic`).
fn expanded(container: &api::Container, command: &[String]) -> Vec<String> {
    let env = || container.env.iter().flatten();
    let known = |name: &str| env().rev().find(|v| v.name == name && v.value_from.is_none()).and_then(|v| v.value.as_deref());
    command.iter().map(|word| super::oci::expand(word, known)).collect()
}

/// So much of a text as is kept.
fn cut(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..SAID_BYTES).unwrap_or(bytes)).into_owned()
}

/// A duration as Go prints it in the kubelet's messages.
fn go(within: Duration) -> String {
    crate::plan::status::GoDuration(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)).to_string()
}
