//! Images: archives and registries, good and bad.

use std::fs;

use crate::node::{FOREVER, Node, can_run, container, script};

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
        n.until("the archive is named", 20, |n| waiting(n, "a").1.contains("busybox.tar") || n.said(&["why", "a"]).contains("busybox.tar"));
        fs::write(&archive, good).unwrap();
        n.until("it runs when the archive is whole", 40, |n| n.ready("a"));
        n.shutdown();
    }
}

#[test]
fn an_image_nobody_has_waits_with_the_kubelets_reasons() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    n.start();
    n.put(
        "never.yaml",
        &script("never", FOREVER)
            .replace("image: docker.io/library/busybox:1.35", "image: localhost/nothing:1\n    imagePullPolicy: Never"),
    );
    n.put("gone.yaml", &script("gone", FOREVER).replace("docker.io/library/busybox:1.35", "127.0.0.1:9/nothing:1"));
    n.until("ErrImageNeverPull", 10, |n| waiting(n, "never").0 == "ErrImageNeverPull");
    n.until("ImagePullBackOff", 20, |n| waiting(n, "gone").0 == "ImagePullBackOff");
    assert!(waiting(&n, "gone").1.contains("127.0.0.1:9/nothing:1"), "{:?}", waiting(&n, "gone"));
    n.shutdown();
}
