//! containerd itself: one that is too old, one that hangs, one that forgot everything.

use std::fs;
use std::process::Command;

use crate::node::{FOREVER, Node, can_run_on, container, script};

/// A signal to the node's containerd.
fn signal(n: &Node, name: &str) {
    let pid = fs::read_to_string(n.dir.join("containerd.pid")).unwrap();
    assert!(Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap().success());
}

/// What `status` says above its table.
fn header(n: &Node) -> String {
    String::from_utf8_lossy(&n.plinth(&["status"]).stderr).into_owned()
}

fn log(n: &Node) -> String {
    fs::read_to_string(n.dir.join("plinth.log")).unwrap()
}

const COUNTS: &str = "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";

#[test]
fn a_containerd_that_hangs_is_told_and_costs_nothing() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", COUNTS));
    n.until_ready("a");
    let before = container(&n.pod("a").unwrap(), "c")["containerID"].clone();
    signal(&n, "STOP");
    n.put("b.yaml", &script("b", FOREVER));
    let hangs = "it takes calls and answers none";
    n.until("status says so", 30, |n| header(n).contains(hangs));
    let header_said = header(&n);
    assert!(header_said.contains("has not answered for") && header_said.contains("containers, their output"), "{header_said}");
    let (head, checks) = n.asked("/readyz?verbose").unwrap();
    assert!(head.contains(" 503 ") && checks.contains(&format!("[-]containerd failed: {hangs}")), "{head}\n{checks}");
    for pod in ["a", "b"] {
        let why = n.said(&["why", pod]);
        assert!(why.contains(&format!("Waits for  containerd: {hangs}")), "{why}");
    }
    assert!(log(&n).contains(&format!("containerd is away: {hangs}")), "{}", n.log());
    let line = n.said(&["logs", "a", "--tail", "1"]);
    n.until("its output is kept meanwhile", 10, |n| n.said(&["logs", "a", "--tail", "1"]) != line);

    signal(&n, "CONT");
    n.until("it is over", 20, |n| !header(n).contains("containerd"));
    assert!(log(&n).lines().any(|l| l.contains(" answers, after ") && l.ends_with(" s without")), "{}", n.log());
    n.until("what was asked for meanwhile starts without a back-off", 10, |n| n.ready("b"));
    assert_eq!((&container(&n.pod("a").unwrap(), "c")["containerID"], n.restarts("a")), (&before, 0));

    n.kill();
    signal(&n, "STOP");
    n.start();
    n.until("a start says so too", 30, |n| header(n).contains(hangs));
    signal(&n, "CONT");
    n.until_ready("a");
    assert_eq!((&container(&n.pod("a").unwrap(), "c")["containerID"], n.restarts("a")), (&before, 0));
    n.shutdown();
}

#[test]
fn a_shutdown_waits_for_a_containerd_that_is_late() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    signal(&n, "STOP");
    n.until("status says so", 30, |n| header(n).contains("answers none"));
    let asked = std::time::Instant::now();
    let mut client = Command::new(env!("CARGO_BIN_EXE_plinth"));
    let mut client = client.args(["shutdown", "--grace", "1s"]).env("PLINTH_SOCKET", n.path("plinth.sock")).spawn().unwrap();
    // One that is away would have been given up by now.
    n.until("its grace is over", 20, |_| asked.elapsed() > std::time::Duration::from_secs(9));
    signal(&n, "CONT");
    assert!(client.wait().unwrap().success());
    n.ended();
    n.assert_stopped();
}

#[test]
fn a_containerd_that_hangs_and_is_restarted_costs_nothing_either() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    signal(&n, "STOP");
    n.until("status says so", 30, |n| header(n).contains("answers none"));
    n.containerd("kill");
    n.until("status says what is the matter now", 20, |n| header(n).contains("containerd at") && !header(n).contains("answers none"));
    n.containerd("start");
    n.until("it is over", 20, |n| !header(n).contains("containerd"));
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 0);
    n.shutdown();
}

#[test]
fn a_containerd_older_than_1_7_is_named_and_a_newer_one_taken_in_its_place() {
    if !can_run_on("bookworm") {
        return;
    }
    let mut n = Node::with("bookworm", &[]);
    n.put("a.yaml", &script("a", FOREVER));
    n.start();
    let too_old = "use containerd 1.6.20~ds1: it is too old; plinth needs 1.7, better 2.0, or newer";
    n.until("status says so", 20, |n| header(n).contains(too_old));
    assert!(n.said(&["why", "a"]).contains(too_old) && log(&n).contains(too_old), "{}", n.log());
    assert_eq!(n.ctr(&["containers", "list", "-q"]), "", "nothing was asked of it");
    n.containerd("kill");
    let newer = fs::canonicalize(n.dir.join("containerd")).unwrap().with_file_name("sid");
    fs::remove_file(n.dir.join("containerd")).unwrap();
    std::os::unix::fs::symlink(newer, n.dir.join("containerd")).unwrap();
    n.containerd("start");
    n.until_ready("a");
    n.shutdown();
}

