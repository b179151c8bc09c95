//! A node that joins a cluster: its pods are shown there, kubectl works on them, and nothing of it reaches a pod.

use std::fs::{self, File};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::apiserver::{ApiServer, Fault};
use crate::node::{FOREVER, Node, can_run, container, script};

/// A node with an API server on its loopback, and the kubeconfigs of both sides.
pub fn joined() -> (Node, ApiServer) {
    let mut n = Node::up();
    // The server's own thread is where the thread that began it is.
    let server = inside(&n, || ApiServer::on(TcpListener::bind("127.0.0.1:0").unwrap()));
    fs::write(n.path("work/kubeconfig"), server.kubeconfig("system:node:it")).unwrap();
    fs::write(n.path("work/admin"), server.kubeconfig("admin")).unwrap();
    n.extra.push(format!("kubeconfig={}", n.path("work/kubeconfig")));
    (n, server)
}

/// Does it in the node's network: a thread of its own goes there.
pub fn inside<T: Send + 'static>(n: &Node, what: impl FnOnce() -> T + Send + 'static) -> T {
    let holder = fs::read_to_string(n.path("holder.pid")).unwrap();
    let net = File::open(format!("/proc/{}/ns/net", holder.trim())).unwrap();
    let there = std::thread::spawn(move || {
        setns(net, CloneFlags::CLONE_NEWNET).unwrap();
        what()
    });
    there.join().unwrap()
}

/// kubectl and its flags for this node's API server.
pub fn kubectl_words(n: &Node) -> Vec<String> {
    let fetched = crate::node::cache().join("kubectl/usr/bin/kubectl");
    let kubectl = if fetched.exists() { fetched.to_str().unwrap() } else { "kubectl" };
    [kubectl, "--kubeconfig", &n.path("work/admin"), "--cache-dir", &n.path("work/kubectl")].map(str::to_owned).to_vec()
}

pub fn kubectl(n: &Node, args: &[&str]) -> String {
    let words = kubectl_words(n);
    n.exec(&words.iter().map(String::as_str).chain(args.iter().copied()).collect::<Vec<_>>())
}

pub fn shown(server: &ApiServer, name: &str) -> Value {
    server.get("pods", "default", &format!("{name}-it"))
}

pub fn is_ready(pod: &Value) -> bool {
    crate::node::condition(pod, "Ready")
}

/// What tells one run of a container from another.
fn run(pod: &Value) -> (Value, Value, Value) {
    let c = container(pod, "c");
    (c["containerID"].clone(), c["restartCount"].clone(), c["state"]["running"]["startedAt"].clone())
}

/// A node whose pod `a` is shown as Ready at its API server.
fn with_a_shown() -> Option<(Node, ApiServer)> {
    can_run().then(|| {
        let (mut n, server) = joined();
        n.put("a.yaml", &script("a", FOREVER));
        n.start();
        n.until("it is shown as Ready", 30, |_| is_ready(&shown(&server, "a")));
        (n, server)
    })
}

#[test]
fn pods_are_shown_at_the_api_server_as_they_are() {
    let Some((mut n, server)) = with_a_shown() else { return };
    let (here, there) = (n.pod("a").unwrap(), shown(&server, "a"));
    assert_eq!(run(&here), run(&there));
    assert_eq!(there["metadata"]["annotations"]["kubernetes.io/config.mirror"], here["metadata"]["uid"]);
    assert_eq!(there["status"]["podIP"], here["status"]["podIP"]);
    assert_eq!(there["metadata"]["ownerReferences"][0]["uid"], server.get("nodes", "", "it")["metadata"]["uid"]);
    n.until("the Node is Ready and says by what", 5, |_| {
        let node = server.get("nodes", "", "it");
        let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap_or_default();
        is_ready(&node) && runtime.starts_with("containerd://2.")
    });
    n.until("its events are there", 10, |_| server.list("events").iter().any(|e| e["reason"] == "Started"));
    // kubectl, which nobody here wrote.
    assert!(kubectl(&n, &["get", "pods", "-o", "name"]).contains("pod/a-it"));
    assert!(
        kubectl(&n, &["get", "node", "it", "-o", "jsonpath={.status.conditions[3].type}={.status.conditions[3].status}"])
            .contains("Ready=True")
    );
    kubectl(&n, &["delete", "pod", "a-it", "--wait=false"]);
    let first = there["metadata"]["uid"].clone();
    n.until("its mirror is back", 10, |_| is_ready(&shown(&server, "a")) && shown(&server, "a")["metadata"]["uid"] != first);
    assert_eq!(run(&n.pod("a").unwrap()), run(&here));
    assert_eq!(fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count(), 1, "one thread, always");
    n.remove("a.yaml");
    n.until("it is gone here and there", 20, |n| n.gone("a") && shown(&server, "a").is_null());
    n.shutdown();
}

#[test]
fn nothing_that_is_wrong_with_the_api_server_reaches_a_pod() {
    let Some((mut n, server)) = with_a_shown() else { return };
    let before = run(&n.pod("a").unwrap());
    let faults = [Fault::BlackHole, Fault::Away, Fault::Code(500, None), Fault::Stall, Fault::Garbage, Fault::Code(401, None)];
    for (i, fault) in faults.into_iter().enumerate() {
        server.asked();
        server.fault(fault.clone());
        let began = Instant::now();
        // Life goes on: a pod comes, is edited, and goes.
        let file = format!("b{i}.yaml");
        n.put(&file, &script(&format!("b{i}"), FOREVER));
        n.until_ready(&format!("b{i}"));
        n.put(&file, &script(&format!("b{i}"), &format!("echo again; {FOREVER}")));
        let name = format!("b{i}");
        n.until("the edit runs", 20, |n| n.ready(&name) && n.said_or_nothing(&["logs", &name]).contains("again"));
        if i % 2 == 0 {
            n.kill();
            n.start();
            n.until_ready("a");
        }
        n.remove(&file);
        n.until("it goes", 20, |n| n.gone(&name));
        assert_eq!(run(&n.pod("a").unwrap()), before, "{fault:?}");
        let rate = server.asked().len() as f64 / began.elapsed().max(Duration::from_secs(5)).as_secs_f64();
        assert!(rate <= 5.0, "{fault:?}: {rate} requests a second");
        server.fault(Fault::None);
        let name = format!("c{i}");
        n.put(&format!("{name}.yaml"), &script(&name, FOREVER));
        n.until(&format!("it is found again after {fault:?}"), 20, |_| is_ready(&shown(&server, &name)));
        n.until("no mirror is left of what came and went", 10, |_| shown(&server, &format!("b{i}")).is_null());
    }
    assert_eq!(run(&n.pod("a").unwrap()), before);
    n.shutdown();
}

#[test]
fn what_the_api_server_does_not_show_is_explained() {
    if !can_run() {
        return;
    }
    let (mut n, server) = joined();
    n.put("a.yaml", &script("a", FOREVER).replace("  name: a\n", "  name: a\n  namespace: nope\n"));
    n.start();
    n.until("why says it", 30, |n| n.said_or_nothing(&["why", "nope/a"]).contains("namespaces \"nope\" not found"));
    assert!(n.said(&["events"]).contains("FailedMirror"));
    assert!(n.get("/metrics").unwrap().contains("plinth_unshown_pods 1"));
    n.until("it runs all the same", 20, |n| n.ready("a"));
    server.fault(Fault::Away);
    n.until("status says who is away", 20, |n| {
        let out = n.plinth(&["status"]);
        String::from_utf8_lossy(&out.stderr).contains("the API server is away")
    });
    n.shutdown();
}
