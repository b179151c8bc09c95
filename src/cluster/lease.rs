//! The node's Lease: renewed four times in its duration, whatever the Node object is like, as the kubelet does it.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::error::{Error, Result};
use super::retry::Retry;
use super::{Cluster, LEASE};
use crate::clock;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Renews for ever.
pub async fn renew(cluster: &Cluster) {
    let settings = &cluster.settings;
    let period = Duration::from_secs(u64::from(settings.node_lease_s)) / 4;
    let mut held: Option<Value> = None;
    let mut newest = 0;
    let mut refused = Retry::default();
    loop {
        cluster.link.up().await;
        match once(cluster, held.take()).await {
            Ok(lease) => {
                let now = version(&lease);
                if now < newest {
                    cluster.link.rewound();
                }
                (held, newest) = (Some(lease), now);
                refused.succeed();
                cluster.refused(LEASE, None);
                // A little early, so that a fleet does not renew as one.
                tokio::time::sleep(clock::jitter(period, clock::now().mono)).await;
            }
            Err(e) if e.is_general() => {}
            Err(e) => {
                let now = clock::now().mono;
                cluster.refused(LEASE, Some(&e.to_string()));
                refused.fail(e.to_string(), Duration::ZERO, now);
                tokio::time::sleep(refused.due - now).await;
            }
        }
    }
}

fn version(lease: &Value) -> u64 {
    lease.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// One renewal of the Lease as it was last held; it is read where somebody else wrote it, and made if there is none.
async fn once(cluster: &Cluster, mut held: Option<Value>) -> Result<Value> {
    let (link, path) = (&cluster.link, format!("{PATH}/{}", cluster.settings.node_name));
    loop {
        let known = held.is_some();
        let lease = match held.take() {
            Some(lease) => lease,
            None => match link.ask(Method::GET, &path, "application/json", None).await {
                Err(e) if e.code() == Some(404) => {
                    return link.ask(Method::POST, PATH, "application/json", Some(&filled(json!({}), cluster))).await;
                }
                found => found?,
            },
        };
        match link.ask(Method::PUT, &path, "application/json", Some(&filled(lease, cluster))).await {
            Err(Error::Refused { code: 404 | 409, .. }) if known => {}
            done => return done,
        }
    }
}

fn filled(mut lease: Value, cluster: &Cluster) -> Value {
    let (name, now) = (&cluster.settings.node_name, clock::now().wall);
    let mut text = String::new();
    let _ = now.write_nanos(&mut text);
    // MicroTime: six digits of the nine.
    let micros = text.get(..26).map(|t| format!("{t}Z"));
    let mut metadata = lease.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(meta) = metadata.as_object_mut() {
        meta.remove("managedFields");
        meta.insert("name".into(), json!(name));
        meta.insert("namespace".into(), json!("kube-node-lease"));
        if let Some(uid) = cluster.node_uid() {
            meta.insert("ownerReferences".into(), json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]));
        }
    }
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": cluster.settings.node_lease_s, "renewTime": micros});
    if let Some(lease) = lease.as_object_mut() {
        lease.insert("apiVersion".into(), json!("coordination.k8s.io/v1"));
        lease.insert("kind".into(), json!("Lease"));
        lease.insert("metadata".into(), metadata);
        lease.insert("spec".into(), spec);
    }
    lease
}
