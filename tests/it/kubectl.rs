//! kubectl, which nobody here wrote, on a mirror pod: through the test API server, which passes on as a kube-apiserver 1.36 does, to the
//! kubelet API of a real node.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::apiserver::ApiServer;
use crate::cluster::{inside, is_ready, joined, kubectl, kubectl_words, shown};
use crate::node::{FOREVER, Node, can_run, pod, script};
use crate::sessions::{Terminal, signal, told, until_said};

const PORT: u16 = 10250;

/// A node that serves the kubelet API to its API server.
fn serving() -> Option<(Node, ApiServer)> {
    can_run().then(|| {
        let (mut n, server) = joined();
        let (cert, key) = server.certificate("127.0.0.1");
        for (file, text) in [("tls.crt", cert), ("tls.key", key), ("ca.crt", server.authority())] {
            fs::write(n.path(&format!("work/{file}")), text).unwrap();
        }
        let set = [
            "nodeIPs=127.0.0.1".to_owned(),
            "address=127.0.0.1".to_owned(),
            format!("tlsCertFile={}", n.path("work/tls.crt")),
            format!("tlsPrivateKeyFile={}", n.path("work/tls.key")),
            format!("clientCAFile={}", n.path("work/ca.crt")),
        ];
        n.extra.extend(set);
        n.start();
        (n, server)
    })
}

/// kubectl in the node's namespaces, to be started.
fn command(n: &Node, args: &[&str]) -> Command {
    let holder = fs::read_to_string(n.path("holder.pid")).unwrap();
    let mut c = Command::new("nsenter");
    c.args(["--target", holder.trim(), "--mount", "--net", "--"]).args(kubectl_words(n)).args(args);
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

fn output(n: &Node, args: &[&str]) -> Output {
    command(n, args).output().unwrap()
}

fn until_shown(n: &mut Node, server: &ApiServer, name: &str) {
    n.until(&format!("{name} is shown as Ready"), 30, |_| is_ready(&shown(server, name)));
}

/// One line, up to its end.
fn line(from: &mut impl Read) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" && from.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn kubectl_logs_show_a_pods_output_as_it_comes_and_what_was_before() {
    let Some((mut n, server)) = serving() else { return };
    let once = n.path("work/once");
    let counts = format!(
        "if [ -e /host/again ]; then for i in 1 2 3; do echo line $i; done; else >/host/again; echo first life; exit 1; fi; {FOREVER}"
    );
    fs::create_dir(&once).unwrap();
    let volume = format!("  volumes: [{{name: v, hostPath: {{path: {once}}}}}]\n");
    n.put("a.yaml", &(script("a", &counts) + "    volumeMounts: [{name: v, mountPath: /host}]\n" + &volume));
    n.until("it runs again", 30, |n| n.restarts("a") == 1 && n.ready("a"));
    until_shown(&mut n, &server, "a");
    assert_eq!(kubectl(&n, &["logs", "a-it"]), "line 1\nline 2\nline 3\n");
    assert_eq!(kubectl(&n, &["logs", "a-it", "--tail=1"]), "line 3\n");
    assert_eq!(kubectl(&n, &["logs", "a-it", "--limit-bytes=6"]), "line 1");
    assert_eq!(kubectl(&n, &["logs", "a-it", "--previous"]), "first life\n");
    assert!(kubectl(&n, &["logs", "a-it", "--timestamps", "--since=1h"]).lines().all(|l| l.starts_with("20") && l.contains("Z line ")));
    let (code, _, err) = told(output(&n, &["logs", "a-it", "-c", "zzz"]));
    assert!(code == 1 && err.contains("zzz"), "{err}");
    n.put(
        "b.yaml",
        &script("b", &format!("echo begun; {}", FOREVER.replace("sleep 0.1", "sleep 0.1; [ ! -e /tmp/go ] || { echo went; rm /tmp/go; }"))),
    );
    until_shown(&mut n, &server, "b");
    let (code, _, err) = told(output(&n, &["logs", "b-it", "--previous"]));
    assert!(code == 1 && err.contains("previous terminated container \"c\" in pod \"b-it\" not found"), "{err}");
    // Followed: what comes is there at once, and its end ends it.
    let mut followed = command(&n, &["logs", "-f", "b-it"]).spawn().unwrap();
    let out = followed.stdout.as_mut().unwrap();
    until_said(out, "begun\n");
    kubectl(&n, &["exec", "b-it", "--", "touch", "/tmp/go"]);
    until_said(out, "went\n");
    n.remove("b.yaml");
    assert!(followed.wait().unwrap().success());
    n.shutdown();
}

