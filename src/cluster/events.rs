//! Events to the API server: what a slow or absent one loses first. One at a time, a few a second, the newest first to be kept.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::Cluster;
use super::error::Result;
use super::link::STRATEGIC;
use crate::clock::{self, Moment};

/// As many of those from before the connection are sent, newest ones.
const BACKLOG: usize = 250;
/// One so often at the most: the rest waits in the ring, which forgets the oldest.
const PACE: Duration = Duration::from_millis(400);
/// Events of the last while are sent as a burst of so many.
const BURST: u32 = 20;
/// Of one object so many at once, and then one so often, s (kubelet: `EventSourceObjectSpamFilter`).
const OBJECT_BURST: u64 = 25;
const OBJECT_PACE_S: u64 = 300;
/// Names remembered to count a repeated event up instead of making another.
const SENT: usize = 1000;

/// Sends for ever.
pub async fn send(cluster: &Cluster) {
    let mut changes = cluster.local.changes();
    let (mut after, mut burst) = (None, BURST);
    // Names tried before, with their last sequence number: who is in here is counted up.
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    let mut shares = Shares::default();
    loop {
        cluster.link.up().await;
        changes.mark_unchanged();
        let Some((seq, event)) = next(cluster, &mut after) else {
            burst = BURST;
            let _ = changes.changed().await;
            // A burst of changes is looked at once.
            tokio::time::sleep(PACE).await;
            continue;
        };
        // Read at the ring's own pace: what is dropped here is still shown there.
        let of = event.pointer("/involvedObject/uid").and_then(Value::as_str).unwrap_or_default();
        if !shares.takes(of, clock::now().mono) {
            continue;
        }
        match one(cluster, &event, &mut sent, seq).await {
            Err(e) if e.is_general() => {
                shares.gives_back(of);
                after = Some(seq - 1);
                continue;
            }
            // A namespace that is missing, a quota: the event is lost, and said where it is kept.
            Err(e) => log::debug!("send event {seq}: {e}"),
            Ok(()) => {}
        }
        if sent.len() > SENT {
            let oldest = seq.saturating_sub(SENT as u64 / 2);
            sent.retain(|_, at| *at > oldest);
        }
        burst = burst.saturating_sub(1);
        if burst == 0 {
            tokio::time::sleep(PACE).await;
        }
    }
}

/// What of each object may still be sent: one that has much to say does not keep others from saying anything.
#[derive(Debug, Default)]
struct Shares(BTreeMap<String, (u64, Moment)>);

impl Shares {
    fn takes(&mut self, uid: &str, now: Moment) -> bool {
        if self.0.len() > SENT {
            self.0.retain(|_, (_, since)| now - *since < Duration::from_secs(OBJECT_PACE_S * OBJECT_BURST));
        }
        let (left, since) = self.0.entry(uid.to_owned()).or_insert((OBJECT_BURST, now));
        let more = (now - *since).as_secs() / OBJECT_PACE_S;
        (*left, *since) = ((*left + more).min(OBJECT_BURST), *since + Duration::from_secs(more * OBJECT_PACE_S));
        let takes = *left > 0;
        *left = left.saturating_sub(1);
        takes
    }

    fn gives_back(&mut self, uid: &str) {
        self.0.entry(uid.to_owned()).and_modify(|(left, _)| *left += 1);
    }
}

/// The oldest that was not sent; on the first look, of the newest few.
fn next(cluster: &Cluster, after: &mut Option<u64>) -> Option<(u64, Value)> {
    let from = after.unwrap_or_else(|| {
        let mut all = Vec::new();
        cluster.local.events(0, &mut |seq, _| all.push(seq));
        all.len().checked_sub(BACKLOG + 1).and_then(|i| all.get(i).copied()).unwrap_or(0)
    });
    let mut found = None;
    cluster.local.events(from, &mut |seq, event| {
        if found.is_none() {
            found = serde_json::to_value(event).ok().map(|e| (seq, e));
        }
    });
    *after = Some(found.as_ref().map_or(from, |(seq, _)| *seq));
    found
}

async fn one(cluster: &Cluster, event: &Value, sent: &mut BTreeMap<String, u64>, seq: u64) -> Result<()> {
    let text = |key: &str| event.pointer(key).and_then(Value::as_str).unwrap_or_default();
    let (name, namespace) = (text("/metadata/name").to_owned(), text("/metadata/namespace"));
    let path = format!("/api/v1/namespaces/{namespace}/events");
    if sent.insert(name.clone(), seq).is_some() {
        let counted = json!({"count": event.get("count"), "lastTimestamp": event.get("lastTimestamp"), "message": event.get("message")});
        match cluster.link.ask::<Value>(Method::PATCH, &format!("{path}/{name}"), STRATEGIC, Some(&counted)).await {
            // It never got there, or lived its hour.
            Err(e) if e.code() == Some(404) => {}
            done => return done.map(drop),
        }
    }
    let mut fresh = event.clone();
    if let Some(meta) = fresh.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("creationTimestamp");
    }
    cluster.link.ask::<Value>(Method::POST, &path, "application/json", Some(&fresh)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_much_to_say_is_heard_less_and_others_as_before() {
        let (mut shares, s) = (Shares::default(), |s: u64| Moment(s * 1000));
        let taken = |shares: &mut Shares, uid: &str, at| (0..100).filter(|_| shares.takes(uid, at)).count();
        assert_eq!(taken(&mut shares, "loud", s(10)), 25);
        assert_eq!(taken(&mut shares, "loud", s(309)), 0);
        assert_eq!(taken(&mut shares, "loud", s(910)), 3);
        assert!(shares.takes("calm", s(910)));
        assert_eq!(taken(&mut shares, "loud", s(100_000)), 25);
        shares.gives_back("loud");
        assert!(shares.takes("loud", s(100_000)));
        for i in 0..5000 {
            shares.takes(&i.to_string(), s(200_000 + i * 60));
        }
        assert!(shares.0.len() <= SENT + 1);
    }
}
