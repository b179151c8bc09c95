//! The bridge that plinth makes itself, beside the plugin's: what the kernel, the address book and the next plugin see of them.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::Command;

use super::*;

/// Everything of a pod's network that can be told apart, without what is random in it: the names of veths and hardware addresses.
#[derive(Debug, PartialEq)]
struct Looks {
    /// The result on record.
    result: Value,
    /// What `ip` says of the bridge and its port.
    host: Vec<Value>,
    /// And of the pod.
    pod: Vec<Value>,
    sysctls: Vec<String>,
    /// Address book: names and contents.
    book: BTreeMap<String, String>,
}

fn ip(args: &str) -> Vec<Value> {
    let out = Command::new("ip").args(["-j", "-d"]).args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

/// In a thread that joins the pod's network namespace; /proc/sys/net follows it there.
pub(super) fn in_pod<T: Send + 'static>(node: &Node, pod: &WantedPod, look: impl FnOnce() -> T + Send + 'static) -> T {
    let pin = std::fs::File::open(node.paths.namespace(&pod.uid, "net")).unwrap();
    let inside = move || {
        rustix::thread::move_into_link_name_space(pin.as_fd(), None).unwrap();
        look()
    };
    std::thread::spawn(inside).join().unwrap()
}

pub(super) fn sysctl(file: &str) -> String {
    format!("{file} {}", std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap_or_default().trim())
}

/// Indexes, addresses that are made up and timers differ from one interface to the next; the length of a queue that is none, from one plugin.
fn settle(mut value: Value, own: &[(String, &str)]) -> Value {
    const RANDOM: [&str; 19] = [
        "ifindex",
        "link_index",
        "address",
        "id",
        "bridge_id",
        "root_id",
        "regional_root",
        "hello_timer",
        "gc_timer",
        "tcn_timer",
        "topology_change_timer",
        "designated_bridge",
        "link_netnsid",
        "valid_life_time",
        "forward_delay_timer",
        "tentative",
        "mac",
        "txqlen",
        "operstate",
    ];
    match &mut value {
        Value::Object(map) => {
            map.retain(|key, value| !RANDOM.contains(&key.as_str()) || value.as_str().is_some_and(|v| v.contains('/')));
            map.retain(|_, value| !value.as_str().is_some_and(|v| v.starts_with("fe80:") && !v.contains('/')));
            map.values_mut().for_each(|v| *v = settle(v.take(), own));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| *v = settle(v.take(), own)),
        Value::String(text) => own.iter().for_each(|(from, to)| *text = text.replace(from, to)),
        _ => {}
    }
    value
}

