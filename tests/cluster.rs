//! The cluster's room against the test API server: what it makes there, and what it does when that is away, slow, full or lying.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, reason = "test names are sentences")]

mod apiserver;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apiserver::tls::When;
use apiserver::{ApiServer, Fault};
use k8s_openapi::api::core::v1::Event;
use plinth::cluster::mirror::Published;
use plinth::cluster::{Cluster, Facts, Local};
use plinth::pod::{Origin, PodKey, Uid, WantedPod};
use plinth::settings::{Settings, Taint};
use serde_json::{Value, json};
use tokio::sync::watch;

/// A node whose pods are what a test says they are.
struct Node {
    server: ApiServer,
    cluster: Rc<Cluster>,
    local: Rc<Fake>,
    dir: PathBuf,
    settings: Rc<Settings>,
    life: tokio::task::JoinHandle<()>,
}

struct Fake {
    pods: RefCell<BTreeMap<PodKey, (Rc<WantedPod>, Published)>>,
    events: RefCell<Vec<Event>>,
    /// Of so many events the newest are kept.
    ring: Cell<usize>,
    told: RefCell<Vec<String>>,
    labels: RefCell<Vec<&'static str>>,
    /// Why containerd is away.
    down: RefCell<Option<String>>,
    changes: watch::Sender<u64>,
    /// How often all pods were looked at.
    looks: Cell<u32>,
}

impl Default for Fake {
    fn default() -> Fake {
        let labels = RefCell::new(vec!["kubernetes.io/hostname"]);
        let (pods, events, told) = (RefCell::default(), RefCell::default(), RefCell::default());
        let (ring, down) = (Cell::new(usize::MAX), RefCell::default());
        Fake { pods, events, ring, down, told, labels, changes: watch::Sender::new(0), looks: Cell::default() }
    }
}

impl Local for Fake {
    fn pods(&self, _: &BTreeMap<PodKey, Published>) -> (BTreeMap<PodKey, Published>, bool) {
        self.looks.set(self.looks.get() + 1);
        (self.pods.borrow().iter().map(|(key, (_, shown))| (key.clone(), shown.clone())).collect(), true)
    }

    fn pod(&self, key: &PodKey) -> Option<Rc<WantedPod>> {
        self.pods.borrow().get(key).map(|(pod, _)| pod.clone())
    }

    fn facts(&self) -> Facts {
        let has = |map: &[(&str, &str)]| map.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let labels = self.labels.borrow().iter().map(|key| ((*key).to_owned(), "n".to_owned())).collect();
        let down = self.down.borrow().clone();
        let containerd = down.is_none().then(|| "2.1.9".to_owned());
        Facts { labels, capacity: has(&[("cpu", "2"), ("pods", "110")]), containerd, not_ready: down, ..Facts::default() }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn events(&self, after: u64, visit: &mut dyn FnMut(u64, &Event)) {
        let events = self.events.borrow();
        let forgotten = events.len().saturating_sub(self.ring.get());
        for (seq, event) in (1..).zip(events.iter()).skip(forgotten).filter(|(seq, _)| *seq > after) {
            visit(seq, event);
        }
    }

    fn note(&self, key: &PodKey, why: &str) {
        self.told.borrow_mut().push(format!("{key}: {why}"));
    }
}

fn key(namespace: &str, name: &str) -> PodKey {
    PodKey { namespace: namespace.into(), name: format!("{name}-n").into() }
}

impl Fake {
    /// A pod is wanted, with that hash and in that phase; an empty one: nobody has looked at it yet.
    fn show(&self, namespace: &str, name: &str, hash: &str, phase: &str) {
        let key = key(namespace, name);
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": &*key.name, "namespace": namespace, "uid": hash, "annotations": {"kubernetes.io/config.hash": hash}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "busybox"}], "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}});
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        let status = (!phase.is_empty()).then(|| Rc::new(json!({"phase": phase, "podIP": "10.0.0.9"})));
        let shown = Published { uid: Uid(hash.into()), status, wanted: true };
        self.pods.borrow_mut().insert(key, (Rc::new(pod), shown));
        self.changes.send_modify(|n| *n += 1);
    }

    fn drop_pod(&self, namespace: &str, name: &str) {
        self.pods.borrow_mut().remove(&key(namespace, name));
        self.changes.send_modify(|n| *n += 1);
    }

    fn tell(&self, reason: &str, count: i32) {
        let name = format!("web-n.{}", reason.to_lowercase());
        let of = json!({"kind": "Pod", "namespace": "default", "name": "web-n"});
        let event = json!({"metadata": {"name": name, "namespace": "default"}, "involvedObject": of, "reason": reason, "count": count});
        self.events.borrow_mut().push(serde_json::from_value(event).unwrap());
        self.changes.send_modify(|n| *n += 1);
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Node {
    fn join(server: ApiServer, settings: impl FnOnce(&mut Settings)) -> Node {
        Node::join_as(server, |server, dir, s| {
            std::fs::write(dir.join("kubeconfig"), server.kubeconfig("system:node:n")).unwrap();
            settings(s);
        })
    }

    fn join_as(server: ApiServer, settings: impl FnOnce(&ApiServer, &Path, &mut Settings)) -> Node {
        let dir = std::env::temp_dir().join(format!("plinth-cluster-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        let kubeconfig = Some(dir.join("kubeconfig"));
        let mut s = Settings { node_name: "n".into(), kubeconfig, data_dir: dir.clone(), cert_dir: dir.join("pki"), ..Settings::default() };
        s.node_lease_s = 8;
        settings(&server, &dir, &mut s);
        let local = Rc::new(Fake::default());
        let settings = Rc::new(s);
        let cluster = Cluster::new(&settings, local.clone()).unwrap();
        let life = tokio::task::spawn_local(cluster.clone().join());
        Node { server, cluster, local, dir, settings, life }
    }

    /// Ends in the middle of whatever it does, and begins anew.
    fn again(&mut self) {
        self.life.abort();
        self.cluster = Cluster::new(&self.settings, self.local.clone()).unwrap();
        self.life = tokio::task::spawn_local(self.cluster.clone().join());
    }

    async fn until(&self, what: &str, secs: u64, mut holds: impl FnMut(&ApiServer) -> bool) {
        let end = Instant::now() + Duration::from_secs(secs);
        while !holds(&self.server) {
            let known = || (self.cluster.trouble(), self.local.told.borrow().clone(), self.server.asked());
            assert!(Instant::now() < end, "not within {secs} s: {what}\n{:#?}", known());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_shown(&self, name: &str, phase: &str) {
        self.until(&format!("{name} is {phase}"), 10, |s| s.get("pods", "default", &format!("{name}-n"))["status"]["phase"] == phase).await;
    }

    /// Requests of `secs` seconds from now.
    async fn asked_within(&self, secs: u64) -> Vec<apiserver::Asked> {
        self.server.asked();
        tokio::time::sleep(Duration::from_secs(secs)).await;
        self.server.asked()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn on_a_loop(test: impl AsyncFnOnce()) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test());
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_node_says_where_its_kubelet_api_is_and_what_it_speaks() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| s.api.port = 1250);
        let status = |s: &ApiServer| s.get("nodes", "", "n")["status"].take();
        node.until("it is there", 10, |s| status(s)["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 1250).await;
        assert_eq!(status(&node.server)["declaredFeatures"], json!(["ExtendWebSocketsToKubelet"]));
    });
}

#[test]
fn a_node_joins_shows_its_pods_and_is_quiet() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.local.tell("Started", 1);
        node.until_shown("web", "Running").await;
        let (pod, made) = (node.server.get("pods", "default", "web-n"), node.server.get("nodes", "", "n"));
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"], "h1");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1, "{pod}");
        assert_eq!(made["metadata"]["labels"]["kubernetes.io/hostname"], "n");
        // Nothing listens here.
        assert_eq!(made["status"]["declaredFeatures"], json!([]));
        node.until("the Lease is held", 10, |s| s.get("leases", "kube-node-lease", "n")["spec"]["holderIdentity"] == "n").await;
        let own = |e: &Value| e["reason"] == "NodeReady" && e["involvedObject"]["uid"] == made["metadata"]["uid"];
        node.until("the node's own event is there", 10, |s| s.list("events").iter().any(own)).await;
        node.until("the event is there", 10, |s| s.get("events", "default", "web-n.started")["count"] == 1).await;
        // Nothing but the Lease, every two seconds here, and what a heartbeat may send.
        let asked = node.asked_within(4).await;
        assert!(asked.len() <= 4 && asked.iter().all(|a| a.path.contains("/leases/") || a.path.contains("/nodes/")), "{asked:#?}");
        assert!(asked.iter().any(|a| a.method == "PUT" && a.path.contains("/leases/")), "{asked:#?}");
        assert_eq!(node.cluster.trouble(), None);
    });
}

#[test]
fn answers_of_the_server_are_no_reason_to_look_at_all_pods_again() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        (0..110).for_each(|i| node.local.show("default", &format!("p{i}"), "h1", "Running"));
        let shown = |s: &ApiServer| s.list("pods").iter().filter(|p| p["status"]["phase"] == "Running").count();
        node.until("all are shown", 20, |s| shown(s) == 110).await;
        let looks = node.local.looks.get();
        assert!(looks <= 3, "two requests and two news for each of 110 pods, and {looks} looks at all of them");
    });
}

