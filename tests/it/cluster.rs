//! A node that joins a cluster: its pods are shown there, kubectl works on them, and nothing of it reaches a pod.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::apiserver::tls::When;
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

fn kubectl_of(n: &Node, args: &[&str]) -> Vec<String> {
    kubectl_words(n).into_iter().chain(args.iter().map(|a| (*a).to_owned())).collect()
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
    n.until("the Node says what images are there, and how large", 20, |_| {
        let images = server.get("nodes", "", "it")["status"]["images"].clone();
        let of = images.as_array().into_iter().flatten().find(|i| i["names"][0] == crate::node::IMAGE).cloned();
        of.is_some_and(|i| i["sizeBytes"].as_u64().is_some_and(|bytes| (500_000..5_000_000).contains(&bytes)))
    });
    n.until("its events are there", 10, |_| server.list("events").iter().any(|e| e["reason"] == "Started"));
    // kubectl, which nobody here wrote.
    assert!(kubectl(&n, &["get", "pods", "-o", "name"]).contains("pod/a-it"));
    assert!(
        kubectl(&n, &["get", "node", "it", "-o", "jsonpath={.status.conditions[3].type}={.status.conditions[3].status}"])
            .contains("Ready=True")
    );
    // It waits for the end of what it deletes.
    kubectl(&n, &["delete", "pod", "a-it", "--timeout=20s"]);
    let first = there["metadata"]["uid"].clone();
    n.until("its mirror is back", 10, |_| is_ready(&shown(&server, "a")) && shown(&server, "a")["metadata"]["uid"] != first);
    assert_eq!(run(&n.pod("a").unwrap()), run(&here));
    assert_eq!(fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count(), 1, "one thread, always");
    // A new life tells nothing before it has looked: the pod was Ready all the time.
    n.kill();
    server.asked();
    n.start();
    let mut asked = Vec::new();
    n.until("the node's next life tells of it", 20, |_| {
        asked.extend(server.asked());
        asked.iter().any(|a| a.method == "PATCH" && a.path.ends_with("/nodes/it/status"))
    });
    n.until("it is there", 20, |n| n.ready("a"));
    asked.extend(server.asked());
    let alarms =
        asked.iter().filter(|a| a.path.ends_with("/status") && a.body.to_string().contains("\"status\":\"False\",\"type\":\"Ready\""));
    assert_eq!(alarms.count(), 0, "{asked:#?}");
    assert!(asked.iter().all(|a| a.body["status"]["phase"].is_null()), "{asked:#?}");
    assert_eq!(run(&shown(&server, "a")), run(&here));
    n.remove("a.yaml");
    n.until("it is gone here and there", 20, |n| n.gone("a") && shown(&server, "a").is_null());
    n.shutdown();
}

#[test]
fn nothing_that_is_wrong_with_the_api_server_reaches_a_pod() {
    let Some((mut n, server)) = with_a_shown() else { return };
    let before = run(&n.pod("a").unwrap());
    let faults = [
        Fault::BlackHole,
        Fault::Away,
        Fault::Code(500, None),
        Fault::Stall,
        Fault::Garbage,
        Fault::Code(401, None),
        Fault::HalfBody,
        Fault::Code(429, Some(1)),
        // A certificate that expired, and one from the future: a clock that is wrong, here or there.
        Fault::Untimely(When::Earlier),
        Fault::Untimely(When::Later),
    ];
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
        n.until(&format!("it is found again after {fault:?}"), 10, |_| is_ready(&shown(&server, &name)));
        n.until("no mirror is left of what came and went", 10, |_| shown(&server, &format!("b{i}")).is_null());
    }
    assert_eq!(run(&n.pod("a").unwrap()), before);
    n.shutdown();
}

