//! Does what `mirror` decides: requests begun, answers folded in, troubles told. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::Method;
use serde_json::{Value, json};

use super::Cluster;
use super::error::{Error, Result};
use super::link::{Patience, STRATEGIC};
use super::mirror::{self, Action, Memory, Plan, Sent};
use super::object::{self, Object};
use super::retry::Retry;
use crate::clock::{self, Moment};
use crate::pod::PodKey;

/// Changes that come together are looked at together; a status has 150 ms to be there.
const SETTLE: Duration = Duration::from_millis(15);
/// Between two tries of what was refused before: two a second, however many are refused.
const PACE: Duration = Duration::from_millis(500);

struct Ended {
    key: PodKey,
    action: Action,
    answer: Result<Object>,
}

type InFlight = FuturesUnordered<LocalBoxFuture<'static, Ended>>;

/// Publishes for ever.
pub async fn publish(cluster: &std::rc::Rc<Cluster>) {
    let (mut local, mut remote) = (cluster.local.changes(), cluster.pods_moved());
    let mut in_flight = InFlight::new();
    // What is shown of all pods is found out when it changed here, and not for each answer of the server's.
    let mut changed = true;
    loop {
        if std::mem::take(&mut changed) {
            local.mark_unchanged();
            cluster.refresh();
        }
        remote.mark_unchanged();
        let wake = turn(cluster, &mut in_flight);
        let down = !cluster.link.is_up();
        tokio::select! {
            Some(ended) = in_flight.next() => fold(cluster, ended),
            _ = local.changed() => {
                tokio::time::sleep(SETTLE).await;
                changed = true;
            }
            _ = remote.changed() => {}
            () = cluster.link.up(), if down => {}
            () = until(wake) => {}
        }
        // Whatever else was answered is folded in before the next look.
        while let Some(Some(ended)) = in_flight.next().now_or_never() {
            fold(cluster, ended);
        }
    }
}

async fn until(wake: Option<Moment>) {
    match wake {
        Some(due) => tokio::time::sleep(due - clock::now().mono).await,
        None => std::future::pending().await,
    }
}

/// Looks, plans, begins; says when to look again.
fn turn(cluster: &std::rc::Rc<Cluster>, in_flight: &mut InFlight) -> Option<Moment> {
    let now = clock::now().mono;
    tell(cluster);
    if !cluster.link.is_up() {
        return None;
    }
    let plan = cluster.sighted(|sight| mirror::plan(sight, now))?;
    cluster.quarrel.borrow_mut().note(&plan, now);
    let Plan { actions, wake, settled, .. } = plan;
    for key in settled {
        cluster.memory.borrow_mut().entry(key).and_modify(|memory| memory.retry.succeed());
    }
    for (key, action) in actions {
        let mut memories = cluster.memory.borrow_mut();
        let memory = memories.entry(key.clone()).or_default();
        if let Some(request) = request(cluster, &key, &action) {
            memory.in_flight = true;
            begun(cluster, &key, memory, &action, now);
            let (cluster, patience) = (cluster.clone(), Patience::after(memory.retry.failures));
            in_flight.push(Box::pin(async move {
                let (method, path, kind, body) = request;
                let answer = cluster.link.ask_for(patience, method, &path, kind, Some(&body)).await;
                Ended { key, action, answer }
            }));
        }
    }
    wake
}

fn begun(cluster: &Cluster, key: &PodKey, memory: &mut Memory, action: &Action, now: Moment) {
    match action {
        Action::Status { uid, status, .. } => {
            memory.sent = Some(Sent { uid: uid.clone(), status: status.clone(), at: now, version: None });
        }
        Action::Delete { replaces: true, .. } => memory.replaced = Some((cluster.hash(key), now)),
        Action::Delete { .. } => memory.ended = Some(now),
        Action::Create => {}
    }
}