#[test]
fn a_status_and_a_new_mirror_are_there_soon_and_a_deleted_mirror_comes_back() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        // The best of some: this machine may be busy with other things.
        let soon = Duration::from_millis(150);
        for of in ["a status", "a mirror"] {
            let mut took = Vec::new();
            while took.len() < 10 && took.last().is_none_or(|last| *last > soon) {
                let began = Instant::now();
                let (name, phase) = match of {
                    "a status" => ("web".to_owned(), if took.len() % 2 == 0 { "Failed" } else { "Pending" }),
                    _ => (format!("new{}", took.len()), "Running"),
                };
                node.local.show("default", &name, "h1", phase);
                node.until_shown(&name, phase).await;
                took.push(began.elapsed());
            }
            assert!(took.last().unwrap() <= &soon, "{of}: {took:?}");
        }
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let first = uid(&node.server.get("pods", "default", "web-n"));
        // kubectl delete: marked, and its node lets it go.
        node.server.edit("pods", "default", "web-n", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        node.until("it is back", 2, |s| {
            let now = s.get("pods", "default", "web-n");
            uid(&now) != first && now["metadata"]["deletionTimestamp"].is_null() && now["status"]["phase"] == "Running"
        })
        .await;
        // kubectl delete --force: gone at once.
        let second = uid(&node.server.get("pods", "default", "web-n"));
        node.server.delete("pods", "default", "web-n");
        node.until("it is back", 2, |s| ![String::new(), second.clone()].contains(&uid(&s.get("pods", "default", "web-n")))).await;
    });
}

#[test]
fn a_new_life_says_nothing_of_what_it_has_not_looked_at_yet() {
    on_a_loop(async || {
        let mut node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let ready = |s: &ApiServer| s.get("nodes", "", "n")["status"]["conditions"][3].clone();
        node.until("the node is Ready", 10, |s| ready(s)["status"] == "True").await;
        let before = ready(&node.server)["lastTransitionTime"].clone();
        node.life.abort();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        node.local.show("default", "web", "h1", "");
        *node.local.down.borrow_mut() = Some("container runtime is down: not connected yet".into());
        node.server.asked();
        node.again();
        node.local.show("default", "new", "h1", "");
        node.until("a pod that is new gets its mirror", 10, |s| !s.get("pods", "default", "new-n").is_null()).await;
        node.until("the Lease is held again", 10, |s| s.asked().iter().any(|a| a.path.contains("/leases/") && a.method == "PUT")).await;
        let asked = node.asked_within(1).await;
        assert!(asked.iter().all(|a| !a.path.contains("/status")), "{asked:#?}");
        assert_eq!(
            (&node.server.get("pods", "default", "web-n")["status"]["phase"], &ready(&node.server)["status"]),
            (&json!("Running"), &json!("True"))
        );
        // It has looked.
        *node.local.down.borrow_mut() = None;
        node.local.show("default", "web", "h1", "Failed");
        node.until_shown("web", "Failed").await;
        let sent = |s: &ApiServer| s.asked().iter().any(|a| a.path.ends_with("/nodes/n/status"));
        node.until("the node's heartbeat is sent", 5, sent).await;
        assert_eq!(ready(&node.server)["lastTransitionTime"], before, "it was Ready all the time");
    });
}

#[test]
fn another_mirror_of_that_name_is_met_without_a_word() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        for (phase, hash, code) in [("Failed", "h1", 422), ("Running", "h2", 409)] {
            // The watch tells it late.
            node.server.fault(Fault::Blind);
            let pod = node.server.get("pods", "default", "web-n");
            node.server.delete("pods", "default", "web-n");
            node.server.put("pods", "default", pod);
            node.server.asked();
            node.local.show("default", "web", hash, phase);
            let mut asked = Vec::new();
            node.until("it is asked of the one that is gone", 5, |s| {
                asked.extend(s.asked());
                asked.iter().any(|a| a.code == code)
            })
            .await;
            asked.extend(node.asked_within(1).await);
            let tried = asked.iter().filter(|a| a.path.contains("/web-n")).count();
            assert!((1..=4).contains(&tried), "{asked:#?}");
            assert_eq!(node.cluster.lacks(&key("default", "web")).filter(|_| hash == "h1"), None);
            node.server.fault(Fault::None);
            node.until("it is shown", 10, |s| {
                let pod = s.get("pods", "default", "web-n");
                pod["status"]["phase"] == phase && pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] == hash
            })
            .await;
        }
        assert_eq!(*node.local.told.borrow(), Vec::<String>::new());
    });
}

#[test]
fn an_edit_replaces_the_mirror_and_only_that_one() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let first = uid(&node.server.get("pods", "default", "web-n"));
        node.server.asked();
        node.local.show("default", "web", "h2", "Running");
        node.until("the new one is shown", 5, |s| {
            s.get("pods", "default", "web-n")["metadata"]["annotations"]["kubernetes.io/config.mirror"] == "h2"
        })
        .await;
        let deleted: Vec<_> = node.server.asked().into_iter().filter(|a| a.method == "DELETE").collect();
        assert_eq!(deleted.len(), 1);
        assert_eq!(deleted[0].body["preconditions"]["uid"], first.as_str());
        node.local.drop_pod("default", "web");
        node.until("its mirror is gone", 5, |s| s.get("pods", "default", "web-n").is_null()).await;
    });
}

#[test]
fn mirrors_of_an_earlier_life_go_and_pods_of_others_stay() {
    on_a_loop(async || {
        let server = ApiServer::start();
        let pod = |name: &str, annotations: Value| json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "annotations": annotations}, "spec": {"nodeName": "n"}});
        server.put("pods", "default", pod("old-n", json!({"kubernetes.io/config.mirror": "h0"})));
        let foreign = uid(&server.put("pods", "default", pod("web-n", json!({}))));
        let node = Node::join(server, |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until("the orphan is gone", 10, |s| s.get("pods", "default", "old-n").is_null()).await;
        node.until("the foreign pod is told of", 10, |_| node.local.told.borrow().iter().any(|t| t.contains("no mirror pod"))).await;
        let asked = node.asked_within(2).await;
        assert!(!asked.iter().any(|a| a.path.contains("web-n") || (a.method == "POST" && a.path.ends_with("/pods"))), "{asked:#?}");
        assert_eq!(uid(&node.server.get("pods", "default", "web-n")), foreign);
        let why = node.cluster.lacks(&key("default", "web")).unwrap().0;
        assert!(why.contains(&foreign), "{why}");
        // Once it is gone, nobody has to ask.
        node.server.delete("pods", "default", "web-n");
        node.until_shown("web", "Running").await;
        assert_eq!(node.cluster.lacks(&key("default", "web")), None);
    });
}

