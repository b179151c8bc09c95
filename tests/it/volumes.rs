//! Volumes that are more than a directory: the pod told to itself, images mounted as files.

use crate::node::{FOREVER, IMAGE, Node, can_run, container, pod};

/// Container `c` with these mounts.
fn mounted(text: &str, mounts: &str) -> String {
    text.replace("    command: [sh, -c]", &format!("    volumeMounts: [{mounts}]\n    command: [sh, -c]"))
}

#[test]
fn a_pod_reads_itself_from_downward_and_projected_files() {
    let Some(mut n) = Node::started() else { return };
    let text = pod(
        "d",
        "hostNetwork: true\n  securityContext: {fsGroup: 4242}\n  volumes:\n  - name: down\n    downwardAPI:\n      items:\n      - {path: labels, fieldRef: {fieldPath: metadata.labels}}\n      - {path: deep/name, mode: 0400, fieldRef: {fieldPath: metadata.name}}\n      - {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}\n      - {path: memory, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}\n  - name: all\n    projected:\n      defaultMode: 0440\n      sources:\n      - downwardAPI: {items: [{path: uid, fieldRef: {fieldPath: metadata.uid}}]}\n      - downwardAPI: {items: [{path: a/note, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}]}",
        &format!(
            "cat /down/labels; echo; cat /down/deep/name; echo; cat /down/cpu; echo; cat /down/memory; echo; cat /all/uid; echo; cat /all/a/note; echo\nreadlink /down/labels; readlink /down/..data; stat -Lc '%a %g' /down/deep/name /all/uid\ntouch /down/x 2>&1; {FOREVER}"
        ),
    )
    .replace("metadata:\n  name: d", "metadata:\n  name: d\n  labels: {tier: edge, app: a.b}\n  annotations: {note: well}")
    .replace("    command: [sh, -c]", "    resources: {limits: {cpu: 250m}}\n    volumeMounts: [{name: down, mountPath: /down}, {name: all, mountPath: /all}]\n    command: [sh, -c]");
    n.put("d.yaml", &text);
    n.until_ready("d");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "d"]).contains("touch"));
    let log = n.said(&["logs", "d"]);
    let lines: Vec<&str> = log.lines().collect();
    let uid = n.pod("d").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(lines[..4], ["app=\"a.b\"", "tier=\"edge\"", "d-it", "250"], "{log}");
    let mib: u64 = lines[4].parse().unwrap();
    let total = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(mib < total / 1024 && mib > total / 1024 - 200, "no limit is all that is allocatable: {mib} of {}", total / 1024);
    assert_eq!(lines[5..7], [uid.as_str(), "well"], "{log}");
    assert_eq!(lines[7..11], ["..data/labels", "..1", "440 4242", "440 4242"], "{log}");
    assert!(lines[11].contains("Read-only file system"), "{log}");
    n.remove("d.yaml");
    n.until("it is gone", 10, |n| n.gone("d"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn an_image_is_mounted_as_a_volume_and_given_back() {
    let Some(mut n) = Node::started() else { return };
    let text = pod(
        "i",
        &format!("hostNetwork: true\n  volumes:\n  - name: tools\n    image: {{reference: '{IMAGE}', pullPolicy: IfNotPresent}}"),
        &format!("/tools/bin/busybox echo from the image; ls /bin2; touch /tools/x 2>&1; {FOREVER}"),
    )
    .replace(
        "    command: [sh, -c]",
        "    volumeMounts: [{name: tools, mountPath: /tools}, {name: tools, mountPath: /bin2, subPath: bin}]\n    command: [sh, -c]",
    );
    n.put("i.yaml", &text);
    n.until_ready("i");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "i"]).contains("touch"));
    let log = n.said(&["logs", "i"]);
    assert!(log.starts_with("from the image\n") && log.contains("busybox\n") && log.contains("Read-only file system"), "{log}");
    // The image's name may go: the files stay, for the containers that use them and for a restart of ours.
    n.ctr(&["images", "rm", "--sync", IMAGE]);
    n.kill();
    n.start();
    n.until_ready("i");
    assert_eq!(n.restarts("i"), 0);
    assert!(n.ctr(&["snapshots", "list"]).contains("-volume-tools"), "{}", n.ctr(&["snapshots", "list"]));
    n.remove("i.yaml");
    n.until("it is gone", 10, |n| n.gone("i"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_volume_whose_image_nobody_has_holds_its_container_up() {
    let Some(mut n) = Node::started() else { return };
    let text = pod("v", "hostNetwork: true\n  volumes: [{name: t, image: {reference: 'localhost/nothing:1', pullPolicy: Never}}]", FOREVER)
        .replace("    command: [sh, -c]", "    volumeMounts: [{name: t, mountPath: /t}]\n    command: [sh, -c]");
    n.put("v.yaml", &text);
    n.until("ErrImageNeverPull", 10, |n| {
        n.pod("v").is_some_and(|p| container(&p, "c")["state"]["waiting"]["reason"] == "ErrImageNeverPull")
    });
    assert!(n.said(&["why", "v"]).contains("localhost/nothing:1"), "{}", n.said(&["why", "v"]));
    n.shutdown();
}

#[test]
fn a_pod_the_node_does_not_take_says_why_and_runs_once_it_can() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["maxPods=2"]);
    n.start();
    let with_port =
        |name: &str| pod(name, "hostNetwork: true", FOREVER).replace("    command:", "    ports: [{containerPort: 8099}]\n    command:");
    n.put("a.yaml", &with_port("a"));
    n.until_ready("a");
    n.put("b.yaml", &with_port("b"));
    n.put("win.yaml", &pod("win", "os: {name: windows}", FOREVER));
    let reason = |n: &Node, name: &str| n.pod(name).map(|p| p["status"]["reason"].clone());
    n.until("b is refused", 5, |n| reason(n, "b").is_some_and(|r| r == "NodePorts"));
    n.until("win is refused", 5, |n| reason(n, "win").is_some_and(|r| r == "PodOSNotSupported"));
    let profile = "hostNetwork: true\n  securityContext: {appArmorProfile: {type: Localhost, localhostProfile: plinth-none}}";
    n.put("confined.yaml", &pod("confined", profile, FOREVER));
    n.until("a profile nobody has is refused", 5, |n| reason(n, "confined").is_some_and(|r| r == "AppArmor"));
    let confined = n.pod("confined").unwrap();
    assert!(confined["status"]["message"].as_str().unwrap().contains("Cannot enforce AppArmor: "), "{confined}");
    n.remove("confined.yaml");
    let b = n.pod("b").unwrap();
    assert_eq!(b["status"]["phase"], "Failed", "{b}");
    assert!(b["status"]["message"].as_str().unwrap().contains("8099/TCP is held by default/a-it"), "{b}");
    let (why, status) = (n.said(&["why", "b"]), String::from_utf8_lossy(&n.plinth(&["status"]).stdout).into_owned());
    assert!(why.contains("NodePorts") && why.contains("default/a-it") && why.contains("Next try"), "{why}");
    assert!(status.contains("NodePorts") && status.contains("PodOSNotSupported"), "{status}");
    assert!(n.said(&["events", "b"]).contains("NodePorts"));
    n.put("c.yaml", &pod("c", "hostNetwork: true", FOREVER));
    n.put("d.yaml", &pod("d", "hostNetwork: true", FOREVER));
    n.until_ready("c");
    n.until("maxPods holds", 5, |n| reason(n, "d").is_some_and(|r| r == "OutOfpods"));
    n.remove("a.yaml");
    n.until_ready("b");
    n.shutdown();
}

