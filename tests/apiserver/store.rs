//! Objects with uids and resourceVersions, and the history a watch is served from.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Resource, namespace (empty for cluster scope), name.
pub type Key = (String, String, String);

/// One change, for watches.
#[derive(Clone, Debug)]
pub struct Change {
    pub rv: u64,
    pub kind: &'static str,
    pub resource: String,
    pub namespace: String,
    pub object: Value,
}

#[derive(Debug)]
pub struct Store {
    pub objects: BTreeMap<Key, Value>,
    pub history: Vec<Change>,
    /// Watches from an older version are answered with 410.
    pub compacted: u64,
    /// The version the last bookmark of a resource told.
    pub bookmarked: BTreeMap<String, u64>,
    rv: u64,
    uids: u64,
    seed: u64,
}

impl Store {
    pub fn new() -> Store {
        let seed = std::process::id().into();
        let mut store =
            Store { objects: BTreeMap::new(), history: Vec::new(), compacted: 0, bookmarked: BTreeMap::new(), rv: 100, uids: 0, seed };
        for ns in ["default", "kube-system", "kube-node-lease"] {
            store.create("namespaces", "", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": ns}}));
        }
        store
    }

    pub fn rv(&self) -> u64 {
        self.rv
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.into(), namespace.into(), name.into()))
    }

    /// A new object, with uid, version and time; what was there of that name is gone.
    pub fn create(&mut self, resource: &str, namespace: &str, mut object: Value) -> Value {
        self.uids += 1;
        let uid = format!("{:08x}-0000-4000-8000-{:012x}", self.seed, self.uids);
        let meta = &mut object["metadata"];
        meta["uid"] = json!(uid);
        meta["creationTimestamp"] = json!(now());
        if !namespace.is_empty() {
            meta["namespace"] = json!(namespace);
        }
        if resource == "pods" {
            meta["generation"] = json!(1);
        }
        self.put("ADDED", resource, namespace, object)
    }

    pub fn update(&mut self, resource: &str, namespace: &str, object: Value) -> Value {
        self.put("MODIFIED", resource, namespace, object)
    }

    pub fn delete(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&(resource.into(), namespace.into(), name.into()))?;
        self.rv += 1;
        object["metadata"]["resourceVersion"] = json!(self.rv.to_string());
        self.note("DELETED", resource, namespace, &object);
        Some(object)
    }

    fn put(&mut self, kind: &'static str, resource: &str, namespace: &str, mut object: Value) -> Value {
        self.rv += 1;
        object["metadata"]["resourceVersion"] = json!(self.rv.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.insert((resource.into(), namespace.into(), name), object.clone());
        self.note(kind, resource, namespace, &object);
        object
    }

    fn note(&mut self, kind: &'static str, resource: &str, namespace: &str, object: &Value) {
        let (resource, namespace) = (resource.to_owned(), namespace.to_owned());
        self.history.push(Change { rv: self.rv, kind, resource, namespace, object: object.clone() });
    }

    /// All but events, which are no great loss.
    pub fn dump(&self) -> Value {
        let objects: Vec<_> = self.objects.iter().filter(|((resource, ..), _)| resource != "events").collect();
        json!({"objects": objects, "rv": self.rv, "uids": self.uids, "seed": self.seed})
    }

    pub fn restore(&mut self, kept: &Value) {
        self.objects = serde_json::from_value::<Vec<(Key, Value)>>(kept["objects"].clone()).unwrap().into_iter().collect();
        self.seed = kept["seed"].as_u64().unwrap();
        // What was not written in time had versions too.
        (self.rv, self.uids) = (kept["rv"].as_u64().unwrap() + 1000, kept["uids"].as_u64().unwrap() + 1000);
        self.compact();
    }

    /// The same, and nothing has happened since.
    pub fn rewind(&mut self, kept: &Value) {
        self.restore(kept);
        (self.rv, self.compacted) = (kept["rv"].as_u64().unwrap(), 0);
    }

    /// Everything before now is forgotten: the next watch from an older version gets 410.
    pub fn compact(&mut self) {
        self.compact_to(self.rv);
    }

    pub fn compact_to(&mut self, version: u64) {
        self.compacted = version;
        self.history.retain(|change| change.rv > version);
    }
}

/// RFC 3339, to the second.
pub fn now() -> String {
    plinth::clock::now().wall.to_string()
}
