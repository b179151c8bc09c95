//! Bodies that go on: events and status, a JSON line each time there is news. They sleep on the loop's change counter;
//! a follower that is quiet costs nothing, and one that reads slowly is held back by its own socket.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use super::{Backend, rows};

/// News within so long of each other make one line of status: a start of many pods is a storm of changes.
const SETTLE: Duration = Duration::from_millis(50);

/// Which events are shown.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only those about this `namespace/name`.
    pub pod: Option<(String, String)>,
}

impl EventFilter {
    /// Whether an event is about the pod asked for.
    pub fn takes(&self, event: &k8s_openapi::api::core::v1::Event) -> bool {
        let about = &event.involved_object;
        self.pod.as_ref().is_none_or(|(ns, name)| about.namespace.as_ref() == Some(ns) && about.name.as_ref() == Some(name))
    }
}

/// Every event on record, then each new one.
pub fn events(backend: Rc<dyn Backend>, filter: EventFilter) -> impl Stream<Item = io::Result<Bytes>> {
    let changes = backend.changes();
    stream::try_unfold((backend, changes, 0), move |(backend, mut changes, mut seen)| {
        let filter = filter.clone();
        async move {
            loop {
                let mut lines = Vec::new();
                let mut failed = None;
                changes.mark_unchanged();
                backend.with(&mut |view| {
                    (view.events)(seen, &mut |number, event| {
                        seen = number;
                        if filter.takes(event) {
                            failed = serde_json::to_writer(&mut lines, event).err().or(failed.take());
                            lines.push(b'\n');
                        }
                    });
                });
                if let Some(e) = failed {
                    return Err(io::Error::other(e));
                }
                if !lines.is_empty() {
                    return Ok(Some((Bytes::from(lines), (backend, changes, seen))));
                }
                if changes.changed().await.is_err() {
                    return Ok(None);
                }
            }
        }
    })
}

/// The present status, then each one that differs from the one before.
pub fn status(backend: Rc<dyn Backend>) -> impl Stream<Item = io::Result<Bytes>> {
    let changes = backend.changes();
    stream::try_unfold((backend, changes, None), |(backend, mut changes, mut last)| async move {
        loop {
            if last.is_some() && !news(&mut changes).await {
                return Ok(None);
            }
            changes.mark_unchanged();
            let mut now = super::wire::Status::default();
            backend.with(&mut |view| now = rows::status(view));
            let mut line = serde_json::to_vec(&now).map_err(io::Error::other)?;
            line.push(b'\n');
            now.time.clear();
            if last.as_ref() != Some(&now) {
                last = Some(now);
                return Ok(Some((Bytes::from(line), (backend, changes, last))));
            }
        }
    })
}

async fn news(changes: &mut watch::Receiver<u64>) -> bool {
    let alive = changes.changed().await.is_ok();
    tokio::time::sleep(SETTLE).await;
    alive
}