type Request = (Method, String, &'static str, Value);

fn request(cluster: &Cluster, key: &PodKey, action: &Action) -> Option<Request> {
    let pods = format!("/api/v1/namespaces/{}/pods", key.namespace);
    Some(match action {
        Action::Create => {
            let pod = cluster.local.pod(key)?;
            (Method::POST, pods, "application/json", object::mirror(&pod, &cluster.settings.node_name, &cluster.node_uid()?))
        }
        Action::Delete { uid, .. } => {
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            (Method::DELETE, format!("{pods}/{}", key.name), "application/json", options)
        }
        Action::Status { patch, .. } => (Method::PATCH, format!("{pods}/{}/status", key.name), STRATEGIC, patch.clone()),
    })
}

fn fold(cluster: &Cluster, Ended { key, action, answer }: Ended) {
    let now = clock::now().mono;
    let mut memories = cluster.memory.borrow_mut();
    let memory = memories.entry(key.clone()).or_default();
    memory.in_flight = false;
    let mut observed = cluster.observed.borrow_mut();
    let Some(observed) = observed.as_mut() else { return };
    let failed = match answer {
        Ok(object) => {
            match &action {
                Action::Delete { uid, .. } => {
                    log::info!("pod={key} deleted the pod {uid} at the API server: it was no mirror of what runs here");
                    match object.metadata.held() {
                        None => forget(observed, &key, uid),
                        Some(_) => mirror::answered(observed, object, cluster.told_version.get()),
                    }
                }
                Action::Create => {
                    log::info!("pod={key} has a mirror at the API server");
                    let changed = object.metadata.mirror() != cluster.hash(&key).as_ref().map(|u| &*u.0);
                    mirror::answered(observed, object, cluster.told_version.get());
                    // Deleting what will come back the same would go on for ever.
                    if changed && cluster.hash(&key).is_some() {
                        memory.replaced = Some((cluster.hash(&key), now));
                    }
                }
                Action::Status { .. } => {
                    let version = Some(object.metadata.version());
                    memory.sent.iter_mut().for_each(|sent| sent.version = version);
                    mirror::answered(observed, object, cluster.told_version.get());
                }
            }
            if memory.retry.failures > 0 {
                cluster.paced.set(None);
            }
            memory.retry.succeed();
            return;
        }
        Err(e) => e,
    };
    // What is the server's trouble as a whole is nobody's fault; a status that did not get there was not sent.
    if matches!(action, Action::Status { .. }) {
        memory.sent = None;
    }
    if failed.is_general() {
        return;
    }
    match (&action, failed.code()) {
        // It is gone already, or is another one by now: the watch tells.
        (Action::Delete { uid, .. } | Action::Status { uid, .. }, Some(404)) => forget(observed, &key, uid),
        _ if failed.is_of_another() => memory.retry = Retry { due: now + PACE, ..Retry::default() },
        (action, code) => {
            if let (Action::Status { uid, .. }, Some(422)) = (action, code) {
                memory.unfit = Some(uid.clone());
            }
            // One that came and went meanwhile may be told of late.
            memory.early = failed.is_early() || matches!((action, code), (Action::Create, Some(409)));
            memory.retry.fail(words(action, &failed), Duration::ZERO, now);
            cluster.paced.set(Some(now + PACE));
        }
    }
}

fn words(action: &Action, e: &Error) -> String {
    match (action, e.code()) {
        (Action::Create, Some(409)) => format!("make the mirror: {e}, and it is not on this node: rename one of the two"),
        (Action::Create, _) => format!("make the mirror: {e}"),
        (Action::Delete { .. }, _) => format!("delete the old mirror: {e}"),
        (Action::Status { .. }, _) => format!("send the status: {e}"),
    }
}

fn forget(observed: &mut BTreeMap<PodKey, mirror::Observed>, key: &PodKey, uid: &str) {
    if observed.get(key).is_some_and(|o| o.uid == uid) {
        observed.remove(key);
    }
}

/// Says once what keeps a pod from its mirror; forgets names nobody has any more.
fn tell(cluster: &Cluster) {
    let Some(lacking) = cluster.sighted(|sight| {
        let troubled = |key: &&PodKey| {
            let refused = sight.memory.get(*key).is_some_and(|m| m.retry.failures > u32::from(m.early));
            refused || sight.observed.get(*key).is_some_and(|o| o.mirror.is_none())
        };
        let keys = sight.published.keys().filter(troubled);
        keys.filter_map(|key| Some((key.clone(), mirror::lacks(&sight, key)?))).collect::<BTreeMap<_, _>>()
    }) else {
        return;
    };
    let told = cluster.told.replace(lacking.clone());
    for (key, why) in lacking.iter().filter(|(key, why)| told.get(*key) != Some(why)) {
        log::warn!("pod={key} is not shown at the API server: {why}; it runs on, and this is tried again");
        cluster.local.note(key, why);
    }
    let known: BTreeSet<PodKey> = cluster.sighted(|s| s.published.keys().chain(s.observed.keys()).cloned().collect()).unwrap_or_default();
    let now = clock::now().mono;
    cluster.memory.borrow_mut().retain(|key, memory| memory.lasts(now) || known.contains(key));
}
