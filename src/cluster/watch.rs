//! A list, and then what changes: watches with bookmarks, taken up again where they ended, and a new list when that is too old.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;

use super::error::{Error, Result, Status};
use super::link::Link;
use super::object::Object;
use crate::clock;

/// The server ends a watch after this; the kubelet asks for five to ten minutes.
const WATCH_S: u64 = 420;
/// A server tells where it is once a minute, as it is asked to. One that says nothing for so long may never again: it was restored from a
/// backup, and what it has now is older than what the watch goes on from.
const SILENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(180) };
/// A change longer than this is none that can be read.
const LINE_BYTES: usize = 4 << 20;

type History = tokio::sync::watch::Receiver<u64>;

/// What is told of the objects that are watched.
#[derive(Debug)]
pub enum News {
    /// All there are, at that version; what is not among them is gone unless it is newer.
    All(Vec<Object>, u64),
    /// One was made or changed.
    Is(Object),
    /// One is gone.
    Gone(Object),
    /// None of them may be seen, in words.
    Refused(String),
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: super::object::Meta,
    #[serde(default)]
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Watches for ever; `tell` must not wait.
pub async fn watch(link: &Link, path: &str, selector: &str, tell: impl Fn(News)) {
    let query = format!("{path}?fieldSelector={}", selector.replace('=', "%3D"));
    let (mut version, mut history): (Option<String>, _) = (None, link.history());
    loop {
        link.up().await;
        let is_another = history.has_changed().unwrap_or(false);
        let from = match version.take().filter(|_| !is_another) {
            Some(version) => version,
            None => match list(link, &query, &mut history, &tell).await {
                Ok(version) => version,
                Err(e) => {
                    pause(path, &e, &tell).await;
                    continue;
                }
            },
        };
        let mut at = from;
        let began = clock::now().mono;
        match follow(link, &query, &mut at, &mut history, &tell).await {
            Ok(End::Over) => version = Some(at),
            Ok(End::Rewound) => {}
            Ok(End::Silent) => log::debug!("watch {path}: it tells nothing; it is listed again"),
            Err(e) if e.code() == Some(410) => log::debug!("watch {path}: {e}; it is listed again"),
            Err(e) => {
                version = Some(at);
                pause(path, &e, &tell).await;
            }
        }
        // A server that ends watches as they begin is not asked in a circle.
        if clock::now().mono - began < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A refusal is waited out here; trouble of the link is waited for with the link.
async fn pause(path: &str, e: &Error, tell: &impl Fn(News)) {
    if e.is_general() {
        return log::debug!("watch {path}: {e}");
    }
    tell(News::Refused(e.to_string()));
    tokio::time::sleep(Duration::from_secs(5)).await;
}

async fn list(link: &Link, query: &str, history: &mut History, tell: &impl Fn(News)) -> Result<String> {
    history.mark_unchanged();
    let list: List = link.ask(Method::GET, query, "application/json", None).await?;
    let version = list.metadata.version();
    tell(News::All(list.items.unwrap_or_default(), version));
    Ok(list.metadata.resource_version)
}

/// Why a watch is begun anew.
enum End {
    /// Its time is over.
    Over,
    /// Nothing came of it.
    Silent,
    /// The server has another history by now.
    Rewound,
}

/// Until the server ends it. `at` is the last version that was told.
async fn follow(link: &Link, query: &str, at: &mut String, history: &mut History, tell: &impl Fn(News)) -> Result<End> {
    let path = format!("{query}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={at}");
    let mut body = link.follow(&path).await?;
    let end = tokio::time::sleep(Duration::from_secs(WATCH_S + 15));
    tokio::pin!(end);
    let mut heard = clock::now().mono;
    let mut held: Vec<u8> = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // The server should have ended it long ago: whatever this is, it is begun anew.
            () = &mut end => return Ok(End::Over),
            Ok(()) = history.changed() => return Ok(End::Rewound),
            () = tokio::time::sleep(heard + SILENCE - clock::now().mono) => return Ok(End::Silent),
        };
        heard = clock::now().mono;
        let frame = match frame {
            None => return Ok(End::Over),
            Some(frame) => frame.map_err(|e| Error::Broken { what: format!("GET {query}"), why: e.to_string() })?,
        };
        let Some(data) = frame.data_ref() else { continue };
        held.extend_from_slice(data);
        while let Some(end) = memchr::memchr(b'\n', &held) {
            let line: Vec<u8> = held.drain(..=end).collect();
            if let Some(version) = one(&line, query, tell)? {
                *at = version;
            }
        }
        if held.len() > LINE_BYTES {
            return Err(Error::Unread { what: format!("GET {query}"), why: format!("a change of more than {LINE_BYTES} bytes") });
        }
        if held.is_empty() && held.capacity() > 64 << 10 {
            held = Vec::new();
        }
    }
}

fn one(line: &[u8], query: &str, tell: &impl Fn(News)) -> Result<Option<String>> {
    let unread = |e: serde_json::Error| Error::Unread { what: format!("GET {query}"), why: e.to_string() };
    let line: Line = serde_json::from_slice(line).map_err(unread)?;
    if line.kind == "ERROR" {
        let s: Status = serde_json::from_value(line.object).map_err(unread)?;
        return Err(Error::Refused { code: s.code, reason: s.reason, message: s.message, after: Duration::ZERO });
    }
    let object: Object = serde_json::from_value(line.object).map_err(unread)?;
    let version = object.metadata.resource_version.clone();
    match line.kind.as_str() {
        "ADDED" | "MODIFIED" => tell(News::Is(object)),
        "DELETED" => tell(News::Gone(object)),
        _ => {}
    }
    Ok(Some(version).filter(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::RefCell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server of HTTP/1.1 without TLS that lists nothing at version 7, and then nothing at version 5, and whose watches are silent.
    async fn restored(listener: TcpListener) {
        let mut lists = ["7", "5"].into_iter();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            if n == 0 {
                continue;
            }
            let watches = String::from_utf8_lossy(asked.get(..n).unwrap()).contains("watch=true");
            let Some(version) = (if watches { Some("") } else { lists.next() }) else { return };
            let body = format!("{{\"metadata\":{{\"resourceVersion\":\"{version}\"}},\"items\":[]}}");
            let length = if watches { "transfer-encoding: chunked".into() } else { format!("content-length: {}", body.len()) };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{length}\r\n\r\n");
            stream.write_all((head + if watches { "" } else { &body }).as_bytes()).await.unwrap();
            if watches {
                tokio::task::spawn_local(async move { stream.read(&mut asked).await });
            }
        }
    }

    #[test]
    fn a_watch_that_tells_nothing_at_all_is_listed_anew() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&rt, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let path = std::env::temp_dir().join(format!("plinth-watch-{}", std::process::id()));
            let text = format!(
                "current-context: c\nclusters: [{{name: k, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n",
                listener.local_addr().unwrap()
            );
            std::fs::write(&path, text).unwrap();
            let link = Link::new(path.clone(), "/dev/null".into());
            let (versions, both) = (RefCell::new(Vec::new()), tokio::sync::Notify::new());
            let tell = |news| {
                if let News::All(_, version) = news {
                    versions.borrow_mut().push(version);
                }
                if versions.borrow().len() == 2 {
                    both.notify_one();
                }
            };
            tokio::select! {
                () = link.run() => {}
                () = watch(&link, "/api/v1/pods", "a=b", tell) => {}
                () = restored(listener) => {}
                () = both.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => {}
            }
            std::fs::remove_file(&path).unwrap();
            assert_eq!(*versions.borrow(), [7, 5]);
        });
    }
}
