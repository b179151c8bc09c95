//! What a kube-apiserver asks of nodes for its clients, as 1.36 does it (`registry/core/pod/rest`, `UpgradeAwareHandler`): the address and
//! port of the Node's status, a client certificate of its own, paths and queries in the kubelet's words; upgrades are passed through as
//! they come, byte by byte, to a node that declares ExtendWebSocketsToKubelet. And what metrics-server makes of `/metrics/resource`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{IpAddr, ServerName};

use super::Shared;
use super::http::{Body, failure, reply};

/// The API server's name at nodes, and its group, as kubeadm makes them.
pub const CLIENT: (&str, &str) = ("kube-apiserver-kubelet-client", "kubeadm:cluster-admins");
/// Between two looks at counters.
const WINDOW: Duration = Duration::from_secs(1);

/// A request for a pod's node: namespace, pod, subresource.
pub fn wanted(path: &str) -> Option<[&str; 3]> {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api", "v1", "namespaces", ns, "pods", pod, sub @ ("log" | "exec" | "attach" | "portforward")] => Some([ns, pod, sub]),
        _ => None,
    }
}

/// Passes it on.
pub async fn pass(shared: &Arc<Shared>, head: Parts, upgrade: OnUpgrade, [ns, pod, sub]: [&str; 3]) -> Response<Body> {
    let object = shared.state().store.get("pods", ns, pod).cloned();
    let Some(object) = object else {
        let details = json!({"name": pod, "kind": "pods"});
        return reply(404, &failure(404, "NotFound", &format!("pods \"{pod}\" not found"), &details));
    };
    let pairs: Vec<(&str, &str)> = head.uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('=')).collect();
    let get = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let container = get("container").or(object["spec"]["containers"][0]["name"].as_str()).unwrap_or_default();
    let mut query: Vec<String> = Vec::new();
    for (name, value) in &pairs {
        match (sub, *name) {
            (_, "container") | ("log", "insecureSkipTLSVerifyBackend") => {}
            ("log" | "portforward", name) => query.push(format!("{name}={value}")),
            (_, "command") => query.push(format!("command={value}")),
            (_, on) if *value == "true" => {
                let word = match on {
                    "stdin" => "input",
                    "stdout" => "output",
                    "stderr" => "error",
                    other => other,
                };
                query.push(format!("{word}=1"));
            }
            _ => {}
        }
    }
    let path = match sub {
        "log" => format!("/containerLogs/{ns}/{pod}/{container}"),
        "portforward" => format!("/portForward/{ns}/{pod}"),
        sub => format!("/{sub}/{ns}/{pod}/{container}"),
    };
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    let mut request = Request::builder().method(head.method.clone()).uri(format!("{path}?{}", query.join("&")));
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != HOST && *name != "authorization") {
        request = request.header(name, value);
    }
    let mut response = match ask(shared, node, request.header(HOST, node).body(Empty::new()).unwrap()).await {
        Ok(response) => response,
        Err(why) => {
            let text = format!("error dialing backend: {why}");
            return reply(500, &failure(500, "InternalError", &text, &json!({})));
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut response);
        tokio::task::spawn_local(async move {
            let (Ok(client), Ok(node)) = (upgrade.await, backend.await) else { return };
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await;
        });
    } else if sub == "log" && !response.status().is_success() {
        let code = response.status().as_u16();
        let text = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let reason = if code == 400 { "BadRequest" } else { "" };
        return reply(code, &failure(code, reason, &String::from_utf8_lossy(&text), &Value::Null));
    }
    let (head, body) = response.into_parts();
    let frames = body.into_data_stream().filter_map(async |part| part.ok().map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    Response::from_parts(head, BodyExt::boxed(StreamBody::new(Box::pin(frames))))
}

