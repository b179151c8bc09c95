//! The test API server answers every recorded request as a kube-apiserver 1.36.2 did: with its code, and its words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, reason = "test names are sentences")]

mod apiserver;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use apiserver::ApiServer;
use serde_json::{Value, json};

const RULES: &str = include_str!("apiserver/rules.jsonl");

/// curl speaks for the node: nobody here wrote it.
fn ask(server: &ApiServer, dir: &std::path::Path, method: &str, path: &str, kind: &str, body: Option<&str>) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sk", "-X", method, "-w", "\n%{http_code}", "-H", "Authorization: Bearer node"]);
    curl.arg("-H").arg(format!("Content-Type: {kind}")).arg(format!("https://{}{path}", server.addr));
    if let Some(body) = body {
        std::fs::write(dir.join("body"), body).unwrap();
        curl.arg("--data-binary").arg(format!("@{}", dir.join("body").display()));
    }
    let out = curl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// What a server decides for itself differs from run to run.
fn plain(mut v: Value) -> Value {
    for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
        v["metadata"].as_object_mut().map(|m| m.remove(key));
    }
    v
}

/// The recorded answer is in the given one: zero values that the server writes out do not count.
fn holds(recorded: &Value, given: &Value) -> bool {
    match (recorded, given) {
        (Value::Object(r), _) => r.iter().all(|(k, v)| holds(v, &given[k])),
        (Value::Array(r), Value::Array(g)) => r.len() == g.len() && r.iter().zip(g).all(|(r, g)| holds(r, g)),
        (Value::Null, Value::Null) => true,
        (r, g) => r == g,
    }
}

#[test]
fn every_recorded_request_is_answered_as_recorded() {
    let server = ApiServer::start();
    server.token("node", Some("system:node:node1"));
    let dir = std::env::temp_dir().join(format!("plinth-rules-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    server.put("pods", "default", json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "plain"}, "spec": {"containers": []}}));
    server.put(
        "pods",
        "default",
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p1-node1"}, "spec": {"nodeName": "node1"}}),
    );
    // Names the recording server gave out, and ours for the same things.
    let mut ours: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in RULES.lines() {
        let mut rule: Value = serde_json::from_str(line).unwrap();
        let case = rule["case"].as_str().unwrap().to_owned();
        let mut request = rule["request"].take().to_string();
        // An administrator made room for the next one while this was recorded.
        if case == "node-create" {
            server.delete("nodes", "", "node1");
        }
        ours.iter().for_each(|(theirs, mine)| request = request.replace(theirs.as_str(), mine));
        let body = Some(request.as_str()).filter(|r| *r != "null");
        let (method, path) = (rule["method"].as_str().unwrap(), rule["path"].as_str().unwrap());
        let (code, text) = ask(&server, &dir, method, path, rule["content_type"].as_str().unwrap(), body);
        if rule["code"] != code {
            wrong.push(format!("{case}: {code} for {}: {text}", rule["code"]));
            continue;
        }
        if let Some(watched) = rule["response"].as_str() {
            let kinds = |text: &str| text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["type"].clone()).next();
            assert_eq!(kinds(&text), kinds(watched), "{case}: {text}");
            continue;
        }
        let mut recorded = rule["response"].take();
        if recorded.is_null() {
            continue;
        }
        let given: Value = serde_json::from_str(&text).unwrap();
        for field in ["uid", "resourceVersion"] {
            if let (Some(theirs), Some(mine)) = (recorded["metadata"][field].as_str(), given["metadata"][field].as_str()) {
                let quoted = |s: &str| if field == "uid" { s.to_owned() } else { format!("\"{s}\"") };
                ours.insert(quoted(theirs), quoted(mine));
            }
        }
        let mut text = recorded.to_string();
        ours.iter().for_each(|(theirs, mine)| text = text.replace(theirs.as_str(), mine));
        recorded = serde_json::from_str(&text).unwrap();
        let (recorded, given) = (plain(recorded), plain(given));
        let same = if code >= 400 { recorded == given } else { holds(&recorded, &given) };
        if !same {
            wrong.push(format!("{case}:\n  recorded {recorded}\n  given    {given}"));
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
