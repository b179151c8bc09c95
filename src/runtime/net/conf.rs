//! CNI configuration: the lexically first file counts, and what each plugin of it reads on its standard input (libcni's rules).
//!
//! Reads only the configuration directory. Never changes what a plugin's author wrote beyond the keys the protocol injects.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ContainerPort;
use serde_json::{Map, Value, json};

use super::NetError;
use super::cache::Attachment;
use crate::pod::{Uid, WantedPod};
use crate::quantity::Amount;

/// The plugin's type: its file name.
pub fn kind(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The first configuration by name (`*.conflist`, `*.conf`, `*.json`), as a list; a single plugin is a list of one.
pub fn first(dir: &Path) -> Result<Value, NetError> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let wanted = |p: &PathBuf| p.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json") && p.is_file();
    let path = entries.filter(wanted).min().ok_or_else(|| NetError::NoConfig { dir: dir.to_path_buf() })?;
    let text = std::fs::read(&path).map_err(|source| NetError::File { verb: "read CNI configuration", path: path.clone(), source })?;
    as_list(&text, &path).map_err(|why| NetError::BadConfig { path, why })
}

fn as_list(text: &[u8], path: &Path) -> Result<Value, String> {
    let conf: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let name = conf.get("name").and_then(Value::as_str).unwrap_or_default();
    // It becomes part of a file name.
    let safe = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) && !name.starts_with(['.', '-', '_']);
    if name.is_empty() || !safe {
        return Err(format!("`name` is `{name}`; it must be letters, digits, `_`, `.` and `-`, beginning with a letter or digit"));
    }
    let mut list = if conf.get("plugins").is_some() || path.extension().is_some_and(|e| e == "conflist") {
        conf
    } else {
        json!({ "name": name, "cniVersion": conf.get("cniVersion"), "plugins": [conf] })
    };
    add_from_folder(&mut list, path);
    let plugins = list.get("plugins").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if plugins.is_empty() {
        return Err("`plugins` is missing or empty".into());
    }
    match plugins.iter().position(|p| kind(p).is_empty()) {
        Some(at) => Err(format!("plugins[{at}] has no `type`")),
        None => Ok(list),
    }
}

/// CNI 1.1: more plugins from the folder named after the network beside the file, unless the list says no.
fn add_from_folder(list: &mut Value, path: &Path) {
    let inline_only = list.get("loadOnlyInlinedPlugins").and_then(Value::as_bool).unwrap_or(false);
    let Some(name) = list.get("name").and_then(Value::as_str).filter(|_| !inline_only) else { return };
    let folder = path.with_file_name(name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "conf"));
    files.sort();
    let more: Vec<Value> = files.iter().filter_map(|f| serde_json::from_slice(&std::fs::read(f).ok()?).ok()).collect();
    if let Some(map) = list.as_object_mut().filter(|_| !more.is_empty()) {
        let plugins = map.entry("plugins").or_insert_with(|| json!([]));
        if let Some(plugins) = plugins.as_array_mut() {
            plugins.extend(more);
        }
    }
}

/// The list without plugins that would do nothing for a pod with these capabilities: portmap, where there is no port to map. It answers
/// what it was told then, but a process at each ADD it is all the same, and at each DEL it looks through the rules of all pods.
pub fn without_idle(mut list: Value, capabilities: &Map<String, Value>) -> Value {
    if !capabilities.contains_key("portMappings")
        && let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut)
    {
        let mut first = true;
        // In front there is no result yet that it could pass on.
        plugins.retain(|p| std::mem::take(&mut first) || kind(p) != "portmap");
    }
    list
}

