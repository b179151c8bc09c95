//! Requests to answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request as HttpRequest, Response};
use plinth::kubelet::authenticate::by_certificate;
use serde_json::{Value, json};

use super::admit::{self, Refusal, Request};
use super::node;
use super::table::table;
use super::watch::{Watch, selects};
use super::{Asked, Fault, Shared, State, csr, merge, strict};

pub type Body = BoxBody<Bytes, Infallible>;

pub async fn answer(shared: Arc<Shared>, shown: Option<Vec<u8>>, mut http: HttpRequest<Incoming>) -> Result<Response<Body>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut http);
    let (head, body) = http.into_parts();
    let method = head.method.clone();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    // A client that goes away in the middle has asked for nothing.
    let Ok(body) = body.collect().await.map(|b| b.to_bytes()) else {
        return Ok(reply(400, &failure(400, "BadRequest", "unexpected EOF", &Value::Null)));
    };
    // `kubectl certificate` speaks protobuf, of which one word is needed.
    let says = |word: &str| body.starts_with(b"k8s\0") && body.windows(word.len()).any(|w| w == word.as_bytes());
    let body: Value = match ["Approved", "Denied"].into_iter().find(|word| says(word)) {
        Some(word) => json!({"status": {"conditions": [{"type": word}]}}),
        None => serde_json::from_slice(&body).unwrap_or_default(),
    };
    let token = head.headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
    let user = {
        let state = shared.state();
        let by_token = token.and_then(|t| state.tokens.get(t));
        let known = by_token.or_else(|| shown.as_ref().and_then(|c| state.certificates.get(c))).cloned();
        // TLS has looked at who signed it.
        let named = || shown.as_ref().filter(|_| state.by_name).and_then(|c| by_certificate(c));
        known.or_else(|| named().map(|user| user.name))
    };
    let fault = shared.fault();
    let note = |code: u16| {
        let user = user.clone().unwrap_or_default();
        let asked = Asked { at: Instant::now(), user, method: method.to_string(), path: path.clone(), code, body: body.clone() };
        shared.state().asked.push(asked);
    };
    match fault {
        Fault::Stall => {
            note(0);
            std::future::pending::<()>().await;
        }
        Fault::SlowHook(time) if method == Method::POST && path.ends_with("/pods") => tokio::time::sleep(time).await,
        Fault::SlowEvents(time) if path.contains("/events") => tokio::time::sleep(time).await,
        Fault::Code(code, after) => {
            note(code);
            let mut response = reply(code, &failure(code, "InternalError", "on command", &json!({})));
            if let Some(after) = after {
                response.headers_mut().insert(RETRY_AFTER, after.into());
            }
            return Ok(response);
        }
        Fault::Garbage => {
            note(200);
            return Ok(text(200, "<html>not an API server</html>"));
        }
        _ => {}
    }
    let Some(user) = user.clone() else {
        note(401);
        return Ok(reply(401, &failure(401, "Unauthorized", "Unauthorized", &Value::Null)));
    };
    let is_node = user.starts_with("system:node:");
    if let (Some(wanted), false) = (node::wanted(path.split('?').next().unwrap_or_default()), is_node) {
        let response = node::pass(&shared, head, upgrade, wanted).await;
        note(response.status().as_u16());
        return Ok(response);
    }
    let page = match node::metrics(&shared, &path).await {
        None => plain(&path),
        page => page,
    };
    let response = match page {
        Some(page) if !is_node => reply(200, &page),
        _ => {
            let header = |name| head.headers.get(name).and_then(|h| h.to_str().ok()).unwrap_or_default();
            route(&shared, &user, &method, &path, (header(CONTENT_TYPE), &body), header(ACCEPT).contains("as=Table"))
        }
    };
    note(response.status().as_u16());
    if fault == Fault::HalfBody {
        let (head, body) = response.into_parts();
        let half = body.into_data_stream().take(1).map(|part| {
            let part = part.unwrap();
            Ok(Frame::data(part.slice(..part.len() / 2)))
        });
        return Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(half.chain(futures_util::stream::pending())))));
    }
    Ok(response)
}

