//! Path and method to answer. The only place that knows the socket's addresses; each arm borrows the world for one answer.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream, Stream};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Event;
use serde::Serialize;

use super::follow::{self, EventFilter};
use super::query::{Query, decode};
use super::remote::{self, Peer};
use super::usage::Depth;
use super::wire::{API_VERSION, Accepted, ManifestList};
use super::{Backend, View, logs, metrics, pods, rows, usage, why};

/// A body that is there, or one that goes on.
pub type Body = Either<Full<Bytes>, StreamBody<LocalBoxStream<'static, io::Result<Frame<Bytes>>>>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Longest grace that may be asked for: a day, so that a wrong unit is seen.
const GRACE_MAX: Duration = Duration::from_secs(86_400);

/// Answers one request; what is to become of the connection afterwards is left with the peer.
pub fn answer<B>(request: &mut Request<B>, peer: &Peer, backend: &Rc<dyn Backend>) -> Response<Body> {
    let Some(query) = Query::parse(request.uri().query().unwrap_or_default()) else {
        return text(StatusCode::BAD_REQUEST, "read the query: a percent escape in it is broken\n");
    };
    let Some(path) = request.uri().path().split('/').skip(1).map(|s| decode(s, false)).collect::<Option<Vec<_>>>() else {
        return text(StatusCode::BAD_REQUEST, "read the path: a percent escape in it is broken\n");
    };
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["exec" | "attach", rest @ ..] = path.as_slice() {
        let attach = path.first() == Some(&"attach");
        return match remote::begin(request, attach, rest, &query, peer, backend) {
            Ok(answer) => answer.map(|()| Either::Left(Full::default())),
            Err((code, why)) => text(code, &why),
        };
    }
    let method = request.method();
    if path == ["v1", "shutdown"] {
        return if method == Method::POST { shutdown(&query, peer.root, backend) } else { wrong_method("POST") };
    }
    if method != Method::GET && method != Method::HEAD {
        return if is_known(&path) { wrong_method("GET, HEAD") } else { unknown() };
    }
    match path.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["readyz"] => show(backend, |view| readyz(view, query.is_set("verbose"))),
        ["pods"] | ["pods", ""] => show(backend, |view| json_bytes(pods::list(view))),
        ["runningpods"] | ["runningpods", ""] => show(backend, |view| json(&pods::running(view))),
        ["metrics"] => once(METRICS, metrics_page(backend.clone())),
        ["metrics", "probes"] => show(backend, |view| full(StatusCode::OK, METRICS, metrics::probes(view))),
        ["metrics", "resource"] => {
            let backend = backend.clone();
            once(METRICS, async move { usage::resource(&usage::gather(&backend, Depth::Counters).await).into() })
        }
        ["stats", "summary"] => {
            let (backend, only) = (backend.clone(), query.is_set("only_cpu_and_memory"));
            let depth = if only { Depth::Rates } else { Depth::All };
            once(JSON, async move { usage::summary(&usage::gather(&backend, depth).await, only).to_string().into() })
        }
        ["v1", "status"] if query.is_set("follow") => stream(JSON, follow::status(backend.clone())),
        ["v1", "status"] => show(backend, |view| json(&rows::status(view))),
        ["v1", "manifests"] => show(backend, |view| json(&manifests(view))),
        ["v1", "events"] => events(&query, backend),
        ["v1", "why", ns, pod] => show(backend, |view| match why::explain(view, ns, pod) {
            Some(why) => json(&why),
            None => text(StatusCode::NOT_FOUND, &format!("pod {pod:?} does not exist in namespace {ns:?}\n")),
        }),
        ["containerLogs", ns, pod, container] => container_logs(ns, pod, container, &query, backend),
        ["containerLogs", _, _] => text(StatusCode::BAD_REQUEST, r#"{"message": "Missing container name."}"#),
        _ => unknown(),
    }
}

async fn metrics_page(backend: Rc<dyn Backend>) -> Bytes {
    let logs = usage::logs(&backend).await;
    let mut page = String::new();
    backend.with(&mut |view| page = metrics::page(view, &logs));
    page.into()
}

fn is_known(path: &[&str]) -> bool {
    matches!(
        path,
        ["healthz" | "readyz" | "pods" | "runningpods" | "metrics"]
            | ["pods" | "runningpods", ""]
            | ["metrics", "probes" | "resource"]
            | ["stats", "summary"]
            | ["v1", "status" | "manifests" | "events"]
            | ["v1", "why", _, _]
            | ["containerLogs", _, _, _]
    )
}

fn show(backend: &Rc<dyn Backend>, f: impl Fn(&View<'_>) -> Response<Body>) -> Response<Body> {
    let mut answer = None;
    backend.with(&mut |view| answer = Some(f(view)));
    answer.unwrap_or_else(|| text(StatusCode::SERVICE_UNAVAILABLE, "nothing to show yet; try again\n"))
}

/// The form of the API server's `/readyz?verbose`.
fn readyz(view: &View<'_>, verbose: bool) -> Response<Body> {
    let status = rows::status(view);
    let mut lines = String::new();
    let mut check = |name: &str, failure: Option<String>| match failure {
        None => lines.push_str(&format!("[+]{name} ok\n")),
        Some(why) => lines.push_str(&format!("[-]{name} failed: {why}\n")),
    };
    let down = status.containerd.message.clone().unwrap_or_default();
    check("containerd", (!status.containerd.up).then_some(down));
    check("layers", (!status.layers_read).then(|| "not every manifest layer was read yet".to_owned()));
    check("shutdown", status.shutting_down.then(|| "all pods are being stopped".to_owned()));
    for pod in status.pods.iter().filter(|p| p.wanted) {
        check(&format!("pod/{}/{}", pod.namespace, pod.name), (!pod.ready).then(|| not_ready(pod)));
    }
    // A machine that lost its state still runs what its image asks for: no reason to send work elsewhere, and one to look at it.
    lines.extend(status.node.degraded.iter().map(|why| format!("[!]machine degraded: {why}\n")));
    lines.push_str(if status.ready { "readyz check passed\n" } else { "readyz check failed\n" });
    match (status.ready, verbose) {
        (true, false) => text(StatusCode::OK, "ok"),
        (true, true) => text(StatusCode::OK, &lines),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, &lines),
    }
}

