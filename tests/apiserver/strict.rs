//! What a kube-apiserver refuses of a node's requests beside who may do what: bodies of another kind or with fields that nobody knows,
//! times of another form, statuses that cannot follow on each other (`apis/core/validation`, 1.36). Fields nobody knows only get a warning
//! there; here they are an error, since they are one of ours.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admit::{Refusal, Request, invalid};

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A body, before anything looks at what it says.
pub fn body(r: &Request, kind: &str, body: &Value) -> Result<(), Refusal> {
    let fits = match r.verb {
        "patch" => PATCHES.contains(&kind),
        "create" | "update" => kind == "application/json",
        _ => true,
    };
    if !fits {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {}", PATCHES.join(", "));
        return Err(Refusal { code: 415, reason: "UnsupportedMediaType", message, details: json!({}) });
    }
    if r.verb == "update" && body["metadata"]["name"] != r.name.as_str() {
        let message = format!("the name of the object ({}) does not match the name on the URL ({})", body["metadata"]["name"], r.name);
        return Err(r.refuse(400, "BadRequest", message));
    }
    if !matches!(r.verb, "create" | "update" | "patch") {
        return Ok(());
    }
    let unknown = match r.resource.as_str() {
        "pods" => lost::<Pod>(body),
        "nodes" => lost::<Node>(body),
        "leases" => lost::<Lease>(body),
        "events" => lost::<Event>(body),
        super::csr::RESOURCE => lost::<CertificateSigningRequest>(body),
        _ => Ok(None),
    };
    match unknown {
        Ok(None) => Ok(()),
        Ok(Some(field)) => Err(r.refuse(400, "BadRequest", format!("strict decoding error: unknown field \"{field}\""))),
        Err(e) => Err(r.refuse(400, "BadRequest", e)),
    }
}

/// A field that is no part of its type.
fn lost<T: DeserializeOwned + Serialize>(body: &Value) -> Result<Option<String>, String> {
    let mut plain = body.clone();
    undirected(&mut plain);
    let kept = serde_json::from_value::<T>(plain.clone()).and_then(serde_json::to_value).map_err(|e| e.to_string())?;
    Ok(missing(&plain, &kept, String::new()))
}

/// Without the directives of a patch.
fn undirected(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !key.starts_with('$') && !value.is_null());
            map.values_mut().for_each(undirected);
        }
        Value::Array(items) => {
            items.retain(|item| item.get("$patch").is_none());
            items.iter_mut().for_each(undirected);
        }
        _ => {}
    }
}

fn missing(said: &Value, kept: &Value, at: String) -> Option<String> {
    match (said, kept) {
        (Value::Object(said), kept) => said.iter().find_map(|(key, said)| {
            let at = format!("{at}.{key}");
            match kept.get(key) {
                Some(kept) => missing(said, kept, at),
                None if said.as_array().is_some_and(Vec::is_empty) || said.as_object().is_some_and(serde_json::Map::is_empty) => None,
                None => Some(at),
            }
        }),
        (Value::Array(said), Value::Array(kept)) if said.len() == kept.len() => {
            said.iter().zip(kept).enumerate().find_map(|(i, (said, kept))| missing(said, kept, format!("{at}[{i}]")))
        }
        (Value::Array(_), _) => Some(at),
        _ => None,
    }
}

/// What would be stored.
pub fn object(r: &Request, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    match (r.resource.as_str(), r.sub.as_str()) {
        ("leases", _) => lease(r, new),
        ("events", _) => event(r, new),
        ("nodes", _) => addresses(r, new),
        ("pods", "status") => status(r, old.unwrap(), new),
        _ => Ok(()),
    }
}

fn lease(r: &Request, lease: &Value) -> Result<(), Refusal> {
    let times = ["renewTime", "acquireTime"].map(|key| lease["spec"][key].as_str());
    if let Some(time) = times.into_iter().flatten().find(|t| t.len() != 27 || &t[19..20] != "." || !t.ends_with('Z')) {
        let message = format!(
            "Lease in version \"v1\" cannot be handled as a Lease: parsing time \"{time}\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse"
        );
        return Err(r.refuse(400, "BadRequest", message));
    }
    let version = &lease["metadata"]["resourceVersion"];
    if r.verb == "update" && version.as_str().is_none_or(str::is_empty) {
        return Err(invalid(r, "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0: must be specified for an update", 1));
    }
    match lease["spec"]["leaseDurationSeconds"].as_i64() {
        Some(seconds) if seconds <= 0 => {
            Err(invalid(r, "spec.leaseDurationSeconds", "FieldValueInvalid", "Invalid value: must be greater than 0", 1))
        }
        _ => Ok(()),
    }
}

