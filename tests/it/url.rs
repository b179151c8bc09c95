//! Pods whose manifests come from a web server, and what is left of them when it is away, wrong, or says that there are none.

use serde_json::{Value, json};

use crate::cluster::inside;
use crate::node::{FOREVER, Node, can_run, container, script};
use crate::web::{Step, Web, code, ok, send};

/// A node with pods `a` and `b` from a web server on its loopback.
fn fetched() -> Option<(Node, Web)> {
    can_run().then(|| {
        let mut n = Node::up();
        let web = inside(&n, Web::start);
        web.answer(ok("", both("one")));
        n.extra.extend([format!("staticPodURL={}", web.url("/pods.yaml")), "httpCheckFrequency=300ms".into()]);
        n.start();
        n.until_ready("a");
        n.until_ready("b");
        (n, web)
    })
}

fn both(a: &str) -> String {
    format!("{}---\n{}", script("a", &format!("echo {a}; {FOREVER}")), script("b", FOREVER))
}

fn run(n: &Node, pod: &str) -> (Value, Value) {
    let pod = n.pod(pod).unwrap();
    let c = container(&pod, "c");
    (c["containerID"].clone(), c["restartCount"].clone())
}

fn runs(n: &Node) -> [(Value, Value); 2] {
    ["a", "b"].map(|pod| run(n, pod))
}

#[test]
fn pods_come_change_and_go_by_url_and_stay_whatever_becomes_of_the_server() {
    let Some((mut n, web)) = fetched() else { return };
    let url = web.url("/pods.yaml");
    let before = runs(&n);
    assert_eq!(n.pod("a").unwrap()["metadata"]["annotations"]["kubernetes.io/config.source"], "http");
    let list: Value = serde_json::from_str(&n.get("/v1/manifests").unwrap()).unwrap();
    assert_eq!((&list["layers"][0], &list["items"][0]["pods"]), (&json!(url), &json!(["default/a-it", "default/b-it"])));
    assert!(n.said(&["why", "b"]).contains(&format!("(layer {url})")), "{}", n.said(&["why", "b"]));
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{}", script("c", FOREVER));
    let faults: [(Vec<Step>, &str); 5] = [
        (code("500 Internal Server Error", ""), "answers 500 Internal Server Error"),
        (ok("", ""), "the answer is empty"),
        (send(cut), "the answer is cut off"),
        (ok("", both("two").replace("name: b", "name: B_")), "Invalid value"),
        (vec![Step::Hang], "no answer within 10 s"),
    ];
    for (steps, says) in faults {
        web.answer(steps);
        n.until(says, 30, |n| n.said_or_nothing(&["status"]).contains(says));
        let why = n.said(&["why", "a"]);
        assert!(why.contains(&format!("Waits for  an answer of {url}: ")) && why.contains("the last good revision runs"), "{why}");
        assert!(n.get("/metrics").unwrap().contains("plinth_manifest_url_up 0"));
        n.kill();
        n.start();
        n.until_ready("a");
        n.until_ready("b");
        assert_eq!(runs(&n), before, "{says}, and a crash");
        web.answer(ok("", both("one")));
        n.until("it is good again", 30, |n| n.get("/metrics").unwrap().contains("plinth_manifest_url_up 1"));
    }
    assert_eq!(runs(&n), before);
    // One pod of the set is edited: the other does not notice.
    web.answer(ok("", both("two")));
    n.until("the edit runs", 30, |n| n.ready("a") && n.said_or_nothing(&["logs", "a"]).contains("two"));
    assert_eq!(run(&n, "b"), before[1]);
    // A layer above has its way with one of them.
    n.put("b.yaml", &script("b", &format!("echo file; {FOREVER}")));
    n.until("the file's runs", 30, |n| n.ready("b") && n.said_or_nothing(&["logs", "b"]).contains("file"));
    n.remove("b.yaml");
    n.until("the set's is back", 30, |n| n.ready("b") && n.said_or_nothing(&["logs", "b"]).lines().next().is_none());
    assert_eq!(std::fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count(), 1, "one thread, always");
    web.answer(ok("", "apiVersion: v1\nkind: PodList\nitems: []\n"));
    n.until("all are gone", 30, |n| n.gone("a") && n.gone("b"));
    n.shutdown();
}

#[test]
fn a_machine_that_boots_without_the_server_runs_the_last_good_set() {
    let Some((mut n, web)) = fetched() else { return };
    let before = runs(&n);
    n.until("the set is on disk", 10, |n| std::fs::read_to_string(n.path("data/manifests-by-url")).is_ok_and(|t| t.contains("echo one")));
    web.answer(vec![]);
    n.reboot();
    n.start();
    n.until("both run anew", 60, |n| n.ready("a") && n.ready("b") && runs(n)[0].0 != before[0].0 && runs(n)[1].0 != before[1].0);
    n.until("status says that the server is away", 10, |n| n.said_or_nothing(&["status"]).contains("missing, last good one runs"));
    n.shutdown();
}
