//! Containers and files that misbehave.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use crate::node::{FOREVER, Node, can_run, container, pod, script};

#[test]
fn a_container_that_ignores_term_is_killed_after_its_grace() {
    let Some(mut n) = Node::started() else { return };
    n.put("deaf.yaml", &script("deaf", "trap '' TERM; while :; do sleep 0.1; done"));
    n.until_ready("deaf");
    let t = Instant::now();
    n.remove("deaf.yaml");
    n.until("it is gone", 15, |n| n.gone("deaf"));
    let took = t.elapsed();
    // Not before its grace of 3 s, and not after the kubelet's 30 s of those who have none of their own.
    assert!(took >= Duration::from_millis(2900) && took < Duration::from_secs(25), "its grace is 3 s; it took {took:?}");
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_thousand_children_a_closed_stdout_and_an_exit_while_stopping_leave_nothing() {
    let Some(mut n) = Node::started() else { return };
    n.put("forks.yaml", &script("forks", "trap '' TERM; for i in $(seq 1000); do sleep 1000 & done; wait; sleep 1000"));
    n.put("closed.yaml", &script("closed", &format!("exec >&- 2>&-; {FOREVER}")));
    n.put("leaving.yaml", &script("leaving", "trap 'sleep 0.5; exit 9' TERM; while :; do sleep 0.05; done"));
    for p in ["forks", "closed", "leaving"] {
        n.until_ready(p);
    }
    for p in ["forks.yaml", "closed.yaml", "leaving.yaml"] {
        n.remove(p);
    }
    n.until("all are gone", 20, |n| ["forks", "closed", "leaving"].iter().all(|p| n.gone(p)));
    n.assert_clean();
    n.shutdown();
}

/// Whether a file ends so.
fn ends(file: &str, with: &[u8]) -> bool {
    let Ok(mut file) = File::open(file) else { return false };
    let mut end = Vec::new();
    let sought = file.seek(SeekFrom::End(-i64::try_from(with.len()).unwrap()));
    sought.and_then(|_| file.read_to_end(&mut end)).is_ok() && end == with
}

#[test]
fn a_gibibyte_without_a_newline_slows_nobody() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["containerLogMaxSize=16Mi", "containerLogMaxFiles=3"]);
    n.start();
    let start = |n: &mut Node, name: &str| {
        let t = Instant::now();
        n.put(&format!("{name}.yaml"), &script(name, &format!("echo here; {FOREVER}")));
        n.until_ready(name);
        t.elapsed()
    };
    start(&mut n, "first");
    let alone = start(&mut n, "alone");
    n.put("flood.yaml", &script("flood", "head -c 1073741824 /dev/zero | tr '\\0' x; echo; echo end; sleep 1000"));
    n.until_ready("flood");
    let beside = start(&mut n, "quiet");
    assert!(beside < Duration::from_secs(4) + 10 * alone, "a quiet pod beside it started after {beside:?}, alone after {alone:?}");
    // To look by `logs` meanwhile would be to read all that is kept of a line without an end, each time.
    let log = n.path(&format!("logs/pods/default_flood-it_{}/c/0.log", n.pod("flood").unwrap()["metadata"]["uid"].as_str().unwrap()));
    n.until("the flood's last line is there", 120, |_| ends(&log, b" F end\n"));
    assert_eq!(n.said(&["logs", "flood", "--tail", "1"]), "end\n");
    let rss_kb: u64 = fs::read_to_string(format!("/proc/{}/status", n.pid()))
        .unwrap()
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:").map(|v| v.trim().trim_end_matches(" kB").parse().unwrap()))
        .unwrap();
    assert!(rss_kb < 40_000, "memory stays constant (debug build): {rss_kb} kB");
    n.shutdown();
}

