//! `plinth render` against the runtime specifications a real kubelet and containerd wrote: the comparison program is the judge,
//! this file only names the deviations that are right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

/// A difference that is right.
struct Right {
    /// The case; `*`: any.
    case: &'static str,
    /// How the difference begins.
    start: &'static str,
    /// It is right only where this holds.
    when: fn() -> bool,
    /// Why it is: for the reader.
    _reason: &'static str,
}

/// The recordings are of one machine; where another machine must differ, it may, and only there.
const RIGHT: [Right; 2] = [
    Right {
        case: "hostnetwork-ports",
        start: "c: env:",
        when: other_hostname,
        _reason: "HOSTNAME of a pod on the host's network is the machine's, recorded on one called vm",
    },
    Right {
        case: "*",
        start: "c: ns.cgroup:",
        when: cgroup_v2,
        _reason: "recorded on cgroup v1; on v2 a container has a cgroup namespace of its own",
    },
];

fn other_hostname() -> bool {
    rustix::system::uname().nodename().to_bytes() != b"vm"
}

fn cgroup_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn render_agrees_with_what_the_kubelet_and_containerd_wrote() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    assert!(vectors.is_dir(), "{} is not there: the recordings are needed beside the project", vectors.display());
    let run = Command::new("python3").arg(vectors.join("compare_oci.py")).arg(env!("CARGO_BIN_EXE_plinth")).output().expect("run python3");
    let text = String::from_utf8_lossy(&run.stdout);
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("oci: "), "the comparison did not end: {text}{}", String::from_utf8_lossy(&run.stderr));
    let agreed: u32 = last.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut case = "";
    let (mut wrong, mut excused) = (Vec::new(), 0);
    for line in text.lines().filter(|l| *l != last) {
        match line.strip_prefix("  ") {
            None => {
                case = line.split(':').next().unwrap_or_default();
                excused += u32::from(line.ends_with(':'));
                if !line.ends_with(':') {
                    wrong.push(line.to_owned());
                }
            }
            Some(difference) => {
                let right = RIGHT.iter().any(|r| (r.case == "*" || r.case == case) && difference.starts_with(r.start) && (r.when)());
                if !right {
                    wrong.push(format!("{case}: {difference}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agreed + excused >= 44, "only {agreed} cases were compared: {last}");
}

#[test]
fn render_says_what_is_missing() {
    let dir = std::env::temp_dir().join(format!("plinth-render-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let manifest = dir.join("pod.yaml");
    std::fs::write(&manifest, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: x}]}\n").unwrap();
    let plinth = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_plinth")).arg("render").args(args).output().unwrap();
    let file = manifest.to_str().unwrap();
    let no_image = plinth(&["--node-name", "n", file]);
    let said = String::from_utf8_lossy(&no_image.stderr).into_owned();
    assert_eq!(no_image.status.code(), Some(1));
    assert!(said.contains("--image-config docker.io/library/x:latest=FILE"), "{said}");
    assert_eq!(plinth(&[]).status.code(), Some(2));
    assert_eq!(plinth(&["--node-ip", "none", file]).status.code(), Some(2));
    std::fs::write(&manifest, "apiVersion: v1\nkind: Pod\nmetadata: {name: P_}\nspec: {containers: []}\n").unwrap();
    assert_eq!(plinth(&["--node-name", "n", file]).status.code(), Some(4));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn render_shows_the_ids_of_a_pod_with_users_of_its_own() {
    let dir = std::env::temp_dir().join(format!("plinth-render-users-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (manifest, config) = (dir.join("pod.yaml"), dir.join("config.json"));
    std::fs::write(&config, r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#)
        .unwrap();
    let linux = |host_users: &str| {
        let spec = format!("{{{host_users} containers: [{{name: c, image: x}}]}}");
        std::fs::write(&manifest, format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n")).unwrap();
        let image = format!("--image-config=x={}", config.display());
        let run = Command::new(env!("CARGO_BIN_EXE_plinth")).args(["render", "--node-name=n", &image]).arg(&manifest).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
        report["pods"][0]["containers"]["c"]["linux"].clone()
    };
    let own = linux("hostUsers: false,");
    let ids = serde_json::json!([{ "containerID": 0, "hostID": 65536, "size": 65536 }]);
    assert_eq!((&own["uidMappings"], &own["gidMappings"]), (&ids, &ids));
    assert!(own["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == "user" && n["path"].is_string()), "{own}");
    let shared = linux("");
    assert!(shared["uidMappings"].is_null() && !shared["namespaces"].as_array().unwrap().iter().any(|n| n["type"] == "user"), "{shared}");
    std::fs::remove_dir_all(&dir).unwrap();
}
