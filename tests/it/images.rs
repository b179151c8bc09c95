//! Images: archives and registries, good and bad.

use std::fs;

use crate::node::{FOREVER, IMAGE, Node, can_run, container, pod, script};

fn waiting(n: &Node, pod: &str) -> (String, String) {
    let p = n.pod(pod).unwrap_or_default();
    let w = &container(&p, "c")["state"]["waiting"];
    (w["reason"].as_str().unwrap_or_default().to_string(), w["message"].as_str().unwrap_or_default().to_string())
}

#[test]
fn an_archive_cut_short_or_with_a_wrong_digest_is_named() {
    if !can_run() {
        return;
    }
    for damage in ["short", "digest"] {
        let mut n = Node::up();
        let archive = n.dir.join("work/archives/busybox.tar");
        let mut bytes = fs::read(&archive).unwrap();
        if damage == "short" {
            bytes.truncate(bytes.len() / 2);
        } else {
            let at = bytes.len() / 2;
            bytes[at] ^= 0x55;
        }
        let good = fs::read(&archive).unwrap();
        fs::write(&archive, bytes).unwrap();
        n.put("a.yaml", &script("a", FOREVER));
        n.start();
        n.until("the archive is named", 20, |n| {
            waiting(n, "a").1.contains("busybox.tar") || n.said_or_nothing(&["why", "a"]).contains("busybox.tar")
        });
        fs::write(&archive, good).unwrap();
        n.until("it runs when the archive is whole", 40, |n| n.ready("a"));
        n.shutdown();
    }
}

#[test]
fn an_image_nobody_has_waits_with_the_kubelets_reasons() {
    let Some(mut n) = Node::started() else { return };
    n.put(
        "never.yaml",
        &script("never", FOREVER)
            .replace("image: docker.io/library/busybox:1.35", "image: localhost/nothing:1\n    imagePullPolicy: Never"),
    );
    n.put("gone.yaml", &script("gone", FOREVER).replace("docker.io/library/busybox:1.35", "127.0.0.1:9/nothing:1"));
    n.until("ErrImageNeverPull", 10, |n| waiting(n, "never").0 == "ErrImageNeverPull");
    n.put("archived.yaml", &script("archived", FOREVER).replace("    command:", "    imagePullPolicy: Never\n    command:"));
    n.until_ready("archived");
    n.until("ImagePullBackOff, and of which image", 20, |n| {
        let (reason, message) = waiting(n, "gone");
        reason == "ImagePullBackOff" && message.contains("127.0.0.1:9/nothing:1")
    });
    n.shutdown();
}

/// A process inside the node that is ended with the test.
pub struct Beside(std::process::Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn beside(n: &Node, cmd: &[&str]) -> Beside {
    let holder = fs::read_to_string(n.dir.join("holder.pid")).unwrap();
    let log = fs::File::create(n.dir.join("beside.log")).unwrap();
    let child = std::process::Command::new("nsenter")
        .args(["--target", holder.trim(), "--mount", "--net", "--"])
        .args(cmd)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Beside(child)
}

/// Plain http for a registry on loopback, by containerd's registry hosts directory.
fn plain_http(n: &Node, host: &str) {
    let d = n.dir.join("work/hosts.d").join(host);
    fs::create_dir_all(&d).unwrap();
    fs::write(d.join("hosts.toml"), format!("server = \"http://{host}\"\n")).unwrap();
}

fn from(image: &str) -> String {
    script("a", FOREVER).replace("docker.io/library/busybox:1.35", image)
}

#[test]
fn a_debian_registry_is_pulled_from_and_a_wrong_tag_is_named() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    plain_http(&n, "127.0.0.1:5000");
    let cache = std::env::var("PLINTH_CACHE").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/.cache").into());
    let config = n.path("work/registry.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:5000}}\n",
            n.path("work/registry")
        ),
    )
    .unwrap();
    let _registry = beside(&n, &[&format!("{cache}/registry/usr/bin/docker-registry"), "serve", &config]);
    n.until("the registry listens", 10, |n| n.exec(&["sh", "-c", "busybox wget -qO- http://127.0.0.1:5000/v2/ || true"]).contains("{}"));
    n.ctr(&["images", "import", &n.path("work/archives/busybox.tar")]);
    n.ctr(&["images", "tag", crate::node::IMAGE, "127.0.0.1:5000/busybox:1"]);
    n.ctr(&["images", "push", "--plain-http", "127.0.0.1:5000/busybox:1"]);
    n.ctr(&["images", "rm", "--sync", "127.0.0.1:5000/busybox:1", crate::node::IMAGE]);
    n.start();
    n.put("a.yaml", &from("127.0.0.1:5000/busybox:1"));
    n.until_ready("a");
    let events = n.said(&["events", "a"]);
    let told =
        ["Pulling", "Pulling image \"127.0.0.1:5000/busybox:1\"", "Pulled", "Successfully pulled image \"127.0.0.1:5000/busybox:1\""];
    assert!(told.iter().all(|words| events.contains(words)), "{events}");
    n.put("b.yaml", &script("b", FOREVER).replace("docker.io/library/busybox:1.35", "127.0.0.1:5000/busybox:wrong"));
    n.until("the wrong tag is named", 15, |n| {
        let (reason, message) = waiting(n, "b");
        (reason == "ErrImagePull" || reason == "ImagePullBackOff") && message.contains("busybox:wrong")
    });
    assert!(n.said(&["events", "b"]).contains("not found"), "{}", n.said(&["events", "b"]));
    n.shutdown();
}

