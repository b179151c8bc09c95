//! `plinth logs`: a container's log, as the socket serves it.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;

use super::args::Args;
use super::client::{Client, plain};
use super::resolve::{FullName, resolve};
use super::text::duration;
use super::{Fail, note, print_bytes};
use crate::clock::Wall;
use crate::socket::query::encode;
use crate::socket::wire::Status;

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("logs", args, |args| {
        let options = options(args)?;
        let client = Client::new(args);
        let (ns, name, container) = target(&client, args)?;
        let path = format!("/containerLogs/{}/{}/{}?{options}", encode(&ns), encode(&name), encode(&container));
        let answer = client.get(&path)?;
        if args.has("follow") {
            answer.set_patience(None);
        }
        copy(answer)
    })
}

fn copy(mut answer: impl Read) -> Result<u8, Fail> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match answer.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(n) => print_bytes(buffer.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Fail::failed(format!("read the log: {}; what was printed is not all of it", plain(&e)))),
        }
    }
}

/// The flags as the kubelet's query.
fn options(args: &Args) -> Result<String, Fail> {
    let mut query = Vec::new();
    for (flag, name) in [("follow", "follow"), ("previous", "previous"), ("timestamps", "timestamps")] {
        if args.has(flag) {
            query.push(format!("{name}=true"));
        }
    }
    // kubectl's way to say all is -1.
    if let Some(tail) = args.value("tail").filter(|t| *t != "-1") {
        let lines: u32 = tail.parse().map_err(|_| Fail::usage(format!("--tail {tail:?} is no number of lines")))?;
        query.push(format!("tailLines={lines}"));
    }
    if let Some(limit) = args.value("limit-bytes") {
        let bytes: u64 = limit.parse().map_err(|_| Fail::usage(format!("--limit-bytes {limit:?} is no number of bytes")))?;
        query.push(format!("limitBytes={bytes}"));
    }
    if let Some(since) = args.value("since") {
        query.push(match (duration(since), Wall::parse(since)) {
            (Some(d), _) => format!("sinceSeconds={}", whole_seconds(d)),
            (None, Some(_)) => format!("sinceTime={}", encode(since)),
            (None, None) => {
                return Err(Fail::usage(format!("--since {since:?} is neither a duration (5m) nor a moment (2026-01-02T03:04:05Z)")));
            }
        });
    }
    Ok(query.join("&"))
}

/// The kubelet takes whole seconds from 1 on.
fn whole_seconds(d: Duration) -> u64 {
    (d.as_secs() + u64::from(d.subsec_nanos() > 0)).max(1)
}

/// Namespace, pod and container asked for.
pub fn target(client: &Client, args: &Args) -> Result<(String, String, String), Fail> {
    let status: Status = client.json("/v1/status")?;
    let names: Vec<FullName> = status.pods.iter().filter(|p| p.wanted).map(|p| (p.namespace.clone(), p.name.clone())).collect();
    let (ns, name) = resolve(args.operand().unwrap_or_default(), &status.node.name, &names)?;
    let container = container(client, &ns, &name, args.value("container"))?;
    Ok((ns, name, container))
}

/// The one asked for, or kubectl's choice: its annotation, else the first of the spec, named when there are others.
fn container(client: &Client, ns: &str, name: &str, asked: Option<&str>) -> Result<String, Fail> {
    let list: Value = client.json("/pods")?;
    let text = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let is_it = |p: &&Value| text(p, "/metadata/name").as_deref() == Some(name) && text(p, "/metadata/namespace").as_deref() == Some(ns);
    let pods = list.get("items").and_then(Value::as_array);
    let pod = pods
        .and_then(|items| items.iter().find(is_it))
        .ok_or_else(|| Fail::not_there(format!("find pod {ns}/{name}: it has just gone")))?;
    let names = |path: &str| -> Vec<String> {
        pod.pointer(path).and_then(Value::as_array).into_iter().flatten().filter_map(|c| text(c, "/name")).collect()
    };
    let (main, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let all = || main.iter().cloned().chain(init.iter().map(|n| format!("{n} (init)"))).collect::<Vec<_>>().join(", ");
    if let Some(asked) = asked {
        let known = main.iter().chain(&init).any(|n| n == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(Fail::not_there(format!("find container {asked:?} in pod {ns}/{name}: it has {}", all())))
        };
    }
    let marked =
        pod.pointer("/metadata/annotations").and_then(|a| a.get("kubectl.kubernetes.io/default-container")).and_then(Value::as_str);
    if let Some(marked) = marked.filter(|m| main.iter().chain(&init).any(|n| n == m)) {
        return Ok(marked.to_owned());
    }
    let first = main.first().cloned().ok_or_else(|| Fail::not_there(format!("pod {ns}/{name} has no container")))?;
    if main.len() + init.len() > 1 {
        note(&format!("defaulted container {first:?} out of: {}", all()));
    }
    Ok(first)
}