#[test]
fn a_mirror_that_comes_before_the_server_knows_its_node_everywhere_is_no_news() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        for (name, code, reason, text) in [
            ("web", 404, "NotFound", "node \"n\" not found"),
            ("more", 403, "Forbidden", "pods \"more-n\" is forbidden: node n UID mismatch: expected a got b"),
        ] {
            let mut refusal = Some((code, reason, text.to_owned()));
            node.server.webhook(Some(Box::new(move |_| refusal.take().map_or(Ok(()), Err))));
            node.local.show("default", name, "h1", "Running");
            node.until_shown(name, "Running").await;
        }
        assert_eq!(*node.local.told.borrow(), Vec::<String>::new());
    });
}

#[test]
fn a_missing_namespace_is_told_and_waited_for() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("later", "web", "h1", "Running");
        node.until("it is told", 10, |_| node.local.told.borrow().iter().any(|t| t.contains("namespaces \"later\" not found"))).await;
        assert_eq!(node.local.told.borrow().len(), 1);
        node.server.put("namespaces", "", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "later"}}));
        node.until("it is shown", 10, |s| !s.get("pods", "later", "web-n").is_null()).await;
    });
}

#[test]
fn a_priority_class_nobody_knows_is_told() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        for (pod, _) in node.local.pods.borrow_mut().values_mut() {
            let mut wanted = (**pod).clone();
            Rc::make_mut(&mut wanted.object).spec.as_mut().unwrap().priority_class_name = Some("nope".into());
            *pod = Rc::new(wanted);
        }
        node.until("it is told", 10, |_| node.local.told.borrow().iter().any(|t| t.contains("no PriorityClass with name nope"))).await;
        let asked = node.asked_within(5).await;
        assert!(asked.iter().filter(|a| a.path.ends_with("/pods")).count() <= 5, "{asked:#?}");
    });
}

#[test]
fn a_node_that_is_deleted_is_made_again_and_its_mirrors_get_the_new_owner() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let first = uid(&node.server.get("nodes", "", "n"));
        node.server.delete("nodes", "", "n");
        // What it owned is collected.
        node.server.delete("leases", "kube-node-lease", "n");
        node.until("the Node is back and owns the mirror", 10, |s| {
            let second = uid(&s.get("nodes", "", "n"));
            second != first
                && !second.is_empty()
                && s.get("pods", "default", "web-n")["metadata"]["ownerReferences"][0]["uid"] == second.as_str()
        })
        .await;
        node.until("the Lease has the new owner", 10, |s| {
            s.get("leases", "kube-node-lease", "n")["metadata"]["ownerReferences"][0]["uid"] == s.get("nodes", "", "n")["metadata"]["uid"]
        })
        .await;
    });
}

#[test]
fn a_node_that_others_made_gets_all_addresses_and_its_own_labels() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.put("nodes", "", json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}, "spec": {}}));
        let node = Node::join(server, |s| s.node_ips = vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()]);
        node.local.labels.borrow_mut().push("node-restriction.kubernetes.io/x");
        let status = |s: &ApiServer| s.get("nodes", "", "n")["status"].take();
        node.until("its status is kept", 10, |s| status(s)["conditions"][3]["type"] == "Ready").await;
        // What a node may not say of itself was for a Node of its own making.
        assert_eq!(node.server.get("nodes", "", "n")["metadata"]["labels"], json!({"kubernetes.io/hostname": "n"}));
        node.until("it has them all", 5, |s| {
            let all = status(s)["addresses"].as_array().cloned().unwrap_or_default();
            all.iter().map(|a| a["address"].as_str().unwrap()).collect::<Vec<_>>() == ["10.0.0.9", "fd00::9", "n"]
        })
        .await;
    });
}

#[test]
fn a_lease_that_has_no_place_yet_is_asked_for_little() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.delete("namespaces", "", "kube-node-lease");
        let node = Node::join(server, |_| {});
        node.until("it is refused", 10, |s| s.asked().iter().any(|a| a.path.ends_with("/leases") && a.code == 404)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = node.asked_within(8).await;
        assert!(asked.len() <= 8, "{asked:#?}");
        node.server.put("namespaces", "", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-node-lease"}}));
        node.until("the Lease is held", 10, |s| !s.get("leases", "kube-node-lease", "n").is_null()).await;
    });
}

#[test]
fn what_may_not_be_looked_at_is_told() {
    on_a_loop(async || {
        let node = Node::join_as(ApiServer::start(), |server, dir, _| {
            std::fs::write(dir.join("kubeconfig"), server.kubeconfig("system:node:other")).unwrap();
        });
        node.local.show("default", "web", "h1", "Running");
        node.until("it is told", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("cannot list resource"))).await;
        assert!(node.cluster.lacks(&key("default", "web")).unwrap().0.contains("cannot list resource"));
        let asked = node.asked_within(5).await;
        assert!(rate(&asked) <= 2.0, "{asked:#?}");
    });
}

#[test]
fn a_node_and_a_lease_that_are_refused_are_told_for_as_long_as_they_are() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.delete("namespaces", "", "kube-node-lease");
        let node = Node::join(server, |_| {});
        node.local.labels.borrow_mut().push("node-restriction.kubernetes.io/x");
        node.local.show("default", "web", "h1", "Running");
        let told = |of: &[&str]| of.iter().all(|text| node.cluster.trouble().is_some_and(|t| t.contains(text)));
        node.until("both are told", 10, |_| told(&["keep its Node", "renew its Lease", "node-restriction.kubernetes.io/x"])).await;
        let why = node.cluster.lacks(&key("default", "web")).unwrap().0;
        assert!(why.contains("no Node object") && why.contains("node-restriction.kubernetes.io/x"), "{why}");
        node.local.labels.borrow_mut().pop();
        node.server.put("namespaces", "", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-node-lease"}}));
        node.until_shown("web", "Running").await;
        node.until("nothing is wrong any more", 10, |_| node.cluster.trouble().is_none()).await;
    });
}

#[test]
fn labels_and_taints_that_others_set_stay_theirs() {
    on_a_loop(async || {
        let second = Duration::from_secs(1);
        let node = Node::join(ApiServer::start(), |s| (s.node_status_update, s.node_status_report) = (second, second));
        node.until("it is there", 10, |s| !s.get("nodes", "", "n").is_null()).await;
        node.server.edit("nodes", "", "n", |node| {
            node["metadata"]["labels"] = json!({"kubernetes.io/hostname": "theirs", "pool": "a"});
            node["spec"]["taints"] = json!([{"key": "theirs", "effect": "NoSchedule"}]);
        });
        let edited = node.server.get("nodes", "", "n");
        node.server.asked();
        let mut reports = 0;
        node.until("three reports later", 10, |s| {
            reports += s.asked().iter().filter(|a| a.path.ends_with("/status")).count();
            reports >= 3
        })
        .await;
        let now = node.server.get("nodes", "", "n");
        assert_eq!((&now["metadata"]["labels"], &now["spec"]), (&edited["metadata"]["labels"], &edited["spec"]));
    });
}