#[test]
fn kubectl_exec_attach_and_cp_enter_a_pod() {
    let Some((mut n, server)) = serving() else { return };
    n.put("a.yaml", &script("a", FOREVER));
    let echo = "echo begun; while read -r line; do echo \"heard $line\"; done";
    n.put("t.yaml", &(script("t", echo) + "    stdin: true\n    tty: true\n"));
    until_shown(&mut n, &server, "a");
    until_shown(&mut n, &server, "t");

    let (code, out, err) = told(output(&n, &["exec", "a-it", "--", "sh", "-c", "echo out; echo oops >&2; exit 7"]));
    assert_eq!((code, &*out), (7, "out\n"), "{err}");
    assert!(err.starts_with("oops\n") && err.contains("command terminated with exit code 7"), "{err}");
    let (code, _, err) = told(output(&n, &["exec", "a-it", "--", "no-such-command"]));
    assert!(code == 1 && err.contains("no-such-command"), "{code} {err}");
    // Input, to its end.
    let mut child = command(&n, &["exec", "-i", "a-it", "--", "sha256sum"]).stdin(Stdio::piped()).spawn().unwrap();
    let (text, file) = (vec![b'x'; 100_000], n.path("work/text"));
    fs::write(&file, &text).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let sum = told(child.wait_with_output().unwrap()).1;
    assert_eq!(sum.split(' ').next(), n.exec(&["sha256sum", &file]).split(' ').next());

    // A terminal, with its size.
    let mut terminal = Terminal::new(101, 41);
    let mut child = terminal.is_used_by(command(&n, &["exec", "-it", "a-it", "--", "sh"]));
    n.until("the terminal is the shell's", 10, |_| terminal.is_raw());
    terminal.master.write_all(b"until stty size | grep -q '41 101'; do sleep 0.1; done; exit 42\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));

    let mut terminal = Terminal::new(80, 24);
    let mut child = terminal.is_used_by(command(&n, &["attach", "-it", "t-it"]));
    n.until("the terminal is the container's", 10, |_| terminal.is_raw());
    terminal.master.write_all(b"typed\n").unwrap();
    until_said(&mut terminal.master, "heard typed\r\n");
    signal(&child, "TERM");
    child.wait().unwrap();
    assert!(n.ready("t"), "it stays when its client goes");

    // Files there and back.
    let (there, back) = (n.path("work/there"), n.path("work/back"));
    n.exec(&["dd", "if=/dev/urandom", &format!("of={there}"), "bs=1M", "count=5", "status=none"]);
    kubectl(&n, &["cp", &there, "a-it:/tmp/x"]);
    kubectl(&n, &["cp", "a-it:/tmp/x", &back]);
    assert!(fs::read(&there).unwrap() == fs::read(&back).unwrap(), "it came back otherwise");
    assert_eq!(fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count(), 1, "one thread, always");
    n.shutdown();
}

/// As before WebSockets: kubectl 1.30 and older, and API servers that translate.
const BY_SPDY: [(&str, &str); 2] = [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

#[test]
fn kubectl_enters_a_pod_and_reaches_its_ports_by_spdy_alone() {
    let Some((mut n, server)) = serving() else { return };
    n.put("a.yaml", &script("a", &format!("mkdir /www; echo hello >/www/index.html; httpd -p 127.0.0.1:8080 -h /www; {FOREVER}")));
    let echo = "echo begun; while read -r line; do echo \"heard $line\"; done";
    n.put("t.yaml", &(script("t", echo) + "    stdin: true\n    tty: true\n"));
    until_shown(&mut n, &server, "a");
    until_shown(&mut n, &server, "t");
    let by_spdy = |args: &[&str]| {
        let mut c = command(&n, args);
        c.envs(BY_SPDY);
        c
    };
    let (code, out, err) = told(by_spdy(&["exec", "a-it", "--", "sh", "-c", "echo out; echo oops >&2; exit 7"]).output().unwrap());
    assert_eq!((code, &*out), (7, "out\n"), "{err}");
    assert!(err.starts_with("oops\n") && err.contains("command terminated with exit code 7"), "{err}");
    let (code, _, err) = told(by_spdy(&["exec", "a-it", "--", "no-such-command"]).output().unwrap());
    assert!(code == 1 && err.contains("no-such-command"), "{code} {err}");
    // More than any queue holds, both ways at once.
    let (there, back) = (n.path("work/there"), n.path("work/back"));
    n.exec(&["dd", "if=/dev/urandom", &format!("of={there}"), "bs=1M", "count=3", "status=none"]);
    let out = by_spdy(&["exec", "-i", "a-it", "--", "cat"]).stdin(fs::File::open(&there).unwrap()).output().unwrap();
    assert!(out.stdout == fs::read(&there).unwrap(), "{} bytes came back", out.stdout.len());
    for args in [["cp", &*there, "a-it:/tmp/x"], ["cp", "a-it:/tmp/x", &*back]] {
        let (code, _, err) = told(by_spdy(&args).output().unwrap());
        assert_eq!(code, 0, "{err}");
    }
    assert!(fs::read(&there).unwrap() == fs::read(&back).unwrap(), "it came back otherwise");

    let mut terminal = Terminal::new(101, 41);
    let mut child = terminal.is_used_by(by_spdy(&["exec", "-it", "a-it", "--", "sh"]));
    n.until("the terminal is the shell's", 10, |_| terminal.is_raw());
    terminal.master.write_all(b"until stty size | grep -q '41 101'; do sleep 0.1; done; exit 42\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
    let mut terminal = Terminal::new(80, 24);
    let mut c = command(&n, &["attach", "-it", "t-it"]);
    c.envs(BY_SPDY);
    let mut child = terminal.is_used_by(c);
    n.until("the terminal is the container's", 10, |_| terminal.is_raw());
    terminal.master.write_all(b"typed\n").unwrap();
    until_said(&mut terminal.master, "heard typed\r\n");
    signal(&child, "TERM");
    child.wait().unwrap();

    let mut c = command(&n, &["port-forward", "a-it", ":8080"]);
    let (mut child, port) = listening(c.envs(BY_SPDY).spawn().unwrap());
    for _ in 0..3 {
        assert!(ask(&n, port, b"GET / HTTP/1.0\r\n\r\n").ends_with("hello\n"), "{}", n.log());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(n.ready("t") && n.ready("a") && n.restarts("a") == 0);
    n.shutdown();
}

/// kubectl port-forward to a port of the pod, and the local port it listens on.
fn forward(n: &Node, pod: &str, port: u16) -> (Child, u16) {
    listening(command(n, &["port-forward", pod, &format!(":{port}")]).spawn().unwrap())
}

fn listening(mut child: Child) -> (Child, u16) {
    let said = line(child.stdout.as_mut().unwrap());
    let local = said.strip_prefix("Forwarding from 127.0.0.1:").and_then(|s| s.split(' ').next()).and_then(|p| p.parse().ok());
    (child, local.unwrap_or_else(|| panic!("{said:?}")))
}

/// A question over a connection inside the node, and the whole answer.
fn ask(n: &Node, port: u16, question: &'static [u8]) -> String {
    inside(n, move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    })
}

#[test]
fn kubectl_port_forward_reaches_a_pods_own_localhost() {
    let Some((mut n, server)) = serving() else { return };
    // Nobody outside the pod can reach that address.
    let httpd = "mkdir /www; echo hello from inside >/www/index.html; dd if=/dev/zero of=/www/big bs=1M count=8 2>/dev/null; httpd -f -p 127.0.0.1:8080 -h /www";
    n.put("web.yaml", &pod("web", "hostname: web", httpd));
    n.put("host.yaml", &script("host", "mkdir /www; echo hello from the host >/www/index.html; httpd -f -p 127.0.0.1:8181 -h /www"));
    until_shown(&mut n, &server, "web");
    until_shown(&mut n, &server, "host");
    for (name, port) in [("web", 8080), ("host", 8181)] {
        let url = format!("http://127.0.0.1:{port}/");
        n.until("it listens", 20, |n| n.said_or_nothing(&["exec", name, "--", "wget", "-qO-", &url]).contains("hello"));
    }
    let (mut child, port) = forward(&n, "web-it", 8080);
    for _ in 0..3 {
        let answer = ask(&n, port, b"GET / HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("hello from inside\n"), "{answer:?}\n{}", n.log());
    }
    let answer = ask(&n, port, b"GET /big HTTP/1.0\r\n\r\n").len();
    assert!(answer > 8 << 20, "{answer}\n{}", n.log());
    let (mut second, host) = forward(&n, "host-it", 8181);
    let answer = ask(&n, host, b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("hello from the host\n"), "{answer:?}\n{}", n.log());
    for child in [&mut child, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Nobody listens there: kubectl says so.
    let (mut child, port) = forward(&n, "web-it", 9);
    assert_eq!(ask(&n, port, b"x"), "");
    until_said(child.stderr.as_mut().unwrap(), "onnection refused");
    let _ = child.kill();
    child.wait().unwrap();
    let task = fs::read_dir(format!("/proc/{}/task", n.pid())).unwrap().count();
    let ours = fs::read_link(format!("/proc/{}/ns/net", n.pid())).unwrap();
    let holder = fs::read_to_string(n.path("holder.pid")).unwrap();
    assert_eq!((task, ours), (1, fs::read_link(format!("/proc/{}/ns/net", holder.trim())).unwrap()), "it is where it was");
    n.shutdown();
}

#[test]
fn kubectl_top_shows_what_pods_use_and_tokens_are_reviewed() {
    let Some((mut n, server)) = serving() else { return };
    n.put("busy.yaml", &script("busy", "trap 'exit 0' TERM; while :; do :; done"));
    until_shown(&mut n, &server, "busy");
    let top = kubectl(&n, &["top", "pods", "--no-headers"]);
    let words: Vec<&str> = top.split_whitespace().collect();
    assert_eq!(words.first(), Some(&"busy-it"), "{top}");
    let millis: u64 = words[1].trim_end_matches('m').parse().unwrap();
    assert!(millis > 20 && words[2].ends_with("Mi"), "{top}");
    assert!(kubectl(&n, &["top", "node", "--no-headers"]).starts_with("it "));
    // A token's owner may do what the API server says he may.
    server.token("scraper", Some("system:serviceaccount:m:scraper"));
    server.grant("system:serviceaccount:m:scraper", "get", "metrics");
    let curl = |path: &str, token: &str| {
        let (url, bearer) = (format!("https://127.0.0.1:{PORT}{path}"), format!("Authorization: Bearer {token}"));
        n.exec(&["curl", "-s", "--cacert", &n.path("work/ca.crt"), "-H", &bearer, "-w", " %{http_code}", &url])
    };
    assert!(
        curl("/metrics/resource", "scraper")
            .contains("container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"busy-it\"}")
    );
    let refused = curl("/pods", "scraper");
    let says = "Forbidden (user=system:serviceaccount:m:scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n 403";
    assert_eq!(refused, says);
    assert_eq!(curl("/metrics/resource", "nobody"), "Unauthorized 401");
    n.shutdown();
}