/// One request to a node's kubelet API.
async fn ask(shared: &Arc<Shared>, node: &str, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
    let status = shared.state().store.get("nodes", "", node).map(|n| n["status"].clone()).unwrap_or_default();
    // Who speaks SPDY is passed on to any node.
    let upgrades = request.headers().get("upgrade").is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if upgrades && !status["declaredFeatures"].as_array().is_some_and(|all| all.iter().any(|f| f == "ExtendWebSocketsToKubelet")) {
        return Err("the node does not declare ExtendWebSocketsToKubelet, and translating to SPDY is not this server's".into());
    }
    let addresses = status["addresses"].as_array().into_iter().flatten();
    let ip = addresses.clone().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str()).ok_or("it has no address")?;
    let ip: std::net::IpAddr = ip.parse().map_err(|_| "its address is none")?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let tcp = TcpStream::connect((ip, port)).await.map_err(|e| format!("dial tcp {ip}:{port}: {e}"))?;
    let config = shared.ca.dialer(CLIENT.0, CLIENT.1);
    let tls = TlsConnector::from(config).connect(ServerName::IpAddress(IpAddr::from(ip)), tcp).await.map_err(|e| said(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| said(&e))?;
    tokio::task::spawn_local(connection.with_upgrades());
    sender.send_request(request).await.map_err(|e| said(&e))
}

/// `/apis/metrics.k8s.io/v1beta1`: nodes or pods, by two looks at every node's counters.
pub async fn metrics(shared: &Arc<Shared>, path: &str) -> Option<Value> {
    let rest = path.strip_prefix("/apis/metrics.k8s.io/v1beta1/")?.split('?').next()?;
    let nodes: Vec<String> = {
        let state = shared.state();
        state.store.objects.keys().filter(|(resource, ..)| resource == "nodes").map(|(_, _, name)| name.clone()).collect()
    };
    let mut items = Vec::new();
    for node in nodes {
        let (began, first) = (Instant::now(), scrape(shared, &node).await?);
        tokio::time::sleep(WINDOW).await;
        let second = scrape(shared, &node).await?;
        let window = began.elapsed();
        let usage = |kind: &str, labels: &str| {
            let at = |all: &BTreeMap<String, f64>, what: &str| all.get(&format!("{kind}_{what}{labels}")).copied();
            let used = at(&second, "cpu_usage_seconds_total")? - at(&first, "cpu_usage_seconds_total")?;
            let nanos = (used.max(0.0) / window.as_secs_f64() * 1e9) as u64;
            Some(json!({"cpu": format!("{nanos}n"), "memory": format!("{}Ki", at(&second, "memory_working_set_bytes")? as u64 / 1024)}))
        };
        let item = |name: &str, ns: &str| {
            let metadata = json!({"name": name, "namespace": ns});
            json!({"metadata": metadata, "timestamp": super::store::now(), "window": format!("{:.3}s", window.as_secs_f64())})
        };
        if rest.ends_with("pods") {
            let mut pods: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
            for series in second.keys().filter_map(|k| k.strip_prefix("container_memory_working_set_bytes")) {
                let label = |name: &str| series.split(&format!("{name}=\"")).nth(1)?.split('"').next();
                let of = (label("namespace")?.to_owned(), label("pod")?.to_owned());
                pods.entry(of).or_default().push(json!({"name": label("container")?, "usage": usage("container", series)?}));
            }
            for ((ns, pod), containers) in pods {
                let mut one = item(&pod, &ns);
                one["containers"] = json!(containers);
                items.push(one);
            }
        } else {
            let mut one = item(&node, "");
            one["usage"] = usage("node", "")?;
            items.push(one);
        }
    }
    let kind = if rest.ends_with("pods") { "PodMetricsList" } else { "NodeMetricsList" };
    Some(json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}))
}

/// Every sample of a node's `/metrics/resource`.
async fn scrape(shared: &Arc<Shared>, node: &str) -> Option<BTreeMap<String, f64>> {
    let request = Request::builder().method(Method::GET).uri("/metrics/resource").header(HOST, node).body(Empty::new()).unwrap();
    let response = ask(shared, node, request).await.ok().filter(|r| r.status().is_success())?;
    let text = response.into_body().collect().await.ok()?.to_bytes();
    let text = String::from_utf8(text.to_vec()).ok()?;
    // Name and labels, value, and mostly the time it was taken.
    let sample = |line: &str| {
        let (series, rest) = line.split_at(line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1))?);
        Some((series.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
    };
    Some(text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect())
}
