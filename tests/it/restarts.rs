//! Crashes and restarts: of plinth, of containerd, of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::node::{FOREVER, IMAGE, Node, can_run, container, pod, script};

/// Container id of every pod's container: what must not change over a crash.
impl Node {
    /// Waits, without plinth, until so many tasks have stopped.
    fn until_stopped(&mut self, count: usize) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.ctr(&["tasks", "list"]).matches("STOPPED").count() < count {
            assert!(std::time::Instant::now() < end, "{}", self.ctr(&["tasks", "list"]));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn ids(n: &Node, pods: &[&str]) -> BTreeMap<String, String> {
    pods.iter().map(|p| ((*p).to_string(), container(&n.pod(p).unwrap(), "c")["containerID"].as_str().unwrap().to_string())).collect()
}

#[test]
fn a_killed_plinth_adopts_what_runs() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"));
    n.put("b.yaml", &script("b", FOREVER));
    n.until_ready("a");
    n.until_ready("b");
    let before = ids(&n, &["a", "b"]);
    n.kill();
    n.start();
    n.until_ready("a");
    n.until_ready("b");
    assert_eq!(ids(&n, &["a", "b"]), before);
    n.term();
    n.start();
    n.until_ready("a");
    n.until_ready("b");
    assert_eq!(ids(&n, &["a", "b"]), before);
    n.until("lines come again", 5, |n| n.said_or_nothing(&["logs", "a"]).lines().count() > 150);
    let log = n.said(&["logs", "a"]);
    for (i, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", i + 1), "no line is lost or doubled over two restarts");
    }
    n.shutdown();
}

#[test]
fn a_manifest_removed_while_plinth_was_down_is_stopped() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("a.yaml", &script("a", FOREVER));
    n.put("b.yaml", &script("b", FOREVER));
    n.start();
    n.until_ready("a");
    n.until_ready("b");
    n.kill();
    n.remove("a.yaml");
    n.start();
    n.until("a is gone", 10, |n| n.gone("a"));
    n.until_ready("b");
    assert_eq!(n.restarts("b"), 0);
    n.until("nothing of a is left", 10, |n| n.ctr(&["containers", "list", "-q"]).lines().count() == 1);
    n.kill();
    n.remove("b.yaml");
    n.start();
    n.until("b is gone", 10, |n| n.gone("b"));
    // Its directories, logs and links among it.
    n.assert_clean();
    n.shutdown();
}

#[test]
fn containerd_restarted_or_killed_loses_no_pod_and_no_exit_code() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    let w = n.path("work");
    let late = format!("mkdir /w/first || {{ {FOREVER}; }}; until [ -e /w/end ]; do sleep 0.05; done; exit 7");
    let late = pod("late", &format!("hostNetwork: true\n  volumes: [{{name: w, hostPath: {{path: {w}}}}}]"), &late);
    n.put("late.yaml", &late.replace("    command:", "    volumeMounts: [{name: w, mountPath: /w}]\n    command:"));
    n.until_ready("a");
    n.until_ready("late");
    let before = ids(&n, &["a"]);
    let tasks = n.ctr(&["tasks", "list"]);
    let id = ids(&n, &["late"])["late"].replace("containerd://", "");
    let pid = tasks.lines().find(|l| l.starts_with(&id)).unwrap().split_whitespace().nth(1).unwrap();
    n.containerd("kill");
    n.until("plinth says containerd is down", 10, |n| String::from_utf8_lossy(&n.plinth(&["status"]).stderr).contains("containerd at"));
    fs::write(format!("{w}/end"), "").unwrap();
    n.until("late ends with 7 while nobody is there to hear it", 5, |_| !Path::new(&format!("/proc/{pid}")).exists());
    n.containerd("start");
    n.until("late was restarted, and its exit code kept", 20, |n| {
        n.pod("late")
            .is_some_and(|p| container(&p, "c")["restartCount"] == 1 && container(&p, "c")["lastState"]["terminated"]["exitCode"] == 7)
    });
    n.until_ready("a");
    assert_eq!(ids(&n, &["a"]), before);
    assert_eq!(n.restarts("a"), 0);
    n.containerd("stop");
    n.containerd("start");
    n.put("c.yaml", &script("c", FOREVER));
    n.until_ready("c");
    assert_eq!(ids(&n, &["a"]), before);
    n.shutdown();
}

#[test]
fn containerd_absent_at_start_is_waited_for() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.containerd("stop");
    n.put("a.yaml", &script("a", FOREVER));
    n.start();
    n.until("the pod is shown, Pending", 5, |n| n.pod("a").is_some_and(|p| p["status"]["phase"] == "Pending"));
    let why = n.said(&["why", "a"]);
    assert!(why.contains("containerd"), "{why}");
    n.containerd("start");
    n.until_ready("a");
    n.shutdown();
}

