//! Sandboxes for real, as root: private directories, and a network and a mount namespace of the test's own, so that nothing of
//! the machine is touched. Bridges and addresses come from the installed CNI plugins.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod bridge;
mod portmap;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use super::*;
use crate::plan::action::Class;
use crate::pod::Origin;

/// A private node: directories, one CNI network, a cgroup parent.
struct Node {
    dir: PathBuf,
    settings: Settings,
    paths: Paths,
}

/// Runs a test on a node of its own, in a thread that left the machine's network and mounts.
fn on_a_node(name: &'static str, test: impl AsyncFnOnce(&Node) + Send + 'static) {
    let run = move || {
        crate::sys::namespaces::leave_for_test(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::FS);
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        let node = Node::new(&format!("pltest-{name}-{}", std::process::id()));
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(test(&node));
        node.assert_clean();
        std::fs::remove_dir_all(&node.dir).unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

impl Node {
    fn new(tag: &str) -> Node {
        let dir = std::env::temp_dir().join(tag);
        let at = |sub: &str| dir.join(sub);
        for sub in ["data", "run", "logs", "net.d"] {
            std::fs::create_dir_all(at(sub)).unwrap();
        }
        std::fs::write(at("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        let settings = Settings {
            data_dir: at("data"),
            run_dir: at("run"),
            pod_logs_dir: at("logs"),
            cni_conf_dir: at("net.d"),
            cni_bin_dirs: vec![at("bin"), "/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cni_cache_dir: at("data/cni"),
            cni_timeout: Duration::from_secs(30),
            cgroup_root: format!("/{tag}"),
            resolv_conf: at("resolv.conf"),
            node_ips: vec!["192.0.2.7".parse().unwrap()],
            ..Settings::default()
        };
        let node = Node { paths: Paths::new(&settings), dir, settings };
        node.network(json!([node.bridge(), { "type": "portmap", "capabilities": { "portMappings": true } }]));
        node
    }

    fn bridge(&self) -> Value {
        let ipam = json!({ "type": "host-local", "dataDir": self.dir.join("ipam"), "ranges": [[{ "subnet": "10.241.7.0/24" }]] });
        json!({ "type": "bridge", "bridge": "pltest0", "isGateway": true, "ipam": ipam })
    }

    fn network(&self, plugins: Value) {
        let list = json!({ "cniVersion": "1.0.0", "name": "pltest", "plugins": plugins });
        std::fs::write(self.dir.join("net.d/10-pltest.conflist"), list.to_string()).unwrap();
    }

    /// A plugin of our own making: a shell script.
    fn plugin(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join("bin").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The pod's record of its network.
    fn record(&self, pod: &WantedPod) -> Value {
        let mut files = std::fs::read_dir(self.paths.cni_results()).unwrap().flatten();
        let record = files.find(|f| f.file_name().to_string_lossy().contains(&*pod.uid.0)).unwrap();
        serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap()
    }

    fn leases(&self) -> usize {
        let files = std::fs::read_dir(self.dir.join("ipam/pltest")).into_iter().flatten().flatten();
        files.filter(|f| f.file_name().to_string_lossy().starts_with("10.")).count()
    }

    async fn create(&self, pod: &WantedPod) -> Result<Sandbox, SandboxError> {
        create(&self.settings, &self.paths, pod).await
    }

    async fn delete(&self, pod: &WantedPod, keep: bool) {
        delete(&self.settings, &self.paths, &pod.uid, keep).await.unwrap();
    }

    /// Nothing of any pod: no mount, record, lease, interface, cgroup, directory.
    fn assert_clean(&self) {
        assert_eq!(mounts::below(&[&self.dir]).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(scan(&self.paths), std::collections::BTreeMap::new());
        assert_eq!(self.leases(), 0);
        // A network namespace nobody holds is taken apart by the kernel in its own time, the host's end of its veth with it.
        let devices = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while devices().contains("veth") {
            assert!(Instant::now() < deadline, "{}", devices());
            std::thread::sleep(Duration::from_millis(5));
        }
        for dir in [self.paths.pods(), self.paths.run_pods()] {
            assert_eq!(std::fs::read_dir(&dir).into_iter().flatten().count(), 0, "{}", dir.display());
        }
        for h in crate::sys::cgroup::hierarchies() {
            let top = h.root.join(self.settings.cgroup_root.trim_start_matches('/'));
            for sub in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
                // Only empty groups can go: a pod's group left behind makes this fail.
                super::unless_absent(std::fs::remove_dir(top.join(sub))).unwrap();
            }
        }
    }
}

impl Drop for Node {
    /// After a failed assertion: the mounts go with the namespace, the groups would stay.
    fn drop(&mut self) {
        for h in crate::sys::cgroup::hierarchies() {
            let top = h.root.join(self.settings.cgroup_root.trim_start_matches('/'));
            for sub in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
                let _ = std::fs::remove_dir(top.join(sub));
            }
        }
    }
}

fn sources(paths: &Paths, pod: &WantedPod) -> std::collections::BTreeMap<String, PathBuf> {
    volume::places(paths, pod).into_iter().map(|(name, v)| (name, v.path.into())).collect()
}

fn pod(n: u8, spec: Value) -> WantedPod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "c", "image": "x" }]);
    }
    let meta = json!({ "name": format!("p{n}-node"), "namespace": "default", "uid": format!("{n:032x}") });
    let object = serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap();
    WantedPod::from_object(object, Origin { layer: "test".into(), path: "/x.yaml".into(), line: 3 }).unwrap()
}