/// What kubectl asks before it asks anything.
fn plain(path: &str) -> Option<Value> {
    let resource = |name: &str, kind: &str, namespaced: bool, short: &[&str]| {
        let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
        json!({"name": name, "singularName": kind.to_lowercase(), "kind": kind, "namespaced": namespaced, "verbs": verbs, "shortNames": short})
    };
    let list = |version: &str, resources: Value| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources});
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let mut metrics = group("metrics.k8s.io");
    metrics["versions"] = json!([{"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"}]);
    metrics["preferredVersion"] = metrics["versions"][0].clone();
    let groups = [group("coordination.k8s.io"), group("certificates.k8s.io"), metrics];
    Some(match path.split('?').next()? {
        "/version" => json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
        "/api/v1" => list(
            "v1",
            json!([
                resource("pods", "Pod", true, &["po"]),
                resource("nodes", "Node", false, &["no"]),
                resource("namespaces", "Namespace", false, &["ns"]),
                resource("events", "Event", true, &["ev"]),
            ]),
        ),
        "/apis/metrics.k8s.io/v1beta1" => {
            list("metrics.k8s.io/v1beta1", json!([resource("nodes", "NodeMetrics", false, &[]), resource("pods", "PodMetrics", true, &[])]))
        }
        "/apis/coordination.k8s.io/v1" => list("coordination.k8s.io/v1", json!([resource("leases", "Lease", true, &[])])),
        "/apis/certificates.k8s.io/v1" => list(
            "certificates.k8s.io/v1",
            json!([
                resource(csr::RESOURCE, "CertificateSigningRequest", false, &["csr"]),
                {"name": format!("{}/approval", csr::RESOURCE), "kind": "CertificateSigningRequest", "namespaced": false, "verbs": ["get", "patch", "update"]},
            ]),
        ),
        _ => return None,
    })
}

pub fn kind(resource: &str) -> &'static str {
    match resource {
        "pods" => "Pod",
        "nodes" => "Node",
        "namespaces" => "Namespace",
        "events" => "Event",
        "leases" => "Lease",
        csr::RESOURCE => "CertificateSigningRequest",
        _ => "Unknown",
    }
}

fn route(shared: &Arc<Shared>, user: &str, method: &Method, path: &str, (content, body): (&str, &Value), tabular: bool) -> Response<Body> {
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    let param = |key: &str| query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('=')).map(decoded).unwrap_or_default();
    let Some(mut r) = request(user, bare) else {
        let message = format!("forbidden: User \"{user}\" cannot {} path \"{bare}\"", method.as_str().to_lowercase());
        return reply(403, &failure(403, "Forbidden", &message, &json!({})));
    };
    r.selector = param("fieldSelector");
    let watching = matches!(param("watch").as_str(), "true" | "1");
    r.verb = match (method.as_str(), r.name.is_empty()) {
        ("GET", true) if watching => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => "delete",
    };
    if r.verb == "create" {
        r.name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    }
    if let Err(refusal) = admit::authorize(&r) {
        return refused(&refusal);
    }
    // kubectl is not what is tried here.
    if r.node().is_some()
        && let Err(refusal) = strict::body(&r, content, body)
    {
        return refused(&refusal);
    }
    if watching {
        let seconds = param("timeoutSeconds").parse().unwrap_or(1800);
        let watch = Watch {
            shared: shared.clone(),
            resource: r.resource,
            namespace: r.namespace,
            selector: r.selector,
            from: param("resourceVersion").parse().unwrap_or(0),
            bookmarks: param("allowWatchBookmarks") == "true",
            until: Instant::now() + Duration::from_secs(seconds),
        };
        let body = BodyExt::boxed(StreamBody::new(Box::pin(watch.stream())));
        return Response::builder().header(CONTENT_TYPE, "application/json").body(body).unwrap();
    }
    if let Some(reviewed) = review(&shared.state(), &r, body) {
        return reply(201, &reviewed);
    }
    let mut state = shared.state();
    let done = act(shared, &mut state, &r, body);
    drop(state);
    shared.stir();
    match done {
        Ok((code, object)) if tabular && r.verb == "list" => {
            reply(code, &table(&r.resource, object["items"].as_array().unwrap(), &object["metadata"]["resourceVersion"]))
        }
        Ok((code, object)) if tabular && r.verb == "get" => {
            reply(code, &table(&r.resource, std::slice::from_ref(&object), &object["metadata"]["resourceVersion"]))
        }
        Ok((code, object)) => reply(code, &object),
        Err(refusal) => refused(&refusal),
    }
}

