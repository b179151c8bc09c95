//! What may go wrong around a pod that is none of its doing, and pods that are a crowd: each ends in a state one would expect.

use crate::node::skip::skip;
use crate::node::{FOREVER, IMAGE, Node, can_run, condition, container, pod, script};

#[test]
fn a_host_path_that_vanishes_while_mounted_is_a_new_one_for_the_next_attempt() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let host = n.path("work/host");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(format!("{host}/f"), "").unwrap();
    let volume = format!("hostNetwork: true\n  volumes: [{{name: v, hostPath: {{path: {host}}}}}]");
    // Without its directory it ends; on a new one it finds nothing and stays.
    let text = format!("[ -e /h/f ] || {{ touch /h/new; {FOREVER}; }}\nwhile [ -e /h/f ]; do sleep 0.1; done; exit 1");
    let mounted = "    volumeMounts: [{name: v, mountPath: /h}]\n    command: [sh, -c]";
    n.put("h.yaml", &pod("h", &volume, &text).replace("    command: [sh, -c]", mounted));
    n.start();
    n.until_ready("h");
    std::fs::remove_dir_all(&host).unwrap();
    n.until("it runs again, on a new directory", 60, |n| {
        n.ready("h") && n.restarts("h") == 1 && std::path::Path::new(&host).join("new").exists()
    });
    n.remove("h.yaml");
    n.until("it is gone", 30, |n| n.gone("h"));
    assert!(std::path::Path::new(&host).join("new").exists(), "a hostPath is never cleaned up");
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_full_disk_keeps_a_pod_waiting_until_there_is_room() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let small = n.path("work/small");
    std::fs::create_dir_all(&small).unwrap();
    n.exec(&["mount", "-t", "tmpfs", "-o", "size=256k", "small", &small]);
    n.exec(&["sh", "-c", &format!("dd if=/dev/zero of={small}/filler bs=1k 2>/dev/null || true")]);
    n.extra.push(format!("dataDir={small}"));
    let volume = "hostNetwork: true\n  volumes: [{name: v, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]";
    let mounted = "    volumeMounts: [{name: v, mountPath: /down}]\n    command: [sh, -c]";
    n.put("f.yaml", &pod("f", volume, &format!("cat /down/name; echo; {FOREVER}")).replace("    command: [sh, -c]", mounted));
    n.start();
    n.until("why names the disk", 30, |n| n.said_or_nothing(&["why", "f"]).contains("No space left on device"));
    assert!(!n.ready("f"));
    n.exec(&["rm", &format!("{small}/filler")]);
    n.until("there is room again", 90, |n| n.ready("f"));
    n.until("it reads itself", 10, |n| n.said_or_nothing(&["logs", "f"]) == "f-it\n");
    n.remove("f.yaml");
    n.until("it is gone", 30, |n| n.gone("f"));
    n.exec(&["umount", &small]);
    n.shutdown();
}