#[test]
fn a_label_that_somebody_changed_stays_so_over_a_restart() {
    on_a_loop(async || {
        let server = ApiServer::start();
        let mut node = Node::join(server, |_| {});
        node.local.labels.borrow_mut().push("pool");
        node.until("it is labelled", 10, |s| s.get("nodes", "", "n")["metadata"]["labels"]["pool"] == "n").await;
        node.life.abort();
        node.server.edit("nodes", "", "n", |node| {
            node["metadata"]["labels"] = json!({"pool": "theirs", "kubernetes.io/hostname": "theirs"});
        });
        node.again();
        node.until("its own name is right again", 10, |s| s.get("nodes", "", "n")["metadata"]["labels"]["kubernetes.io/hostname"] == "n")
            .await;
        assert_eq!(node.server.get("nodes", "", "n")["metadata"]["labels"]["pool"], "theirs");
    });
}

#[test]
fn a_machine_that_was_booted_anew_is_told_once() {
    on_a_loop(async || {
        let mut node = Node::join(ApiServer::start(), |_| {});
        let told = |s: &ApiServer| s.list("events").into_iter().filter(|e| e["reason"] == "Rebooted").collect::<Vec<_>>();
        let ready = |s: &ApiServer| s.list("events").iter().filter(|e| e["reason"] == "NodeReady").count();
        node.until("it has told of itself", 10, |s| ready(s) == 1).await;
        node.life.abort();
        node.server.edit("nodes", "", "n", |node| node["status"]["nodeInfo"]["bootID"] = json!("another"));
        for life in [2, 3] {
            node.again();
            node.until("it has told of itself again", 10, |s| ready(s) == life).await;
            assert_eq!(told(&node.server).len(), 1);
            node.life.abort();
        }
        let event = &told(&node.server)[0];
        assert_eq!((&event["type"], &event["involvedObject"]["kind"]), (&json!("Warning"), &json!("Node")), "{event}");
    });
}

#[test]
fn conditions_that_others_call_unknown_are_told_again_soon_and_without_a_storm() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| s.node_status_update = Duration::from_secs(1));
        let ready = |s: &ApiServer| s.get("nodes", "", "n")["status"]["conditions"][3].clone();
        node.until("it is Ready", 10, |s| ready(s)["status"] == "True").await;
        let (first, dump) = (uid(&node.server.get("nodes", "", "n")), node.server.dump());
        // What kube-controller-manager makes of a node it does not hear from.
        let long_ago = json!("2026-01-01T00:00:00Z");
        let unknown = |s: &ApiServer| {
            s.edit("nodes", "", "n", |node| {
                for c in node["status"]["conditions"].as_array_mut().unwrap() {
                    (c["status"], c["reason"], c["lastTransitionTime"]) = (json!("Unknown"), json!("NodeStatusUnknown"), long_ago.clone());
                }
            });
        };
        unknown(&node.server);
        node.until("it is Ready again", 3, |s| ready(s)["status"] == "True").await;
        let conditions = node.server.get("nodes", "", "n")["status"]["conditions"].take();
        for c in conditions.as_array().unwrap() {
            assert!(c["reason"].as_str().unwrap().starts_with("Kubelet") && c["lastTransitionTime"] != long_ago, "{c}");
        }
        // Somebody who does it again and again is answered at the pace of reports.
        node.server.asked();
        for _ in 0..50 {
            unknown(&node.server);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let sent = node.server.asked().iter().filter(|a| a.path.ends_with("/nodes/n/status")).count();
        assert!((3..=6).contains(&sent), "{sent} in five seconds");
        node.until("it is Ready again", 3, |s| ready(s)["status"] == "True").await;
        // A field of ours, and beside it one of somebody else's, which stays and is no reason to send again.
        let capacity = |s: &ApiServer| s.get("nodes", "", "n")["status"]["capacity"].take();
        node.server.edit("nodes", "", "n", |node| {
            node["status"]["capacity"] = json!({"cpu": "64", "pods": "110", "example.com/dongle": "4"});
        });
        node.until("it is as it was", 3, |s| capacity(s)["cpu"] == "2").await;
        assert_eq!(capacity(&node.server)["example.com/dongle"], "4");
        let asked = node.asked_within(3).await;
        assert!(!asked.iter().any(|a| a.path.contains("/nodes/")), "{asked:#?}");
        // A backup: the same Node, as it was.
        let mut old = dump;
        let objects = old["objects"].as_array_mut().unwrap();
        let at = objects.iter_mut().find(|o| o[1]["kind"] == "Node").unwrap();
        at[1]["status"]["conditions"][3]["status"] = json!("False");
        node.server.rewind(&old);
        node.until("it is Ready after a backup", 8, |s| ready(s)["status"] == "True" && uid(&s.get("nodes", "", "n")) == first).await;
    });
}

#[test]
fn a_new_node_has_the_taints_and_the_provider_that_are_set() {
    on_a_loop(async || {
        let own = |key: &str, value: &str, effect: &str| Taint { key: key.into(), value: value.into(), effect: effect.into() };
        let cases = [
            (None, json!([{"key": "plinth.dev/static-pods-only", "effect": "NoSchedule"}])),
            (Some(vec![]), json!([])),
            (
                Some(vec![own("a", "b", "NoExecute"), own("c", "", "PreferNoSchedule")]),
                json!([{"key": "a", "value": "b", "effect": "NoExecute"}, {"key": "c", "effect": "PreferNoSchedule"}]),
            ),
        ];
        for (taints, there) in cases {
            let node = Node::join(ApiServer::start(), |s| {
                s.taints = taints.unwrap_or_else(|| s.taints.clone());
                s.provider_id = Some("cloud:///zone/n".into());
            });
            node.until("it is there", 10, |s| !s.get("nodes", "", "n").is_null()).await;
            let mut spec = node.server.get("nodes", "", "n")["spec"].take();
            // The server's own is the last.
            let last = spec["taints"].as_array_mut().unwrap().pop().unwrap();
            assert_eq!(last["key"], "node.kubernetes.io/not-ready");
            assert_eq!((&spec["taints"], &spec["providerID"]), (&there, &json!("cloud:///zone/n")));
        }
    });
}

#[test]
fn a_node_is_not_made_where_others_make_it() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| s.register_node = false);
        node.local.show("default", "web", "h1", "Running");
        node.until("the Lease is held", 10, |s| !s.get("leases", "kube-node-lease", "n").is_null()).await;
        assert!(node.server.get("nodes", "", "n").is_null());
        assert!(node.server.list("pods").is_empty());
        node.server.put(
            "nodes",
            "",
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "labels": {"pool": "a"}}, "spec": {}}),
        );
        node.until_shown("web", "Running").await;
        assert_eq!(node.server.get("nodes", "", "n")["metadata"]["labels"], json!({"pool": "a"}));
        node.until("its status is kept", 10, |s| s.get("nodes", "", "n")["status"]["conditions"][3]["type"] == "Ready").await;
    });
}

#[test]
fn a_watch_that_is_too_old_or_cut_off_is_begun_anew() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        for how in ["compacted", "cut"] {
            if how == "compacted" {
                // Gone without a trace in the history: only a new list tells.
                node.server.delete("pods", "default", "web-n");
                node.server.compact();
            } else {
                node.server.delete("pods", "default", "web-n");
                node.server.cut();
            }
            node.until_shown("web", "Running").await;
        }
    });
}