fn event(r: &Request, event: &Value) -> Result<(), Refusal> {
    let wrong = |field: &str, text: &str| Err(invalid(r, field, "FieldValueInvalid", text, 1));
    let of = &event["involvedObject"];
    let namespaced = of["kind"] != "Node";
    match of["namespace"].as_str().unwrap_or_default() {
        "" if namespaced => return wrong("involvedObject.namespace", "Required value: required for kind Pod"),
        "" if r.namespace != "default" => return wrong("namespace", "Invalid value: not allowed in this namespace"),
        "" => {}
        ns if ns != r.namespace => return wrong("involvedObject.namespace", "Invalid value: does not match event.namespace"),
        _ => {}
    }
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_name) {
        return wrong("metadata.name", "Invalid value: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters");
    }
    Ok(())
}

fn addresses(r: &Request, node: &Value) -> Result<(), Refusal> {
    let all = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let twice = all.iter().enumerate().find(|(i, a)| all[..*i].contains(a));
    twice.map_or(Ok(()), |(i, _)| Err(invalid(r, &format!("status.addresses[{i}]"), "FieldValueDuplicate", "Duplicate value", 1)))
}

/// `ValidatePodStatusUpdate`.
fn status(r: &Request, old: &Value, new: &Value) -> Result<(), Refusal> {
    let (was, is) = (&old["status"], &new["status"]);
    let wrong = |field: &str, text: &str| Err(invalid(r, field, "FieldValueInvalid", &format!("Invalid value: {text}"), 1));
    if !was["qosClass"].is_null() && is["qosClass"] != was["qosClass"] {
        return wrong("status.qosClass", "field is immutable");
    }
    if !is["hostIPs"][0].is_null() && is["hostIPs"][0]["ip"] != is["hostIP"] {
        return wrong("status.hostIPs[0].ip", "must be equal to `hostIP`");
    }
    for field in ["hostIPs", "podIPs"] {
        let ips = is[field].as_array().into_iter().flatten().map(|ip| ip["ip"].as_str().unwrap_or_default());
        let v6 = ips.map(|ip| ip.contains(':')).collect::<Vec<_>>();
        if v6.len() > 2 || v6.len() == 2 && v6[0] == v6[1] {
            return wrong(&format!("status.{field}"), "may specify no more than one IP for each IP family");
        }
    }
    for (statuses, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        for (i, before) in was[statuses].as_array().into_iter().flatten().enumerate() {
            let named = |list: &Value| list.as_array().and_then(|all| all.iter().find(|c| c["name"] == before["name"])).cloned();
            let (Some(code), Some(now)) = (before["state"]["terminated"]["exitCode"].as_i64(), named(&is[statuses])) else { continue };
            let container = named(&old["spec"][containers]).unwrap_or_default();
            if now["state"]["terminated"].is_null() && !restarts(&container, &old["spec"], code) {
                let field = format!("status.{statuses}[{i}].state");
                let text = "Forbidden: may not be transitioned to non-terminated state";
                return Err(invalid(r, &field, "FieldValueForbidden", text, 1));
            }
        }
    }
    Ok(())
}

/// `ContainerShouldRestart`.
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let named = |rule: &&Value| {
        let hit = rule["exitCodes"]["values"].as_array().is_some_and(|v| v.iter().any(|v| *v == code));
        hit == (rule["exitCodes"]["operator"] == "In")
    };
    let rule = container["restartPolicyRules"].as_array().and_then(|rules| rules.iter().find(named));
    let policy = container["restartPolicy"].as_str().or(spec["restartPolicy"].as_str()).unwrap_or("Always");
    rule.is_some_and(|rule| rule["action"] == "Restart") || policy == "Always" || policy == "OnFailure" && code != 0
}