#[test]
fn a_containerd_that_forgot_everything_gets_its_pods_anew_and_none_twice() {
    let Some(mut n) = Node::started() else { return };
    let tag = format!("wiped-{}", n.dir.display());
    n.put("a.yaml", &script("a", &format!("trap 'exit 0' TERM; : {tag}; while :; do sleep 0.1; done")));
    n.put("b.yaml", &crate::node::pod("b", "hostname: b", FOREVER));
    n.until_ready("a");
    n.until_ready("b");
    // As a run of `b` leaves it that was restarted before and has rotated its log.
    let logs = fs::read_dir(n.dir.join("logs/pods")).unwrap().flatten().map(|d| d.path().join("c"));
    let logs = logs.filter(|d| d.to_string_lossy().contains("default_b-it_")).collect::<Vec<_>>();
    fs::write(logs[0].join("4.log.20260102-030405"), "2026-01-02T03:04:05.000000000Z stdout F the fifth\n").unwrap();
    n.containerd("wipe");
    n.containerd("start");
    // Counted first: Ready may still be said of what was there before.
    n.until("both are made anew", 120, |n| header(n).is_empty() && n.restarts("a") == 1 && n.ready("a") && n.ready("b"));
    assert_eq!((n.restarts("a"), n.restarts("b")), (1, 5), "counted on from the logs\n{}", n.log());
    assert!(logs[0].join("5.log").exists(), "{}", n.log());
    let b = n.pod("b").unwrap();
    n.kill();
    n.start();
    n.until("an amnesia changes none of it", 30, |n| n.ready("a") && n.ready("b") && n.restarts("b") == 5);
    assert_eq!(container(&n.pod("b").unwrap(), "c")["containerID"], container(&b, "c")["containerID"]);
    n.until("what containerd forgot runs no more", 10, |n| n.running(&tag) == 1);
    n.until("each pod has one shim", 10, |n| n.running(&format!("\0-address\0{}", n.path("containerd.sock"))) == 2);
    n.shutdown();
}

#[test]
fn logs_of_pods_nobody_knows_go_and_those_of_others_stay() {
    let Some(mut n) = Node::started() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    n.put("b.yaml", &script("b", FOREVER));
    n.until_ready("a");
    n.until_ready("b");
    let named = |below: &str, part: &str| {
        let found = fs::read_dir(n.dir.join("logs").join(below)).unwrap().flatten().map(|e| e.path());
        found.filter(|p| p.file_name().unwrap().to_string_lossy().contains(part)).collect::<Vec<_>>()
    };
    let (a, b) = (named("pods", "_a-it_").remove(0), named("pods", "_b-it_").remove(0));
    let (a_link, b_link) = (named("containers", "a-it_").remove(0), named("containers", "b-it_").remove(0));
    // Of a kubelet's static pod, of another plinth's, and of neither; links of others that lead nowhere, and one of ours that does.
    let uid = "0123456789abcdef0123456789abcdef";
    let logs = n.dir.join("logs/pods");
    let others =
        [format!("ns_kubelet_{uid}"), format!("ns_other_{uid}"), "ns_dashed_0c1a2b3c-1111-2222-3333-444455556666".into(), "x".into()];
    for other in &others {
        fs::create_dir_all(logs.join(other).join("c")).unwrap();
        fs::write(logs.join(other).join("c/0.log"), "kept\n").unwrap();
    }
    n.exec(&[
        "python3",
        "-c",
        "import os, sys; os.setxattr(sys.argv[1], 'trusted.plinth', b'/var/lib/plinth')",
        logs.join(&others[1]).to_str().unwrap(),
    ]);
    let links = n.dir.join("logs/containers");
    let foreign = format!("kubelet_ns_c-{}.log", "f".repeat(64));
    std::os::unix::fs::symlink(logs.join(&others[0]).join("c/7.log"), links.join(&foreign)).unwrap();
    let dead = format!("gone_ns_c-{}-c-3.log", &uid[..12]);
    std::os::unix::fs::symlink(logs.join(format!("ns_gone_{uid}")).join("c/3.log"), links.join(&dead)).unwrap();
    // All that plinth and containerd knew is lost, one pod is wanted no more, and one file cannot be read.
    n.reboot();
    n.containerd("wipe");
    n.containerd("start");
    fs::remove_dir_all(n.dir.join("data")).unwrap();
    n.remove("b.yaml");
    n.put("c.yaml", "kind: Pod\n");
    n.start();
    n.until_ready("a");
    assert_eq!(n.restarts("a"), 1, "counted on from its logs\n{}", n.log());
    assert!(b.exists() && fs::symlink_metadata(&b_link).is_ok(), "what the broken file asks for is not known");
    n.remove("c.yaml");
    n.until("what nobody knows is gone", 10, |_| !b.exists() && fs::symlink_metadata(&b_link).is_err());
    assert!(fs::symlink_metadata(links.join(&dead)).is_err(), "a dead link of ours");
    assert!(a.join("c/0.log").exists() && a.join("c/1.log").exists() && fs::symlink_metadata(&a_link).is_ok(), "the wanted pod's stay");
    for other in &others {
        assert_eq!(fs::read_to_string(logs.join(other).join("c/0.log")).unwrap(), "kept\n", "{other}");
    }
    assert!(fs::symlink_metadata(links.join(&foreign)).is_ok());
    n.shutdown();
}