fn looks(node: &Node, pod: &WantedPod) -> Looks {
    let result = node.record(pod)["result"].clone();
    let text = |at: usize, key: &str| result["interfaces"][at][key].as_str().unwrap().to_owned();
    // What the result says is what there is.
    for (at, device) in [(0, "pltest0".to_owned()), (1, text(1, "name"))] {
        let link = || ip(&format!("link show {device}"))[0].clone();
        assert_eq!(link()["address"], text(at, "mac"));
        // UNKNOWN is a bridge whose port had its carrier before the kernel looked: as good as up.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !["UP", "UNKNOWN"].contains(&link()["operstate"].as_str().unwrap()) {
            assert!(Instant::now() < deadline, "{}", link());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let link = in_pod(node, pod, || ip("link show eth0"));
    assert_eq!(link[0]["address"], text(2, "mac"));
    let own = [(text(1, "name"), "VETH"), (pod.uid.to_string(), "UID")];
    let settled = |seen: Vec<Value>| seen.into_iter().map(|v| settle(v, &own)).collect();
    let host = ["addr show pltest0".into(), format!("addr show {}", text(1, "name")), "route show dev pltest0".into()];
    let book = std::fs::read_dir(node.dir.join("ipam/pltest")).unwrap().flatten();
    let told = |path: PathBuf| std::fs::read_to_string(path).unwrap().replace(&*pod.uid.0, "UID");
    Looks {
        host: settled(host.iter().flat_map(|args| ip(args)).collect()),
        pod: settled(in_pod(node, pod, || [ip("addr show eth0"), ip("route show"), ip("-6 route show")].concat())),
        sysctls: [
            vec![
                sysctl("ipv4/ip_forward"),
                sysctl("ipv6/conf/pltest0/accept_ra"),
                sysctl(&format!("ipv6/conf/{}/accept_ra", text(1, "name"))).replace(&text(1, "name"), "VETH"),
            ],
            in_pod(node, pod, || vec![sysctl("ipv4/conf/eth0/arp_notify"), sysctl("ipv6/conf/eth0/accept_dad")]),
        ]
        .concat(),
        book: book.map(|f| (f.file_name().to_string_lossy().into_owned(), told(f.path()))).collect(),
        result: settle(result.clone(), &own),
    }
}

/// The same list with and without the programs.
pub(super) fn both(node: &Node) -> [Settings; 2] {
    [true, false].map(|cni_built_in| Settings { cni_built_in, ..node.settings.clone() })
}

/// Forgets addresses, rules and the bridge of what was before.
pub(super) fn begin_anew(node: &Node) {
    let _ = Command::new("ip").args(["link", "del", "pltest0"]).output().unwrap();
    let _ = std::fs::remove_dir_all(node.dir.join("ipam"));
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
}

#[test]
fn a_bridge_made_here_looks_like_the_plugins_and_either_undoes_the_other() {
    on_a_node("alike", async |node| {
        let plain = node.bridge();
        let mut full = plain.clone();
        for (key, value) in [("hairpinMode", json!(true)), ("mtu", json!(1400)), ("isDefaultGateway", json!(true))] {
            full[key] = value;
        }
        full["dns"] = json!({ "nameservers": ["10.241.7.1"] });
        full["ipam"]["ranges"] =
            json!([[{ "subnet": "10.241.7.0/24", "rangeStart": "10.241.7.100", "gateway": "10.241.7.9" }, { "subnet": "10.241.8.0/24" }]]);
        full["ipam"]["routes"] = json!([{ "dst": "192.0.2.0/24" }, { "dst": "198.51.100.0/24", "gw": "10.241.7.77" }]);
        let mut closed = plain.clone();
        closed["isGateway"] = json!(false);
        closed["ipam"] = json!({ "type": "host-local", "dataDir": node.dir.join("ipam"), "subnet": "10.241.7.0/28", "rangeEnd": "10.241.7.14", "routes": [] });
        for (version, list) in [("1.0.0", plain), ("1.0.0", full), ("0.4.0", closed)] {
            let path = node.dir.join("net.d/10-pltest.conflist");
            std::fs::write(path, json!({ "cniVersion": version, "name": "pltest", "plugins": [list] }).to_string()).unwrap();
            let mut seen = Vec::new();
            for (n, settings) in (1..).zip(both(node)) {
                begin_anew(node);
                let pod = pod(n, json!({}));
                create(&settings, &node.paths, &pod).await.unwrap();
                seen.push(looks(node, &pod));
                // Undone by the other, twice.
                let other = Settings { cni_built_in: !settings.cni_built_in, ..settings.clone() };
                for _ in 0..2 {
                    delete(&other, &node.paths, &pod.uid, false).await.unwrap();
                }
                assert_eq!(node.leases(), 0);
            }
            let [here, plugins] = seen.try_into().unwrap();
            assert_eq!(here, plugins, "{version}");
        }
    });
}

#[test]
fn pods_on_a_bridge_made_here_reach_the_host_and_each_other() {
    on_a_node("reach", async |node| {
        let pods = [pod(1, json!({})), pod(2, json!({}))];
        for (pod, addr) in pods.iter().zip(["10.241.7.2", "10.241.7.3"]) {
            assert_eq!(ready(&node.create(pod).await.unwrap()), [addr]);
        }
        // Nobody listens: the answer that says so has come all the way.
        let refused =
            |to: &'static str| move || TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(20)).unwrap_err().kind();
        assert_eq!(refused("10.241.7.3:9")(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(in_pod(node, &pods[0], refused("10.241.7.3:9")), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(in_pod(node, &pods[1], refused("10.241.7.1:9")), std::io::ErrorKind::ConnectionRefused);
        for pod in &pods {
            node.delete(pod, false).await;
        }
    });
}

#[test]
fn what_a_bridge_made_here_cannot_have_is_said_in_full() {
    on_a_node("cannot", async |node| {
        let mut one = node.bridge();
        one["ipam"]["ranges"] = json!([[{ "subnet": "10.241.7.0/30", "rangeEnd": "10.241.7.2" }]]);
        node.network(json!([one]));
        let (first, second) = (pod(1, json!({})), pod(2, json!({})));
        node.create(&first).await.unwrap();
        let failure = node.create(&second).await.unwrap_err().into_failure();
        let full = format!("find a free address: all 1 are taken, see the files in {}", node.dir.join("ipam/pltest").display());
        assert!(failure.message.contains(&full), "{}", failure.message);
        node.delete(&first, false).await;
        let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
        ip("addr replace 10.99.0.1/16 dev pltest0");
        ip("addr del 10.241.7.1/30 dev pltest0");
        let failure = node.create(&second).await.unwrap_err().into_failure();
        assert!(failure.message.contains("give bridge `pltest0` address 10.241.7.1/30, where it may have no other"), "{}", failure.message);
        ip("link del pltest0");
        // As in a container without privileges: nothing could be forwarded.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let mount = |args: &str| assert!(Command::new("mount").args(args.split(' ')).status().unwrap().success());
        mount("--bind /proc/sys /proc/sys");
        mount("-o remount,bind,ro /proc/sys");
        let failure = node.create(&second).await.unwrap_err().into_failure();
        mounts::detach(std::path::Path::new("/proc/sys")).unwrap();
        assert!(failure.message.contains("write 1 to /proc/sys/net/ipv4/ip_forward: Read-only"), "{}", failure.message);
        ip("link del pltest0");
        ip("link add pltest0 type veth peer name pltest1");
        let failure = node.create(&second).await.unwrap_err().into_failure();
        assert!(failure.message.contains("find a bridge in `pltest0`"), "{}", failure.message);
        node.delete(&second, false).await;
        ip("link del pltest0");
    });
}

#[test]
fn a_bridge_with_a_word_that_is_not_known_here_is_the_plugins() {
    on_a_node("plugins", async |node| {
        // A program that leaves a mark when it is called.
        let mark = node.dir.join("called");
        node.plugin("bridge", &format!("echo \"$CNI_COMMAND\" >>{}; exec /usr/lib/cni/bridge", mark.display()));
        let pod = pod(1, json!({}));
        let mut calls = Vec::new();
        for (key, value) in [("mtu", json!(1400)), ("macspoofchk", json!(false)), ("enabledad", json!(true)), ("noSuchWord", json!(1))] {
            let mut bridge = node.bridge();
            bridge[key] = value;
            node.network(json!([bridge]));
            node.create(&pod).await.unwrap();
            node.delete(&pod, false).await;
            calls.push(std::fs::read_to_string(&mark).unwrap_or_default().lines().count());
            let _ = std::fs::remove_file(&mark);
            begin_anew(node);
        }
        assert_eq!(calls, [0, 0, 2, 2]);
    });
}
