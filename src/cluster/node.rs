//! The Node object: made if there is none, its status kept true, made again when somebody deleted it.
//!
//! Labels and taints of the settings are set on a Node we make, the kubelet's own labels once in each life: what others put there
//! afterwards is theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::error::{Error, Result};
use super::link::STRATEGIC;
use super::machine::{Machine, Pressure, machine, pressure};
use super::object::{Object, replaced};
use super::{Cluster, Facts, NODE};
use crate::clock::{self, Moment, Now, Wall};
use crate::settings::Settings;
use crate::sys::mounts;

type Words = BTreeMap<String, String>;

/// In the kubelet's order.
const CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// The kubelet this behaves as; what is ours stands behind the plus.
const VERSION: &str = concat!("v1.36.2+plinth.", env!("CARGO_PKG_VERSION"));
/// After a start containerd is waited for so long before a Node that is there is told that it is away: nothing runs any less meanwhile.
const MEETS: Duration = Duration::from_secs(10);
/// The one of its events that is a warning.
const REBOOTED: &str = "Rebooted";
/// A refused registration is tried again after this.
const REFUSED: Duration = Duration::from_secs(5);

/// What is remembered between two looks.
#[derive(Debug, Default)]
struct Memory {
    /// The Node object whose labels were set.
    joined: Option<String>,
    /// Since when containerd is waited for; `None`: it was met in this life, or is waited for no more.
    meets: Option<Moment>,
    /// When pressure was last seen: memory, disk, pids.
    pressed: [Option<Moment>; 3],
    /// Which conditions were told as events, and as what.
    told: BTreeMap<String, bool>,
    sent: Option<Sent>,
}

/// The status last sent.
#[derive(Debug)]
struct Sent {
    /// To the Node of this uid.
    uid: String,
    /// Without its heartbeats.
    what: Value,
    /// What of the same fields the server made of it.
    made: Value,
    /// It is sent again then, changed or not.
    again: Moment,
}

/// Keeps it for ever.
pub async fn keep(cluster: &Cluster) {
    let (machine, mut memory) = (machine(), Memory { meets: Some(clock::now().mono), ..Memory::default() });
    let (mut moved, mut local) = (cluster.node_moved(), cluster.local.changes());
    loop {
        cluster.link.up().await;
        moved.mark_unchanged();
        let (began, was) = (clock::now().mono, cluster.local.facts().face());
        let done = once(cluster, &machine, &mut memory).await;
        if done.is_ok() {
            cluster.refused(NODE, None);
        }
        let pause = match done {
            Ok(()) if memory.meets.is_some() => MEETS,
            Ok(()) => cluster.settings.node_status_update,
            Err(e) if e.is_general() => continue,
            // The watch tells of it.
            Err(e) if e.is_of_another() || e.code() == Some(404) => REFUSED,
            Err(e) => {
                cluster.refused(NODE, Some(&e.to_string()));
                REFUSED
            }
        };
        let due = began + pause;
        loop {
            tokio::select! {
                _ = moved.changed() => break,
                () = tokio::time::sleep(due - clock::now().mono) => break,
                _ = local.changed() => {}
            }
            // Most of what changes here is pods; a containerd that goes or comes is told at once.
            if cluster.local.facts().face() != was {
                break;
            }
        }
    }
}

