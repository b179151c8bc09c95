//! What a pod is promised: it runs, it is seen, it is updated, it goes without a trace.

use serde_json::Value;

use crate::node::{FOREVER, IMAGE, Node, can_run, condition, container, pod, script};

#[test]
fn a_pod_comes_and_goes_without_a_trace() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", &format!("echo hello; echo oops >&2; {FOREVER}")));
    n.until_ready("a");
    let p = n.pod("a").unwrap();
    assert_eq!(p["status"]["phase"], "Running");
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "PodReadyToStartContainers"] {
        assert!(condition(&p, kind), "{kind}: {p}");
    }
    assert_eq!(container(&p, "c")["restartCount"], 0);
    n.until("its log is there", 5, |n| n.said_or_nothing(&["logs", "a"]).contains("hello"));
    n.remove("a.yaml");
    n.until("it is gone", 10, |n| n.gone("a"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_network_pod_has_an_address_that_answers_and_is_given_back() {
    let Some(mut n) = Node::started() else { return };
    n.put("web.yaml", &pod("web", "hostname: here", "echo ok >/var/www/index.html; httpd -p 8080 -h /var/www; hostname; cat /etc/hosts; trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    n.until_ready("web");
    let ip = n.pod("web").unwrap()["status"]["podIP"].as_str().unwrap().to_string();
    assert!(ip.starts_with("10.88."), "{ip}");
    n.until("it answers", 5, |n| n.exec(&["sh", "-c", &format!("busybox wget -qO- http://{ip}:8080/ || true")]).contains("ok"));
    n.until("it knows its name", 5, |n| {
        let log = n.said_or_nothing(&["logs", "web"]);
        log.starts_with("here\n") && log.contains(&format!("{ip}\there"))
    });
    n.shutdown();
}

#[test]
fn what_a_pod_uses_is_shown_with_its_network_and_its_layer() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["volumeStatsAggPeriod=300ms"]);
    n.start();
    n.put(
        "busy.yaml",
        &pod("busy", "hostname: busy", "head -c 300000 /dev/zero >/var/www/w; httpd -p 8080 -h /var/www; while :; do :; done"),
    );
    n.put("host.yaml", &script("host", FOREVER));
    n.put(
        "held.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: held}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, emptyDir: {{}}}}, {{name: m, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}]\n  containers:\n  - {{name: c, image: '{}', command: [sh, -c, 'mkdir -p /v/a/b; head -c 400000 /dev/zero >/v/a/b/f; head -c 8192 /dev/zero >/m/f; sleep 1000'], volumeMounts: [{{name: v, mountPath: /v}}, {{name: m, mountPath: /m}}]}}\n",
            crate::node::IMAGE
        ),
    );
    n.until_ready("busy");
    n.until_ready("held");
    n.until_ready("host");
    let ip = n.pod("busy").unwrap()["status"]["podIP"].as_str().unwrap().to_string();
    let summary = |n: &Node| -> Value { serde_json::from_str(&n.get("/stats/summary").unwrap()).unwrap() };
    let of = |s: &Value, name: &str| s["pods"].as_array().unwrap().iter().find(|p| p["podRef"]["name"] == name).cloned().unwrap();
    let first = of(&summary(&n), "busy-it");
    assert!(first["containers"][0]["cpu"]["usageNanoCores"].as_u64() > Some(10_000_000), "the first who asks is told: {first}");
    let fetch = format!("busybox wget -qO- http://{ip}:8080/w >/dev/null || true");
    n.until("what it sent is counted", 10, |n| {
        n.exec(&["sh", "-c", &fetch]);
        of(&summary(n), "busy-it")["network"]["txBytes"].as_u64() >= Some(300_000)
    });
    n.until("what it wrote is counted", 10, |n| {
        of(&summary(n), "busy-it")["containers"][0]["rootfs"]["usedBytes"].as_u64() >= Some(300_000)
    });
    n.until("what it wrote into its volumes is counted", 10, |n| {
        let held = of(&summary(n), "held-it");
        let of = |name: &str| held["volume"].as_array().into_iter().flatten().find(|v| v["name"] == name).cloned().unwrap_or_default();
        (of("v")["usedBytes"].as_u64() >= Some(400_000) && of("v")["inodesUsed"] == 4)
            && (of("m")["usedBytes"] == 8192 && of("m")["capacityBytes"] == 1 << 20)
            && held["ephemeral-storage"]["usedBytes"].as_u64() >= Some(400_000)
    });
    let all = summary(&n);
    let (busy, host) = (of(&all, "busy-it"), of(&all, "host-it"));
    assert_eq!(busy["network"]["interfaces"].as_array().unwrap().len(), 1, "{busy}");
    assert!(busy["ephemeral-storage"]["usedBytes"].as_u64() >= Some(300_000), "{busy}");
    assert!(host["network"].is_null() && host["cpu"]["usageNanoCores"].is_u64(), "{host}");
    assert!(all["node"]["runtime"]["imageFs"]["capacityBytes"].is_u64() && all["node"]["memory"]["availableBytes"].is_u64(), "{all}");
    n.shutdown();
}

#[test]
fn init_containers_run_in_order_and_share_an_empty_dir() {
    let Some(mut n) = Node::started() else { return };
    n.put(
        "i.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: i}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  volumes:\n  - {{name: v, emptyDir: {{}}}}\n  - {{name: m, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}\n  initContainers:\n  - {{name: one, image: '{image}', command: [sh, -c, 'echo one >>/v/order'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n  - {{name: two, image: '{image}', command: [sh, -c, 'echo two >>/v/order'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n  containers:\n  - {{name: c, image: '{image}', command: [sh, -c, 'cat /v/order; df -k /m | tail -1; sleep 1000'], volumeMounts: [{{name: v, mountPath: /v}}, {{name: m, mountPath: /m}}]}}\n  - {{name: d, image: '{image}', command: [sh, -c, 'sleep 1000']}}\n",
            image = crate::node::IMAGE
        ),
    );
    n.until_ready("i");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "i", "-c", "c"]).contains("/m\n"));
    let log = n.said(&["logs", "i", "-c", "c"]);
    assert!(log.starts_with("one\ntwo\n"), "both init containers ran before, in order: {log}");
    assert!(log.contains("1024"), "the memory volume has its size: {log}");
    n.shutdown();
}

