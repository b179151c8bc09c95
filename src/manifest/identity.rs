//! Who a pod is: suffix, namespace, node, UID, and the annotations the kubelet puts on a static pod.
//!
//! The UID is a hash of what the manifest means, never of its path, its comments or our version: renaming a file or upgrading
//! restarts nothing. When a pod was first seen is the caller's to say (`stamp_seen`), so that reading a file twice gives equal pods.

use std::rc::Rc;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Wall;
use crate::hex::hex;
use crate::pod::WantedPod;

/// The pod's hash; here its UID.
pub const HASH: &str = "kubernetes.io/config.hash";
/// `file`, `http` or `api`.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// When the kubelet first saw it.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// Marks a mirror pod, which a node never runs.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where a manifest came from, in the kubelet's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// A file of a layer.
    #[default]
    File,
    /// A URL.
    Http,
}

/// Gives a defaulted pod its full name, its namespace and its node.
pub fn name(pod: &mut Pod, node_name: &str) {
    let node = node_name.to_lowercase();
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{}-{node}", meta.name.as_deref().unwrap_or_default()));
    meta.namespace = Some(meta.namespace.take().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into()));
    pod.spec.get_or_insert_default().node_name = Some(node);
}

/// Gives a named pod its UID, annotations, toleration and status, in the kubelet's way.
pub fn stamp(pod: &mut Pod, source: Source) {
    let meta = &mut pod.metadata;
    meta.uid = None;
    for own in [HASH, SOURCE, SEEN] {
        meta.annotations.as_mut().map(|a| a.remove(own));
    }
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    let uid = content_hash(pod);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid.clone());
    annotations.insert(SOURCE.into(), if source == Source::File { "file" } else { "http" }.into());
    pod.metadata.uid = Some(uid);
    if source == Source::File {
        tolerate_no_execute(pod);
    }
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus { phase: Some("Pending".into()), ..status });
}

/// Marks when a pod was first seen; a changed manifest is another pod and gets another mark.
pub fn stamp_seen(pod: &mut WantedPod, seen: Wall) {
    let mut text = String::new();
    if seen.write_nanos(&mut text).is_ok() {
        Rc::make_mut(&mut pod.object).metadata.annotations.get_or_insert_default().insert(SEEN.into(), text);
    }
}

/// A file's pods are not evicted by NoExecute taints. URL pods do not get this from the kubelet.
fn tolerate_no_execute(pod: &mut Pod) {
    let ours = Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    match tolerations.iter_mut().find(|t| Toleration { toleration_seconds: None, ..(*t).clone() } == ours) {
        Some(same) => *same = ours,
        None => tolerations.push(ours),
    }
}

/// 32 hex digits of SHA-256 over the canonical object: defaults applied, name, namespace and node in it, keys sorted.
fn content_hash(pod: &Pod) -> String {
    let mut sink = Sink(Sha256::new());
    if let Ok(value) = serde_json::to_value(pod) {
        write_sorted(&value, &mut sink);
    }
    hex(sink.0.finalize().iter().take(16))
}

struct Sink(Sha256);

impl Sink {
    /// A part with its length before it, so that no two objects run together.
    fn put(&mut self, tag: u8, bytes: &[u8]) {
        self.0.update([tag]);
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

fn write_sorted(value: &Value, sink: &mut Sink) {
    match value {
        Value::Null => sink.put(b'0', b""),
        Value::Bool(b) => sink.put(b'b', &[u8::from(*b)]),
        Value::Number(n) => sink.put(b'n', n.to_string().as_bytes()),
        Value::String(s) => sink.put(b's', s.as_bytes()),
        Value::Array(items) => {
            sink.put(b'[', &(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write_sorted(item, sink));
        }
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            sink.put(b'{', &(keys.len() as u64).to_le_bytes());
            for (key, value) in keys {
                sink.put(b'k', key.as_bytes());
                write_sorted(value, sink);
            }
        }
    }
}