async fn once(cluster: &Cluster, machine: &Machine, memory: &mut Memory) -> Result<()> {
    let (settings, link, now) = (&cluster.settings, &cluster.link, clock::now());
    let Some(listed) = cluster.node() else { return Ok(()) };
    let facts = cluster.local.facts();
    if listed.is_some() && memory.awaits(&facts, now.mono) {
        return Ok(());
    }
    let pressure = pressure(&settings.reserve, &settings.data_dir, facts.images_dir.as_deref());
    let found = listed.as_ref().map_or(&Value::Null, |node| &node.status);
    let status = memory.status(settings, machine, &facts, pressure, found, now);
    let Some(node) = listed else {
        if !settings.register_node {
            return Ok(());
        }
        let made = link.ask(Method::POST, "/api/v1/nodes", "application/json", Some(&object(settings, &facts.labels, &status))).await;
        return match made {
            // The watch tells of it.
            Err(Error::Refused { code: 409, .. }) => Ok(()),
            other => {
                let node: Object = other?;
                log::info!("registered the Node {}", settings.node_name);
                memory.joined = Some(node.metadata.uid.clone());
                cluster.see_node(Some(node));
                Ok(())
            }
        };
    };
    if node.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let path = format!("/api/v1/nodes/{}", settings.node_name);
    let uid = &node.metadata.uid;
    if memory.joined.as_ref() != Some(uid) {
        if settings.register_node
            && let Some(patch) = labels_patch(&facts.labels, node.metadata.labels.as_ref(), node.metadata.annotations.as_ref())
        {
            match link.ask::<Value>(Method::PATCH, &path, STRATEGIC, Some(&patch)).await {
                // A label that a node may not give itself is no reason to say nothing of its status.
                Err(e) if !e.is_general() => log::warn!("label the Node {}: {e}", settings.node_name),
                done => drop(done?),
            }
        }
        memory.joined = Some(uid.clone());
    }
    let bare = without_heartbeats(status.clone());
    // What others made of it since (`Unknown`, for as long as nothing came; a backup) is put right, at this pace and no faster.
    let is_there = |sent: &Sent| sent.uid == *uid && sent.what == bare && sent.made == fields_of(&node.status, &bare);
    if !memory.sent.as_ref().is_some_and(|sent| is_there(sent) && now.mono < sent.again) {
        let made = send(cluster, &format!("{path}/status"), uid, &status, &node.status).await?;
        for (reason, message) in memory.news(&settings.node_name, &bare, &node.status) {
            let event = event(&settings.node_name, uid, &reason, &message, now.wall);
            // One that is lost is no loss: the condition says the same.
            let _ = link.ask::<Value>(Method::POST, "/api/v1/namespaces/default/events", "application/json", Some(&event)).await;
        }
        memory.sent = Some(Sent {
            uid: uid.clone(),
            made: fields_of(&made.status, &bare),
            what: bare,
            again: due(settings.node_status_report, now.mono),
        });
        cluster.answered_node(made);
    }
    Ok(())
}

/// When what did not change is told again: a fleet that was told of something at one time does not report at one time (kubelet: ±50 %).
fn due(every: Duration, now: Moment) -> Moment {
    // The first is 80 to 100 % of it.
    now + every / 2 + (every - clock::jitter(every, now)) * 5
}

/// Patches the status, and answers what came of it. Where there were no addresses, two of one type become one: they are sent again then.
async fn send(cluster: &Cluster, path: &str, uid: &str, status: &Value, found: &Value) -> Result<Object> {
    let patch = async |found: &Value| {
        let patch = json!({"metadata": {"uid": uid}, "status": addressed(status.clone(), found)});
        cluster.link.ask::<Object>(Method::PATCH, path, STRATEGIC, Some(&patch)).await
    };
    let made = patch(found).await?;
    let is_merged = found.pointer("/addresses/0").is_none() && made.status.get("addresses") != status.get("addresses");
    if is_merged { patch(&made.status).await } else { Ok(made) }
}

/// An event of the node itself, as a kubelet's; with the uid, by which `kubectl describe node` looks for it.
fn event(node: &str, uid: &str, reason: &str, message: &str, now: Wall) -> Value {
    let at = now.to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{node}.{reason}.{:x}", now.0).to_lowercase(), "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid},
        "reason": reason,
        "message": message,
        "type": if reason == REBOOTED { "Warning" } else { "Normal" },
        "source": {"component": "plinth", "host": node},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "reportingComponent": "plinth",
        "reportingInstance": node,
    })
}