#[test]
fn a_shutdown_without_containerd_ends_in_its_time_and_says_what_is_left() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    n.containerd("kill");
    n.until("it is away", 5, |n| n.said_or_nothing(&["why", "a"]).contains("containerd"));
    let t = std::time::Instant::now();
    let out = n.plinth(&["shutdown", "--grace", "2s"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(t.elapsed() < std::time::Duration::from_secs(60), "it took {:?}: {said}", t.elapsed());
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("could not stop every pod") && said.contains("containerd"), "{said}");
    n.ended();
    n.containerd("start");
    n.start();
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 0, "it is adopted");
    n.shutdown();
}

#[test]
fn after_a_reboot_stale_objects_are_released_and_pods_start_anew() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("a.yaml", &pod("a", "hostname: a", FOREVER));
    n.start();
    n.until_ready("a");
    n.reboot();
    n.start();
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 1, "as the kubelet counts a reboot");
    let events = n.said(&["events", "a"]);
    assert!(events.contains("SandboxChanged") && events.contains("Pod sandbox changed, it will be killed and re-created."), "{events}");
    n.until("the old address was given back", 10, |n| {
        let addresses = fs::read_dir(n.dir.join("data/ipam/pods")).into_iter().flatten().flatten();
        addresses.filter(|e| e.file_name().to_string_lossy().starts_with("10.")).count() == 1
    });
    n.shutdown();
}

#[test]
fn a_hundred_kills_at_random_moments_lose_and_leak_nothing() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("steady.yaml", &pod("steady", "hostname: steady", FOREVER));
    n.start();
    n.until_ready("steady");
    let before = ids(&n, &["steady"]);
    let seed: u64 = std::env::var("IT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    eprintln!("IT_SEED={seed}");
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for round in 0..100 {
        let name = format!("p{}", next(4));
        let file = format!("{name}.yaml");
        match next(4) {
            0 if n.manifests.join(&file).exists() => n.remove(&file),
            1 => n.put(&file, &script(&name, &format!("echo {round}; exit 1"))),
            2 => n.put(&file, &pod(&name, "hostname: x", &format!("echo {round}; {FOREVER}"))),
            _ => n.put(&file, &script(&name, &format!("echo {round}; {FOREVER}"))),
        }
        std::thread::sleep(std::time::Duration::from_millis(next(150)));
        n.kill();
        n.start();
    }
    for p in 0..4 {
        let file = format!("p{p}.yaml");
        n.put(&file, &pod(&format!("p{p}"), "hostname: x", &format!("echo last; {FOREVER}")));
    }
    for p in ["p0", "p1", "p2", "p3", "steady"] {
        n.until(&format!("{p} is Ready"), 60, |n| n.ready(p));
    }
    assert_eq!(ids(&n, &["steady"]), before, "a healthy container was restarted");
    n.until("one task a pod, none doubled", 30, |n| {
        n.ctr(&["tasks", "list", "-q"]).lines().count() == 5 && n.ctr(&["containers", "list", "-q"]).lines().count() == 5
    });
    n.shutdown();
}

