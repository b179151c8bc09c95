//! Namespaces and privilege: what a pod shares, and with whom.

use crate::node::{FOREVER, IMAGE, Node, can_run, pod};

/// Two containers in one PID namespace; the first may trace everybody.
fn shared(name: &str) -> String {
    pod(name, "hostNetwork: true\n  shareProcessNamespace: true", &format!("sh -c 'sleep 0.2 & exec sleep 0.1' & echo ready; {FOREVER}"))
        .replace("    command: [sh, -c]", "    securityContext: {capabilities: {add: [SYS_PTRACE]}}\n    command: [sh, -c]")
        + &format!("  - {{name: d, image: '{IMAGE}', command: [sleep, '98765']}}\n")
}

/// The first process of the pod, as the host numbers it, and as the file beside the pin has it.
fn pause(n: &Node, name: &str) -> Option<(u32, String)> {
    let uid = n.pod(name)?["metadata"]["uid"].as_str()?.to_owned();
    let text = n.exec(&["sh", "-c", &format!("cat {} 2>/dev/null || true", n.path(&format!("run/pods/{uid}/ns/pause")))]);
    Some((text.split(' ').next()?.parse().ok()?, text))
}

#[test]
fn containers_share_one_process_namespace_whose_first_process_gives_nothing_away() {
    let Some(mut n) = Node::started() else { return };
    n.put("s.yaml", &shared("s"));
    n.until_ready("s");
    let (pid, before) = pause(&n, "s").expect("the pod has a first process");
    let inside =
        |n: &Node, what: &str| n.ctr(&["task", "exec", "--exec-id", &format!("t{}", what.len()), &id(n, "s", "c"), "sh", "-c", what]);
    let seen = inside(
        &n,
        "cat /proc/1/comm; tr '\\0' '\\n' </proc/1/cmdline; ps | grep -c '[9]8765'; ls -a /proc/1/root/; ls /proc/1/fd | wc -l; grep -E '^(Uid|CapPrm|NoNewPrivs)' /proc/1/status | tr '\\t' ' '; kill -TERM 1; kill -KILL 1; dd if=/dev/zero of=/proc/1/exe count=1 2>&1 | head -1; cat /proc/1/comm",
    );
    let want = "pause\n/pause\n1\n.\n..\n0\nUid: 65535 65535 65535 65535\nCapPrm: 0000000000000000\nNoNewPrivs: 1\n";
    assert!(seen.starts_with(want) && seen.ends_with("pause\n") && seen.contains("dd: can't open"), "{seen}");
    n.until("orphans are reaped", 5, |n| !inside(n, "ps -o stat,comm; :").contains("Z "));
    // Neither of those who made it is needed for it to go on.
    n.kill();
    n.containerd("kill");
    n.containerd("start");
    n.start();
    n.until_ready("s");
    assert_eq!(n.restarts("s"), 0);
    assert_eq!(pause(&n, "s").unwrap().1, before);
    // With its first process a namespace ends, and everything in it: the pod is made anew.
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    n.until("the pod has another first process and runs again", 30, |n| {
        n.ready("s") && n.restarts("s") == 2 && pause(n, "s").is_some_and(|(_, text)| text != before)
    });
    let (pid, _) = pause(&n, "s").unwrap();
    n.remove("s.yaml");
    n.until("it is gone", 30, |n| n.gone("s"));
    n.until("the first process goes with its pod", 10, |_| {
        let left = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        left.is_empty() || left.contains("State:\tZ")
    });
    n.assert_clean();
    n.shutdown();
}