/// What `runtimeClassName` may stand for here, by the handler's name, which is the class'; empty: where there is none. What a shim of
/// another kind can do is not known.
fn handlers(settings: &Settings, machine: &Machine) -> Vec<Value> {
    let able = json!({"recursiveReadOnlyMounts": mounts::can_seal_recursively(&machine.kernel), "userNamespaces": machine.own_users});
    let classes = settings.runtime_classes.iter().map(|(name, class)| match class.shim {
        None => json!({"name": name, "features": able}),
        Some(_) => json!({"name": name}),
    });
    std::iter::once(json!({"name": "", "features": able})).chain(classes).collect()
}

/// Addresses that are gone go: two of one type would otherwise be merged into one.
fn addressed(mut status: Value, found: &Value) -> Value {
    if let Some(ours) = status.get_mut("addresses") {
        *ours = replaced(ours, found.get("addresses"));
    }
    status
}

fn without_heartbeats(mut status: Value) -> Value {
    for c in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        c.as_object_mut().map(|c| c.remove("lastHeartbeatTime"));
    }
    status
}

/// What a status says in the fields that `ours` has; conditions of others are theirs.
fn fields_of(status: &Value, ours: &Value) -> Value {
    let same = ours.as_object().into_iter().flatten().filter_map(|(key, _)| Some((key.clone(), status.get(key)?.clone())));
    let mut fields = without_heartbeats(Value::Object(same.collect()));
    if let Some(all) = fields.get_mut("conditions").and_then(Value::as_array_mut) {
        all.retain(|c| CONDITIONS.iter().any(|kind| c.get("type").is_some_and(|t| t == kind)));
    }
    fields
}

/// Tells controllers that volumes are theirs to attach; every kubelet sets it.
const ATTACH: (&str, &str) = ("volumes.kubernetes.io/controller-managed-attach-detach", "true");

/// Labels that a Node has to have though it was there before; all others are whose hand was last on them (kubelet: `updateDefaultLabels`).
const DEFAULTS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
];

/// A Node to be made.
fn object(settings: &Settings, labels: &Words, status: &Value) -> Value {
    let mut spec = json!({});
    if let Some(spec) = spec.as_object_mut() {
        let taint = |t: &crate::settings::Taint| {
            let mut taint = json!({"key": t.key, "effect": t.effect});
            if let (Some(map), false) = (taint.as_object_mut(), t.value.is_empty()) {
                map.insert("value".into(), json!(t.value));
            }
            taint
        };
        if !settings.taints.is_empty() {
            spec.insert("taints".into(), settings.taints.iter().map(taint).collect());
        }
        settings.provider_id.as_ref().map(|id| spec.insert("providerID".into(), json!(id)));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": settings.node_name, "labels": labels, "annotations": {ATTACH.0: ATTACH.1}},
        "spec": spec,
        "status": status,
    })
}

/// What a Node that others made, or an earlier life, lacks; `None`: nothing.
fn labels_patch(wanted: &Words, found: Option<&Words>, annotations: Option<&Words>) -> Option<Value> {
    let has = |map: Option<&Words>, key: &str, value: &str| map.and_then(|m| m.get(key)).is_some_and(|v| v == value);
    let lacking: Words = wanted.clone().into_iter().filter(|(k, v)| DEFAULTS.contains(&k.as_str()) && !has(found, k, v)).collect();
    let attach = has(annotations, ATTACH.0, ATTACH.1);
    let metadata = match (lacking.is_empty(), attach) {
        (true, true) => return None,
        (false, true) => json!({"labels": lacking}),
        (true, false) => json!({"annotations": {ATTACH.0: ATTACH.1}}),
        (false, false) => json!({"labels": lacking, "annotations": {ATTACH.0: ATTACH.1}}),
    };
    Some(json!({"metadata": metadata}))
}