#[test]
fn one_end_restarts_all_containers_in_the_same_sandbox() {
    let Some(mut n) = Node::started() else { return };
    let volume = "volumeMounts: [{name: v, mountPath: /v}]";
    let init = format!("- {{name: i, image: '{IMAGE}', command: [sh, -c, 'echo init >>/v/order'], {volume}}}");
    let text = pod(
        "r",
        &format!("os: {{name: linux}}\n  restartPolicy: Never\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  initContainers:\n  {init}"),
        "echo first >>/v/order; [ $(wc -l </v/order) = 2 ] && { until [ -e /v/d ]; do sleep 0.1; done; sleep 0.5; exit 42; }\ntrap 'echo USR1 >>/v/order; exit 0' USR1; while :; do sleep 0.1; done",
    )
    .replace(
        "    command: [sh, -c]",
        &format!("    {volume}\n    restartPolicy: Never\n    restartPolicyRules: [{{action: RestartAllContainers, exitCodes: {{operator: In, values: [42]}}}}]\n    lifecycle: {{stopSignal: SIGUSR1}}\n    command: [sh, -c]"),
    ) + &format!("  - {{name: d, image: '{IMAGE}', command: [sh, -c, 'touch /v/d; exec sleep 1000'], {volume}}}\n");
    n.put("r.yaml", &text);
    n.until("both ran", 30, |n| n.pod("r").is_some_and(|p| container(&p, "d")["containerID"].is_string()));
    let ip = n.pod("r").unwrap()["status"]["podIP"].clone();
    n.until("all were restarted", 30, |n| {
        n.ready("r") && n.pod("r").is_some_and(|p| container(&p, "d")["restartCount"] == 1 && container(&p, "c")["restartCount"] == 1)
    });
    let p = n.pod("r").unwrap();
    assert_eq!(p["status"]["initContainerStatuses"][0]["restartCount"], 1, "{p}");
    assert_eq!(container(&p, "c")["lastState"]["terminated"]["exitCode"], 42);
    assert_eq!(container(&p, "d")["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(p["status"]["podIP"], ip, "the sandbox is the same");
    let order = n.path(&format!("data/pods/{}/volumes/kubernetes.io~empty-dir/v/order", p["metadata"]["uid"].as_str().unwrap()));
    n.until("init ran before each round, on what was there", 5, |_| {
        std::fs::read_to_string(&order).is_ok_and(|t| t == "init\nfirst\ninit\nfirst\n")
    });
    // Memory lost, nothing is restarted again; and the container's own stop signal is what it gets.
    n.kill();
    n.start();
    n.until_ready("r");
    assert_eq!(n.restarts("r"), 2);
    let kept = n.path("kept");
    std::fs::hard_link(&order, &kept).unwrap();
    n.remove("r.yaml");
    n.until("it is gone", 15, |n| n.gone("r"));
    assert!(std::fs::read_to_string(&kept).unwrap().ends_with("USR1\n"));
    n.shutdown();
}

#[test]
fn a_container_killed_while_plinth_is_down_is_told_as_it_was() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.start();
    n.put("again.yaml", &script("again", FOREVER));
    n.put("over.yaml", &crate::node::pod("over", "hostNetwork: true\n  restartPolicy: Never", FOREVER));
    let hungry = "while [ ! -e /go ]; do sleep 0.1; done; exec tail /dev/zero";
    n.put("oom.yaml", &(script("oom", hungry) + "    resources: {limits: {memory: 32Mi}}\n"));
    for pod in ["again", "over", "oom"] {
        n.until_ready(pod);
    }
    let id = |n: &Node, pod: &str| container(&n.pod(pod).unwrap(), "c")["containerID"].as_str().unwrap().replace("containerd://", "");
    let ids: Vec<String> = ["again", "over", "oom"].iter().map(|p| id(&n, p)).collect();
    let tasks = n.ctr(&["tasks", "list"]);
    let pid = |id: &str| tasks.lines().find(|l| l.contains(id)).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    n.kill();
    n.exec(&["kill", "-9", &pid(&ids[0]), &pid(&ids[1])]);
    n.ctr(&["tasks", "exec", "--exec-id", "go", &ids[2], "touch", "/go"]);
    n.until_stopped(3);
    n.start();
    let last = |n: &Node, pod: &str| n.pod(pod).map(|p| container(&p, "c")["lastState"]["terminated"].clone()).unwrap_or_default();
    n.until("it runs again", 30, |n| n.restarts("again") == 1 && n.ready("again"));
    assert_eq!((&last(&n, "again")["exitCode"], &last(&n, "again")["reason"]), (&137.into(), &"Error".into()));
    n.until("the one that is not to run again has failed", 30, |n| n.pod("over").is_some_and(|p| p["status"]["phase"] == "Failed"));
    let over = n.pod("over").unwrap();
    assert_eq!(container(&over, "c")["state"]["terminated"]["exitCode"], 137);
    let why = n.said(&["why", "over"]);
    assert!(why.contains("Error") && why.contains("137"), "{why}");
    n.until("the kernel's reason is known", 30, |n| n.restarts("oom") >= 1);
    assert_eq!((&last(&n, "oom")["exitCode"], &last(&n, "oom")["reason"]), (&137.into(), &"OOMKilled".into()));
    n.shutdown();
}

#[test]
fn a_container_whose_record_vanished_while_it_ran_is_told_so_and_made_anew() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER).replace("    command:", "    imagePullPolicy: Never\n    command:"));
    n.until_ready("a");
    let id = ids(&n, &["a"])["a"].replace("containerd://", "");
    let (archive, aside) = (n.path("work/archives/busybox.tar"), n.path("work/busybox.tar"));
    // Deleted behind its back, and the next attempt cannot be made yet.
    n.signal("STOP");
    fs::rename(&archive, &aside).unwrap();
    n.ctr(&["images", "remove", IMAGE]);
    n.ctr(&["tasks", "kill", "-s", "KILL", &id]);
    n.exec(&[
        "sh",
        "-c",
        "until \"$@\" 2>/dev/null; do sleep 0.05; done",
        "sh",
        &n.path("containerd/usr/bin/ctr"),
        "-a",
        &n.path("containerd.sock"),
        "-n",
        "plinth",
        "tasks",
        "delete",
        &id,
    ]);
    n.ctr(&["containers", "delete", &id]);
    n.signal("CONT");
    let last = |n: &Node| n.pod("a").map(|p| container(&p, "c")["lastState"]["terminated"].clone()).unwrap_or_default();
    n.until("it is told as one nobody knows the end of", 20, |n| last(n)["reason"] == "ContainerStatusUnknown");
    let p = n.pod("a").unwrap();
    assert_eq!(
        (&last(&n)["exitCode"], &container(&p, "c")["restartCount"], &p["status"]["phase"]),
        (&137.into(), &1.into(), &"Running".into())
    );
    fs::rename(&aside, &archive).unwrap();
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 1);
    // A new link is looked over anew.
    n.containerd("kill");
    n.containerd("start");
    let io = format!("{}/io/{id}", n.path(&format!("run/pods/{}", p["metadata"]["uid"].as_str().unwrap())));
    n.until("its pipes are closed and gone", 30, |n| {
        let open = fs::read_dir(format!("/proc/{}/fd", n.pid())).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        !open.map(|to| to.display().to_string()).any(|to| to.starts_with(&io)) && n.tried(&["ls".into(), io.clone()]).is_empty()
    });
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 1);
    n.shutdown();
}

