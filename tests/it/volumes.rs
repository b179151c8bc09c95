//! Volumes that are more than a directory: the pod told to itself, images mounted as files.

use crate::node::{FOREVER, Node, can_run, pod};

#[test]
fn a_pod_reads_itself_from_downward_and_projected_files() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.start();
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
    n.until("it has told", 5, |n| n.said(&["logs", "d"]).contains("touch"));
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
