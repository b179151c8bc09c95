//! The ports that plinth maps itself, beside the image's plugin: what nft and the kernel see of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use super::bridge::{begin_anew, both, in_pod, sysctl};
use super::*;

/// On a node with the plugin that has the backend, which is the image's: Debian's stable one knows iptables alone. A script before it keeps count.
fn on_a_node_with_ports(name: &'static str, test: impl AsyncFnOnce(&Node) + Send + 'static) {
    let own = || concat!(env!("CARGO_MANIFEST_DIR"), "/.cache").into();
    let cache: PathBuf = std::env::var_os("PLINTH_CACHE").map_or_else(own, PathBuf::from);
    let plugin = cache.join("image/containernetworking-plugins/usr/lib/cni/portmap");
    if !plugin.is_file() {
        return crate::skip::skip("src/runtime/sandbox/tests/portmap.rs: the image's portmap is not in .cache/image (make fetch)");
    }
    on_a_node(name, async move |node| {
        node.plugin("portmap", &format!("echo \"$CNI_COMMAND\" >>{}; exec {}", node.dir.join("called").display(), plugin.display()));
        test(node).await;
    });
}

/// What the plugin was asked since it was last looked at.
fn calls(node: &Node) -> String {
    let mark = node.dir.join("called");
    let calls = std::fs::read_to_string(&mark).unwrap_or_default();
    let _ = std::fs::remove_file(mark);
    calls.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn network(node: &Node, bridge: Value, more: Value) {
    let mut portmap = json!({ "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } });
    portmap.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node.network(json!([bridge, portmap]));
}

fn with_ports(n: u8, ports: Value) -> WantedPod {
    pod(n, json!({ "containers": [{ "name": "c", "image": "x", "ports": ports }] }))
}

/// One of every kind.
fn many(n: u8) -> WantedPod {
    let by = |protocol: &str| json!({ "containerPort": 80, "hostPort": 8080, "protocol": protocol });
    let at = |ip: &str, port: u16| json!({ "containerPort": 81, "hostPort": port, "hostIP": ip });
    let of_ipv6 = [at("fd00:241::1", 8083), at("::", 8084)];
    with_ports(n, json!([by("TCP"), by("UDP"), by("SCTP"), at("127.0.0.1", 8081), at("0.0.0.0", 8082), of_ipv6[0], of_ipv6[1]]))
}

#[test]
fn ports_mapped_here_look_like_the_plugins_and_either_undoes_the_other() {
    on_a_node_with_ports("ports", async |node| {
        let mut dual = node.bridge();
        dual["ipam"]["ranges"] = json!([[{ "subnet": "10.241.7.0/24" }], [{ "subnet": "fd00:241::/64" }]]);
        let plain = node.bridge();
        // With how many rules of either pod.
        let cases = [(plain.clone(), json!({}), [7, 3]), (plain, json!({ "snat": false }), [5, 1]), (dual, json!({}), [13, 5])];
        for (bridge, more, counts) in cases {
            network(node, bridge, more.clone());
            let mut seen = Vec::new();
            for settings in both(node) {
                run("nft flush ruleset");
                begin_anew(node);
                let (first, second) = (many(1), with_ports(2, json!([{ "containerPort": 80, "hostPort": 9090 }])));
                let other = Settings { cni_built_in: !settings.cni_built_in, ..settings.clone() };
                let said = |verbs: &'static str, settings: &Settings| if settings.cni_built_in { "" } else { verbs };
                let mut looks: Vec<Value> = Vec::new();
                for pod in [&first, &second] {
                    create(&settings, &node.paths, pod).await.unwrap();
                    looks.push(run("nft list ruleset").into());
                    // What the plugin passes on.
                    looks.push(node.record(pod)["result"]["ips"].clone());
                }
                assert_eq!(calls(node), said("ADD ADD", &settings));
                looks.push(sysctl("ipv4/conf/pltest0/route_localnet").into());
                // What is another pod's stays.
                for pod in [&first, &second] {
                    delete(&other, &node.paths, &pod.uid, false).await.unwrap();
                    looks.push(run("nft list ruleset").into());
                }
                assert_eq!(calls(node), said("DEL DEL", &other));
                let of = |at: usize| [1, 2].map(|n| looks[at].as_str().unwrap().matches(&*format!("{n:032x}")).count());
                assert_eq!([of(2), of(5), of(6)], [counts, [0, counts[1]], [0, 0]], "{more}: {looks:#?}");
                seen.push(looks);
            }
            let [here, plugins] = seen.try_into().unwrap();
            assert_eq!(here, plugins, "{more}");
        }
        run("nft flush ruleset");
        begin_anew(node);
    });
}

#[test]
fn a_mapped_port_is_reached_from_the_host_by_loopback_and_by_the_pod_itself() {
    on_a_node_with_ports("mapped", async |node| {
        let mut bridge = node.bridge();
        bridge["hairpinMode"] = json!(true);
        network(node, bridge, json!({}));
        run("ip link set lo up");
        let pod = with_ports(1, json!([{ "containerPort": 80, "hostPort": 8080 }]));
        node.create(&pod).await.unwrap();
        let listener = in_pod(node, &pod, || TcpListener::bind("0.0.0.0:80").unwrap());
        let served = std::thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                stream.unwrap().write_all(b"here").unwrap();
            }
        });
        let ask = |to: &'static str| {
            move || {
                let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(20)).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            }
        };
        assert_eq!(ask("127.0.0.1:8080")(), "here");
        assert_eq!(ask("10.241.7.1:8080")(), "here");
        assert_eq!(in_pod(node, &pod, ask("10.241.7.1:8080")), "here");
        served.join().unwrap();
        assert_eq!(calls(node), "");
        node.delete(&pod, false).await;
        assert_eq!(ask_refused("10.241.7.1:8080"), std::io::ErrorKind::ConnectionRefused);
    });
}

