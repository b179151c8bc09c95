//! `plinth status`: pods in kubectl's words, then manifests that need attention. `lines`: as text; `wait`: until all is ready.

mod lines;
mod wait;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

use serde_json::{Map, Value};

use super::args::Args;
use super::client::Client;
use super::resolve::{FullName, resolve};
use super::text::{Paint, age, duration, tame};
use super::{Fail, INVALID, NOT_THERE, note, output, print, print_as};
use crate::pod::Verdict;
use crate::socket::wire::{PodRow, Status};
use lines::watch_lines;
pub use lines::{manifests_table, pods_table};
use wait::wait;

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("status", args, |args| {
        let format = output("status", args)?;
        if args.has("watch") && args.has("wait") {
            return Err(Fail::usage("--watch and --wait exclude each other"));
        }
        let client = Client::new(args);
        let pod = args.operand();
        if args.has("watch") {
            return watch(&client, pod, format);
        }
        let status = match args.value("wait") {
            Some(time) => wait(&client, pod, parse_time(time)?)?,
            None => client.json("/v1/status")?,
        };
        let chosen = pod.map(|p| find(&status, p)).transpose()?;
        show(&client, &status, chosen, format)?;
        Ok(verdict(&status, chosen, args))
    })
}

fn parse_time(text: &str) -> Result<Duration, Fail> {
    duration(text).ok_or_else(|| Fail::usage(format!("--wait {text:?} is no duration: write 30s, 5m or 1h30m")))
}

/// Exit status: 3 not ready where that was asked, 4 all ready but a manifest refused.
fn verdict(status: &Status, chosen: Option<&PodRow>, args: &Args) -> u8 {
    match chosen {
        Some(row) if !row.ready => NOT_THERE,
        Some(_) => 0,
        None if !args.has("wait") => 0,
        None if !status.ready => NOT_THERE,
        None if status.manifests.iter().any(|m| m.verdict == Verdict::Rejected) => INVALID,
        None => 0,
    }
}

fn find<'a>(status: &'a Status, asked: &str) -> Result<&'a PodRow, Fail> {
    let names: Vec<FullName> = status.pods.iter().map(|p| (p.namespace.clone(), p.name.clone())).collect();
    let (ns, name) = resolve(asked, &status.node.name, &names)?;
    status.pods.iter().find(|p| p.namespace == ns && p.name == name).ok_or_else(|| Fail::not_there(format!("find pod {asked:?}")))
}

fn show(client: &Client, status: &Status, chosen: Option<&PodRow>, format: Option<&str>) -> Result<(), Fail> {
    match (format, chosen) {
        (Some("name"), _) => print(&rows(status, chosen).map(name_line).collect::<String>()),
        (Some(format @ ("json" | "yaml")), None) => print_as(format, status),
        (Some(format @ ("json" | "yaml")), Some(row)) => print_as(format, &object(client, row)?),
        (format, chosen) => {
            let wide = format == Some("wide");
            notes(status);
            print(&pods_table(status, &rows(status, chosen).collect::<Vec<_>>(), wide, Paint::stdout()))?;
            let manifests = manifests_table(status, chosen, Paint::stdout());
            if manifests.is_empty() { Ok(()) } else { print(&format!("\n{manifests}")) }
        }
    }
}

fn rows<'a>(status: &'a Status, chosen: Option<&'a PodRow>) -> impl Iterator<Item = &'a PodRow> {
    status.pods.iter().filter(move |p| chosen.is_none_or(|c| c.uid == p.uid))
}

fn name_line(row: &PodRow) -> String {
    format!("{}/{}\n", row.namespace, row.name)
}

/// The v1.Pod, as `kubectl get pod -o json` shows one.
fn object(client: &Client, row: &PodRow) -> Result<Value, Fail> {
    let list: Value = client.json("/pods")?;
    let items = list.get("items").and_then(Value::as_array);
    let is_it = |p: &&Value| p.pointer("/metadata/uid").and_then(Value::as_str) == Some(&row.uid);
    let found = items.and_then(|items| items.iter().find(is_it)).and_then(Value::as_object);
    let found =
        found.ok_or_else(|| Fail::not_there(format!("show pod {}/{}: no manifest asks for it any more", row.namespace, row.name)))?;
    let mut pod = Map::new();
    pod.insert("apiVersion".into(), "v1".into());
    pod.insert("kind".into(), "Pod".into());
    pod.extend(found.clone());
    Ok(Value::Object(pod))
}

fn notes(status: &Status) {
    for why in &status.node.degraded {
        note(&format!("the machine is degraded: {}", tame(why)));
    }
    let c = &status.containerd;
    if !c.up {
        let since = age(Duration::from_secs(c.down_seconds.unwrap_or(0)));
        note(&format!(
            "containerd at {} has not answered for {since}: {}",
            c.address,
            tame(c.message.as_deref().unwrap_or("no reason given"))
        ));
    }
    if let Some(why) = status.cluster.as_ref().and_then(|c| c.message.as_deref()) {
        note(&format!("the API server is away or refuses this node, no pod depends on it: {}", tame(why)));
    }
    if !status.layers_read {
        note("the manifest layers were not all read yet");
    }
    if status.shutting_down {
        note("all pods are being stopped, then plinth ends");
    }
    if status.pods.is_empty() && status.layers_read {
        note("no manifest asks for a pod");
    }
}

/// A line for each pod that changed; with json or yaml, a whole document each time.
fn watch(client: &Client, pod: Option<&str>, format: Option<&str>) -> Result<u8, Fail> {
    let answer = client.get("/v1/status?follow=1")?;
    answer.set_patience(None);
    let mut shown: BTreeMap<String, PodRow> = BTreeMap::new();
    let mut last_manifests = String::new();
    for (number, line) in answer.lines().lines().map_while(Result::ok).enumerate() {
        let status: Status = serde_json::from_str(&line).map_err(|e| Fail::failed(format!("understand the status: {e}")))?;
        let chosen = match pod.map(|p| find(&status, p)) {
            Some(Err(fail)) if number == 0 => return Err(fail),
            Some(Err(_)) => continue,
            Some(Ok(row)) => Some(row),
            None => None,
        };
        if let Some(format @ ("json" | "yaml")) = format {
            let separator = if format == "yaml" { "---\n" } else { "" };
            print(separator)?;
            match chosen {
                Some(row) => print_as(format, &object(client, row)?)?,
                None => print_as(format, &status)?,
            }
            continue;
        }
        let changed: Vec<&PodRow> = rows(&status, chosen).filter(|r| shown.get(&r.uid) != Some(r)).collect();
        let text = match format {
            Some("name") => changed.iter().map(|r| name_line(r)).collect(),
            _ => watch_lines(&status, &changed, number == 0, format == Some("wide")),
        };
        print(&text)?;
        let manifests = manifests_table(&status, chosen, Paint::stdout());
        if manifests != last_manifests && format != Some("name") {
            print(&manifests)?;
            last_manifests = manifests;
        }
        shown = status.pods.into_iter().map(|p| (p.uid.clone(), p)).collect();
    }
    Err(Fail::failed(format!("`{}` closed the connection: has `plinth run` ended?", client.socket().display())))
}
