//! The test API server as a program: in a pod, beside a demo, under a bench.
//!
//! `apiserver --pki DIR [--listen 127.0.0.1:6443] [--node NAME] [--etcd 127.0.0.1:2379] [--approve] [--log] [--init]`
//!
//! DIR keeps its authority and gets kubeconfigs: `admin`, one for each `--node` by its name, and `bootstrap` for a node that is to ask for
//! its identity. `--init` makes these and ends. With `--etcd` its objects outlive it, as one value; without an answer from there within ten
//! seconds it ends, as a kube-apiserver does. `--log` prints each request.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test's program fails by panicking")]
#![allow(missing_docs)]

#[path = "mod.rs"]
mod apiserver;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// Without an answer for so long there is no etcd.
const PATIENCE: Duration = Duration::from_secs(10);
const KEY: &[u8] = b"/test/objects";

fn main() {
    // `cargo test` runs every program it built.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let all = |flag: &str| args.windows(2).filter(|w| w[0] == flag).map(|w| w[1].clone()).collect::<Vec<_>>();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let Some(pki) = all("--pki").pop() else { return println!("usage: apiserver --pki DIR [--listen ADDR] [--node NAME] [--etcd ADDR]") };
    let addr: SocketAddr = all("--listen").pop().unwrap_or("127.0.0.1:6443".into()).parse().unwrap();
    let pki = Path::new(&pki);
    std::fs::create_dir_all(pki).unwrap();
    let etcd: Option<SocketAddr> = all("--etcd").pop().map(|a| a.parse().unwrap());
    let listener = if has("--init") { TcpListener::bind("127.0.0.1:0") } else { TcpListener::bind(addr) };
    let server = ApiServer::of(listener.unwrap(), addr, pki);
    server.token("bootstrap", Some("system:bootstrap:test"));
    server.approves(has("--approve").then(|| Duration::from_secs(365 * 24 * 3600)));
    let kubeconfig = |name: &str, text: &dyn Fn() -> String| {
        let path = pki.join(name);
        if !path.exists() {
            std::fs::write(path, text()).unwrap();
        }
    };
    kubeconfig("ca.pem", &|| server.authority());
    kubeconfig("admin", &|| server.kubeconfig("admin"));
    kubeconfig("bootstrap", &|| server.kubeconfig_of_token("bootstrap"));
    all("--node").iter().for_each(|node| kubeconfig(node, &|| server.kubeconfig(&format!("system:node:{node}"))));
    if has("--init") {
        return;
    }
    let mut kept = Value::Null;
    if let Some(etcd) = etcd {
        let end = Instant::now() + PATIENCE;
        kept = loop {
            match ask(etcd, "/v3/kv/range", &json!({"key": ByteString(KEY.to_vec())})) {
                Ok(found) => break found["kvs"][0]["value"].clone(),
                Err(e) if Instant::now() > end => {
                    eprintln!("etcd at {etcd} does not answer: {e}");
                    std::process::exit(1);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        if kept.is_string() {
            let ByteString(text) = serde_json::from_value(kept.clone()).unwrap();
            server.restore(&serde_json::from_slice(&text).unwrap());
        }
    }
    println!("serving {addr}, {} objects", server.list("pods").len());
    loop {
        server.moved(Duration::from_secs(3600));
        for asked in server.asked().into_iter().filter(|_| has("--log")) {
            println!("{} {} {} {}", asked.user, asked.method, asked.path, asked.code);
        }
        let Some(etcd) = etcd else { continue };
        let value = json!(ByteString(server.dump().to_string().into_bytes()));
        if value != kept {
            match ask(etcd, "/v3/kv/put", &json!({"key": ByteString(KEY.to_vec()), "value": value})) {
                Ok(_) => kept = value,
                Err(e) => {
                    eprintln!("etcd at {etcd}: {e}");
                    std::thread::sleep(Duration::from_millis(200));
                    server.stir();
                }
            }
        }
    }
}

/// etcd's JSON gateway, a connection for each question.
fn ask(etcd: SocketAddr, path: &str, body: &Value) -> Result<Value, String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut s = TcpStream::connect_timeout(&etcd, Duration::from_secs(2)).map_err(failed)?;
    s.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    let body = body.to_string();
    write!(s, "POST {path} HTTP/1.0\r\nhost: etcd\r\ncontent-length: {}\r\n\r\n{body}", body.len()).map_err(failed)?;
    let mut answer = String::new();
    s.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer that is cut off")?;
    if !head.lines().next().unwrap_or_default().contains(" 200 ") {
        return Err(format!("{head} {body}"));
    }
    serde_json::from_str(body).map_err(|e| e.to_string())
}
