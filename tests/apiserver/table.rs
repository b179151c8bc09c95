//! What `kubectl get` prints, as a kube-apiserver makes it (`printers/internalversion`): a few columns of the kinds that are here.

use serde_json::{Value, json};

use super::csr;

/// The Table of some objects.
pub fn table(resource: &str, objects: &[Value], version: &Value) -> Value {
    let names: &[&str] = match resource {
        "nodes" => &["Name", "Status", "Roles", "Age", "Version"],
        "pods" => &["Name", "Ready", "Status", "Restarts", "Age"],
        "events" => &["Last Seen", "Type", "Reason", "Object", "Message"],
        csr::RESOURCE => &["Name", "Age", "SignerName", "Requestor", "Condition"],
        _ => &["Name", "Age"],
    };
    let columns: Vec<Value> =
        names.iter().map(|n| json!({"name": n, "type": "string", "format": "", "description": "", "priority": 0})).collect();
    let row = |o: &Value| {
        let mut object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]});
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        json!({"cells": cells(resource, o), "object": object})
    };
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version}, "columnDefinitions": columns, "rows": rows})
}

fn cells(resource: &str, o: &Value) -> Vec<Value> {
    let name = o["metadata"]["name"].clone();
    let age = json!(age(&o["metadata"]["creationTimestamp"]));
    match resource {
        "nodes" => {
            let ready = condition(o, "Ready");
            vec![
                name,
                json!(if ready { "Ready" } else { "NotReady" }),
                json!("<none>"),
                age,
                o["status"]["nodeInfo"]["kubeletVersion"].clone(),
            ]
        }
        "pods" => {
            let containers: Vec<&Value> = o["status"]["containerStatuses"].as_array().into_iter().flatten().collect();
            let ready = containers.iter().filter(|c| c["ready"] == true).count();
            let all = o["spec"]["containers"].as_array().map_or(0, Vec::len);
            let restarts: u64 = containers.iter().filter_map(|c| c["restartCount"].as_u64()).sum();
            let why = containers.iter().find_map(|c| c["state"]["waiting"]["reason"].as_str());
            let status =
                if o["metadata"]["deletionTimestamp"].is_null() { why.or(o["status"]["phase"].as_str()) } else { Some("Terminating") };
            vec![name, json!(format!("{ready}/{all}")), json!(status), json!(restarts), age]
        }
        "events" => {
            let of = &o["involvedObject"];
            let object = format!("{}/{}", of["kind"].as_str().unwrap_or_default().to_lowercase(), of["name"].as_str().unwrap_or_default());
            vec![json!(self::age(&o["lastTimestamp"])), o["type"].clone(), o["reason"].clone(), json!(object), o["message"].clone()]
        }
        csr::RESOURCE => {
            let decided = o["status"]["conditions"][0]["type"].as_str().unwrap_or("Pending");
            let issued = if o["status"]["certificate"].is_null() { "" } else { ",Issued" };
            vec![name, age, o["spec"]["signerName"].clone(), o["spec"]["username"].clone(), json!(format!("{decided}{issued}"))]
        }
        _ => vec![name, age],
    }
}

fn condition(o: &Value, kind: &str) -> bool {
    o["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}

/// As `duration.HumanDuration` has the first hours.
fn age(since: &Value) -> String {
    let then = since.as_str().and_then(plinth::clock::Wall::parse).map_or(0, plinth::clock::Wall::secs);
    match plinth::clock::now().wall.secs() - then {
        s @ ..120 => format!("{s}s"),
        s @ ..7200 => format!("{}m", s / 60),
        s => format!("{}h", s / 3600),
    }
}