#[test]
fn a_watch_goes_on_from_a_bookmark_where_all_before_it_is_forgotten() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        node.until("the Node is Ready", 10, |s| s.get("nodes", "", "n")["status"]["conditions"][3]["status"] == "True").await;
        // Nothing that is watched, and versions go on.
        let other = node.server.put("namespaces", "", json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "other"}}));
        let version: u64 = other["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        node.until("bookmarks tell it", 10, |s| ["pods", "nodes"].iter().all(|r| s.bookmarked(r) >= version)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.server.asked();
        node.server.compact_to(version);
        node.server.cut();
        let mut asked = Vec::new();
        let watched = |asked: &[apiserver::Asked], path| asked.iter().any(|a| a.path.starts_with(path) && a.path.contains("watch=true"));
        node.until("both are watched again", 10, |s| {
            asked.extend(s.asked());
            watched(&asked, "/api/v1/pods") && watched(&asked, "/api/v1/nodes")
        })
        .await;
        node.server.delete("pods", "default", "web-n");
        node.until_shown("web", "Running").await;
        asked.extend(node.server.asked());
        let listed = asked.iter().filter(|a| a.method == "GET" && a.path.contains("fieldSelector") && !a.path.contains("watch=true"));
        assert_eq!(listed.count(), 0, "{asked:#?}");
    });
}

#[test]
fn watches_over_http_1_do_not_outlive_a_way_that_is_given_up() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::of_http1(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        node.server.forget();
        node.server.fault(Fault::BlackHole);
        node.until("it is noticed", 20, |_| node.cluster.trouble().is_some()).await;
        node.server.fault(Fault::None);
        node.server.delete("pods", "default", "web-n");
        node.until_shown("web", "Running").await;
    });
}

#[test]
fn a_server_that_is_restored_from_a_backup_is_looked_at_anew() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        let backup = node.server.dump();
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let (before, first) = (node.server.dump(), uid(&node.server.get("nodes", "", "n")));
        node.local.show("default", "web", "h2", "Running");
        node.local.show("default", "more", "h1", "Running");
        let right = |s: &ApiServer| {
            let hash = |name| s.get("pods", "default", name)["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
            (hash("web-n"), hash("more-n")) == (json!("h2"), json!("h1"))
        };
        node.until("both are shown", 10, right).await;
        // A backup is older than the last renewal of the Lease.
        let lease = |s: &ApiServer| s.get("leases", "kube-node-lease", "n")["metadata"]["resourceVersion"].clone();
        let held = lease(&node.server);
        node.until("the Lease is renewed", 10, |s| lease(s) != held).await;
        node.server.rewind(&before);
        assert!(!right(&node.server));
        node.until("both are shown again", 10, right).await;
        // Nothing of this node is in that one.
        node.server.rewind(&backup);
        node.until("there is another Node, and both are shown", 10, |s| {
            let now = uid(&s.get("nodes", "", "n"));
            right(s) && now != first && s.get("pods", "default", "web-n")["metadata"]["ownerReferences"][0]["uid"] == now.as_str()
        })
        .await;
    });
}

/// How many of the last seconds' requests came in the busiest window of five seconds, a second.
fn rate(asked: &[apiserver::Asked]) -> f64 {
    let within = |from: Instant| asked.iter().filter(|a| a.at >= from && a.at < from + Duration::from_secs(5)).count();
    asked.iter().map(|a| within(a.at)).max().unwrap_or(0) as f64 / 5.0
}

#[test]
fn whatever_is_wrong_with_the_server_it_is_asked_little_and_found_again() {
    on_a_loop(async || {
        let faults = [
            Fault::Away,
            Fault::BlackHole,
            Fault::Stall,
            Fault::HalfBody,
            Fault::Code(500, None),
            Fault::Code(503, None),
            Fault::Code(429, Some(1)),
            Fault::Code(401, None),
            Fault::Garbage,
            Fault::Untimely(When::Later),
            Fault::Untimely(When::Earlier),
        ];
        let ways = faults.map(|fault| async move {
            let node = Node::join(ApiServer::start(), |_| {});
            node.local.show("default", "web", "h1", "Pending");
            node.until_shown("web", "Pending").await;
            node.server.asked();
            node.server.fault(fault.clone());
            node.local.show("default", "web", "h1", "Running");
            node.local.show("default", "more", "h2", "Running");
            tokio::time::sleep(Duration::from_secs(12)).await;
            let asked = node.server.asked();
            assert!(rate(&asked) <= 5.0, "{fault:?}: {} a second\n{asked:#?}", rate(&asked));
            node.server.fault(Fault::None);
            let shown = |s: &ApiServer| ["web-n", "more-n"].iter().all(|p| s.get("pods", "default", p)["status"]["phase"] == "Running");
            node.until(&format!("both are shown after {fault:?}"), 10, shown).await;
        });
        futures_util::future::join_all(ways).await;
    });
}

#[test]
fn a_server_that_flaps_is_no_reason_for_a_storm() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.asked();
        for n in 0..10 {
            node.server.fault(if n % 2 == 0 { Fault::Away } else { Fault::None });
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let asked = node.server.asked();
        assert!(rate(&asked) <= 5.0, "{} a second\n{asked:#?}", rate(&asked));
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
    });
}

#[test]
fn a_hundred_refused_mirrors_are_tried_again_two_a_second_and_all_shown_when_that_ends() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.webhook(Some(Box::new(|pod| match pod["metadata"]["name"].as_str() {
            Some("web-n") => Ok(()),
            _ => Err((403, "Forbidden", "exceeded quota: pods=0".into())),
        })));
        let node = Node::join(server, |_| {});
        for i in 0..110 {
            node.local.show("default", &format!("p{i:03}"), "h1", "Running");
        }
        node.until("each was refused once", 20, |_| node.local.told.borrow().len() == 110).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // In the middle of that, one that is not refused is shown at once.
        node.server.asked();
        node.local.show("default", "web", "h1", "Running");
        node.until("it is shown", 2, |s| s.get("pods", "default", "web-n")["status"]["phase"] == "Running").await;
        let asked = node.asked_within(5).await;
        assert!(rate(&asked) <= 5.0, "{} a second", rate(&asked));
        node.server.webhook(None);
        node.until("all are shown", 10, |s| s.list("pods").len() == 111).await;
    });
}

#[test]
fn a_webhook_that_hangs_holds_up_new_mirrors_and_nothing_else() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.asked();
        // Longer than any answer is waited for, and then it lets them in.
        node.server.fault(Fault::SlowHook(Duration::from_secs(12)));
        (0..3).for_each(|i| node.local.show("default", &format!("more{i}"), "h1", "Running"));
        node.local.show("default", "web", "h1", "Running");
        node.until("what is shown already goes on", 2, |s| s.get("pods", "default", "web-n")["status"]["phase"] == "Running").await;
        node.until("it is told", 15, |_| node.local.told.borrow().iter().any(|t| t.contains("though others are answered"))).await;
        assert_eq!(node.cluster.trouble(), None);
        let asked = node.server.asked();
        let leases = asked.iter().filter(|a| a.path.contains("/leases/")).count();
        assert!(leases >= 3 && rate(&asked) <= 5.0, "{asked:#?}");
        let all = |s: &ApiServer| (0..3).all(|i| s.get("pods", "default", &format!("more{i}-n"))["status"]["phase"] == "Running");
        node.until("each is waited for", 45, all).await;
    });
}

#[test]
fn a_mirror_that_a_finalizer_holds_is_waited_for() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let edit = |edit: fn(&mut Value)| node.server.edit("pods", "default", "web-n", edit);
        edit(|pod| pod["metadata"]["finalizers"] = json!(["example.com/own"]));
        node.local.show("default", "web", "h2", "Running");
        node.until("it is told", 10, |_| {
            node.cluster.lacks(&key("default", "web")).is_some_and(|(why, _)| why.contains("example.com/own"))
        })
        .await;
        let asked = node.asked_within(3).await;
        assert!(!asked.iter().any(|a| a.path.contains("/pods")), "{asked:#?}");
        node.server.delete("pods", "default", "web-n");
        node.until("the new one is shown", 5, |s| {
            s.get("pods", "default", "web-n")["metadata"]["annotations"]["kubernetes.io/config.mirror"] == "h2"
        })
        .await;
    });
}