fn not_ready(pod: &super::wire::PodRow) -> String {
    let message = pod.message.as_ref().map_or_else(String::new, |m| format!(": {}", m.replace('\n', " ")));
    format!("{} {}/{}{message}", pod.status, pod.ready_containers, pod.total_containers)
}

fn manifests(view: &View<'_>) -> ManifestList {
    ManifestList {
        api_version: API_VERSION.into(),
        kind: "ManifestList".into(),
        layers: view.settings.shown_layers(),
        items: view.files.iter().map(|f| rows::manifest(view, f)).collect(),
    }
}

fn events(query: &Query, backend: &Rc<dyn Backend>) -> Response<Body> {
    let pod = match query.get("pod").map(|p| p.split_once('/')) {
        None => None,
        Some(Some((ns, name))) => Some((ns.to_owned(), name.to_owned())),
        Some(None) => return text(StatusCode::BAD_REQUEST, "read `pod` of the query: write it as namespace/name\n"),
    };
    let filter = EventFilter { pod };
    if query.is_set("follow") {
        return stream(JSON, follow::events(backend.clone(), filter));
    }
    show(backend, |view| {
        let mut list: List<Event> = List::default();
        (view.events)(0, &mut |_, event| {
            if filter.takes(event) {
                list.items.push(event.clone());
            }
        });
        json(&list)
    })
}

fn container_logs(ns: &str, pod: &str, container: &str, query: &Query, backend: &Rc<dyn Backend>) -> Response<Body> {
    let mut found = None;
    backend.with(&mut |view| {
        found = Some(logs::options(query, view.now.wall).and_then(|options| logs::find(view, ns, pod, container, options)));
    });
    let request = match found {
        Some(Ok(request)) => request,
        Some(Err((code, why))) => return text(code, &why),
        None => return text(StatusCode::SERVICE_UNAVAILABLE, "nothing to show yet; try again\n"),
    };
    match backend.logs(request) {
        Ok(log) => stream(TEXT, log),
        Err(e) => text(StatusCode::BAD_REQUEST, &chain(&e)),
    }
}

fn shutdown(query: &Query, root: bool, backend: &Rc<dyn Backend>) -> Response<Body> {
    if !root {
        return text(StatusCode::FORBIDDEN, "stop all pods: only uid 0 may ask for that, readers of the socket may not; run it as root\n");
    }
    let grace = match query.get("graceSeconds").map(str::parse::<f64>) {
        None => None,
        Some(Ok(s)) if s >= 0.0 && s <= GRACE_MAX.as_secs_f64() => Some(Duration::from_secs_f64(s)),
        Some(_) => return text(StatusCode::BAD_REQUEST, "read `graceSeconds` of the query: write seconds from 0 to 86400\n"),
    };
    backend.shutdown(grace);
    let message = "stopping all pods, critical ones last; plinth ends when they are gone".into();
    let mut answer = json(&Accepted { api_version: API_VERSION.into(), kind: "Accepted".into(), message });
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// An error with its sources, a colon between.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text.push('\n');
    text
}

fn unknown() -> Response<Body> {
    text(
        StatusCode::NOT_FOUND,
        "404 page not found: /healthz /readyz /pods /runningpods /metrics /metrics/probes /metrics/resource /stats/summary /v1/status /v1/manifests /v1/events /v1/why/{ns}/{pod} \
         /containerLogs/{ns}/{pod}/{container} /exec/{ns}/{pod}/{container} /attach/{ns}/{pod}/{container}, POST /v1/shutdown\n",
    )
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("405 method not allowed: use {allowed}\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn full(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A plain answer.
pub fn text(code: StatusCode, body: &str) -> Response<Body> {
    full(code, TEXT, body.to_owned())
}

fn json(value: &impl Serialize) -> Response<Body> {
    json_bytes(serde_json::to_vec(value))
}

fn json_bytes(bytes: serde_json::Result<Vec<u8>>) -> Response<Body> {
    match bytes {
        Ok(bytes) => full(StatusCode::OK, JSON, bytes),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("write JSON: {e}\n")),
    }
}

/// An answer that takes its time.
fn once(kind: &'static str, body: impl Future<Output = Bytes> + 'static) -> Response<Body> {
    stream(kind, stream::once(async { Ok(body.await) }))
}

fn stream(kind: &'static str, chunks: impl Stream<Item = io::Result<Bytes>> + 'static) -> Response<Body> {
    let frames = chunks.map(|chunk| chunk.map(Frame::data)).boxed_local();
    let mut answer = Response::new(Either::Right(StreamBody::new(frames)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