/// What one plugin reads: its own part, the network's name and version, the result before it, and the capabilities it says it has.
pub fn for_plugin(made: &Attachment, plugin: &Value, prev: Option<&Value>) -> Value {
    let mut conf = plugin.as_object().cloned().unwrap_or_default();
    conf.insert("name".into(), made.network.as_str().into());
    conf.insert("cniVersion".into(), version(&made.config).into());
    if let Some(prev) = prev {
        conf.insert("prevResult".into(), prev.clone());
    }
    let has = |name: &str| plugin.pointer("/capabilities").and_then(|c| c.get(name)).and_then(Value::as_bool) == Some(true);
    let given: Map<String, Value> = made.capabilities.iter().filter(|(k, _)| has(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !given.is_empty() {
        conf.insert("runtimeConfig".into(), given.into());
    }
    conf.into()
}

/// The version plugins are spoken to in; libcni's default for none.
fn version(list: &Value) -> &str {
    list.get("cniVersion").and_then(Value::as_str).filter(|v| !v.is_empty()).unwrap_or("0.1.0")
}

/// What a pod can hand to plugins that ask for it, as containerd's CRI does.
pub fn capabilities(pod: &WantedPod, group: &Path) -> Map<String, Value> {
    let mut all = Map::new();
    // Those of init containers and sidecars too, which the kubelet forgets; where two ask for one port of the host, regular containers
    // have it first.
    let containers = pod.object.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut ports: Vec<Value> = Vec::new();
    for port in containers.flat_map(|c| c.ports.iter().flatten()).filter_map(mapping) {
        let same = |key: &str, other: &Value| port.get(key) == other.get(key);
        if !ports.iter().any(|other| same("hostPort", other) && same("protocol", other) && same("hostIP", other)) {
            ports.push(port);
        }
    }
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(pod) {
        all.insert("bandwidth".into(), bandwidth);
    }
    all.insert("cgroupPath".into(), group.to_string_lossy().into());
    all
}

fn mapping(port: &ContainerPort) -> Option<Value> {
    let host = port.host_port.filter(|p| *p > 0)?;
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
    let mut map = json!({ "hostPort": host, "containerPort": port.container_port, "protocol": protocol });
    if let (Some(ip), Some(map)) = (port.host_ip.as_deref().filter(|ip| !ip.is_empty()), map.as_object_mut()) {
        map.insert("hostIP".into(), ip.into());
    }
    Some(map)
}

/// The two bandwidth annotations, bits a second; the burst is containerd's (`math.MaxInt32`).
fn bandwidth(pod: &WantedPod) -> Option<Value> {
    let notes = pod.object.metadata.annotations.as_ref()?;
    let mut map = Map::new();
    for (side, annotation) in [("ingress", "kubernetes.io/ingress-bandwidth"), ("egress", "kubernetes.io/egress-bandwidth")] {
        if let Some(rate) = notes.get(annotation).and_then(|v| Amount::parse(v)) {
            map.insert(format!("{side}Rate"), rate.units().into());
            map.insert(format!("{side}Burst"), i32::MAX.into());
        }
    }
    (!map.is_empty()).then(|| map.into())
}

/// Whether the list speaks a version with GC.
pub fn can_collect(list: &Value) -> bool {
    let mut parts = version(list).split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let at_least = (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (1, 1);
    at_least && !list.get("disableGC").and_then(Value::as_bool).unwrap_or(false)
}

/// Each plugin's part of a GC: everything but these attachments may go.
pub fn for_collection<'a>(list: &Value, valid: impl Iterator<Item = &'a Uid>) -> Vec<Value> {
    let valid: Vec<Value> = valid.map(|uid| json!({ "containerID": &*uid.0, "ifname": super::INTERFACE })).collect();
    let mut plugins = list.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
    for plugin in plugins.iter_mut().filter_map(Value::as_object_mut) {
        // The second spelling was an error of the specification's first text that libcni keeps sending.
        plugin.insert("cni.dev/valid-attachments".into(), valid.clone().into());
        plugin.insert("cni.dev/attachments".into(), valid.clone().into());
    }
    plugins
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::pod::Origin;

    fn pod() -> WantedPod {
        let object = json!({ "metadata": { "name": "a", "uid": "0123456789abcdef0123456789abcdef" }, "spec": { "containers": [
            { "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080 }, { "containerPort": 81 },
              { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1" }] }],
            "initContainers": [{ "name": "i", "ports": [{ "containerPort": 82, "hostPort": 8080 }, { "containerPort": 83, "hostPort": 8083 }] }] } });
        WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap()
    }

    #[test]
    fn a_plugin_is_given_only_what_it_says_it_can() {
        let list = json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [
            { "type": "bridge" }, { "type": "portmap", "capabilities": { "portMappings": true, "bandwidth": false } }] });
        let made = Attachment::new(&list, &pod(), Path::new("/ns"), capabilities(&pod(), Path::new("/g")));
        let plugins = made.plugins().unwrap();
        let bridge = for_plugin(&made, &plugins[0], None);
        assert_eq!(bridge, json!({ "type": "bridge", "name": "n", "cniVersion": "1.0.0" }));
        let portmap = for_plugin(&made, &plugins[1], Some(&json!({ "ips": [] })));
        let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1" },
            { "hostPort": 8083, "containerPort": 83, "protocol": "tcp" }]);
        assert_eq!(portmap["runtimeConfig"], json!({ "portMappings": ports }));
        assert_eq!(portmap["prevResult"], json!({ "ips": [] }));
    }

    #[test]
    fn a_plugin_that_maps_ports_is_not_asked_for_a_pod_without_any() {
        let list = json!({ "name": "n", "plugins": [{ "type": "bridge" }, { "type": "portmap" }, { "type": "bandwidth" }] });
        let (none, some) = (Map::new(), Map::from_iter([("portMappings".to_owned(), json!([{}]))]));
        let kinds = |list: Value, with| {
            let list = without_idle(list, with);
            list["plugins"].as_array().unwrap().iter().map(|p| kind(p).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(list.clone(), &none), ["bridge", "bandwidth"]);
        assert_eq!(kinds(list, &some), ["bridge", "portmap", "bandwidth"]);
        assert_eq!(kinds(json!({ "plugins": [{ "type": "portmap" }] }), &none), ["portmap"]);
        assert_eq!(without_idle(json!({}), &none), json!({}));
    }

    #[test]
    fn bad_configurations_are_told_apart() {
        let list = |text: &str, path: &str| as_list(text.as_bytes(), Path::new(path));
        assert!(list("{", "/x/a.conflist").is_err());
        assert!(list(r#"{"name":"../x","plugins":[{"type":"a"}]}"#, "/x/a.conflist").unwrap_err().contains("`name`"));
        assert!(list(r#"{"name":"x","plugins":[]}"#, "/x/a.conflist").unwrap_err().contains("empty"));
        assert!(list(r#"{"name":"x","plugins":[{}]}"#, "/x/a.conflist").unwrap_err().contains("plugins[0]"));
        let one = list(r#"{"name":"x","type":"bridge","cniVersion":"0.4.0"}"#, "/x/a.conf").unwrap();
        assert_eq!(kind(&one["plugins"][0]), "bridge");
        assert!(!can_collect(&one));
        assert!(can_collect(&json!({ "cniVersion": "1.1.0" })));
    }
}