#[test]
fn of_the_dead_containers_of_a_pod_the_last_is_kept_with_its_log() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["maxContainerRestartPeriod=1s"]);
    n.start();
    n.put("crash.yaml", &script("crash", "echo attempt; exit 3"));
    n.until("it was restarted three times, and waits", 60, |n| {
        n.restarts("crash") >= 3 && n.said_or_nothing(&["status", "crash"]).contains("CrashLoopBackOff")
    });
    let files = |n: &Node, of: &str| n.exec(&["sh", "-c", &format!("ls {} | wc -l", n.path(of))]).trim().to_owned();
    // Between two attempts the last one's record, log and link are all there is.
    n.until("all but the last dead one are gone", 30, |n| {
        let records = n.ctr(&["containers", "list", "-q"]).lines().count();
        records == 1 && files(n, "logs/pods/*/c") == "1" && files(n, "logs/containers") == "1"
    });
    n.remove("crash.yaml");
    n.until("it is gone", 10, |n| n.gone("crash"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn an_edit_stops_the_old_pod_and_starts_the_new_one() {
    let Some(mut n) = Node::started() else { return };
    n.put("e.yaml", &script("e", &format!("echo first; {FOREVER}")));
    n.until_ready("e");
    let before = n.pod("e").unwrap()["metadata"]["uid"].clone();
    n.put("e.yaml", &format!("# only a comment\n{}", script("e", &format!("echo first; {FOREVER}"))));
    n.put("other.yaml", &script("other", FOREVER));
    n.until_ready("other");
    assert_eq!(n.pod("e").unwrap()["metadata"]["uid"], before, "a comment restarts nothing");
    n.put("e.yaml", &script("e", &format!("echo second; {FOREVER}")));
    n.until("the new revision runs", 15, |n| n.pod("e").is_some_and(|p| condition(&p, "Ready") && p["metadata"]["uid"] != before));
    n.until("and speaks", 5, |n| n.said_or_nothing(&["logs", "e"]) == "second\n");
    n.shutdown();
}

#[test]
fn a_bad_edit_costs_nothing_and_says_where() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("b.yaml", &script("b", FOREVER));
    n.start();
    n.until_ready("b");
    let before = n.pod("b").unwrap();
    n.put("b.yaml", &script("b", FOREVER).replace("hostNetwork: true", "hostNetwork: perhaps"));
    n.until("the file is refused", 5, |n| n.get("/v1/manifests").is_some_and(|m| m.contains("hostNetwork")));
    assert_eq!(n.pod("b").unwrap()["status"]["containerStatuses"], before["status"]["containerStatuses"]);
    let text = n.said(&["status"]);
    assert!(text.contains("b.yaml:6:"), "status names file and line:\n{text}");
    n.shutdown();
}

#[test]
fn the_overlay_overrides_and_masks() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("a.yaml", &script("a", &format!("echo image; {FOREVER}")));
    n.put("b.yaml", &script("b", FOREVER));
    n.put_overlay("a.yaml", &script("a", &format!("echo overlay; {FOREVER}")));
    n.put_overlay("b.yaml", "");
    n.start();
    n.until_ready("a");
    n.until("the overlay's file won", 5, |n| n.said_or_nothing(&["logs", "a"]) == "overlay\n");
    assert!(n.pod("b").is_none(), "a mask hides the image's pod");
    let why = n.said(&["why", "a"]);
    assert!(why.contains(&n.path("work/overlay/a.yaml")) && why.contains(&n.path("work/image/a.yaml")), "{why}");
    std::fs::remove_file(n.overlay.join("b.yaml")).unwrap();
    n.until_ready("b");
    n.shutdown();
}