/// containerd's id of the running container of that name.
fn id(n: &Node, name: &str, container: &str) -> String {
    let p = n.pod(name).unwrap();
    let all = p["status"]["containerStatuses"].as_array().unwrap();
    let c = all.iter().find(|c| c["name"] == container).unwrap();
    c["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned()
}

#[test]
fn a_runtime_class_is_the_runtime_the_settings_say() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["runtimeClasses=quick=crun", "nodeLabels=zone=a,tier="]);
    let crun = "hostNetwork: true\n  runtimeClassName: quick\n  nodeSelector: {zone: a, tier: ''}";
    n.put("q.yaml", &pod("q", crun, FOREVER));
    n.put("x.yaml", &pod("x", "hostNetwork: true\n  runtimeClassName: kata", FOREVER));
    n.start();
    n.until_ready("q");
    // crun keeps a `status` of its own, runc a `state.json`.
    let state = |n: &Node, id: &str| n.exec(&["ls", &n.path(&format!("run/oci/plinth/{id}"))]);
    assert!(state(&n, &id(&n, "q", "c")).contains("status"));
    n.until("the other is refused", 10, |n| n.pod("x").is_some_and(|p| p["status"]["reason"] == "RuntimeClassNotFound"));
    let why = n.said(&["why", "x"]);
    assert!(why.contains("RuntimeClass \"kata\" not found: there is quick"), "{why}");
    // Who is adopted goes on with the runtime it was made with.
    n.kill();
    n.extra = vec!["runtimeClasses=kata=runc".into(), "nodeLabels=zone=a,tier=".into()];
    n.start();
    n.until_ready("x");
    n.until_ready("q");
    assert_eq!(n.restarts("q"), 0);
    assert!(state(&n, &id(&n, "x", "c")).contains("state.json"));
    n.shutdown();
}

const OWN_USERS: &str = "hostUsers: false
  securityContext: {fsGroup: 3000}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: down, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: host, hostPath: {path: DIR/work/host}}
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, 'echo 1 >/disk/root; mkdir /disk/sub; chown 1000:1000 /disk/sub; echo 2 >/host/new']
    volumeMounts: [{name: disk, mountPath: /disk}, {name: host, mountPath: /host}]";

/// What a container of such a pod sees of itself, a line each.
const SEEN: &str = "tr -s ' ' </proc/self/uid_map; id; stat -c '%u:%g' /disk/root /disk/sub /disk/sub/own /host/new /memory /down/name /etc/hosts /bin; \
    readlink /proc/self/ns/user /proc/self/ns/net; echo x >/dev/shm/x; hostname inside 2>/dev/null && hostname; echo 1 >/memory/x; cat /down/name; \
    echo; ip link set lo up && echo net; echo >/proc/sys/kernel/panic 2>/dev/null || echo host";