#[test]
fn a_full_log_file_system_is_survived_and_said() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let logs = n.path("logs");
    n.exec(&["mount", "-t", "tmpfs", "-o", "size=256k", "full", &logs]);
    n.start();
    n.put("w.yaml", &script("w", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; [ $i -gt 20000 ] && sleep 0.1; done"));
    n.until("it is said", 20, |n| fs::read_to_string(n.path("plinth.log")).is_ok_and(|l| l.to_lowercase().contains("no space left")));
    n.until_ready("w");
    n.put("v.yaml", &script("v", FOREVER));
    n.until_ready("v");
    assert!(n.ready("w") && n.restarts("w") == 0, "the pod runs on");
    n.said(&["shutdown", "--grace", "10s"]);
    n.exec(&["umount", "-l", &logs]);
}

#[test]
fn hostile_files_and_layers_are_named_and_cost_nothing() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put("good.yaml", &script("good", FOREVER));
    fs::write(n.manifests.join("empty-list.yaml"), "# nothing\n").unwrap();
    fs::write(n.manifests.join("binary.yaml"), [0u8, 159, 146, 150]).unwrap();
    fs::write(n.manifests.join("huge.yaml"), vec![b'a'; 11 << 20]).unwrap();
    fs::write(n.manifests.join("deep.yaml"), "[".repeat(10_000)).unwrap();
    fs::write(n.manifests.join("bomb.yaml"), "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n").unwrap();
    fs::write(n.manifests.join("service.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n").unwrap();
    fs::write(n.manifests.join("long.yaml"), script(&"n".repeat(251), FOREVER)).unwrap();
    fs::write(n.manifests.join("notes.txt"), "hello").unwrap();
    std::os::unix::fs::symlink("/nowhere", n.manifests.join("dangling.yaml")).unwrap();
    fs::create_dir(n.manifests.join("folder.yaml")).unwrap();
    n.exec(&["mkfifo", &n.path("work/image/fifo.yaml")]);
    n.start();
    n.until_ready("good");
    let reports = n.get("/v1/manifests").unwrap();
    for f in ["binary.yaml", "huge.yaml", "deep.yaml", "bomb.yaml", "service.yaml", "long.yaml", "notes.txt", "dangling.yaml"] {
        assert!(reports.contains(f), "{f} is named\n{reports}");
    }
    n.shutdown();
}

#[test]
fn a_network_that_fails_says_so_and_recovers() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let list = n.path("cni/10-pods.conflist");
    let good = fs::read_to_string(&list).unwrap();
    fs::write(&list, good.replace("\"bridge\",\"bridge\"", "\"nosuch\",\"bridge\"")).unwrap();
    n.put("a.yaml", &crate::node::pod("a", "hostname: a", FOREVER));
    n.start();
    n.until("it says so", 15, |n| n.said_or_nothing(&["why", "a"]).contains("nosuch"));
    n.until("and in the events", 5, |n| n.said_or_nothing(&["events", "a"]).contains("NetworkNotReady"));
    fs::write(&list, good).unwrap();
    n.until_ready("a");
    n.shutdown();
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    let Some(mut n) = Node::started() else { return };
    n.put("x.yaml", &script("x", "true").replace("[sh, -c]", "[/no/such/command]"));
    n.until("it says so", 15, |n| {
        n.pod("x").is_some_and(|p| {
            let c = container(&p, "c");
            c["lastState"]["terminated"]["exitCode"] == 128
                || c["state"]["terminated"]["exitCode"] == 128
                || c["state"]["waiting"]["message"].as_str().is_some_and(|m| m.contains("/no/such/command"))
        })
    });
    n.until("why tells the OCI runtime's words", 5, |n| n.said_or_nothing(&["why", "x"]).contains("exec: \"/no/such/command\""));
    n.shutdown();
}

#[test]
fn a_pod_that_is_over_waits_for_nothing() {
    let Some(mut n) = Node::started() else { return };
    let init = "restartPolicy: Never\n  hostNetwork: true\n  initContainers:\n  - {name: i, image: 'IMAGE', command: [sh, -c, 'exit 5']}";
    n.put("x.yaml", &pod("x", &init.replace("IMAGE", crate::node::IMAGE), FOREVER));
    n.until("it failed", 15, |n| n.pod("x").is_some_and(|p| p["status"]["phase"] == "Failed"));
    let why = |n: &Node| n.said_or_nothing(&["why", "x"]);
    n.until("its container is not said to wait for its turn", 5, |n| why(n).contains("Waits for  nothing"));
    assert!(why(&n).contains("an init container failed for good"), "{}", why(&n));
    n.shutdown();
}

/// A second plinth that must not be: its log, once it has ended with 1.
fn refused(n: &Node, other: &[String]) -> String {
    let mut second = n.second("other.sock", other);
    let end = Instant::now() + Duration::from_secs(20);
    while second.try_wait().unwrap().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = second.kill();
    let log = fs::read_to_string(n.dir.join("second.log")).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(1), "{log}");
    log
}

#[test]
fn a_second_plinth_on_the_same_run_directory_or_namespace_is_refused() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    let log = refused(&n, &[]);
    assert!(log.contains(&format!("use {}: another plinth works in it", n.path("run"))), "{log}");
    let own = ["runDir", "dataDir"].map(|dir| format!("{dir}={}", n.path(&format!("work/{dir}"))));
    let first = n.pid();
    let taken = format!("use containerd namespace `plinth`: another plinth (pid {first}) works in it");
    let log = refused(&n, &own);
    assert!(log.contains(&taken), "{log}");
    n.containerd("kill");
    n.containerd("start");
    n.until("plinth is linked again", 20, |n| n.ctr(&["tasks", "list"]).contains("RUNNING") && n.plinth(&["status"]).stderr.is_empty());
    let log = refused(&n, &own);
    assert!(log.contains(&taken), "held over a restart of containerd: {log}");
    assert_eq!(n.restarts("a"), 0);
    n.kill();
    n.start();
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 0);
    n.shutdown();
}