/// A name server that knows one name, and tells that it is on loopback.
fn name_server(knows: &'static str) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut question) {
            let name: Vec<u8> = knows.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
            let asked = &question[12..n];
            let known = asked.starts_with(&name) && asked[name.len() + 1..].starts_with(&[0, 1]);
            let mut answer = question[..n].to_vec();
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, known.into());
            if known {
                // Of the name asked for, an A in IN, for a minute.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn a_server_that_has_a_name_is_looked_up_on_the_one_thread() {
    if !can_run() {
        return;
    }
    let (mut n, server) = joined();
    inside(&n, || name_server("api.test"));
    fs::write(n.path("work/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    n.extra.push(format!("resolvConf={}", n.path("work/resolv.conf")));
    fs::write(n.path("work/kubeconfig"), server.kubeconfig("system:node:it").replace("https://127.0.0.1:", "https://api.test:")).unwrap();
    n.put("a.yaml", &script("a", FOREVER));
    n.start();
    let mut most = 0;
    let mut threads = |n: &Node| most = most.max(fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count());
    n.until("it is shown as Ready", 30, |n| {
        threads(n);
        is_ready(&shown(&server, "a"))
    });
    // Looked up again for each new connection.
    server.cut();
    n.remove("a.yaml");
    n.until("it is gone here and there", 20, |n| {
        threads(n);
        n.gone("a") && shown(&server, "a").is_null()
    });
    assert_eq!(most, 1, "one thread, always");
    n.shutdown();
}

/// Does it while `a` runs as it did, and shows it as that again afterwards.
fn through(n: &mut Node, server: &ApiServer, what: &str, wrong: impl FnOnce(&mut Node, &ApiServer)) {
    let before = run(&n.pod("a").unwrap());
    wrong(n, server);
    n.until(&format!("it is shown as it is after {what}"), 15, |_| {
        let there = shown(server, "a");
        is_ready(&there) && run(&there) == before
    });
    assert_eq!(run(&n.pod("a").unwrap()), before, "{what}");
}

#[test]
fn whatever_others_do_to_its_objects_a_pod_runs_on_and_is_shown() {
    let Some((mut n, server)) = with_a_shown() else { return };
    through(&mut n, &server, "a Node of another uid", |n, server| {
        server.delete("nodes", "", "it");
        server.put("nodes", "", serde_json::json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "it"}, "spec": {}}));
        n.until("the mirror has the new owner", 15, |_| {
            shown(server, "a")["metadata"]["ownerReferences"][0]["uid"] == server.get("nodes", "", "it")["metadata"]["uid"]
        });
    });
    through(&mut n, &server, "a webhook that edits mirrors", |n, server| {
        server.webhook(Some(Box::new(|pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "edited".into();
            Ok(())
        })));
        server.delete("pods", "default", "a-it");
        n.until("the edited one is there", 15, |_| {
            shown(server, "a")["metadata"]["annotations"]["kubernetes.io/config.mirror"] == "edited"
        });
        server.asked();
        std::thread::sleep(Duration::from_secs(5));
        assert!(server.asked().len() <= 25, "it is not fought");
        server.webhook(None);
        server.delete("pods", "default", "a-it");
    });
    through(&mut n, &server, "another plinth of that name", |n, server| {
        server.asked();
        for i in 0..20 {
            if !shown(server, "a").is_null() {
                server.edit("pods", "default", "a-it", |pod| {
                    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = format!("theirs{i}").into()
                });
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let asked = server.asked().len();
        assert!(asked <= 50, "{asked} requests in ten seconds of a quarrel\n{}", n.log());
        // What was replaced twice within a minute waits before the next time: the other one goes, and so does its mirror.
        server.delete("pods", "default", "a-it");
    });
    through(&mut n, &server, "flapping each second", |_, server| {
        for i in 0..8 {
            server.fault(if i % 2 == 0 { Fault::Away } else { Fault::None });
            std::thread::sleep(Duration::from_secs(1));
        }
        server.fault(Fault::None);
    });
    through(&mut n, &server, "kill -9 between the end of a mirror and its next one", |n, server| {
        n.put("b.yaml", &script("b", FOREVER));
        n.until("b is shown", 20, |_| is_ready(&shown(server, "b")));
        server.webhook(Some(Box::new(|_| Err((403, "Forbidden", "not now".into())))));
        n.put("b.yaml", &script("b", &format!("echo again; {FOREVER}")));
        n.until("the old one is gone", 20, |_| shown(server, "b").is_null());
        n.kill();
        server.webhook(None);
        n.start();
        n.until("the new one is shown", 20, |n| {
            let (here, there) = (n.pod("b").unwrap_or_default(), shown(server, "b"));
            is_ready(&there) && there["metadata"]["annotations"]["kubernetes.io/config.mirror"] == here["metadata"]["uid"]
        });
    });
    n.shutdown();
}

/// Runs until TERM, and does nothing meanwhile: there are many of it.
const STILL: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// Each pod by its name: the run of one that is Ready, else why it is not.
fn runs(pods: &[Value]) -> BTreeMap<String, (Value, Value, Value)> {
    let why = |p: &Value| (p["status"]["phase"].clone(), p["status"]["reason"].clone(), Value::Null);
    let of = |p: &Value| if is_ready(p) { run(p) } else { why(p) };
    pods.iter().map(|p| (p["metadata"]["name"].as_str().unwrap().to_owned(), of(p))).collect()
}

fn here(n: &Node) -> BTreeMap<String, (Value, Value, Value)> {
    let list: Value = n.get("/pods").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    runs(list["items"].as_array().map_or(&[], Vec::as_slice))
}

/// How many of them run, and were restarted so often.
fn running(n: &Node, restarts: u64) -> usize {
    here(n).values().filter(|(_, count, since)| since.is_string() && *count == restarts).count()
}

/// Looks after a while: to look at a full node is work for who is looked at too.
fn slowly<T>(look: impl FnOnce() -> T) -> T {
    std::thread::sleep(Duration::from_millis(300));
    look()
}

/// Requests a second, in the next so many.
fn rate(server: &ApiServer, seconds: u32) -> f64 {
    server.asked();
    std::thread::sleep(Duration::from_secs(seconds.into()));
    server.asked().len() as f64 / f64::from(seconds)
}

/// A hundred and ten mirrors; of most pods nothing but the mirror costs anything, since they are for another node.
#[test]
fn a_full_node_whose_mirrors_are_refused_runs_on_and_is_shown_when_that_ends() {
    const ALL: usize = 110;
    const RUN: usize = 10;
    if !can_run() {
        return;
    }
    let (mut n, server) = joined();
    server.webhook(Some(Box::new(|_| Err((403, "Forbidden", "exceeded quota: pods=0".into())))));
    for i in 0..ALL {
        let name = format!("p{i:03}");
        let elsewhere = |text: String| text.replace("spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: elsewhere}\n");
        let text = script(&name, STILL);
        n.put(&format!("{name}.yaml"), &if i % (ALL / RUN) == 0 { text } else { elsewhere(text) });
    }
    n.start();
    n.until("some of them run", 30, |n| slowly(|| running(n, 0) == RUN && here(n).len() == ALL));
    let before = here(&n);
    n.until("each was refused", 20, |n| n.get("/metrics").is_some_and(|m| m.contains("plinth_unshown_pods 110")));
    let steady = rate(&server, 10);
    assert!(steady <= 5.0, "{steady} requests a second while all are refused");
    server.webhook(None);
    n.until("all are shown as they are", 10, |_| slowly(|| runs(&server.list("pods")) == before));
    assert_eq!(here(&n), before);
    // Away, while all that run change at once: each is killed, and comes back.
    server.fault(Fault::Away);
    let tasks = n.ctr(&["tasks", "list"]);
    let pids: Vec<&str> = tasks.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert!(Command::new("kill").args(&pids).status().unwrap().success(), "{tasks}");
    n.until("they run again", 30, |n| slowly(|| running(n, 1) == RUN));
    let before = here(&n);
    server.fault(Fault::None);
    n.until("all are shown as they are", 10, |_| slowly(|| runs(&server.list("pods")) == before));
    assert_eq!(here(&n), before);
    n.shutdown();
}

#[test]
fn two_nodes_of_one_name_argue_slowly_and_their_pods_do_not_notice() {
    if !can_run() {
        return;
    }
    let (mut one, server) = joined();
    let (mut other, at) = (Node::up(), server.addr);
    let listener = inside(&other, move || TcpListener::bind(at).unwrap());
    server.also_on(listener);
    fs::copy(one.path("work/kubeconfig"), other.path("work/kubeconfig")).unwrap();
    other.extra.push(format!("kubeconfig={}", other.path("work/kubeconfig")));
    for (n, mine) in [(&mut one, "one"), (&mut other, "other")] {
        n.put("same.yaml", &script("same", &format!(": {mine}; {STILL}")));
        n.put("mine.yaml", &script(mine, STILL));
        n.start();
        n.until("both of its pods run", 30, |n| running(n, 0) == 2);
    }
    let before = [here(&one), here(&other)];
    // Each replaces at once what it did not expect, once.
    std::thread::sleep(Duration::from_secs(5));
    let steady = rate(&server, 20);
    assert!(steady <= 5.0, "{steady} requests a second between two of one name");
    assert_eq!([here(&one), here(&other)], before);
    other.shutdown();
    let [mine, _] = before;
    one.until("the one that is left is shown as it runs", 20, |_| runs(&server.list("pods")) == mine);
    assert_eq!(here(&one), mine);
    one.shutdown();
}

#[test]
fn what_the_api_server_does_not_show_is_explained() {
    if !can_run() {
        return;
    }
    let (mut n, server) = joined();
    n.put("a.yaml", &script("a", FOREVER).replace("  name: a\n", "  name: a\n  namespace: nope\n"));
    n.put("hook.yaml", &script("hook", STILL));
    n.put("class.yaml", &script("class", STILL).replace("spec:\n", "spec:\n  priorityClassName: unheard-of\n"));
    n.put("foreign.yaml", &script("foreign", STILL));
    server.webhook(Some(Box::new(|pod| match pod["metadata"]["name"].as_str() {
        Some("hook-it") => Err((403, "Forbidden", "admission webhook \"policy.test\" denied the request: not here".into())),
        _ => Ok(()),
    })));
    let theirs = serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "foreign-it"}, "spec": {"nodeName": "it"}});
    let theirs = server.put("pods", "default", theirs);
    n.start();
    let refused = [
        ("nope/a", "namespaces \"nope\" not found"),
        ("hook", "admission webhook \"policy.test\" denied the request: not here"),
        ("class", "no PriorityClass with name unheard-of"),
        ("foreign", "which is no mirror pod"),
    ];
    for (pod, words) in refused {
        n.until(&format!("why says it of {pod}"), 30, |n| n.said_or_nothing(&["why", pod]).contains(words));
        let own = n.said(&["events", pod]);
        assert!(own.lines().any(|line| line.contains("FailedMirror") && line.contains(words)), "{own}");
        let name = format!("{}-it", pod.rsplit('/').next().unwrap());
        // An event in a namespace that is not there is nowhere.
        if !pod.contains('/') {
            let told = |e: &Value| e["reason"] == "FailedMirror" && e["involvedObject"]["name"] == name.as_str();
            n.until(&format!("the API server has an event of {pod}"), 10, |_| server.list("events").iter().any(told));
        }
        n.until(&format!("{pod} runs all the same"), 20, |n| n.ready(pod.rsplit('/').next().unwrap()));
    }
    assert!(n.get("/metrics").unwrap().contains("plinth_unshown_pods 4"));
    assert_eq!(server.get("pods", "default", "foreign-it"), theirs, "it is theirs");
    // Each of them is shown once nothing is in the way.
    server.webhook(None);
    server.put("namespaces", "", serde_json::json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "nope"}}));
    server.delete("pods", "default", "foreign-it");
    n.until("three of four are shown", 20, |n| n.get("/metrics").is_some_and(|m| m.contains("plinth_unshown_pods 1")));
    server.fault(Fault::Away);
    n.until("status says who is away", 20, |n| {
        let out = n.plinth(&["status"]);
        String::from_utf8_lossy(&out.stderr).contains("the API server is away")
    });
    n.shutdown();
}