#[test]
fn users_of_its_own_are_refused_where_a_volume_or_the_snapshotter_cannot_be_mapped() {
    let Some(mut n) = Node::started() else { return };
    // No kernel maps the ids of sysfs.
    let volume = "hostUsers: false\n  volumes: [{name: v, hostPath: {path: /sys/kernel}}]";
    let mounted = "    volumeMounts: [{name: v, mountPath: /v}]\n    command: [sh, -c]";
    n.put("v.yaml", &pod("v", volume, FOREVER).replace("    command: [sh, -c]", mounted));
    let refused =
        "show /sys/kernel to the pod as its own (hostUsers: false): its file system, or one below it, cannot be id-mapped by this kernel";
    n.until("the volume is named", 20, |n| n.said_or_nothing(&["why", "v"]).contains(refused));
    n.remove("v.yaml");
    n.until("it is gone", 20, |n| n.gone("v"));
    n.kill();
    // The image's containerd does without this snapshotter; and it unpacks for the one it is told of alone.
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let unpack =
        format!("[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/{arch}\"\nsnapshotter = \"native\"\n");
    let config = include_str!("../../images/containerd.toml").replace("  \"io.containerd.snapshotter.v1.native\",\n", "") + &unpack;
    std::fs::write(n.path("containerd.toml"), config).unwrap();
    n.containerd("stop");
    n.containerd("start");
    n.extra.push("snapshotter=native".into());
    n.start();
    n.put("s.yaml", &pod("s", "hostUsers: false", FOREVER));
    n.put("other.yaml", &pod("other", "hostname: other", FOREVER));
    n.until("the snapshotter is named", 20, |n| n.said_or_nothing(&["why", "s"]).contains("snapshotter native maps no ids"));
    n.until_ready("other");
    assert!(!n.ready("s"));
    n.remove("s.yaml");
    n.remove("other.yaml");
    n.until("both are gone", 20, |n| n.gone("s") && n.gone("other"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_pod_has_users_of_its_own_and_keeps_them() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["runtimeClasses=quick=crun"]);
    std::fs::create_dir_all(n.dir.join("work/host")).unwrap();
    let own = OWN_USERS.replace("DIR", n.dir.to_str().unwrap()).replace("IMAGE", IMAGE);
    let mounts = "    securityContext: {capabilities: {add: [SYS_ADMIN, NET_ADMIN]}}
    volumeMounts: [{name: disk, mountPath: /disk}, {name: disk, mountPath: /disk/sub, subPath: sub}, {name: memory, mountPath: /memory}, {name: down, mountPath: /down}, {name: host, mountPath: /host}]\n";
    let text = |name: &str, more: &str| {
        pod(name, &format!("{own}{more}"), &format!("echo 3 >/disk/sub/own; {FOREVER}"))
            .replace("    command: [sh, -c]", &format!("{mounts}    command: [sh, -c]"))
    };
    n.put("a.yaml", &text("a", ""));
    n.put("b.yaml", &text("b", "\n  runtimeClassName: quick\n  shareProcessNamespace: true"));
    n.start();
    let mut bases = Vec::new();
    for name in ["a", "b"] {
        n.until_ready(name);
        let seen = n.said(&["exec", name, "-c", "c", "--", "sh", "-c", SEEN]);
        let mut lines = seen.lines();
        let map: Vec<u64> = lines.next().unwrap().split_whitespace().map(|w| w.parse().unwrap()).collect();
        assert!(map[0] == 0 && map[1] >= 65536 && map[1].is_multiple_of(65536) && map[2] == 65536, "{seen}");
        let rest: Vec<&str> = lines.filter(|l| !l.contains(":[")).collect();
        let want =
            ["uid=0(root) gid=0(root) groups=0(root),3000", "0:3000", "1000:1000", "0:1000", "0:0", "0:3000", "0:3000", "0:0", "0:0"];
        assert_eq!(rest[..want.len()], want, "{seen}");
        assert!(seen.contains("\nnet\nhost") && seen.contains(&format!("{name}-")), "{seen}");
        // Outside, what it runs is nobody's, and what it wrote has the ids it has inside.
        let uid = n.pod(name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let owner = n.exec(&["stat", "-c", "%u", &n.path("work/host/new")]);
        assert_eq!(owner.trim(), "0");
        let pid =
            n.ctr(&["task", "ls"]).lines().find(|l| l.contains(&id(&n, name, "c"))).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{}\t", map[1])), "{status}");
        assert!(
            n.exec(&["sh", "-c", &format!("ls -A {}", n.path(&format!("run/pods/{uid}/mapped")))]).is_empty(),
            "what was mapped for its making is gone"
        );
        bases.push(map[1]);
    }
    assert_ne!(bases[0], bases[1]);
    // They stay over a restart of the container and of the machine. There runc cannot mount a /proc: this machine's own mount in it, by
    // which its boot id is new, hides a part from those who are not root outside.
    let base = |n: &Node, pod: &str| {
        n.said(&["exec", pod, "-c", "c", "--", "cat", "/proc/1/uid_map"]).split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    n.ctr(&["task", "kill", "-s", "KILL", &id(&n, "a", "c")]);
    n.until("it is restarted", 20, |n| n.restarts("a") == 1 && n.ready("a"));
    assert_eq!(base(&n, "a"), bases[0]);
    n.remove("a.yaml");
    n.until("it is gone", 30, |n| n.gone("a"));
    n.reboot();
    n.start();
    n.until_ready("b");
    assert_eq!(base(&n, "b"), bases[1]);
    n.remove("b.yaml");
    n.until("it is gone", 30, |n| n.gone("b"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_pod_has_no_more_processes_than_the_setting_says() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["podPidsLimit=20"]);
    n.put("f.yaml", &pod("f", "hostNetwork: true", &format!("sh -c 'for i in $(seq 40); do sleep 98765 & done'; echo tried; {FOREVER}")));
    n.start();
    n.until_ready("f");
    n.until("no more than so many were forked", 10, |n| n.said_or_nothing(&["logs", "f"]).contains("can't fork"));
    n.remove("f.yaml");
    n.until("it is gone", 30, |n| n.gone("f"));
    n.shutdown();
}

#[test]
fn an_unmasked_proc_hides_nothing_and_a_masked_one_does() {
    let Some(mut n) = Node::started() else { return };
    let text = pod("m", "hostUsers: false", FOREVER)
        .replace("    command: [sh, -c]", "    securityContext: {procMount: Unmasked}\n    command: [sh, -c]")
        + &format!("  - {{name: d, image: '{IMAGE}', command: [sleep, '98765']}}\n");
    n.put("m.yaml", &text);
    n.until_ready("m");
    let hidden = |n: &Node, container: &str| {
        n.said(&[
            "exec",
            "m",
            "-c",
            container,
            "--",
            "sh",
            "-c",
            "grep -cE ' /proc/.+ - ' /proc/self/mountinfo; head -c 1 /proc/kcore 2>&1 | wc -c; :",
        ])
    };
    let (unmasked, masked) = (hidden(&n, "c"), hidden(&n, "d"));
    assert!(unmasked.starts_with("0\n"), "{unmasked}");
    assert!(masked.lines().next().unwrap().parse::<u32>().unwrap() > 5, "{masked}");
    // Who is root of the whole machine may not have it.
    n.put(
        "x.yaml",
        &pod("x", "hostNetwork: true", FOREVER)
            .replace("    command: [sh, -c]", "    securityContext: {procMount: Unmasked}\n    command: [sh, -c]"),
    );
    n.until("it is refused", 5, |n| n.get("/v1/manifests").is_some_and(|m| m.contains("`hostUsers` must be false to use `Unmasked`")));
    n.remove("m.yaml");
    n.until("it is gone", 10, |n| n.gone("m"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn who_may_not_be_root_is_not_started_as_root() {
    let Some(mut n) = Node::started() else { return };
    let confined = |name: &str, more: &str| {
        pod(name, "hostNetwork: true", &format!("id -u; {FOREVER}"))
            .replace("    command: [sh, -c]", &format!("    securityContext: {{runAsNonRoot: true{more}}}\n    command: [sh, -c]"))
    };
    n.put("user.yaml", &confined("user", ", runAsUser: 1234"));
    n.put("root.yaml", &confined("root", ""));
    n.until_ready("user");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "user"]) == "1234\n");
    n.until("the other waits", 20, |n| {
        n.pod("root").is_some_and(|p| crate::node::container(&p, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError")
    });
    let why = n.said(&["why", "root"]);
    assert!(why.contains("container has runAsNonRoot and image will run as root"), "{why}");
    n.shutdown();
}

#[test]
fn sysctls_are_the_safe_ones_and_those_that_the_settings_allow() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["allowedUnsafeSysctls=kernel.msg*"]);
    n.start();
    let sysctls = |list: &str| format!("hostname: s\n  securityContext: {{sysctls: [{list}]}}");
    let (safe, allowed, other) = (
        "{name: net.ipv4.tcp_keepalive_time, value: '77'}",
        "{name: kernel.msgmax, value: '9999'}",
        "{name: kernel.shmmax, value: '9999'}",
    );
    let tells = format!("cat /proc/sys/net/ipv4/tcp_keepalive_time /proc/sys/kernel/msgmax; {FOREVER}");
    n.put("s.yaml", &pod("s", &sysctls(&format!("{safe}, {allowed}")), &tells));
    n.put("f.yaml", &pod("f", &sysctls(other), FOREVER));
    n.until_ready("s");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "s"]) == "77\n9999\n");
    assert_ne!(n.exec(&["cat", "/proc/sys/net/ipv4/tcp_keepalive_time"]), "77\n", "they are the pod's own");
    n.until("the other is refused", 10, |n| n.pod("f").is_some_and(|p| p["status"]["reason"] == "SysctlForbidden"));
    let p = n.pod("f").unwrap();
    assert!(p["status"]["message"].as_str().unwrap().contains("kernel.shmmax"), "{p}");
    n.shutdown();
}