#[test]
fn a_container_that_ran_again_though_its_pod_never_restarts_is_shown_by_another_mirror() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        let show = |state: Value| {
            let all = json!([{"name": "c", "image": "busybox", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
            node.local.show("default", "web", "h1", "Running");
            let mut pods = node.local.pods.borrow_mut();
            let (pod, shown) = pods.get_mut(&key("default", "web")).unwrap();
            let mut wanted = (**pod).clone();
            Rc::make_mut(&mut wanted.object).spec.as_mut().unwrap().restart_policy = Some("Never".into());
            *pod = Rc::new(wanted);
            shown.status = Some(Rc::new(json!({"phase": "Running", "containerStatuses": all})));
        };
        let state =
            |s: &ApiServer| s.get("pods", "default", "web-n").pointer("/status/containerStatuses/0/state").cloned().unwrap_or_default();
        show(json!({"terminated": {"exitCode": 3}}));
        node.until("it has ended", 10, |s| state(s)["terminated"]["exitCode"] == 3).await;
        let first = uid(&node.server.get("pods", "default", "web-n"));
        // A reboot, and it is begun again.
        show(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
        node.until("it runs", 10, |s| state(s)["running"]["startedAt"] == "2026-01-01T00:00:00Z").await;
        assert_ne!(uid(&node.server.get("pods", "default", "web-n")), first);
        assert_eq!(node.cluster.lacks(&key("default", "web")), None);
    });
}

#[test]
fn a_webhook_that_edits_mirrors_is_not_fought() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.webhook(Some(Box::new(|pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("edited");
            pod["metadata"]["labels"]["injected"] = json!("yes");
            Ok(())
        })));
        let node = Node::join(server, |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until("it is made", 10, |s| !s.get("pods", "default", "web-n").is_null()).await;
        let asked = node.asked_within(5).await;
        assert!(asked.iter().filter(|a| a.path.contains("/pods")).count() <= 2, "{asked:#?}");
        assert!(node.cluster.lacks(&key("default", "web")).is_some());
    });
}

#[test]
fn two_plinths_of_one_name_argue_slowly() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| s.node_lease_s = 40);
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let other = Rc::new(Fake::default());
        other.show("default", "web", "h2", "Running");
        // What the one does not know is an orphan to it.
        (0..20).for_each(|i| other.show("default", &format!("other{i}"), "h2", "Running"));
        let kubeconfig = Some(node.dir.join("kubeconfig"));
        let s = Settings { node_name: "n".into(), kubeconfig, data_dir: node.dir.clone(), ..Settings::default() };
        tokio::task::spawn_local(Cluster::new(&Rc::new(s), other).unwrap().join());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let asked = node.asked_within(20).await;
        assert!(rate(&asked) <= 5.0, "{} a second\n{asked:#?}", rate(&asked));
    });
}

#[test]
fn a_server_nobody_vouches_for_is_joined_only_where_the_kubeconfig_says_so() {
    on_a_loop(async || {
        let (server, other) = (ApiServer::start(), ApiServer::start());
        server.token("one", Some("system:node:n"));
        // Another authority's, first, at the same address.
        let stranger = server
            .kubeconfig_of_token("one")
            .replace(&apiserver::tls::base64(server.authority()), &apiserver::tls::base64(other.authority()));
        let at = |s: &Settings, text: &str| std::fs::write(s.kubeconfig.as_ref().unwrap(), text).unwrap();
        let node = Node::join(server, |s| at(s, &stranger));
        node.local.show("default", "web", "h1", "Running");
        node.until("it is not believed", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("invalid peer certificate"))).await;
        let open = "insecure-skip-tls-verify: true}";
        let text = stranger.lines().map(|l| match l.split_once("certificate-authority-data") {
            Some((before, _)) => format!("{before}{open}\n"),
            None => format!("{l}\n"),
        });
        at(&node.settings, &text.collect::<String>());
        node.until_shown("web", "Running").await;
    });
}

#[test]
fn a_server_is_found_by_its_name() {
    on_a_loop(async || {
        let node = Node::join_as(ApiServer::start(), |server, dir, _| {
            let named = server.kubeconfig("system:node:n").replace("https://127.0.0.1:", "https://localhost:");
            std::fs::write(dir.join("kubeconfig"), named).unwrap();
        });
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
    });
}

#[test]
fn a_token_that_is_renewed_in_its_file_is_used() {
    on_a_loop(async || {
        let server = ApiServer::start();
        let token = std::env::temp_dir().join(format!("plinth-token-{}", std::process::id()));
        std::fs::write(&token, "one\n").unwrap();
        server.token("one", Some("system:node:n"));
        let config = server.kubeconfig_of_token_file(token.to_str().unwrap());
        let node = Node::join(server, |s| std::fs::write(s.kubeconfig.as_ref().unwrap(), config).unwrap());
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.token("one", None);
        node.server.token("two", Some("system:node:n"));
        node.local.show("default", "web", "h1", "Running");
        node.until("the old token is refused", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("Unauthorized"))).await;
        std::fs::write(&token, "two\n").unwrap();
        node.until_shown("web", "Running").await;
        std::fs::remove_file(&token).unwrap();
    });
}

#[test]
fn a_certificate_that_others_renew_in_its_files_is_used() {
    on_a_loop(async || {
        let write = |server: &ApiServer, dir: &Path| {
            let (cert, key) = server.identity("system:node:n");
            let files = [dir.join("n.crt"), dir.join("n.key")];
            std::fs::write(&files[0], cert).unwrap();
            std::fs::write(&files[1], key).unwrap();
            files
        };
        let node = Node::join_as(ApiServer::start(), |server, dir, _| {
            let [cert, key] = write(server, dir);
            std::fs::write(dir.join("kubeconfig"), server.kubeconfig_of_files(&cert, &key)).unwrap();
        });
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.revoke(&node.server.certificates());
        node.local.show("default", "web", "h1", "Running");
        node.until("the old one is refused", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("Unauthorized"))).await;
        write(&node.server, &node.dir);
        node.until_shown("web", "Running").await;
        // What was asked with the old one may be answered last.
        node.until("nothing is wrong any more", 10, |_| node.cluster.trouble().is_none()).await;
    });
}

#[test]
fn events_are_counted_up_and_those_of_a_missing_namespace_are_lost_quietly() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.tell("BackOff", 1);
        node.until("it is there", 10, |s| s.get("events", "default", "web-n.backoff")["count"] == 1).await;
        node.local.tell("BackOff", 7);
        node.until("it is counted", 10, |s| s.get("events", "default", "web-n.backoff")["count"] == 7).await;
        let lost = json!({"metadata": {"name": "q-n.1", "namespace": "nope"}, "involvedObject": {"kind": "Pod", "namespace": "nope"}, "reason": "Started", "count": 1});
        node.local.events.borrow_mut().push(serde_json::from_value(lost).unwrap());
        node.local.tell("Started", 1);
        node.until("what came after it is there", 10, |s| !s.get("events", "default", "web-n.started").is_null()).await;
        assert_eq!(node.cluster.trouble(), None);
    });
}

#[test]
fn of_many_events_from_before_the_connection_the_newest_are_sent() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        (1..=300).for_each(|i| node.local.tell(&format!("e{i}"), 1));
        let sent = |s: &ApiServer, i: u32| !s.get("events", "default", &format!("web-n.e{i}")).is_null();
        // Of one object not more than twenty-five at once.
        node.until("they are sent in their order", 15, |s| sent(s, 70)).await;
        assert!(sent(&node.server, 51) && !sent(&node.server, 50), "the newest 250");
    });
}

