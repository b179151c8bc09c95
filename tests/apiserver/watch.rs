//! Watches: the history from a version on, then what happens, bookmarks, and 410 when the history is gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Fault, Shared};

pub struct Watch {
    pub shared: Arc<Shared>,
    pub resource: String,
    pub namespace: String,
    pub selector: String,
    pub from: u64,
    pub bookmarks: bool,
    pub until: Instant,
}

/// One bookmark so often, if asked for: an API server sends one a minute.
const BOOKMARK: Duration = Duration::from_secs(1);

struct Running {
    watch: Watch,
    ready: VecDeque<String>,
    moved: tokio::sync::watch::Receiver<u64>,
    bookmark: Instant,
    over: bool,
}

impl Watch {
    pub fn stream(self) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
        let moved = self.shared.moved.subscribe();
        let running = Running { watch: self, ready: VecDeque::new(), moved, bookmark: Instant::now() + BOOKMARK, over: false };
        unfold(running, |mut r| async move {
            loop {
                if let Some(line) = r.ready.pop_front() {
                    return Some((Ok(Frame::data(Bytes::from(line))), r));
                }
                if r.over || Instant::now() >= r.watch.until {
                    return None;
                }
                if matches!(r.watch.shared.fault(), Fault::None | Fault::SlowHook(_) | Fault::SlowEvents(_)) {
                    r.look();
                    if !r.ready.is_empty() {
                        continue;
                    }
                }
                let wake = r.watch.until.min(r.bookmark);
                tokio::select! {
                    _ = r.moved.changed() => {}
                    () = tokio::time::sleep_until(wake.into()) => {}
                }
            }
        })
    }
}

impl Running {
    fn look(&mut self) {
        let w = &mut self.watch;
        let shared = w.shared.clone();
        let mut state = shared.state();
        let store = &mut state.store;
        if w.from < store.compacted {
            let message = format!("too old resource version: {} ({})", w.from, store.compacted);
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "Expired", "code": 410});
            self.ready.push_back(format!("{}\n", json!({"type": "ERROR", "object": status})));
            self.over = true;
            return;
        }
        for change in store.history.iter().filter(|c| c.rv > w.from && c.resource == w.resource) {
            if (w.namespace.is_empty() || w.namespace == change.namespace) && selects(&w.selector, &change.object) {
                self.ready.push_back(format!("{}\n", json!({"type": change.kind, "object": change.object})));
            }
        }
        // From the future on, as after a backup was restored: nothing is told until then.
        if w.from > store.rv() {
            return;
        }
        w.from = store.rv();
        if w.bookmarks && Instant::now() >= self.bookmark {
            self.bookmark = Instant::now() + BOOKMARK;
            let kind = super::http::kind(&w.resource);
            store.bookmarked.insert(w.resource.clone(), w.from);
            let object = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": w.from.to_string(), "creationTimestamp": null}, "spec": {"containers": null}, "status": {}});
            self.ready.push_back(format!("{}\n", json!({"type": "BOOKMARK", "object": object})));
        }
    }
}

/// `a.b=c,d.e=f`.
pub fn selects(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|s| !s.is_empty()).all(|term| {
        let (path, wanted) = term.split_once('=').unwrap();
        let found = path.trim_end_matches(['!', '=']).split('.').fold(object, |at, key| &at[key]);
        (found.as_str().unwrap_or_default() == wanted.trim_start_matches('=')) != path.ends_with('!')
    })
}
