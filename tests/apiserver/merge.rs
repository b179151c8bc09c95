//! Strategic merge patches, as far as nodes and pods need them: lists merge by these keys, `$patch`, `null` removes.

use serde_json::Value;

/// Lists that merge, and by which field; others are replaced. `k8s.io/api/core/v1` has the tags.
const MERGE_KEYS: &[(&str, &str)] = &[
    ("conditions", "type"),
    ("podIPs", "ip"),
    ("hostIPs", "ip"),
    ("addresses", "type"),
    ("ownerReferences", "uid"),
    ("containers", "name"),
];

pub fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let into = target.as_object_mut().unwrap();
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match (value, MERGE_KEYS.iter().find(|(list, _)| list == key)) {
            (Value::Null, _) => {
                into.remove(key);
            }
            (Value::Array(items), Some((_, by))) => list(into.entry(key).or_insert(Value::Array(Vec::new())), items, by),
            (Value::Object(_), _) => strategic(into.entry(key).or_insert(Value::Null), value),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn list(target: &mut Value, items: &[Value], by: &str) {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let into = target.as_array_mut().unwrap();
    if items.iter().any(|i| i["$patch"] == "replace") {
        *into = items.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
        return;
    }
    for item in items {
        let at = into.iter().position(|i| i[by] == item[by]);
        match (item["$patch"].as_str(), at) {
            (Some("delete"), at) => drop(at.map(|at| into.remove(at))),
            (_, Some(at)) => strategic(&mut into[at], item),
            (_, None) => {
                into.push(Value::Null);
                strategic(into.last_mut().unwrap(), item);
            }
        }
    }
}