impl Memory {
    /// `found`: the status that is there.
    fn status(&mut self, settings: &Settings, machine: &Machine, facts: &Facts, pressure: Pressure, found: &Value, now: Now) -> Value {
        let ips = settings.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
        let hostname = json!({"type": "Hostname", "address": settings.node_name});
        json!({
            "capacity": facts.capacity,
            "allocatable": facts.allocatable,
            "conditions": self.conditions(settings.reserve.transition, facts, pressure, found, now),
            "addresses": ips.chain(std::iter::once(hostname)).collect::<Vec<_>>(),
            "nodeInfo": {
                "machineID": machine.machine_id,
                "systemUUID": machine.system_uuid,
                "bootID": machine.boot_id,
                "kernelVersion": machine.kernel,
                "osImage": machine.os_image,
                "containerRuntimeVersion": format!("containerd://{}", facts.containerd.as_deref().unwrap_or("unknown").trim_start_matches('v')),
                "kubeletVersion": VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": facts.labels.get("kubernetes.io/arch"),
            },
            "images": facts.images.iter().map(|(names, bytes)| json!({"names": names, "sizeBytes": bytes})).collect::<Vec<_>>(),
            "runtimeHandlers": handlers(settings, machine),
            "features": {"supplementalGroupsPolicy": true},
            "daemonEndpoints": {"kubeletEndpoint": {"Port": settings.api.listens().map_or(0, |at| at.port())}},
            // exec, attach and portForward come over WebSockets (KEP-4006), where they come at all.
            "declaredFeatures": settings.api.listens().map(|_| "ExtendWebSocketsToKubelet").into_iter().collect::<Vec<_>>(),
        })
    }

    /// containerd has not answered in this life, which has only just begun.
    fn awaits(&mut self, facts: &Facts, now: Moment) -> bool {
        self.meets = self.meets.filter(|since| facts.containerd.is_none() && facts.not_ready.is_some() && now - *since < MEETS);
        self.meets.is_some()
    }