fn ready(sandbox: &Sandbox) -> Vec<String> {
    match sandbox {
        Sandbox::Ready { ips, .. } => ips.iter().map(ToString::to_string).collect(),
        other => panic!("not ready: {other:?}"),
    }
}

#[test]
fn a_bridged_sandbox_is_made_once_found_and_undone_without_a_trace() {
    on_a_node("bridge", async |node| {
        let pod = pod(
            1,
            json!({
                "volumes": [{ "name": "disk", "emptyDir": {} }, { "name": "mem", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }],
                "securityContext": { "sysctls": [{ "name": "net.core.somaxconn", "value": "77" }], "fsGroup": 4242 },
                "containers": [{ "name": "c", "ports": [{ "containerPort": 80 }] }],
            }),
        );
        let made = node.create(&pod).await.unwrap();
        assert_eq!(ready(&made), ["10.241.7.2"]);
        assert_eq!(node.create(&pod).await.unwrap(), made);
        assert_eq!(node.leases(), 1);
        let seen = scan(&node.paths);
        let seen = seen.get(&pod.uid).unwrap();
        assert_eq!(seen.sandbox, made);
        assert_eq!(seen.made_from.as_deref(), Some(&pod));
        let sources = sources(&node.paths, &pod);
        let meta = |name: &str| std::fs::metadata(&sources[name]).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta("disk").mode() & 0o7777, meta("disk").gid()), (0o2777, 4242));
        assert!(mounts::is_mount_point(&sources["mem"]) && !mounts::is_mount_point(&sources["disk"]));
        inside(node, &pod);
        node.delete(&pod, false).await;
        node.delete(&pod, false).await;
        assert_eq!(scan_one(&node.paths, &pod.uid), None);
    });
}

/// Looks from within the pinned namespaces, in a thread that joins them.
fn inside(node: &Node, pod: &WantedPod) {
    let pins = [Kind::Net, Kind::Uts].map(|k| std::fs::File::open(node.paths.namespace(&pod.uid, k.name())).unwrap());
    std::thread::spawn(move || {
        for pin in pins {
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&pin), None).unwrap();
        }
        assert_eq!(rustix::system::uname().nodename().to_str().unwrap(), "p1-node");
        let sysctl = |f: &str| std::fs::read_to_string(format!("/proc/sys/net/{f}")).unwrap().trim().to_owned();
        assert_eq!(sysctl("core/somaxconn"), "77");
        assert_eq!(sysctl("ipv4/ip_unprivileged_port_start"), "0");
        assert_eq!(sysctl("ipv4/ping_group_range"), "0\t2147483647");
        // Loopback is up when something can be reached there.
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(here.local_addr().unwrap()).unwrap();
        assert!(std::net::TcpListener::bind("10.241.7.2:80").is_ok());
    })
    .join()
    .unwrap();
}