#[test]
fn a_crashing_container_restarts_with_the_kubelets_back_off() {
    let Some(mut n) = Node::started() else { return };
    n.put("x.yaml", &script("x", "echo run; exit 3"));
    n.until("the first restart is immediate, the second waits", 8, |n| {
        n.pod("x").is_some_and(|p| {
            container(&p, "c")["restartCount"] == 1 && container(&p, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
    });
    let p = n.pod("x").unwrap();
    let c = container(&p, "c");
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3, "{c}");
    assert!(
        c["state"]["waiting"]["message"].as_str().unwrap().starts_with("back-off 10s restarting failed container=c pod=x-it_default("),
        "{c}"
    );
    assert_eq!(n.said(&["logs", "x", "-p"]), "run\n");
    n.until("why tells the exit status and the wait", 5, |n| {
        let why = n.said_or_nothing(&["why", "x"]);
        why.contains("exited 3") && why.contains("back-off ")
    });
    n.until("the second restart comes after 10 s", 15, |n| n.restarts("x") >= 2);
    n.shutdown();
}

#[test]
fn a_finished_pod_is_not_run_again() {
    let Some(mut n) = Node::started() else { return };
    n.put("f.yaml", &pod("f", "restartPolicy: Never\n  hostNetwork: true", "echo done; exit 0"));
    n.until("it succeeded", 10, |n| n.pod("f").is_some_and(|p| p["status"]["phase"] == "Succeeded"));
    n.kill();
    n.start();
    n.until("it is still Succeeded", 10, |n| n.pod("f").is_some_and(|p| p["status"]["phase"] == "Succeeded"));
    assert_eq!(n.restarts("f"), 0);
    assert_eq!(n.said(&["logs", "f"]), "done\n");
    n.shutdown();
}

#[test]
fn crun_and_containerd_1_7_run_pods_too() {
    if !can_run() {
        return;
    }
    for (suite, extra) in [("sid", ["ociRuntime=crun"]), ("trixie", ["ociRuntime=runc"])] {
        let mut n = Node::with(suite, &extra);
        n.put("a.yaml", &pod("a", "hostname: a", &format!("echo hello; {FOREVER}")));
        n.start();
        n.until_ready("a");
        n.until("its log is there", 5, |n| n.said_or_nothing(&["logs", "a"]) == "hello\n");
        n.kill();
        n.start();
        n.until_ready("a");
        assert_eq!(n.restarts("a"), 0, "{suite} {extra:?}");
        n.shutdown();
    }
}

#[test]
fn last_words_are_the_termination_message_and_addresses_are_in_the_environment() {
    let Some(mut n) = Node::started() else { return };
    let field = |name: &str, path: &str| format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}");
    let env = [field("POD_IP", "status.podIP"), field("HOST_IP", "status.hostIP"), field("NODE", "spec.nodeName")].join(", ");
    let said = pod("w", "restartPolicy: Never", "echo \"$POD_IP $HOST_IP $NODE\" >/dev/termination-log; exit 3")
        + &format!("    env: [{env}]\n")
        + &format!(
            "  - {{name: d, image: '{IMAGE}', terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo too bad; exit 4']}}\n"
        )
        + &format!("  - {{name: e, image: '{IMAGE}', terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo fine']}}\n");
    n.put("w.yaml", &said);
    n.until("it is over", 30, |n| n.pod("w").is_some_and(|p| p["status"]["phase"] == "Failed"));
    let message =
        |n: &Node, name: &str| n.pod("w").map(|p| container(&p, name)["state"]["terminated"]["message"].clone()).unwrap_or_default();
    n.until("the last words are known", 10, |n| message(n, "c").is_string() && message(n, "d") == "too bad\n");
    let p = n.pod("w").unwrap();
    let words: Vec<String> = message(&n, "c").as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    assert!(words.len() == 3 && words[0].starts_with("10.88.") && p["status"]["podIP"] == words[0].as_str() && words[2] == "it", "{p}");
    assert_eq!(p["status"]["hostIP"], words[1].as_str());
    assert_eq!(message(&n, "e"), Value::Null, "{p}");
    n.shutdown();
}

#[test]
fn last_words_are_read_where_the_manifest_says_and_cut_as_the_kubelet_cuts_them() {
    let Some(mut n) = Node::started() else { return };
    let of = |name: &str, fields: &str, script: &str| {
        format!("  - {{name: {name}, image: '{IMAGE}', {fields}, command: [sh, -c, \"{script}\"]}}\n")
    };
    let head = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  hostNetwork: true\n  containers:\n"
        )
    };
    let (path, log) = ("terminationMessagePath: /words/last", "terminationMessagePolicy: FallbackToLogsOnError");
    let file = "seq 1 2000 >/words/last; echo not this >/dev/termination-log; exit 1";
    let three =
        head("three") + &of("file", path, file) + &of("lines", log, "seq 1 100; exit 1") + &of("bytes", log, "seq -s, 1 2000; exit 1");
    n.put("three.yaml", &three);
    let four: String = ["a", "b", "d", "e"].iter().map(|name| of(name, path, file)).collect();
    n.put("four.yaml", &(head("four") + &four));
    let message = |n: &Node, pod: &str, name: &str| {
        let p = n.pod(pod).unwrap_or_default();
        container(&p, name)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let all = [("three", "file"), ("three", "lines"), ("three", "bytes"), ("four", "a"), ("four", "b"), ("four", "d"), ("four", "e")];
    n.until("all have said their last", 40, |n| all.iter().all(|(pod, name)| !message(n, pod, name).is_empty()));
    let lines = |from: u32, to: u32| (from..=to).map(|i| format!("{i}\n")).collect::<String>();
    let written = lines(1, 2000);
    let end = &written[written.len() - 4096..];
    assert_eq!(message(&n, "three", "file"), end);
    assert_eq!(message(&n, "three", "lines"), lines(21, 100));
    let line = lines(1, 2000).trim_end().replace('\n', ",") + "\n";
    assert_eq!(message(&n, "three", "bytes"), line[line.len() - 2048..]);
    // 12 KiB over the pod: a quarter for each, of what it may tell the beginning.
    for name in ["a", "b", "d", "e"] {
        assert_eq!(message(&n, "four", name), end[..3072], "{name}");
    }
    n.shutdown();
}