#[test]
fn a_pod_survives_a_stranger_who_removes_its_cgroups() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.put(
        "g.yaml",
        &pod("g", "hostNetwork: true", "[ -e /tmp/x ] && exit 1; while [ ! -e /dev/shm/end ]; do sleep 0.1; done; rm /dev/shm/end; exit 1"),
    );
    n.start();
    n.until_ready("g");
    let root = format!("plinth-{}", n.dir.file_name().unwrap().to_str().unwrap());
    let uid = n.pod("g").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let groups = |n: &Node| {
        // Groups of other nodes come and go meanwhile: only its own are gone through.
        let found =
            n.exec(&["sh", "-c", &format!("find /sys/fs/cgroup/{root} /sys/fs/cgroup/*/{root} -name 'pod{uid}' 2>/dev/null || true")]);
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = groups(&n);
    assert!(!before.is_empty());
    // Its processes are taken to the top of the hierarchy, and what they were in is removed.
    for group in &before {
        let top = group.split(&format!("/{root}/")).next().unwrap();
        // The container makes new processes all the while: again until none is left behind.
        let move_out =
            format!("find {group} -name cgroup.procs -exec cat {{}} + 2>/dev/null | while read p; do echo $p >{top}/cgroup.procs; done");
        let script =
            format!("while [ -d {group} ]; do {{ {move_out}; find {group} -depth -type d -exec rmdir {{}} +; }} 2>/dev/null; done");
        n.exec(&["sh", "-c", &script]);
    }
    assert!(groups(&n).is_empty());
    n.exec(&["touch", &n.path(&format!("run/pods/{uid}/shm/end"))]);
    n.until("its container is restarted", 60, |n| n.ready("g") && n.restarts("g") == 1);
    let (mut again, mut before) = (groups(&n), before);
    again.sort();
    before.sort();
    assert_eq!(again, before, "in cgroups that were made again");
    n.remove("g.yaml");
    n.until("it is gone", 30, |n| n.gone("g"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_pod_of_a_hundred_containers_comes_and_goes() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let mut text = pod("many", "hostNetwork: true", "exec sleep 100000");
    for i in 1..100 {
        text += &format!("  - {{name: c{i}, image: '{IMAGE}', command: [sleep, '100000']}}\n");
    }
    n.put("many.yaml", &text);
    n.start();
    n.until("all hundred are ready", 240, |n| n.ready("many"));
    let p = n.pod("many").unwrap();
    assert_eq!(p["status"]["containerStatuses"].as_array().unwrap().len(), 100);
    assert_eq!(container(&p, "c99")["restartCount"], 0);
    // None of them takes TERM: one grace for all of them.
    n.remove("many.yaml");
    n.until("it is gone", 240, |n| n.gone("many"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_hundred_and_ten_pods_at_once_all_run_and_the_next_is_refused() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    for i in 0..110 {
        n.put(&format!("p{i}.yaml"), &pod(&format!("p{i}"), "hostNetwork: true", "exec sleep 100000"));
    }
    n.start();
    let ready = |n: &Node| {
        let list: serde_json::Value = serde_json::from_str(&n.get("/pods").unwrap_or_default()).unwrap_or_default();
        list["items"].as_array().map_or(0, |items| items.iter().filter(|p| condition(p, "Ready")).count())
    };
    n.until("all run", 240, |n| ready(n) == 110);
    n.put("z.yaml", &pod("z", "hostNetwork: true", "exec sleep 100000"));
    n.until("one more is refused", 30, |n| n.pod("z").is_some_and(|p| p["status"]["reason"] == "OutOfpods"));
    let why = n.said(&["why", "z"]);
    assert!(why.contains("OutOfpods") && why.contains("Next try"), "{why}");
    n.remove("p0.yaml");
    n.until("and taken when there is room", 60, |n| n.ready("z"));
    n.shutdown();
}

#[test]
fn a_machine_without_controllers_runs_pods_without_their_limits_and_says_so_once() {
    // Where another hierarchy has them, the v2 tree has none; elsewhere there is no machine without.
    if !can_run() {
        return;
    }
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return skip("a machine without control group controllers: needs one with control group v1");
    }
    let mut n = Node::up();
    n.exec(&["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"]);
    n.containerd("stop");
    n.containerd("start");
    n.start();
    for name in ["a", "b"] {
        n.put(&format!("{name}.yaml"), &(script(name, FOREVER) + "    resources: {limits: {cpu: 500m, memory: 64Mi}}\n"));
        n.until(&format!("{name} runs"), 10, |n| n.ready(name));
    }
    let log = std::fs::read_to_string(n.path("plinth.log")).unwrap();
    let told: Vec<&str> = log.lines().filter(|l| l.contains("pods run without pod-level limits")).collect();
    assert!(told.len() == 1 && told[0].contains("find control group controller `cpu`"), "{told:?}");
    n.shutdown();
}

#[test]
fn a_machine_without_one_hierarchy_runs_pods_without_what_it_gives_and_says_so_once() {
    let memory = std::path::Path::new("/sys/fs/cgroup/memory/cgroup.procs");
    // There are hierarchies on v1 alone.
    if !can_run() {
        return;
    }
    if !memory.exists() {
        return skip("a machine without one control group hierarchy: needs one with control group v1");
    }
    let mut n = Node::up();
    // Out of sight of this node, and of nobody else.
    n.exec(&["umount", "/sys/fs/cgroup/memory"]);
    n.containerd("stop");
    n.containerd("start");
    n.start();
    let limits = "    resources: {limits: {cpu: 500m, memory: 64Mi}}\n";
    for name in ["a", "b"] {
        n.put(&format!("{name}.yaml"), &(script(name, &format!("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us; {FOREVER}")) + limits));
        n.until(&format!("{name} runs"), 10, |n| n.ready(name));
        n.until("the limit that can be had is there", 5, |n| n.said_or_nothing(&["logs", name]) == "50000\n");
    }
    assert!(memory.exists(), "it is there for others");
    let log = std::fs::read_to_string(n.path("plinth.log")).unwrap();
    let told: Vec<&str> = log.lines().filter(|l| l.contains("pods run without pod-level limits")).collect();
    assert!(told.len() == 1 && told[0].contains("find control group controller `memory`"), "{told:?}");
    n.shutdown();
}