#[test]
fn a_container_whose_end_nobody_saw_is_told_as_unknown() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    let id = ids(&n, &["a"])["a"].replace("containerd://", "");
    let tasks = n.ctr(&["tasks", "list"]);
    let pid = tasks.lines().find(|l| l.starts_with(&id)).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
    n.kill();
    n.containerd("kill");
    n.exec(&["kill", "-9", &shim]);
    n.exec(&["kill", "-9", &pid]);
    n.until("both are gone", 5, |_| [&pid, &shim].iter().all(|p| !Path::new(&format!("/proc/{p}")).exists()));
    n.containerd("start");
    n.start();
    n.until("it runs again", 30, |n| n.restarts("a") == 1 && n.ready("a"));
    let last = container(&n.pod("a").unwrap(), "c")["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"]), (&137.into(), &"ContainerStatusUnknown".into()), "{last}");
    n.shutdown();
}

#[test]
fn a_container_is_restarted_for_the_exit_codes_of_its_rules_and_for_no_others() {
    let Some(mut n) = Node::started() else { return };
    let rules = |operator: &str, values: &str| {
        format!("restartPolicy: Never, restartPolicyRules: [{{action: Restart, exitCodes: {{operator: {operator}, values: [{values}]}}}}]")
    };
    let container_of = |name: &str, fields: &str, script: &str| {
        format!(
            "  - {{name: {name}, image: '{IMAGE}', volumeMounts: [{{name: v, mountPath: /v}}], {fields}, command: [sh, -c, '{script}']}}\n"
        )
    };
    // The first end of each is one that its rule is for, the second is not.
    let twice = |name: &str, first: u8, second: u8| format!("[ -e /v/{name} ] && exit {second}; touch /v/{name}; exit {first}");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: r}\nspec:\n  restartPolicy: Never\n  hostNetwork: true\n  volumes: [{name: v, emptyDir: {}}]\n  containers:\n".to_owned()
        + &container_of("in", &rules("In", "7, 42"), &twice("in", 42, 3))
        + &container_of("notin", &rules("NotIn", "0, 3"), &twice("notin", 42, 3))
        + &container_of("own", "restartPolicy: OnFailure", &twice("own", 9, 0));
    n.put("r.yaml", &text);
    n.until("the pod is over", 60, |n| n.pod("r").is_some_and(|p| p["status"]["phase"] == "Failed"));
    let p = n.pod("r").unwrap();
    for (name, first, second) in [("in", 42, 3), ("notin", 42, 3), ("own", 9, 0)] {
        let c = container(&p, name);
        let seen = [&c["restartCount"], &c["lastState"]["terminated"]["exitCode"], &c["state"]["terminated"]["exitCode"]];
        assert_eq!(seen, [1, first, second], "{p}");
    }
    n.kill();
    n.start();
    n.until("it stays over", 10, |n| n.pod("r").is_some_and(|p| p["status"]["phase"] == "Failed"));
    assert_eq!(n.restarts("r"), 3);
    n.shutdown();
}