#[test]
fn a_node_with_much_to_tell_shows_its_pods_first() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        (1..=300).for_each(|i| node.local.tell(&format!("e{i}"), 1));
        let told = |s: &ApiServer| s.list("events").iter().filter(|e| e["reason"].as_str().is_some_and(|r| r.starts_with('e'))).count();
        node.until("it begins to tell", 10, |s| told(s) >= 1).await;
        for phase in ["Running", "Failed", "Running"] {
            let began = Instant::now();
            node.local.show("default", "web", "h1", phase);
            node.until_shown("web", phase).await;
            assert!(began.elapsed() < Duration::from_secs(1), "{phase} after {:?}", began.elapsed());
        }
        assert!(told(&node.server) < 25, "what is told waits");
    });
}

#[test]
fn a_server_that_is_slow_costs_events_first_and_nothing_else() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.local.ring.set(5);
        node.server.fault(Fault::SlowEvents(Duration::from_secs(1)));
        node.server.asked();
        node.local.tell("e1", 1);
        node.until("it begins to tell", 10, |s| !s.get("events", "default", "web-n.e1").is_null()).await;
        // Of these, all but the five newest are forgotten before their turn comes.
        (2..=40).for_each(|i| node.local.tell(&format!("e{i}"), 1));
        for phase in ["Running", "Failed", "Running"] {
            let began = Instant::now();
            node.local.show("default", "web", "h1", phase);
            node.until_shown("web", phase).await;
            assert!(began.elapsed() < Duration::from_millis(900), "{phase} after {:?}", began.elapsed());
        }
        node.until("the newest are told", 20, |s| !s.get("events", "default", "web-n.e40").is_null()).await;
        let told = |i: u32| !node.server.get("events", "default", &format!("web-n.e{i}")).is_null();
        assert!((36..=40).all(told), "the ring keeps them");
        assert!((2..=35).filter(|i| told(*i)).count() <= 2, "what was forgotten is not sent");
        let asked = node.server.asked();
        assert!(asked.iter().filter(|a| a.path.contains("/leases/")).count() >= 2, "the Lease is renewed meanwhile: {asked:#?}");
        assert_eq!(node.cluster.trouble(), None);
    });
}

#[test]
fn the_lease_of_a_kubelets_duration_is_renewed_within_ten_seconds_and_not_sooner_than_eight() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| s.node_lease_s = 40);
        let lease = |s: &ApiServer| s.get("leases", "kube-node-lease", "n")["metadata"]["resourceVersion"].clone();
        node.until("it is held", 10, |s| !lease(s).is_null()).await;
        let (began, made) = (Instant::now(), lease(&node.server));
        node.until("it is renewed", 12, |s| lease(s) != made).await;
        let after = began.elapsed();
        assert!((Duration::from_millis(7_900)..=Duration::from_millis(10_500)).contains(&after), "{after:?} after it was made");
    });
}

/// A node that may ask who it is, and is nobody yet.
fn bootstrapping(server: ApiServer, more: impl FnOnce(&mut Settings)) -> Node {
    server.token("abc", Some("system:bootstrap:abc"));
    Node::join_as(server, |server, dir, s| {
        std::fs::write(dir.join("bootstrap"), server.kubeconfig_of_token("abc")).unwrap();
        s.bootstrap_kubeconfig = Some(dir.join("bootstrap"));
        more(s);
    })
}

const CSR: &str = "certificatesigningrequests";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn requests(server: &ApiServer) -> Vec<String> {
    server.list(CSR).iter().map(|r| r["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_node_asks_who_it_is_waits_for_approval_over_restarts_and_joins_as_that() {
    on_a_loop(async || {
        let mut node = bootstrapping(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.until("it says what it waits for", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("kubectl certificate approve")))
            .await;
        let [name] = &*requests(&node.server) else { panic!("{:?}", requests(&node.server)) };
        let spec = node.server.get(CSR, "", name)["spec"].clone();
        assert_eq!(spec["signerName"], "kubernetes.io/kube-apiserver-client-kubelet");
        assert_eq!(spec["usages"], json!(["digital signature", "client auth"]));
        assert_eq!(spec["username"], "system:bootstrap:abc");
        // Nobody polls while somebody is thought about.
        let asked = node.asked_within(2).await;
        assert!(asked.is_empty(), "{asked:#?}");
        for _ in 0..3 {
            node.again();
            node.until("it waits again", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("waits for approval"))).await;
        }
        assert_eq!(requests(&node.server).len(), 1, "the same key, the same request");
        node.server.decide(name, Ok(YEAR));
        node.until_shown("web", "Running").await;
        assert_eq!(node.cluster.trouble(), None);
        assert!(node.server.asked().iter().any(|a| a.user == "system:node:n"));
        let link = node.dir.join("pki/kubelet-client-current.pem");
        assert!(std::fs::read_link(&link).unwrap().to_str().unwrap().contains("/kubelet-client-20"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&link).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "its key is in it");
        assert_eq!(std::fs::read_dir(node.dir.join("pki")).unwrap().count(), 2);
        // The bootstrap token is needed no more.
        node.server.token("abc", None);
        node.again();
        node.local.show("default", "web", "h1", "Failed");
        node.until_shown("web", "Failed").await;
        assert_eq!(requests(&node.server).len(), 1);
        // Nor is the kubeconfig, while the certificate is there.
        std::fs::remove_file(node.dir.join("kubeconfig")).unwrap();
        node.again();
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        assert_eq!(requests(&node.server).len(), 1);
    });
}

#[test]
fn a_denied_request_is_told_and_made_again_when_it_is_deleted() {
    on_a_loop(async || {
        let node = bootstrapping(ApiServer::start(), |_| {});
        node.until("it asks", 10, |s| requests(s).len() == 1).await;
        let name = requests(&node.server).remove(0);
        node.server.decide(&name, Err("not one of mine"));
        node.until("it is told", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains("not one of mine"))).await;
        let asked = node.asked_within(3).await;
        assert!(asked.is_empty(), "{asked:#?}");
        node.server.delete(CSR, "", &name);
        node.until("it asks again", 20, |s| requests(s) == [name.clone()]).await;
        node.server.decide(&name, Ok(YEAR));
        node.until("it joins", 10, |s| !s.get("nodes", "", "n").is_null()).await;
    });
}

#[test]
fn who_may_not_ask_is_told_and_asked_for_little() {
    on_a_loop(async || {
        for (user, word) in [(None, "Unauthorized"), (Some("system:node:other"), "certificate approve")] {
            let node = bootstrapping(ApiServer::start(), |_| {});
            node.server.token("abc", user);
            node.until("it is told", 10, |_| node.cluster.trouble().is_some_and(|t| t.contains(word))).await;
            let asked = node.asked_within(6).await;
            assert!(rate(&asked) <= 1.0, "{asked:#?}");
            assert!(requests(&node.server).len() <= 1);
        }
    });
}

