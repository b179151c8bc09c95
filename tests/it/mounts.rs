//! Mounts as they are asked for: what lies above what, what is seen on which side, who may read and write.

use std::process::Command;

use crate::node::{FOREVER, IMAGE, Node, can_run, container};

/// A pod of these volumes and containers (name, its fields, its script), each two spaces deep.
fn mounting(name: &str, spec: &str, containers: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  {spec}\n  containers:\n"
    );
    for (name, fields, script) in containers {
        let script = script.replace('\n', "\n      ");
        text += &format!("  - name: {name}\n    image: {IMAGE}\n    {fields}\n    command: [sh, -c]\n    args:\n    - |\n      {script}\n");
    }
    text
}

/// What a command in a container says; of one that failed, its last words too.
fn inside(n: &Node, pod: &str, container: &str, script: &str) -> String {
    String::from_utf8_lossy(&n.plinth(&["exec", pod, "-c", container, "--", "sh", "-c", &format!("({script}) 2>&1")]).stdout).into_owned()
}

#[test]
fn an_image_of_several_layers_is_a_volume_and_a_root_with_what_the_upper_ones_leave() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    // The second layer takes away a file, a directory's content and a whole directory; the third brings one of them back.
    n.exec(&["sh", "-ec", &format!(
        "cd {}; mkdir -p a/same a/emptied/deep a/gone b/emptied c/gone
         echo one >a/kept; echo one >a/changed; echo one >a/removed; echo one >a/same/one; echo one >a/emptied/one; echo one >a/emptied/deep/one; echo one >a/gone/one
         ln -s kept a/link; mkdir -p a/bin; cp $(command -v busybox) a/bin/; ln -s busybox a/bin/sh; ln -s busybox a/bin/cat
         echo two >b/changed; echo two >b/two; touch b/.wh.removed b/.wh.gone b/emptied/.wh..wh..opq; echo two >b/emptied/two
         echo three >c/gone/three", n.path("work"))]);
    let dirs = ["a", "b", "c"].map(|d| n.path(&format!("work/{d}")));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/layers.py");
    let made = Command::new(script).args([&n.path("work/archives/layered.tar"), "localhost/layered:1"]).args(&dirs).status();
    assert!(made.unwrap().success());
    let volume = "volumes: [{name: files, image: {reference: 'localhost/layered:1'}}]\n  hostNetwork: true";
    let mounts = "volumeMounts: [{name: files, mountPath: /files}, {name: files, mountPath: /part, subPath: emptied}]";
    let text = mounting("l", volume, &[("c", mounts, FOREVER)])
        + "  - {name: root, image: 'localhost/layered:1', command: [/bin/sh, -c, \"trap 'exit 0' TERM; while :; do read -t 1 x </dev/zero; done\"]}\n";
    n.put("l.yaml", &text);
    n.start();
    n.until_ready("l");
    let look = "cd ROOT; cat kept changed link; for f in removed gone/one emptied/one emptied/deep; do [ -e $f ] || echo no $f; done; cat same/one emptied/two gone/three two";
    let want = "one\ntwo\none\nno removed\nno gone/one\nno emptied/one\nno emptied/deep\none\ntwo\nthree\ntwo\n";
    assert_eq!(inside(&n, "l", "c", &look.replace("ROOT", "/files")), want);
    assert_eq!(inside(&n, "l", "c", "ls /part"), "two\n");
    let refused = inside(&n, "l", "c", "echo x >/files/kept; rm /files/two; mknod /files/x c 1 3");
    assert_eq!(refused.matches("Read-only file system").count(), 3, "{refused}");
    assert_eq!(inside(&n, "l", "root", &look.replace("ROOT", "/")), want);
    n.remove("l.yaml");
    n.until("it is gone", 10, |n| n.gone("l"));
    n.assert_clean();
    n.shutdown();
}

#[test]
fn a_mount_is_seen_on_the_other_side_as_its_propagation_says() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let (host, alone) = (n.path("work/host"), n.path("work/alone"));
    n.exec(&[
        "sh",
        "-ec",
        &format!(
            "for d in {host} {alone}; do mkdir $d; mount --bind $d $d; done; mount --make-shared {host}; mkdir {host}/late {host}/inner"
        ),
    ]);
    let volume =
        format!("hostNetwork: true\n  volumes: [{{name: h, hostPath: {{path: {host}}}}}, {{name: a, hostPath: {{path: {alone}}}}}]");
    let mount = |volume: &str, how: &str| format!("volumeMounts: [{{name: {volume}, mountPath: /h, mountPropagation: {how}}}]");
    let both = mount("h", "Bidirectional") + "\n    securityContext: {privileged: true}";
    let (from_host, none) = (mount("h", "HostToContainer"), mount("h", "None"));
    n.put("m.yaml", &mounting("m", &volume, &[("both", &both, FOREVER), ("from", &from_host, FOREVER), ("none", &none, FOREVER)]));
    n.start();
    n.until_ready("m");
    n.exec(&["sh", "-ec", &format!("mount -t tmpfs late {host}/late; touch {host}/late/seen")]);
    let late = ["both", "from", "none"].map(|c| inside(&n, "m", c, "ls /h/late"));
    assert_eq!(late, ["seen\n", "seen\n", ""]);
    assert_eq!(inside(&n, "m", "both", "mount -t tmpfs inner /h/inner; touch /h/inner/out"), "");
    assert_eq!(n.exec(&["ls", &format!("{host}/inner")]), "out\n");
    assert_eq!(["from", "none"].map(|c| inside(&n, "m", c, "ls /h/inner")), ["out\n", ""]);
    // On a mount that passes nothing on they would be promises nobody keeps.
    n.put("x.yaml", &mounting("x", &volume, &[("c", &mount("a", "HostToContainer"), FOREVER)]));
    n.until("it says what is missing", 15, |n| {
        let why = n.said_or_nothing(&["why", "x"]);
        why.contains("which is not a shared or slave mount") && why.contains(&format!("mount --make-rshared {alone}"))
    });
    n.exec(&["mount", "--make-shared", &alone]);
    n.until_ready("x");
    n.remove("m.yaml");
    n.until("it is gone", 10, |n| n.gone("m"));
    assert_eq!(n.exec(&["ls", &format!("{host}/inner"), &format!("{host}/late")]).matches("out\n").count(), 1, "what the host sees stays");
    n.remove("x.yaml");
    n.until("the other is gone too", 10, |n| n.gone("x"));
    n.exec(&["sh", "-c", &format!("umount {host}/inner {host}/late {host} {alone}")]);
    n.assert_clean();
    n.shutdown();
}

#[test]
fn read_only_is_for_what_is_mounted_below_too_where_that_is_asked_for() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let host = n.path("work/host");
    n.exec(&["sh", "-ec", &format!("mkdir -p {host}/below; mount -t tmpfs below {host}/below")]);
    let volume = format!("hostNetwork: true\n  volumes: [{{name: h, hostPath: {{path: {host}}}}}]");
    let mount = |how: &str| format!("volumeMounts: [{{name: h, mountPath: /h, readOnly: true{how}}}]");
    let (plain, whole, possible) = (mount(""), mount(", recursiveReadOnly: Enabled"), mount(", recursiveReadOnly: IfPossible"));
    n.put("r.yaml", &mounting("r", &volume, &[("plain", &plain, FOREVER), ("whole", &whole, FOREVER), ("possible", &possible, FOREVER)]));
    n.start();
    n.until_ready("r");
    let written =
        ["plain", "whole", "possible"].map(|c| inside(&n, "r", c, "for f in /h/x /h/below/x; do touch $f 2>/dev/null && echo $f; done"));
    assert_eq!(written, ["/h/below/x\n", "", ""]);
    let p = n.pod("r").unwrap();
    let shown = |c: &str| container(&p, c)["volumeMounts"][0]["recursiveReadOnly"].clone();
    assert_eq!(["plain", "whole", "possible"].map(shown), ["Disabled", "Enabled", "Enabled"], "{p}");
    n.remove("r.yaml");
    n.until("it is gone", 10, |n| n.gone("r"));
    n.exec(&["umount", &format!("{host}/below")]);
    n.assert_clean();
    n.shutdown();
}