#[test]
fn an_nfs_server_that_is_not_there_costs_its_own_pod_alone() {
    let Some(mut n) = Node::started() else { return };
    let export = "hostNetwork: true\n  volumes: [{name: v, nfs: {server: 127.0.0.1, path: /export}}]";
    let mounted = "    volumeMounts: [{name: v, mountPath: /v}]\n    command: [sh, -c]";
    n.put("x.yaml", &pod("x", export, FOREVER).replace("    command: [sh, -c]", mounted));
    n.put("o.yaml", &pod("o", "hostNetwork: true", FOREVER));
    n.until("it says what is missing", 60, |n| {
        let why = n.said_or_nothing(&["why", "x"]);
        why.contains("this kernel has no NFS client: load or build its module `nfs`") || why.contains("mount nfs export 127.0.0.1:/export")
    });
    n.until_ready("o");
    assert!(n.said(&["events", "x"]).contains("FailedMount"));
    n.remove("x.yaml");
    n.until("it is gone", 60, |n| n.gone("x"));
    n.shutdown();
}

#[test]
fn an_empty_dir_past_its_limit_is_told_and_its_pod_made_anew_if_it_asks() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["volumeStatsAggPeriod=300ms"]);
    n.start();
    let fills = |name: &str| {
        let volume = "hostNetwork: true\n  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]";
        // Fuller by the second, but not for ever.
        let text = format!("for i in 1 2 3 4; do dd if=/dev/zero of=/v/$i bs=1024k count=1; sleep 0.5; done 2>/dev/null; {FOREVER}");
        pod(name, volume, &text).replace("    command: [sh, -c]", "    volumeMounts: [{name: v, mountPath: /v}]\n    command: [sh, -c]")
    };
    n.put("told.yaml", &fills("told"));
    let asks = "metadata:\n  annotations: {plinth.dev/restart-over-size-limit: 'true'}\n  name: asks";
    n.put("asks.yaml", &fills("asks").replace("metadata:\n  name: asks", asks));
    n.until("it is told", 30, |n| n.said_or_nothing(&["events", "told"]).contains("EmptyDirOverLimit"));
    n.until("why tells it", 5, |n| n.said_or_nothing(&["why", "told"]).contains("emptyDir `v`: it holds"));
    assert!(n.said(&["events", "told"]).contains("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\""));
    n.until("the other one is removed", 30, |n| {
        let log = std::fs::read_to_string(n.path("plinth.log")).unwrap();
        log.contains("pod=default/asks-it DeleteSandbox: an emptyDir of it holds more than its sizeLimit")
    });
    n.until_ready("asks");
    n.until_ready("told");
    assert_eq!(n.restarts("told"), 0);
    n.shutdown();
}