#[test]
fn a_registry_that_fails_three_times_or_stalls_mid_blob_is_got_over() {
    if !can_run() {
        return;
    }
    for mode in ["fail3", "stall"] {
        let mut n = Node::with("sid", &["pullStall=3s"]);
        plain_http(&n, "127.0.0.1:5001");
        let registry = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/registry.py");
        let archive = n.path("work/archives/busybox.tar");
        let served = n.path("work/served.tar");
        fs::rename(&archive, &served).unwrap();
        let _registry = beside(&n, &["python3", registry, &served, "5001", mode]);
        n.start();
        n.put("a.yaml", &from("127.0.0.1:5001/x/busybox:1"));
        if mode == "stall" {
            n.until("the stall is said", 20, |n| {
                let events = n.plinth(&["events", "a"]).stdout;
                String::from_utf8_lossy(&events).contains("no progress") || waiting(n, "a").1.contains("no progress")
            });
            fs::write(n.dir.join("work/STOP-STALLING"), "").unwrap();
        }
        n.until("it runs in the end", 90, |n| n.ready("a"));
        n.shutdown();
    }
}

/// An archive of that image, made beside and renamed in.
fn archive(n: &Node, image: &str, file: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/images/busybox-archive.sh");
    let made = n.path("work/made.tar");
    assert!(std::process::Command::new(script).args([&made, image]).status().unwrap().success());
    fs::rename(made, n.dir.join("work/archives").join(file)).unwrap();
}

#[test]
fn an_archive_that_comes_ends_the_back_off() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.start();
    n.put("a.yaml", &from("127.0.0.1:9/x/late:1"));
    n.put("b.yaml", &from("localhost/never:1\n    imagePullPolicy: Never").replace("name: a", "name: b"));
    n.until("the second pull has failed too", 40, |n| {
        waiting(n, "a").0 == "ImagePullBackOff" && n.said(&["why", "a"]).contains("after 2 in a row")
    });
    n.until("the other is looked for in vain", 10, |n| waiting(n, "b").0 == "ErrImageNeverPull");
    archive(&n, "127.0.0.1:9/x/late:1", "late.tar");
    n.until("it starts at once", 10, |n| n.ready("a"));
    archive(&n, "localhost/never:1", "never.tar");
    n.until("so does the other", 10, |n| n.ready("b"));
    n.until("and its layers are on the disk", 60, |n| n.log().contains("what was unpacked is on the disk: "));
    n.shutdown();
}

#[test]
fn an_image_in_an_archive_never_waits_for_a_pull_that_stalls() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let _deaf = beside(&n, &["busybox", "nc", "-ll", "-p", "5004", "-e", "sleep", "1000"]);
    n.until("somebody listens", 5, |n| n.exec(&["ss", "-ltn"]).contains(":5004"));
    n.start();
    n.put("a.yaml", &from("127.0.0.1:5004/x/busybox:1"));
    n.until("it waits for the pull", 10, |n| n.said_or_nothing(&["why", "a"]).contains("Waits for  image 127.0.0.1:5004"));
    for (name, pull) in [("b", "Always"), ("c", "IfNotPresent")] {
        n.put(
            &format!("{name}.yaml"),
            &from(&format!("{}\n    imagePullPolicy: {pull}", crate::node::IMAGE)).replace("name: a", &format!("name: {name}")),
        );
        n.until(&format!("{pull} starts from the archive"), 15, |n| n.ready(name));
    }
    assert_eq!(waiting(&n, "a").0, "ContainerCreating", "the pull stalls still");
    archive(&n, "127.0.0.1:5004/x/busybox:1", "mine.tar");
    n.until("an archive of the image that is being pulled is taken instead", 15, |n| n.ready("a"));
    n.shutdown();
}