#[test]
fn an_empty_dir_lives_as_long_as_its_pod() {
    on_a_node("keep", async |node| {
        let pod = pod(2, json!({ "hostNetwork": true, "volumes": [{ "name": "v", "emptyDir": {} }] }));
        assert_eq!(ready(&node.create(&pod).await.unwrap()), ["192.0.2.7"]);
        let file = sources(&node.paths, &pod)["v"].join("kept");
        std::fs::write(&file, "x").unwrap();
        // As after a reboot: the mark is of another boot.
        std::fs::write(node.paths.sandbox_json(&pod.uid), r#"{"boot":"another","ips":[],"since_ns":0}"#).unwrap();
        assert_eq!(scan_one(&node.paths, &pod.uid).unwrap().sandbox, Sandbox::Partial);
        node.delete(&pod, true).await;
        assert_eq!(scan_one(&node.paths, &pod.uid).unwrap().sandbox, Sandbox::Absent);
        node.create(&pod).await.unwrap();
        assert!(file.exists());
        node.delete(&pod, false).await;
        assert!(!file.exists());
    });
}

#[test]
fn a_lost_pin_makes_a_sandbox_partial_and_the_address_is_given_back() {
    on_a_node("lost", async |node| {
        let pod = pod(3, json!({}));
        node.create(&pod).await.unwrap();
        mounts::detach(&node.paths.namespace(&pod.uid, "net")).unwrap();
        assert_eq!(scan_one(&node.paths, &pod.uid).unwrap().sandbox, Sandbox::Partial);
        // The configuration may be gone too: what ADD was given is on record.
        std::fs::remove_file(node.dir.join("net.d/10-pltest.conflist")).unwrap();
        node.delete(&pod, false).await;
    });
}

#[test]
fn stale_attachments_are_released_at_start() {
    on_a_node("stale", async |node| {
        let (gone, kept) = (pod(4, json!({})), pod(5, json!({})));
        for p in [&gone, &kept] {
            node.create(p).await.unwrap();
        }
        net::release_stale(&node.settings, &node.paths, &[kept.uid.clone()].into()).await.unwrap();
        assert_eq!(node.leases(), 1);
        for p in [&gone, &kept] {
            node.delete(p, false).await;
        }
    });
}

/// What is left when CNI fails: nothing but the pod's own directory.
async fn refused(node: &Node, pod: &WantedPod) -> crate::plan::action::Failure {
    let failure = node.create(pod).await.unwrap_err().into_failure();
    assert_eq!(scan_one(&node.paths, &pod.uid).map(|s| s.sandbox), Some(Sandbox::Absent));
    assert_eq!(node.leases(), 0);
    node.delete(pod, false).await;
    failure
}

#[test]
fn network_failures_say_what_and_leave_no_address() {
    on_a_node("failures", async |node| {
        let pod = pod(6, json!({}));
        node.network(json!([node.bridge(), { "type": "fails" }]));
        node.plugin("fails", r#"[ "$CNI_COMMAND" = DEL ] && exit 0; echo '{"code":7,"msg":"bad","details":"worse"}'; exit 1"#);
        let failure = refused(node, &pod).await;
        assert_eq!(&*failure.reason, "CreatePodSandboxError");
        assert_eq!(&*failure.message, "ADD network `pltest` by CNI plugin `fails`: bad: worse");
        node.network(json!([node.bridge(), { "type": "absent" }]));
        let failure = refused(node, &pod).await;
        assert!(failure.message.contains("find CNI plugin `absent` in"), "{}", failure.message);
        std::fs::remove_file(node.dir.join("net.d/10-pltest.conflist")).unwrap();
        let failure = refused(node, &pod).await;
        assert_eq!((failure.class, &*failure.reason), (Class::Retry, "NetworkNotReady"));
        assert!(failure.message.contains("there is none"), "{}", failure.message);
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    on_a_node("hang", async |node| {
        let mut settings = node.settings.clone();
        settings.cni_timeout = Duration::from_secs(2);
        node.network(json!([{ "type": "hangs" }]));
        let mark = node.dir.join("child");
        let script = format!(r#"[ "$CNI_COMMAND" = DEL ] && exit 0; sleep 1000 & echo $! >{}; sleep 1000"#, mark.display());
        node.plugin("hangs", &script);
        let began = Instant::now();
        let pod = pod(7, json!({}));
        let failure = create(&settings, &node.paths, &pod).await.unwrap_err().into_failure();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(failure.message.contains("killed"), "{}", failure.message);
        node.delete(&pod, false).await;
        let child = format!("/proc/{}/stat", std::fs::read_to_string(&mark).unwrap().trim());
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_to_string(&child).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "its child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn removal_survives_whatever_a_container_left() {
    on_a_node("mess", async |node| {
        let outside = node.dir.join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        let host = json!({ "path": outside, "type": "Directory" });
        let volumes = json!([{ "name": "v", "emptyDir": {} }, { "name": "h", "hostPath": host }]);
        let mounts_of_c = json!([{ "name": "h", "mountPath": "/h", "subPath": "precious" }]);
        let pod = pod(8, json!({ "hostNetwork": true, "volumes": volumes, "containers": [{ "name": "c", "volumeMounts": mounts_of_c }] }));
        node.create(&pod).await.unwrap();
        let container = pod.container("c").unwrap();
        let places = volume::open_sub_paths(
            &node.paths,
            &pod,
            container,
            &[("/h".into(), "precious".into())].into(),
            &volume::ready(&node.paths, &pod, container, &volume::Allocatable::new()).unwrap(),
        )
        .unwrap();
        assert_eq!(std::fs::read(&places["/h"]).unwrap(), b"x");
        let v = sources(&node.paths, &pod)["v"].clone();
        std::os::unix::fs::symlink(&outside, v.join("link")).unwrap();
        let mut deep = rustix::fs::open(&v, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&deep, "d", 0o700.into()).unwrap();
            deep = rustix::fs::openat(&deep, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        }
        for i in 0..500 {
            std::fs::create_dir_all(v.join(format!("wide/{i}/x"))).unwrap();
            std::fs::write(v.join(format!("wide/{i}/f")), "").unwrap();
        }
        node.delete(&pod, false).await;
        assert_eq!(std::fs::read(outside.join("precious")).unwrap(), b"x");
    });
}

#[test]
fn a_mount_below_is_never_removed_through() {
    on_a_node("cross", async |node| {
        let (tree, other) = (node.dir.join("tree"), node.dir.join("other"));
        std::fs::create_dir_all(tree.join("m")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("precious"), "x").unwrap();
        rustix::mount::mount_bind(&other, tree.join("m")).unwrap();
        assert!(remove::tree(&tree, None).await.is_err());
        assert!(other.join("precious").exists());
        mounts::detach(&tree.join("m")).unwrap();
        remove::tree(&tree, None).await.unwrap();
        assert!(!tree.exists() && other.join("precious").exists());
    });
}

#[test]
fn what_a_privileged_container_made_immutable_is_removed_too() {
    on_a_node("locked", async |node| {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
        let tree = node.dir.join("tree");
        std::fs::create_dir_all(tree.join("d/e/full")).unwrap();
        std::fs::write(tree.join("d/file"), "x").unwrap();
        std::fs::write(tree.join("log"), "x").unwrap();
        std::fs::write(tree.join("d/e/full/f"), "x").unwrap();
        for (path, flag) in
            [("d/file", IFlags::IMMUTABLE), ("log", IFlags::APPEND), ("d/e", IFlags::IMMUTABLE), ("d/e/full", IFlags::APPEND)]
        {
            let file = std::fs::File::open(tree.join(path)).unwrap();
            ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | flag).unwrap();
        }
        assert!(std::fs::remove_dir_all(&tree).is_err(), "this file system knows no such flags");
        remove::tree(&tree, None).await.unwrap();
        assert!(!tree.exists());
    });
}

#[test]
fn leftover_processes_of_the_pod_are_killed_and_no_others() {
    on_a_node("procs", async |node| kills_its_own(node).await);
}

#[test]
fn on_cgroup_v2_too() {
    on_a_node("unified", async |node| {
        // The same tree as everywhere on the machine; below it only groups of the test's own name are touched.
        rustix::mount::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", rustix::mount::MountFlags::empty(), None).unwrap();
        let all = crate::sys::cgroup::hierarchies();
        assert!(matches!(all.as_slice(), [one] if one.unified), "{all:?}");
        kills_its_own(node).await;
    });
}

async fn kills_its_own(node: &Node) {
    let pod = pod(9, json!({ "hostNetwork": true, "hostIPC": true }));
    node.create(&pod).await.unwrap();
    let Some(h) = crate::sys::cgroup::hierarchies().into_iter().find(|h| h.unified || h.root.ends_with("pids")) else {
        panic!("no cgroup hierarchy to test with")
    };
    let group = h.root.join(cgroup::pod_group(&node.paths, &pod).strip_prefix("/").unwrap());
    assert!(cgroup::scan(&node.paths).contains(&pod.uid));
    let inner = group.join("container");
    std::fs::create_dir_all(&inner).unwrap();
    let sleeper = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let (mut inside, mut outside) = (sleeper(), sleeper());
    std::fs::write(inner.join("cgroup.procs"), inside.id().to_string()).unwrap();
    let reaped = std::thread::spawn(move || inside.wait().unwrap());
    node.delete(&pod, false).await;
    assert!(!reaped.join().unwrap().success() && !group.exists());
    assert_eq!(outside.try_wait().unwrap(), None);
    outside.kill().unwrap();
    outside.wait().unwrap();
}

#[test]
fn unsupported_volumes_and_foreign_sysctls_are_refused() {
    on_a_node("refused", async |node| {
        let secret = pod(10, json!({ "hostNetwork": true, "volumes": [{ "name": "s", "secret": { "secretName": "x" } }] }));
        let failure = refused(node, &secret).await;
        assert_eq!((failure.class, &*failure.reason), (Class::Refused, "FailedMount"));
        let sysctl = pod(11, json!({ "securityContext": { "sysctls": [{ "name": "vm.swappiness", "value": "1" }] } }));
        let failure = node.create(&sysctl).await.unwrap_err().into_failure();
        assert_eq!((failure.class, &*failure.reason), (Class::Refused, "SysctlForbidden"));
    });
}

/// Polls it so many times and then lets go of it, as a crash would; true if it was done by then.
async fn cut_short<F: Future>(future: F, polls: u32) -> bool {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(cx).map(|_| true)
    })
    .await
}

#[test]
fn a_crash_anywhere_in_create_or_delete_is_cleaned_up() {
    on_a_node("crash", async |node| {
        let pod = pod(12, json!({ "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory" } }] }));
        let mut polls = 0;
        while !cut_short(node.create(&pod), polls).await {
            polls += 1;
            assert!(
                !matches!(scan_one(&node.paths, &pod.uid), Some(Scanned { sandbox: Sandbox::Ready { .. }, .. })),
                "after {polls} polls"
            );
            if polls % 2 == 0 {
                node.delete(&pod, false).await;
                assert_eq!(scan_one(&node.paths, &pod.uid), None);
                assert_eq!(node.leases(), 0);
            }
            // Else create itself has to cope with what is there.
        }
        assert!(polls > 3, "{polls}");
        assert_eq!(node.leases(), 1);
        let mut polls = 0;
        while !cut_short(delete(&node.settings, &node.paths, &pod.uid, false), polls).await {
            polls += 1;
            let left = scan_one(&node.paths, &pod.uid).map(|s| s.sandbox);
            assert!(polls == 1 || !matches!(left, Some(Sandbox::Ready { .. })), "after {polls} polls: {left:?}");
        }
    });
}

/// How the victim below is told which node it is on.
const VICTIM: &str = "PLTEST_VICTIM";

#[test]
fn kill_9_at_any_moment_of_create_leaks_nothing() {
    on_a_node("kill", async |node| {
        let begun = node.dir.join("begun");
        let pod = victims_pod();
        for round in 0..25u64 {
            let _ = std::fs::remove_file(&begun);
            let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "runtime::sandbox::tests::victim", "--ignored", "--test-threads=1"])
                .env(VICTIM, node.dir.file_name().unwrap())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while !begun.exists() {
                assert!(Instant::now() < deadline, "the victim does not begin");
                std::thread::sleep(Duration::from_micros(200));
            }
            // Spread over the whole of a create, the same every time.
            std::thread::sleep(Duration::from_micros(round * 1700 % 41_000));
            victim.kill().unwrap();
            victim.wait().unwrap();
            if round % 2 == 0 {
                ready(&node.create(&pod).await.unwrap());
                assert_eq!(node.leases(), 1, "round {round}");
            }
            node.delete(&pod, false).await;
            assert_eq!(scan_one(&node.paths, &pod.uid), None, "round {round}");
            assert_eq!(node.leases(), 0, "round {round}");
        }
    });
}