#[test]
fn volumes_are_the_groups_and_groups_are_those_of_the_policy() {
    let Some(mut n) = Node::started() else { return };
    let spec = |policy: &str| {
        format!(
            "hostNetwork: true
  securityContext: {{runAsUser: 33, fsGroup: 4242, supplementalGroups: [77], supplementalGroupsPolicy: {policy}}}
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: down, downwardAPI: {{defaultMode: 0600, items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}
  - {{name: host, hostPath: {{path: {}}}}}",
            n.path("work/host")
        )
    };
    let mounts = "volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}, {name: down, mountPath: /down}, {name: host, mountPath: /host}]";
    // www (33) of the image has a group of its own and is among `logs` (44).
    n.put("merge.yaml", &mounting("merge", &spec("Merge"), &[("c", mounts, FOREVER)]));
    n.put("strict.yaml", &mounting("strict", &spec("Strict"), &[("c", mounts, FOREVER)]));
    n.until_ready("merge");
    n.until_ready("strict");
    assert_eq!(["merge", "strict"].map(|p| inside(&n, p, "c", "id -u; id -g; id -G")), ["33\n33\n33 44 77 4242\n", "33\n33\n33 77 4242\n"]);
    let modes = inside(
        &n,
        "merge",
        "c",
        "umask 077; echo x >/disk/own; mkdir /memory/own; stat -c '%n %a %g' /disk /disk/own /memory /memory/own; stat -Lc '%a %g' /down/name; stat -c '%a %g' /host; cat /down/name",
    );
    let want = "/disk 2777 4242\n/disk/own 600 4242\n/memory 2777 4242\n/memory/own 2700 4242\n640 4242\n755 0\nmerge-it";
    assert_eq!(modes, want);
    let p = n.pod("merge").unwrap();
    assert_eq!(
        container(&p, "c")["user"]["linux"],
        serde_json::json!({"uid": 33, "gid": 33, "supplementalGroups": [33, 44, 77, 4242]}),
        "{p}"
    );
    n.shutdown();
}