#[test]
fn a_pull_that_stalls_keeps_no_edit_no_removal_and_no_shutdown_waiting() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let _deaf = beside(&n, &["busybox", "nc", "-ll", "-p", "5003", "-e", "sleep", "1000"]);
    n.until("somebody listens", 5, |n| n.exec(&["ss", "-ltn"]).contains(":5003"));
    n.start();
    let image = "127.0.0.1:5003/x/busybox:1";
    n.put("a.yaml", &from(image));
    n.put("b.yaml", &from(image).replace("name: a", "name: b"));
    n.until("it waits for the pull", 10, |n| n.said_or_nothing(&["why", "a"]).contains("Waits for  image 127.0.0.1:5003"));
    n.put("a.yaml", &script("a", FOREVER));
    n.remove("b.yaml");
    n.until("the edited pod has another image and runs", 10, |n| n.ready("a"));
    n.until("the other is gone", 10, |n| n.gone("b"));
    n.put("c.yaml", &from(image).replace("name: a", "name: c"));
    n.until("it waits", 10, |n| n.said_or_nothing(&["why", "c"]).contains("Waits for  image 127.0.0.1:5003"));
    let t = std::time::Instant::now();
    n.shutdown();
    // A pull that stalls is given up after a minute: the shutdown does not wait for that.
    assert!(t.elapsed() < std::time::Duration::from_secs(40), "the shutdown took {:?}", t.elapsed());
}

