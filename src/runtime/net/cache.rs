//! What was added to which network, one file an attachment in libcni's format and place, with the configuration used at ADD.
//!
//! Written (without a result) before the first plugin runs, so a crash in between is found. Only files whose container is a pod
//! of ours are read or removed: the directory may be shared with another runtime.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::sandbox::is_uid;
use super::{INTERFACE, NetError};
use crate::pod::{Uid, WantedPod};

/// One pod on one network.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// CNI's container id: the pod's uid.
    pub id: String,
    /// The network's name.
    pub network: String,
    /// The pinned namespace.
    pub netns: String,
    /// The list as it was at ADD.
    pub config: Value,
    /// What was there for plugins that ask (`runtimeConfig`).
    pub capabilities: Map<String, Value>,
    /// The final result; `None`: ADD did not finish.
    pub result: Option<Value>,
    args: Vec<(String, String)>,
}

impl Attachment {
    /// One that is about to be made.
    pub fn new(list: &Value, pod: &WantedPod, netns: &Path, capabilities: Map<String, Value>) -> Attachment {
        let mut made = Attachment { netns: netns.to_string_lossy().into_owned(), capabilities, ..Attachment::of_uid(list, &pod.uid) };
        let names = [("K8S_POD_NAMESPACE", &*pod.key.namespace), ("K8S_POD_NAME", &*pod.key.name)];
        made.args.extend(names.map(|(k, v)| (k.to_owned(), v.to_owned())));
        made
    }

    /// One of which only the pod is known.
    pub fn of_uid(list: &Value, uid: &Uid) -> Attachment {
        let args = [("IgnoreUnknown", "1"), ("K8S_POD_INFRA_CONTAINER_ID", &*uid.0), ("K8S_POD_UID", &*uid.0)];
        let args = args.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        Attachment { id: uid.to_string(), args, ..Attachment::of_list(list) }
    }

    /// The network alone, for what concerns no pod.
    pub fn of_list(list: &Value) -> Attachment {
        let network = list.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (id, netns) = (String::new(), String::new());
        Attachment { id, network, netns, config: list.clone(), capabilities: Map::new(), result: None, args: Vec::new() }
    }

    /// The plugins, in order.
    pub fn plugins(&self) -> Result<Vec<Value>, NetError> {
        let listed = self.config.get("plugins").and_then(Value::as_array).cloned();
        listed.ok_or_else(|| NetError::BadConfig { path: self.file(Path::new("")), why: "`plugins` is missing".into() })
    }

    /// `CNI_ARGS`.
    pub fn args(&self) -> String {
        self.args.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(";")
    }

    fn file(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}-{INTERFACE}", self.network, self.id))
    }

    /// Writes it down, whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<(), NetError> {
        let mut all = json!({
            "kind": "cniCacheV1",
            "containerId": self.id,
            "config": base64(self.config.to_string().as_bytes()),
            "ifName": INTERFACE,
            "networkName": self.network,
            "netns": self.netns,
            "cniArgs": self.args,
            "capabilityArgs": self.capabilities,
        });
        if let (Some(result), Some(map)) = (&self.result, all.as_object_mut()) {
            map.insert("result".into(), result.clone());
        }
        let path = self.file(dir);
        let part = dir.join(format!(".{}.part", self.id));
        let written =
            std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&part, all.to_string())).and_then(|()| std::fs::rename(&part, &path));
        written.map_err(|source| NetError::File { verb: "write CNI cache", path, source })
    }

    /// Removes the record.
    pub fn forget(&self, dir: &Path) -> Result<(), NetError> {
        let path = self.file(dir);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(NetError::File { verb: "remove CNI cache", path, source }),
            _ => Ok(()),
        }
    }

    fn read(path: &Path) -> Option<Attachment> {
        let all: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let text = |key| all.get(key).and_then(Value::as_str).map(str::to_owned);
        let args: Vec<(String, String)> = serde_json::from_value(all.get("cniArgs")?.clone()).ok()?;
        let id = text("containerId")?;
        // containerd's own sandboxes have an id that is not the pod's uid.
        let ours = args.iter().any(|(k, v)| k == "K8S_POD_UID" && *v == id);
        ours.then_some(Attachment {
            id,
            network: text("networkName")?,
            netns: text("netns")?,
            config: serde_json::from_slice(&unbase64(&text("config")?)?).ok()?,
            capabilities: all.get("capabilityArgs").and_then(Value::as_object).cloned().unwrap_or_default(),
            result: all.get("result").cloned(),
            args,
        })
    }
}

/// The attachments of one pod.
pub fn of(dir: &Path, uid: &Uid) -> Vec<Attachment> {
    files(dir).into_iter().filter(|(_, owner)| owner == uid).filter_map(|(path, _)| Attachment::read(&path)).collect()
}

/// Records of the pod that are no JSON: cut short by a power loss.
pub fn broken(dir: &Path, uid: &Uid) -> Vec<PathBuf> {
    let own = files(dir).into_iter().filter(|(_, owner)| owner == uid).map(|(path, _)| path);
    own.filter(|p| std::fs::read(p).is_ok_and(|b| serde_json::from_slice::<Value>(&b).is_err())).collect()
}

/// The pods that hold an attachment.
pub fn scan(dir: &Path) -> BTreeSet<Uid> {
    files(dir).into_iter().filter(|(path, _)| Attachment::read(path).is_some()).map(|(_, uid)| uid).collect()
}

/// Whether the pod holds one, by names alone.
pub fn holds(dir: &Path, uid: &Uid) -> bool {
    files(dir).iter().any(|(_, owner)| owner == uid)
}

/// `<network>-<uid>-eth0`, the uid being what makes it one of ours.
fn files(dir: &Path) -> Vec<(PathBuf, Uid)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let uid = |name: &str| {
        let uid = name.strip_suffix(INTERFACE)?.strip_suffix('-')?.rsplit('-').next()?;
        is_uid(uid).then(|| Uid(uid.into()))
    };
    entries.filter_map(|e| Some((e.path(), uid(e.file_name().to_str()?)?))).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 with padding, as Go's JSON writes bytes.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0usize, |n, at| n << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = ALPHABET.get(group >> (18 - 6 * at) & 63).copied().unwrap_or(b'=');
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0u32);
    for b in text.trim_end_matches('=').bytes() {
        let digit = u32::try_from(ALPHABET.iter().position(|a| *a == b)?).ok()?;
        bits = bits << 6 | digit;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 255).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn base64_is_gos() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("\u{ff}?>", "w78/Pg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(unbase64("a b"), None);
    }

    #[test]
    fn an_attachment_is_found_again_and_a_foreign_one_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("pltest-cache-{}", std::process::id()));
        let uid = Uid("0123456789abcdef0123456789abcdef".into());
        let args = vec![("K8S_POD_UID".to_owned(), uid.to_string())];
        let list = json!({ "name": "a-b", "plugins": [{ "type": "bridge" }] });
        let mut made = Attachment { id: uid.to_string(), netns: "/n".into(), args, ..Attachment::of_list(&list) };
        made.save(&dir).unwrap();
        made.result = Some(json!({ "ips": [] }));
        made.save(&dir).unwrap();
        assert_eq!(of(&dir, &uid), [made.clone()]);
        let foreign = Attachment { id: "f".repeat(32), args: Vec::new(), ..made.clone() };
        foreign.save(&dir).unwrap();
        assert_eq!(scan(&dir), BTreeSet::from([uid]));
        made.forget(&dir).unwrap();
        made.forget(&dir).unwrap();
        assert!(scan(&dir).is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