fn victims_pod() -> WantedPod {
    pod(16, json!({ "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory" } }] }))
}

#[test]
#[ignore = "is run, and killed, by the test above"]
fn victim() {
    let Ok(tag) = std::env::var(VICTIM) else { return };
    // No Node of its own: that would tidy up.
    let node = std::mem::ManuallyDrop::new(Node::new(&tag));
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::fs::write(node.dir.join("begun"), "").unwrap();
    rt.block_on(node.create(&victims_pod())).unwrap();
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn a_plugin_that_outlived_us_is_waited_for() {
    on_a_node("outlived", async |node| {
        let done = node.dir.join("done");
        node.plugin("slow", &format!(r#"[ "$CNI_COMMAND" = DEL ] && {{ test -e {0} || touch {0}.early; }}; exit 0"#, done.display()));
        node.network(json!([{ "type": "slow" }]));
        let pod = pod(13, json!({}));
        node.create(&pod).await.unwrap();
        // Somebody else's open of the lock file, held by a process that is no child of ours to wait for.
        let file = std::fs::OpenOptions::new().append(true).open(node.paths.run_pod(&pod.uid).join(net::lock::NAME)).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let script = format!("sleep 0.3; touch {}", done.display());
        let mut orphan = std::process::Command::new("sh").args(["-c", &script]).stdin(file).spawn().unwrap();
        node.delete(&pod, false).await;
        assert!(done.exists() && !node.dir.join("done.early").exists());
        orphan.wait().unwrap();
    });
}

#[test]
fn burstable_pods_share_what_they_ask_for_together() {
    on_a_node("shares", async |node| {
        let Some(h) = crate::sys::cgroup::hierarchies().into_iter().find(|h| h.root.join("cpu.shares").exists()) else {
            return crate::skip::skip("burstable_pods_share_what_they_ask_for_together: no v1 cpu hierarchy here");
        };
        let asks = |cpu: &str| json!({ "hostNetwork": true, "hostIPC": true, "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] });
        let (one, two) = (pod(14, asks("1")), pod(15, asks("500m")));
        let class = h.root.join(node.settings.cgroup_root.trim_start_matches('/')).join("kubepods/burstable/cpu.shares");
        let shares = || std::fs::read_to_string(&class).unwrap().trim().to_owned();
        node.create(&one).await.unwrap();
        node.create(&two).await.unwrap();
        assert_eq!(shares(), "1536");
        node.delete(&one, false).await;
        assert_eq!(shares(), "512");
        node.delete(&two, false).await;
        assert_eq!(shares(), "2");
    });
}

#[test]
#[ignore = "a measurement: run it alone, with --no-capture"]
fn how_long_it_takes() {
    on_a_node("time", async |node| {
        for (what, spec) in [("hostNetwork", json!({ "hostNetwork": true })), ("bridge", json!({}))] {
            let (mut made, mut gone) = (Vec::new(), Vec::new());
            for n in 0..20 {
                let pod = pod(20 + n, spec.clone());
                let began = Instant::now();
                node.create(&pod).await.unwrap();
                made.push(began.elapsed());
                let began = Instant::now();
                node.delete(&pod, false).await;
                gone.push(began.elapsed());
            }
            made.sort();
            gone.sort();
            println!("{what}: create median {:?} (max {:?}), delete median {:?} (max {:?})", made[10], made[19], gone[10], gone[19]);
        }
    });
}