const ETCD: &str = "apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: kube-system}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  priorityClassName: system-node-critical
  volumes: [{name: data, hostPath: {path: DIR/work/etcd, type: DirectoryOrCreate}}]
  containers:
  - name: c
    image: localhost/etcd:1
    command: [etcd, --data-dir=/data]
    volumeMounts: [{name: data, mountPath: /data}]
";

const SERVER: &str = "apiVersion: v1
kind: Pod
metadata: {name: apiserver, namespace: kube-system}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  priorityClassName: system-node-critical
  volumes: [{name: pki, hostPath: {path: DIR/work/pki, type: Directory}}]
  containers:
  - name: c
    image: localhost/apiserver:1
    command: [apiserver, --etcd]
    args: ['127.0.0.1:2379', --pki, /pki]
    readinessProbe: {tcpSocket: {port: 6443}, periodSeconds: 1}
    volumeMounts: [{name: pki, mountPath: /pki}]
";

/// The test API server as a program; `cargo test` builds it beside this one.
fn program() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/apiserver")
}

#[test]
fn a_node_whose_pods_are_the_control_plane_comes_up_from_nothing_and_shows_them_there() {
    let (etcd, program) = (crate::node::cache().join("etcd/usr/bin/etcd"), program());
    let built = crate::node::is_there(&program, "test API server in a pod: not built; run `cargo build --example apiserver`");
    if !can_run() || !built || !crate::node::is_there(&etcd, "etcd: not fetched; run `make test`") {
        return;
    }
    let (mut n, program) = (Node::up(), program.to_str().unwrap().to_owned());
    let sh = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}");
    let archiver = concat!(env!("CARGO_MANIFEST_DIR"), "/images/busybox-archive.sh");
    sh(&[archiver, &n.path("work/archives/etcd.tar"), "localhost/etcd:1", "{\"Env\":[\"PATH=/bin\"]}", etcd.to_str().unwrap()]);
    sh(&[archiver, &n.path("work/archives/apiserver.tar"), "localhost/apiserver:1", "{\"Env\":[\"PATH=/bin\"]}", &program]);
    sh(&[&program, "--pki", &n.path("work/pki"), "--node", "it", "--init"]);
    fs::copy(n.path("work/pki/admin"), n.path("work/admin")).unwrap();
    n.extra.push(format!("kubeconfig={}", n.path("work/pki/it")));
    let dir = n.dir.to_str().unwrap().to_owned();
    let put = |n: &Node, edited: &str| n.put("apiserver.yaml", &SERVER.replace("DIR", &dir).replace("--etcd]", edited));
    n.put("etcd.yaml", &ETCD.replace("DIR", &dir));
    put(&n, "--etcd]");
    n.start();
    let mirror = |n: &Node, name: &str| -> Value {
        let shown = n.tried(&kubectl_of(n, &["get", "pod", "-n", "kube-system", &format!("{name}-it"), "-o", "json"]));
        serde_json::from_str(&shown).unwrap_or_default()
    };
    n.until("both are shown as Ready by the one of them", 25, |n| ["etcd", "apiserver"].iter().all(|p| is_ready(&mirror(n, p))));
    let node: Value = serde_json::from_str(&n.tried(&kubectl_of(&n, &["get", "node", "it", "-o", "json"]))).unwrap();
    assert!(is_ready(&node));
    let etcd = run(&n.pod("etcd").unwrap());
    let first = mirror(&n, "etcd")["metadata"]["uid"].clone();
    // An edit of the API server itself: nobody can be asked while it is replaced.
    let before = n.pod("apiserver").unwrap();
    put(&n, "--edited, --etcd]");
    n.until("the edit runs, and is shown", 25, |n| {
        let (here, there) = (n.pod("apiserver").unwrap_or_default(), mirror(n, "apiserver"));
        let hash = &there["metadata"]["annotations"]["kubernetes.io/config.mirror"];
        here["metadata"]["uid"] != before["metadata"]["uid"] && *hash == here["metadata"]["uid"] && is_ready(&there)
    });
    // A crash of it.
    let id = container(&n.pod("apiserver").unwrap(), "c")["containerID"].as_str().unwrap().replace("containerd://", "");
    n.ctr(&["tasks", "kill", "-s", "SIGKILL", &id]);
    n.until("it runs again, and says so itself", 25, |n| {
        let there = mirror(n, "apiserver");
        container(&there, "c")["restartCount"] == 1 && is_ready(&there)
    });
    // Both at once, and plinth too: what is left is on disk.
    let ids: Vec<String> = ["etcd", "apiserver"]
        .iter()
        .map(|p| container(&n.pod(p).unwrap(), "c")["containerID"].as_str().unwrap().replace("containerd://", ""))
        .collect();
    assert_eq!(run(&n.pod("etcd").unwrap()), etcd, "etcd never noticed");
    n.kill();
    ids.iter().for_each(|id| drop(n.ctr(&["tasks", "kill", "-s", "SIGKILL", id])));
    n.start();
    n.until("they come back, and say so", 30, |n| {
        let there = mirror(n, "etcd");
        container(&there, "c")["restartCount"] == 1 && is_ready(&there) && is_ready(&mirror(n, "apiserver"))
    });
    assert_eq!(mirror(&n, "etcd")["metadata"]["uid"], first, "its mirror outlived them all");
    n.shutdown();
}