#[test]
fn an_identity_is_renewed_before_it_expires_and_what_is_shown_goes_on() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.approves(Some(Duration::from_secs(8)));
        let mut node = bootstrapping(server, |_| {});
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        let first = std::fs::read(node.dir.join("pki/kubelet-client-current.pem")).unwrap();
        let old = node.server.certificates();
        node.server.asked();
        // At 70 to 90 % of eight seconds.
        node.until("it is renewed", 12, |s| requests(s).len() == 2).await;
        node.until("the new one is stored", 5, |_| {
            std::fs::read(node.dir.join("pki/kubelet-client-current.pem")).is_ok_and(|now| now != first)
        })
        .await;
        node.server.approves(Some(YEAR));
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Who still shows the old one is nobody.
        node.server.revoke(&old);
        node.local.show("default", "web", "h1", "Running");
        node.until_shown("web", "Running").await;
        let refused: Vec<_> = node.server.asked().into_iter().filter(|a| a.code == 401).collect();
        assert!(refused.is_empty(), "{refused:#?}");
        assert_eq!(node.cluster.trouble(), None);
        // The next one lives a year, and is not renewed: neither now nor after a restart.
        node.until("the next one is renewed", 12, |s| requests(s).len() == 3).await;
        node.again();
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        assert_eq!(requests(&node.server).len(), 3);
    });
}

#[test]
fn a_node_the_server_does_not_know_any_more_asks_anew_who_it_is() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.approves(Some(YEAR));
        let node = bootstrapping(server, |s| s.node_lease_s = 1);
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.revoke(&node.server.certificates());
        node.local.show("default", "web", "h1", "Running");
        node.until("it asks again and is shown", 40, |s| {
            requests(s).len() == 2 && s.get("pods", "default", "web-n")["status"]["phase"] == "Running"
        })
        .await;
    });
}

#[test]
fn a_node_whose_certificate_expired_while_the_server_was_away_asks_anew_at_once() {
    on_a_loop(async || {
        let server = ApiServer::start();
        server.approves(Some(Duration::from_secs(4)));
        // Five minutes of 401 would be too long for this test.
        let node = bootstrapping(server, |s| s.node_lease_s = 40);
        node.local.show("default", "web", "h1", "Pending");
        node.until_shown("web", "Pending").await;
        node.server.fault(Fault::Away);
        let old = node.server.certificates();
        node.local.show("default", "web", "h1", "Running");
        tokio::time::sleep(Duration::from_secs(5)).await;
        node.server.revoke(&old);
        node.server.approves(Some(YEAR));
        node.server.fault(Fault::None);
        node.until("it is shown", 20, |s| s.get("pods", "default", "web-n")["status"]["phase"] == "Running").await;
        let user = |a: &apiserver::Asked| a.user == "system:bootstrap:abc" && a.method == "POST";
        assert!(node.server.asked().iter().any(user));
    });
}

#[test]
fn a_node_that_is_nobody_and_has_nobody_to_ask_waits_quietly() {
    on_a_loop(async || {
        let ways = [false, true].map(|asks| async move {
            let server = ApiServer::start();
            server.approves(Some(YEAR));
            let node = match asks {
                false => Node::join(server, |s| s.node_lease_s = 1),
                true => bootstrapping(server, |s| s.node_lease_s = 1),
            };
            node.local.show("default", "web", "h1", "Pending");
            node.until_shown("web", "Pending").await;
            // Whom it asked before is nobody either.
            node.server.token("abc", None);
            node.server.revoke(&node.server.certificates());
            // Longer than it takes to look for another identity.
            tokio::time::sleep(Duration::from_secs(10)).await;
            let asked = node.asked_within(6).await;
            assert!(!asked.is_empty() && rate(&asked) <= 1.0, "{asked:#?}");
            assert_eq!(node.cluster.trouble().is_some_and(|t| t.starts_with("bootstrap: ")), asks, "{:?}", node.cluster.trouble());
            // Somebody else sees to it.
            std::fs::write(node.settings.kubeconfig.as_ref().unwrap(), node.server.kubeconfig("system:node:n")).unwrap();
            node.local.show("default", "web", "h1", "Running");
            node.until_shown("web", "Running").await;
            node.until("nothing is wrong any more", 10, |_| node.cluster.trouble().is_none()).await;
        });
        futures_util::future::join_all(ways).await;
    });
}

#[test]
fn the_certificate_of_a_nodes_own_api_is_asked_for_with_its_addresses() {
    on_a_loop(async || {
        let node = Node::join(ApiServer::start(), |s| {
            s.server_tls_bootstrap = true;
            s.api.port = 10250;
            s.node_ips = vec!["10.0.0.9".parse().unwrap()];
        });
        node.until("it is asked for", 10, |s| requests(s).len() == 1).await;
        let name = requests(&node.server).remove(0);
        let spec = node.server.get(CSR, "", &name)["spec"].clone();
        assert_eq!((&spec["signerName"], &spec["username"]), (&json!("kubernetes.io/kubelet-serving"), &json!("system:node:n")));
        assert_eq!(spec["usages"], json!(["digital signature", "server auth"]));
        node.server.decide(&name, Ok(YEAR));
        let pair = node.dir.join("pki/kubelet-server-current.pem");
        node.until("it is stored", 10, |_| pair.exists()).await;
        assert_eq!(node.server.get(CSR, "", &name)["status"]["conditions"].as_array().unwrap().len(), 1, "the signer found nothing wrong");
        // It serves under name and address, to somebody who believes the cluster's authority.
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
        let cert = CertificateDer::from_pem_file(&pair).unwrap();
        let cert = webpki::EndEntityCert::try_from(&cert).unwrap();
        for name in ["n", "10.0.0.9"] {
            cert.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
        }
    });
}

#[test]
fn killed_between_the_end_of_a_mirror_and_its_next_one_it_makes_that_one_in_its_next_life() {
    on_a_loop(async || {
        let mut node = Node::join(ApiServer::start(), |_| {});
        node.local.show("default", "web", "h1", "Running");
        node.local.show("default", "same", "h1", "Running");
        node.until_shown("web", "Running").await;
        node.until_shown("same", "Running").await;
        let same = uid(&node.server.get("pods", "default", "same-n"));
        // The old one goes, and the new one does not get there.
        node.server.webhook(Some(Box::new(|_| Err((403, "Forbidden", "not now".into())))));
        node.server.asked();
        node.local.show("default", "web", "h2", "Running");
        node.until("the old one is gone", 10, |s| s.get("pods", "default", "web-n").is_null()).await;
        node.again();
        node.server.webhook(None);
        node.until("the new one is shown", 10, |s| {
            let pod = s.get("pods", "default", "web-n");
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] == "h2" && pod["status"]["phase"] == "Running"
        })
        .await;
        let deleted = node.server.asked().into_iter().filter(|a| a.method == "DELETE").count();
        assert_eq!((deleted, uid(&node.server.get("pods", "default", "same-n"))), (1, same), "nothing else was touched");
    });
}

#[test]
fn a_lease_from_a_clock_an_hour_ahead_or_behind_is_renewed_by_the_one_we_have() {
    on_a_loop(async || {
        for hours in [-1, 1] {
            let server = ApiServer::start();
            let now = plinth::clock::now().wall;
            let other = plinth::clock::Wall(now.0 + hours * 3_600_000_000_000);
            let spec = json!({"holderIdentity": "n", "leaseDurationSeconds": 8, "renewTime": micros(other)});
            let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "n"}, "spec": spec});
            server.put("leases", "kube-node-lease", lease);
            let node = Node::join(server, |_| {});
            node.local.show("default", "web", "h1", "Running");
            node.until_shown("web", "Running").await;
            let (from, to) = (micros(now), micros(plinth::clock::Wall(now.0 + 1_800_000_000_000)));
            node.until("it is renewed at our time", 10, |s| {
                let renewed = s.get("leases", "kube-node-lease", "n")["spec"]["renewTime"].as_str().unwrap_or_default().to_owned();
                renewed > from && renewed < to
            })
            .await;
            assert_eq!(node.cluster.trouble(), None);
        }
    });
}

fn micros(at: plinth::clock::Wall) -> String {
    let mut text = String::new();
    at.write_nanos(&mut text).unwrap();
    format!("{}Z", &text[..26])
}