#[test]
fn on_a_full_disk_images_that_nobody_names_go_and_no_others() {
    if !can_run() {
        return;
    }
    // Any disk is full by this measure, and it is looked at every second.
    let full = ["imageGCHighThresholdPercent=1", "imageGCLowThresholdPercent=0", "imageMinimumGCAge=0s", "imageGCPeriod=1s"];
    let mut n = Node::with("sid", &full);
    let (other, archive) = ("docker.io/library/other:1", n.path("work/archives/other.tar"));
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/images/busybox-archive.sh");
    n.exec(&[made, &archive, other, "{\"Cmd\":[\"true\"]}"]);
    n.start();
    n.put("keep.yaml", &script("keep", FOREVER));
    let text = script("other", FOREVER).replace(IMAGE, other);
    n.put("other.yaml", &text);
    n.until_ready("keep");
    n.until_ready("other");
    let images = |n: &Node| n.ctr(&["images", "list", "-q"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(images(&n).contains(other) && images(&n).contains(IMAGE), "{}", images(&n));
    // Masked, its pod is gone and it is named still: with the mask gone it has to be there.
    n.put_overlay("other.yaml", "");
    n.until("its pod is gone", 30, |n| n.gone("other"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(images(&n).contains(other), "{}", images(&n));
    n.remove("other.yaml");
    n.until("the image nobody names is gone", 30, |n| n.gone("other") && !images(n).contains(other));
    assert!(images(&n).contains(IMAGE), "{}", images(&n));
    std::fs::remove_file(n.overlay.join("other.yaml")).unwrap();
    n.put("other.yaml", &text);
    n.until_ready("other");
    n.shutdown();
}

#[test]
fn past_its_age_an_image_goes_unless_a_volume_is_made_of_it() {
    if !can_run() {
        return;
    }
    // By age alone: the disk is never full by this measure.
    let old = ["imageGCHighThresholdPercent=100", "imageMinimumGCAge=0s", "imageMaximumGCAge=1s", "imageGCPeriod=1s"];
    let mut n = Node::with("sid", &old);
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/images/busybox-archive.sh");
    n.exec(&[made, &n.path("work/archives/tools.tar"), "docker.io/library/tools:1", "{\"Cmd\":[\"true\"]}"]);
    n.start();
    let volume = "hostNetwork: true\n  volumes: [{name: v, image: {reference: 'docker.io/library/tools:1'}}]";
    n.put("a.yaml", &pod("a", volume, FOREVER).replace("    command:", "    volumeMounts: [{name: v, mountPath: /v}]\n    command:"));
    n.until_ready("a");
    let images = |n: &Node| n.ctr(&["images", "list", "-q"]);
    // Some looks later.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(images(&n).contains("tools:1") && images(&n).contains(IMAGE), "{}", images(&n));
    n.put("a.yaml", &script("a", FOREVER));
    n.until("the image nobody names is gone", 60, |n| !images(n).contains("tools:1"));
    n.until_ready("a");
    assert!(images(&n).contains(IMAGE), "{}", images(&n));
    n.shutdown();
}

/// containerd's data on a file system of its own from here on: the machine's own is nobody's to fill.
fn on_a_disk(n: &Node, mount: &str) {
    n.containerd("kill");
    n.exec(&["sh", "-ec", &mount.replace("ROOT", &n.path("root"))]);
    n.containerd("start");
}

#[test]
fn a_disk_that_stays_full_or_fails_is_told_as_the_kubelet_tells_it() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["imageMinimumGCAge=0s", "imageGCPeriod=1s"]);
    let (other, disk) = ("docker.io/library/other:1", n.path("work/disk"));
    on_a_disk(&n, &format!("truncate -s 64M {disk}; mke2fs -qF {disk}; mount -o loop,errors=remount-ro {disk} ROOT"));
    n.exec(&[
        concat!(env!("CARGO_MANIFEST_DIR"), "/images/busybox-archive.sh"),
        &n.path("work/archives/other.tar"),
        other,
        "{\"Cmd\":[\"true\"]}",
    ]);
    n.start();
    n.put("keep.yaml", &script("keep", FOREVER));
    n.until_ready("keep");
    let fill = "until df --output=pcent ROOT | grep -qE '9[0-9]%|100%'; do head -c 1000000 /dev/zero >>ROOT/filling; done";
    let fill = fill.replace("ROOT", &n.path("root"));
    n.exec(&["sh", "-ec", &fill]);
    n.until("that nothing more can go", 10, |n| told(n, "FreeDiskSpaceFailed").contains("no further image is unused"));
    n.exec(&["rm", &n.path("root/filling")]);
    n.put("other.yaml", &script("other", FOREVER).replace(IMAGE, other));
    n.until_ready("other");
    n.remove("other.yaml");
    n.until("it is gone, and its image is kept while there is room", 10, |n| {
        n.gone("other") && n.ctr(&["images", "list", "-q"]).contains(other)
    });
    assert_eq!(told(&n, "ImageGCFailed"), "");
    // Not a moment in between in which the image could go: full, and read-only from then on.
    n.signal("STOP");
    let fail = format!("{fill}; echo 1 >/sys/fs/ext4/$(basename $(findmnt -no SOURCE {}))/trigger_fs_error", n.path("root"));
    n.exec(&["sh", "-ec", &fail]);
    n.signal("CONT");
    n.until("that the image cannot go", 10, |n| told(n, "ImageGCFailed").contains("other:1"));
    assert!(n.ready("keep") && n.restarts("keep") == 0, "{}", n.log());
}

#[test]
fn a_disk_without_a_size_is_told_as_the_kubelet_tells_it_and_takes_pods() {
    if !can_run() {
        return;
    }
    let mut n = Node::with("sid", &["imageGCPeriod=1s"]);
    on_a_disk(&n, "mount -t tmpfs -o size=0 boundless ROOT");
    n.start();
    n.put("a.yaml", &script("a", FOREVER));
    n.until_ready("a");
    n.until("that it has none", 10, |n| told(n, "InvalidDiskCapacity").contains("invalid capacity 0"));
    n.said(&["shutdown", "--grace", "10s"]);
    n.ended();
    n.containerd("stop");
    // The kernel takes its time to let go of what containerd had there.
    let unmount = ["sh", "-c", &format!("umount {} && echo done", n.path("root"))].map(str::to_owned);
    n.until("it is let go", 2, |n| n.tried(&unmount) == "done\n");
    n.assert_stopped();
}

/// The message of the node's last event of that reason.
fn told(n: &Node, reason: &str) -> String {
    let list: serde_json::Value = n.get("/v1/events").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let of_node = |e: &&serde_json::Value| e["reason"] == reason && e["involvedObject"]["kind"] == "Node";
    let last = list["items"].as_array().into_iter().flatten().rfind(of_node);
    last.and_then(|e| e["message"].as_str()).unwrap_or_default().to_owned()
}