fn ask_refused(to: &str) -> std::io::ErrorKind {
    TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(20)).unwrap_err().kind()
}

/// The ports the kernel remembers datagrams to, in this namespace.
fn remembered() -> String {
    let all = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let port = |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("dport=")).unwrap_or_default().to_owned();
    let mut ports: Vec<String> = all.lines().filter(|l| l.contains(" udp ")).map(port).collect();
    ports.sort();
    ports.dedup();
    ports.join(" ")
}

#[test]
fn who_sent_datagrams_to_a_port_before_it_was_mapped_is_forgotten_and_nobody_else() {
    on_a_node_with_ports("datagrams", async |node| {
        network(node, node.bridge(), json!({}));
        run("ip link set lo up");
        let udp = |n, port: u16| with_ports(n, json!([{ "containerPort": 53, "hostPort": port, "protocol": "UDP" }]));
        for settings in both(node) {
            // Connections are remembered where there is a rule that needs it.
            let (before, after) = (udp(1, 5300), udp(2, 5301));
            create(&settings, &node.paths, &before).await.unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for port in [5301, 5302] {
                socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
            }
            assert_eq!(remembered(), "5301 5302");
            create(&settings, &node.paths, &after).await.unwrap();
            assert_eq!(remembered(), "5302", "{}", settings.cni_built_in);
            for pod in [&before, &after] {
                node.delete(pod, false).await;
            }
            run("nft flush ruleset");
            begin_anew(node);
            drop(socket);
        }
    });
}

#[test]
fn ports_in_words_that_are_not_known_here_are_the_plugins() {
    on_a_node_with_ports("words", async |node| {
        let pod = with_ports(1, json!([{ "containerPort": 80, "hostPort": 8080 }]));
        let mut asked = Vec::new();
        for more in [json!({ "snat": true }), json!({ "masqAll": false }), json!({ "conditionsV4": ["ip", "saddr", "192.0.2.0/24"] })] {
            network(node, node.bridge(), more);
            node.create(&pod).await.unwrap();
            node.delete(&pod, false).await;
            asked.push(calls(node));
        }
        assert_eq!(asked, ["", "ADD DEL", "ADD DEL"]);
        begin_anew(node);
    });
}

#[test]
fn rules_that_nft_refuses_are_the_plugins_to_make_or_to_complain_about() {
    on_a_node_with_ports("refused", async |node| {
        network(node, node.bridge(), json!({}));
        // A chain of that name that no rule can lead to.
        run("nft 'add table ip cni_hostport; add chain ip cni_hostport hostports { type filter hook input priority 0; }'");
        let pod = with_ports(1, json!([{ "containerPort": 80, "hostPort": 8080 }]));
        let failure = refused(node, &pod).await;
        assert!(
            failure.message.contains("ADD network `pltest` by CNI plugin `portmap`: unable to set up nftables rules"),
            "{}",
            failure.message
        );
        // The DELs found nothing, and needed no plugin for that.
        assert_eq!(calls(node), "ADD");
        std::fs::remove_file(node.dir.join("bin/portmap")).unwrap();
        let without = Settings { cni_bin_dirs: vec![node.dir.join("bin")], ..node.settings.clone() };
        let failure = create(&without, &node.paths, &pod).await.unwrap_err().into_failure();
        assert!(failure.message.contains("add the rules by ") && failure.message.contains("nft: "), "{}", failure.message);
        run("nft flush ruleset");
        create(&without, &node.paths, &pod).await.unwrap();
        delete(&without, &node.paths, &pod.uid, false).await.unwrap();
        begin_anew(node);
    });
}