#[test]
fn a_pod_that_asks_for_more_than_is_left_is_told_and_runs_once_it_is_there() {
    let Some(mut n) = Node::started() else { return };
    // Processors as plinth counts them; three fifths of them, twice, is too much.
    let milli = n.exec(&["nproc"]).trim().parse::<u64>().unwrap() * 600;
    let asks = |name: &str, what: &str| {
        script(name, FOREVER).replace("    command:", &format!("    resources: {{requests: {{{what}}}}}\n    command:"))
    };
    n.put("a.yaml", &asks("a", &format!("cpu: {milli}m")));
    n.until_ready("a");
    n.put("b.yaml", &asks("b", &format!("cpu: {milli}m")));
    n.put("m.yaml", &asks("m", "memory: 100Ti"));
    let reason = |n: &Node, name: &str| n.pod(name).map(|p| p["status"]["reason"].clone());
    n.until("one has no processor", 10, |n| reason(n, "b").is_some_and(|r| r == "OutOfcpu"));
    n.until("one has no memory", 10, |n| reason(n, "m").is_some_and(|r| r == "OutOfmemory"));
    let b = n.pod("b").unwrap();
    let message = format!("Node didn't have enough resource: cpu, requested: {milli}, used: {milli}, capacity: ");
    assert_eq!(b["status"]["phase"], "Failed", "{b}");
    assert!(b["status"]["message"].as_str().unwrap().contains(&message), "{b}");
    let why = n.said(&["why", "b"]);
    assert!(why.contains("OutOfcpu") && why.contains("most is held by default/a-it"), "{why}");
    assert!(n.said(&["events", "b"]).contains("OutOfcpu"));
    n.remove("a.yaml");
    n.until_ready("b");
    assert_eq!((n.pod("b").unwrap()["status"]["reason"].clone(), n.restarts("b")), (Value::Null, 0));
    assert!(!n.ready("m"));
    n.shutdown();
}