#[test]
fn a_host_path_is_what_its_type_says_or_is_waited_for() {
    let Some(mut n) = Node::started() else { return };
    let (work, socket) = (n.path("work"), n.path("containerd.sock"));
    std::fs::write(format!("{work}/file"), "kept\n").unwrap();
    let volumes = [
        ("file", format!("{work}/file"), "File"),
        ("fresh", format!("{work}/fresh"), "FileOrCreate"),
        ("deep", format!("{work}/deep/er"), "DirectoryOrCreate"),
        ("socket", socket, "Socket"),
        ("device", "/dev/null".into(), "CharDevice"),
        ("there", work.clone(), "Directory"),
    ];
    let volume = |(name, path, kind): &(&str, String, &str)| format!("{{name: {name}, hostPath: {{path: {path}, type: {kind}}}}}");
    let spec = format!("hostNetwork: true\n  volumes: [{}]", volumes.iter().map(volume).collect::<Vec<_>>().join(", "));
    let mounts: Vec<String> = volumes.iter().map(|(name, ..)| format!("{{name: {name}, mountPath: /h/{name}}}")).collect();
    let looks = format!("cat /h/file; echo new >/h/fresh; echo x >/h/deep/x; cd /h; for f in *; do stat -c '%n %F' $f; done; {FOREVER}");
    n.put("h.yaml", &mounted(&pod("h", &spec, &looks), &mounts.join(", ")));
    n.until_ready("h");
    n.until("it has looked", 5, |n| n.said_or_nothing(&["logs", "h"]).contains("there"));
    let want =
        "kept\ndeep directory\ndevice character special file\nfile regular file\nfresh regular file\nsocket socket\nthere directory\n";
    assert_eq!(n.said(&["logs", "h"]), want);
    assert_eq!(std::fs::read_to_string(format!("{work}/fresh")).unwrap(), "new\n");
    assert!(std::fs::exists(format!("{work}/deep/er/x")).unwrap());

    // What is not there, or is something else, is waited for.
    let alone = |name: &str, path: &str, kind: &str| {
        let spec = format!("hostNetwork: true\n  volumes: [{{name: v, hostPath: {{path: {path}, type: {kind}}}}}]");
        mounted(&pod(name, &spec, FOREVER), "{name: v, mountPath: /v}")
    };
    let later = format!("{work}/later");
    n.put("l.yaml", &alone("l", &later, "Directory"));
    n.put("b.yaml", &alone("b", "/dev/null", "BlockDevice"));
    for (name, words) in [
        ("l", format!("hostPath type check failed: {later} is not a directory")),
        ("b", "hostPath type check failed: /dev/null is not a block device".into()),
    ] {
        n.until(&format!("{name} waits"), 20, |n| n.said_or_nothing(&["why", name]).contains(&words));
        assert!(n.said(&["events", name]).contains("FailedMount"), "{}", n.said(&["events", name]));
    }
    std::fs::create_dir(&later).unwrap();
    n.until_ready("l");
    assert!(!n.ready("b"));
    n.shutdown();
}

#[test]
fn a_volume_in_memory_holds_no_more_than_its_limit() {
    let Some(mut n) = Node::started() else { return };
    let spec = "hostNetwork: true\n  volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]";
    let fills = format!("dd if=/dev/zero of=/m/f bs=64k count=32 2>&1 | grep -o 'No space left on device'; stat -c %s /m/f; {FOREVER}");
    n.put("m.yaml", &mounted(&pod("m", spec, &fills), "{name: m, mountPath: /m}"));
    n.until_ready("m");
    n.until("it has told", 5, |n| n.said_or_nothing(&["logs", "m"]).contains("1048576"));
    assert_eq!(n.said(&["logs", "m"]), "No space left on device\n1048576\n");
    n.shutdown();
}