    /// What is to be told of a status that was sent over another: the beginning, that the machine was, and each condition that changed, in
    /// the kubelet's words.
    fn news(&mut self, node: &str, status: &Value, before: &Value) -> Vec<(String, String)> {
        let mut news = Vec::new();
        let boot = |of: &Value| of.pointer("/nodeInfo/bootID").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (now, last) = (boot(status), boot(before));
        if !last.is_empty() && last != now {
            news.push((REBOOTED.to_owned(), format!("Node {node} has been rebooted, boot id: {now}")));
        }
        if self.told.is_empty() {
            news.push(("Starting".to_owned(), "Starting plinth.".to_owned()));
        }
        for c in status.get("conditions").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default();
            let holds = text("status") == "True";
            if self.told.insert(text("type").to_owned(), holds) != Some(holds) {
                let reason = text("reason").replacen("Kubelet", "Node", 1);
                news.push((reason.clone(), format!("Node {node} status is now: {reason}")));
            }
        }
        news
    }

    /// In the kubelet's words; one that is there already is so since then, whoever told it.
    fn conditions(&mut self, lasts: Duration, facts: &Facts, pressure: Pressure, found: &Value, now: Now) -> Vec<Value> {
        for (at, is) in self.pressed.iter_mut().zip([pressure.memory, pressure.disk, pressure.pids]) {
            match at {
                _ if is => *at = Some(now.mono),
                Some(last) if now.mono - *last > lasts => *at = None,
                _ => {}
            }
        }
        let [memory, disk, pids] = self.pressed.map(|at| at.is_some());
        let ready = facts.not_ready.as_deref().unwrap_or("kubelet is posting ready status");
        let is_ready = facts.not_ready.is_none();
        let pick = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
        let listed = [
            (
                memory,
                pick(memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
                pick(memory, "kubelet has insufficient memory available", "kubelet has sufficient memory available"),
            ),
            (
                disk,
                pick(disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
                pick(disk, "kubelet has disk pressure", "kubelet has no disk pressure"),
            ),
            (
                pids,
                pick(pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
                pick(pids, "kubelet has insufficient PID available", "kubelet has sufficient PID available"),
            ),
            (is_ready, pick(is_ready, "KubeletReady", "KubeletNotReady"), ready),
        ];
        let there = |kind: &str, status: &str| {
            let mut all = found.get("conditions")?.as_array()?.iter();
            let same = all.find(|c| c.get("type").is_some_and(|t| t == kind) && c.get("status").is_some_and(|s| s == status))?;
            Wall::parse(same.get("lastTransitionTime")?.as_str()?)
        };
        let told = CONDITIONS.into_iter().zip(listed).map(|(kind, (holds, reason, message))| {
            let status = pick(holds, "True", "False");
            json!({
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now.wall.to_string(),
                "lastTransitionTime": there(kind, status).unwrap_or(now.wall).to_string(),
            })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn at(s: u64) -> Now {
        Now { mono: Moment(s * 1000), wall: Wall(i64::try_from(s).unwrap() * 1_000_000_000) }
    }

    fn settings() -> Settings {
        Settings { node_name: "n".into(), node_ips: vec!["192.0.2.2".parse().unwrap()], ..Settings::default() }
    }

    fn labels() -> Words {
        Words::from([("kubernetes.io/arch".into(), "arm64".into()), ("kubernetes.io/os".into(), "linux".into())])
    }

    #[test]
    fn a_new_node_says_what_a_kubelet_would() {
        let status =
            Memory::default().status(&settings(), &Machine::default(), &Facts::default(), Pressure::default(), &Value::Null, at(1));
        let node = object(&settings(), &labels(), &status);
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/arch"], "arm64");
        assert_eq!(node["spec"]["taints"], json!([{"key": "plinth.dev/static-pods-only", "effect": "NoSchedule"}]));
        let kinds: Vec<&str> = node["status"]["conditions"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
        assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "192.0.2.2"}));
        assert_eq!(node["status"]["addresses"][1], json!({"type": "Hostname", "address": "n"}));
    }

    #[test]
    fn a_node_says_what_its_runtimes_can_do() {
        let mut settings = settings();
        let kata = crate::settings::RuntimeClass { shim: Some("io.containerd.kata.v2".into()), oci_runtime: None };
        settings.runtime_classes.insert("crun".into(), crate::settings::RuntimeClass::default());
        settings.runtime_classes.insert("kata".into(), kata);
        let machine = Machine { kernel: "6.1.0".into(), ..Machine::default() };
        let able = json!({"recursiveReadOnlyMounts": true, "userNamespaces": false});
        let all = [json!({"name": "", "features": able}), json!({"name": "crun", "features": able}), json!({"name": "kata"})];
        assert_eq!(handlers(&settings, &machine), all);
    }

    #[test]
    fn a_node_that_others_made_gets_the_labels_it_lacks_and_loses_none() {
        let mut found = labels();
        let annotations = Words::from([(ATTACH.0.into(), ATTACH.1.into())]);
        found.insert("topology.kubernetes.io/zone".into(), "a".into());
        assert_eq!(labels_patch(&labels(), Some(&found), Some(&annotations)), None);
        found.remove("kubernetes.io/arch");
        let mut wanted = labels();
        wanted.insert("node-restriction.kubernetes.io/x".into(), "y".into());
        let patch = labels_patch(&wanted, Some(&found), Some(&annotations)).unwrap();
        assert_eq!(patch, json!({"metadata": {"labels": {"kubernetes.io/arch": "arm64"}}}));
    }

    #[test]
    fn conditions_keep_the_time_they_changed_and_pressure_is_shown_a_while() {
        let mut memory = Memory::default();
        let short = Pressure { memory: true, ..Pressure::default() };
        let mut found = Value::Null;
        let mut look = |pressure, s| {
            let now = memory.conditions(settings().reserve.transition, &Facts::default(), pressure, &found, at(s));
            found = json!({"conditions": now});
            now[0].clone()
        };
        assert_eq!(look(Pressure::default(), 10)["status"], "False");
        let pressed = look(short, 20);
        assert_eq!((&pressed["status"], &pressed["lastTransitionTime"]), (&json!("True"), &json!(at(20).wall.to_string())));
        let later = look(Pressure::default(), 100);
        assert_eq!((&later["status"], &later["lastTransitionTime"]), (&json!("True"), &json!(at(20).wall.to_string())));
        assert_eq!(look(Pressure::default(), 400)["status"], "False");
    }

    #[test]
    fn a_new_life_goes_on_with_the_times_of_the_last_one_and_is_not_alarmed_before_it_has_looked() {
        let mut memory = Memory { meets: Some(Moment(0)), ..Memory::default() };
        let told = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": at(5).wall.to_string()});
        let found = json!({"conditions": [told("Ready", "True"), told("DiskPressure", "Unknown"), told("example.com/Own", "True")]});
        let away = Facts { not_ready: Some("container runtime is down: not connected yet".into()), ..Facts::default() };
        assert!(memory.awaits(&away, Moment(9_000)));
        let met = Facts { containerd: Some("2.1.9".into()), ..Facts::default() };
        assert!(!memory.awaits(&met, Moment(9_100)) && !memory.awaits(&away, Moment(9_200)), "it was met");
        let now = memory.conditions(settings().reserve.transition, &met, Pressure::default(), &found, at(9));
        let since = |i: usize| now[i]["lastTransitionTime"].clone();
        assert_eq!((since(3), since(1)), (json!(at(5).wall.to_string()), json!(at(9).wall.to_string())));
        memory = Memory { meets: Some(Moment(0)), ..Memory::default() };
        assert!(!memory.awaits(&away, Moment(10_000)), "it is waited for no more");
    }

    #[test]
    fn events_tell_the_beginning_and_then_what_changed() {
        let mut memory = Memory::default();
        let mut told = |not_ready: Option<&str>, s| {
            let facts = Facts { not_ready: not_ready.map(str::to_owned), ..Facts::default() };
            let status = memory.status(&settings(), &Machine::default(), &facts, Pressure::default(), &Value::Null, at(s));
            memory.news("n", &status, &Value::Null).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        let all = ["Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
        assert_eq!(told(None, 1), all);
        assert!(told(None, 2).is_empty());
        assert_eq!(told(Some("container runtime is down"), 3), ["NodeNotReady"]);
    }

    #[test]
    fn reports_are_half_the_time_to_one_and_a_half_of_it_apart_and_not_at_one_beat() {
        let every = Duration::from_secs(300);
        let all: Vec<u64> = (1..200).map(|n| due(every, Moment(n * 1000)).since_ms(Moment(n * 1000))).collect();
        assert!(all.iter().all(|ms| (150_000..=450_000).contains(ms)), "{all:?}");
        assert!(all.iter().any(|ms| *ms < 200_000) && all.iter().any(|ms| *ms > 400_000), "{all:?}");
    }

    #[test]
    fn only_heartbeats_are_no_change() {
        let mut memory = Memory::default();
        let mut status =
            |found: &Value, s| memory.status(&settings(), &Machine::default(), &Facts::default(), Pressure::default(), found, at(s));
        let first = status(&Value::Null, 1);
        let second = status(&first, 2);
        assert_ne!(first, second);
        assert_eq!(without_heartbeats(first), without_heartbeats(second));
    }

    #[test]
    fn what_others_write_into_fields_of_ours_is_seen_and_what_is_theirs_is_not() {
        let ours = json!({"conditions": [], "capacity": {}});
        let ready = |status: &str, at: u64| json!({"type": "Ready", "status": status, "lastHeartbeatTime": at});
        let fields =
            |conditions: Value, cpu: &str| fields_of(&json!({"conditions": conditions, "capacity": {"cpu": cpu}, "phase": "x"}), &ours);
        let as_made = fields(json!([ready("True", 1)]), "2");
        assert_eq!(fields(json!([ready("True", 2), {"type": "example.com/Own", "status": "True"}]), "2"), as_made);
        assert_ne!(fields(json!([ready("Unknown", 1)]), "2"), as_made);
        assert_ne!(fields(json!([ready("True", 1)]), "4"), as_made);
    }
}