/// Whose a token is, and what somebody may do at nodes.
fn review(state: &State, r: &Request, body: &Value) -> Option<Value> {
    let (spec, mut answer) = (&body["spec"], body.clone());
    answer["status"] = match r.resource.as_str() {
        "tokenreviews" => match state.tokens.get(spec["token"].as_str()?) {
            Some(user) => json!({"authenticated": true, "user": {"username": user, "groups": ["system:authenticated"]}}),
            None => json!({"user": {}, "error": "[invalid bearer token]"}),
        },
        "subjectaccessreviews" => {
            let asked = &spec["resourceAttributes"];
            let what = [&spec["user"], &asked["verb"], &asked["subresource"]].map(|v| v.as_str().unwrap_or_default().to_owned());
            let own = spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|g| g == node::CLIENT.1));
            json!({"allowed": asked["resource"] == "nodes" && (own || state.grants.contains(&what))})
        }
        _ => return None,
    };
    Some(answer)
}

fn act(shared: &Shared, state: &mut State, r: &Request, body: &Value) -> Result<(u16, Value), Refusal> {
    let (resource, namespace) = (r.resource.as_str(), r.namespace.as_str());
    let old = state.store.get(resource, namespace, &r.name).cloned();
    match r.verb {
        "list" => {
            let of = |key: &super::store::Key| key.0 == resource && (namespace.is_empty() || key.1 == namespace);
            let items: Vec<Value> =
                state.store.objects.iter().filter(|(key, o)| of(key) && selects(&r.selector, o)).map(|(_, o)| o.clone()).collect();
            let version = state.store.rv().to_string();
            Ok((
                200,
                json!({"kind": format!("{}List", kind(resource)), "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
            ))
        }
        "get" => old.map(|o| (200, o)).ok_or_else(|| r.not_found()),
        "create" => {
            let mut new = body.clone();
            admit::admit(&state.store, r, None, Some(&new))?;
            if old.is_some() {
                return Err(r.refuse(409, "AlreadyExists", format!("{} \"{}\" already exists", r.qualified(), r.name)));
            }
            if resource == "pods" {
                if let Some(webhook) = &mut state.webhook {
                    webhook(&mut new).map_err(|(code, reason, message)| r.refuse(code, reason, message))?;
                }
                admit::complete(&mut new);
            }
            strict::object(r, None, &new)?;
            if resource == "nodes" {
                let taints = new["spec"].as_object_mut().unwrap().entry("taints").or_insert(json!([]));
                taints.as_array_mut().unwrap().push(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
                let port = new["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(0);
                new["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": port}});
            }
            if resource == csr::RESOURCE {
                csr::complete(&r.user, &mut new);
            }
            let made = state.store.create(resource, namespace, new);
            if resource == csr::RESOURCE
                && let Some(life) = state.approves
            {
                csr::decide(shared, state, &r.name, Ok(life));
            }
            Ok((201, made))
        }
        "delete" => {
            let Some(old) = old else { return Err(r.not_found()) };
            admit::admit(&state.store, r, Some(&old), None)?;
            let (uid, wanted) = (&old["metadata"]["uid"], &body["preconditions"]["uid"]);
            if !wanted.is_null() && wanted != uid {
                let (wanted, uid) = (wanted.as_str().unwrap(), uid.as_str().unwrap());
                let message = format!(
                    "Operation cannot be fulfilled on {} \"{}\": the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated",
                    kind(resource),
                    r.name
                );
                return Err(Refusal { code: 409, reason: "Conflict", message, details: json!({"name": r.name, "kind": kind(resource)}) });
            }
            // Finalizers are somebody's to take away.
            if old["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
                let mut dying = old;
                dying["metadata"]["deletionTimestamp"] = json!(super::store::now());
                dying["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                let same = state.store.get(resource, namespace, &r.name).is_some_and(|o| o["metadata"]["deletionGracePeriodSeconds"] == 0);
                return Ok((200, if same { dying } else { state.store.update(resource, namespace, dying) }));
            }
            // A pod on a node waits for its node to let it go, unless it is told not to.
            let grace = body["gracePeriodSeconds"].as_i64().or(old["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
            let waits = resource == "pods" && grace > 0 && old["spec"]["nodeName"].is_string();
            if waits {
                let mut dying = old;
                dying["metadata"]["deletionTimestamp"] = json!(super::store::now());
                dying["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
                return Ok((200, state.store.update(resource, namespace, dying)));
            }
            Ok((200, state.store.delete(resource, namespace, &r.name).unwrap()))
        }
        _ => {
            let Some(old) = old else {
                // A Lease may be made by an update, and this one is to be another.
                if let ("leases", Some(uid)) = (resource, body["metadata"]["uid"].as_str()) {
                    let message = format!(
                        "Operation cannot be fulfilled on {} \"{}\": StorageError: invalid object, Code: 4, Key: /registry/leases/{namespace}/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: ",
                        r.qualified(),
                        r.name,
                        r.name
                    );
                    return Err(r.refuse(409, "Conflict", message));
                }
                return Err(r.not_found());
            };
            let mut new = old.clone();
            if r.verb == "update" {
                new = body.clone();
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
                    let message = format!(
                        "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the latest version and try again",
                        r.qualified(),
                        r.name
                    );
                    return Err(r.refuse(409, "Conflict", message));
                }
            } else {
                merge::strategic(&mut new, body);
            }
            if new["metadata"]["uid"] != old["metadata"]["uid"] && !new["metadata"]["uid"].is_null() {
                let text = format!("Invalid value: {}: field is immutable", new["metadata"]["uid"]);
                return Err(admit::invalid(r, "metadata.uid", "FieldValueInvalid", &text, 2));
            }
            admit::admit(&state.store, r, Some(&old), Some(&new))?;
            for fixed in ["uid", "creationTimestamp", "name", "namespace"] {
                if !old["metadata"][fixed].is_null() {
                    new["metadata"][fixed] = old["metadata"][fixed].clone();
                }
            }
            if r.sub == "approval" {
                csr::decided(shared, state, &r.name, &new["status"]["conditions"]);
                return Ok((200, state.store.get(resource, namespace, &r.name).cloned().unwrap()));
            }
            // A subresource changes its part only.
            if r.sub == "status" {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            strict::object(r, Some(&old), &new)?;
            // What changes nothing makes no new version.
            if new == old { Ok((200, old)) } else { Ok((200, state.store.update(resource, namespace, new))) }
        }
    }
}

fn request(user: &str, path: &str) -> Option<Request> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, "v1", rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", ns, rest @ ..] if !rest.is_empty() => (*ns, rest),
        rest => ("", rest),
    };
    let part = |i: usize| rest.get(i).map(|p| decoded(p)).unwrap_or_default();
    (!rest.is_empty()).then(|| Request {
        user: user.into(),
        group: group.into(),
        namespace: namespace.into(),
        resource: part(0),
        name: part(1),
        sub: part(2),
        ..Request::default()
    })
}

fn decoded(text: &str) -> String {
    text.replace("%3D", "=").replace("%2C", ",").replace("%21", "!")
}

fn refused(r: &Refusal) -> Response<Body> {
    reply(r.code, &failure(r.code, r.reason, &r.message, &r.details))
}

pub fn failure(code: u16, reason: &str, message: &str, details: &Value) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": details, "code": code});
    if details.is_null() {
        status.as_object_mut().unwrap().remove("details");
    }
    status
}

pub fn reply(code: u16, object: &Value) -> Response<Body> {
    text(code, &object.to_string())
}

fn text(code: u16, body: &str) -> Response<Body> {
    let body = BodyExt::boxed(Full::new(Bytes::from(body.to_owned())));
    Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body).unwrap()
}
