//! `plinth status`: pods in kubectl's words, then manifests that need attention.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::args::Args;
use super::client::Client;
use super::resolve::{FullName, resolve};
use super::text::{Paint, Tone, age, age_between, duration, table, tame};
use super::{Fail, INVALID, NOT_THERE, note, output, print, print_as};
use crate::pod::Verdict;
use crate::socket::wire::{Manifest, PodRow, Status};

/// While the socket is not there yet: a try costs one failed connect.
const RETRY: Duration = Duration::from_millis(100);

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

/// The first status with everything (or the pod) ready, or the last one before time is up.
fn wait(client: &Client, pod: Option<&str>, patience: Duration) -> Result<Status, Fail> {
    let until = Instant::now() + patience;
    let mut last: Option<Status> = None;
    loop {
        let failure = match follow_until(client, pod, until, &mut last) {
            Ok(true) => None,
            Ok(false) => Some(Fail::not_there(format!("`{}` closed the connection: has `plinth run` ended?", client.socket().display()))),
            Err(fail) => Some(fail),
        };
        match (failure, last.take()) {
            (None, Some(status)) => return Ok(status),
            (Some(fail), None) if fail.code != NOT_THERE || Instant::now() + RETRY >= until => return Err(fail),
            (_, Some(status)) if Instant::now() + RETRY >= until => {
                explain(&status, pod, patience);
                return Ok(status);
            }
            // Not there yet, or gone: it may come (back) within the time.
            _ => pause(RETRY),
        }
    }
}

/// True once ready; false when the server ended the stream or time was up.
fn follow_until(client: &Client, pod: Option<&str>, until: Instant, last: &mut Option<Status>) -> Result<bool, Fail> {
    let answer = client.get("/v1/status?follow=1")?;
    let mut lines = answer.lines();
    let mut line = String::new();
    loop {
        lines.get_ref().set_patience(Some(until.saturating_duration_since(Instant::now())));
        line.clear();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return Ok(false);
        }
        let status: Status = serde_json::from_str(&line).map_err(|e| Fail::failed(format!("understand the status: {e}")))?;
        let ready = match pod {
            Some(pod) => find(&status, pod).is_ok_and(|row| row.ready && row.wanted),
            None => status.ready,
        };
        *last = Some(status);
        if ready {
            return Ok(true);
        }
    }
}

fn explain(status: &Status, pod: Option<&str>, patience: Duration) {
    let who: Vec<String> = status
        .pods
        .iter()
        .filter(|p| p.wanted && !p.ready && pod.is_none_or(|asked| find(status, asked).is_ok_and(|f| f.uid == p.uid)))
        .map(|p| format!("{}/{} ({})", p.namespace, p.name, tame(&p.status)))
        .collect();
    let what = match who.as_slice() {
        [] if !status.containerd.up => "containerd does not answer".to_owned(),
        [] if !status.layers_read => "the manifest layers were not all read".to_owned(),
        [] if status.shutting_down => "all pods are being stopped".to_owned(),
        [] => format!("{} is not there", pod.unwrap_or("a pod")),
        who => who.join(", "),
    };
    note(&format!("not ready after {}: {what}; `plinth why POD` says more", age(patience)));
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
    let c = &status.containerd;
    if !c.up {
        let since = age(Duration::from_secs(c.down_seconds.unwrap_or(0)));
        note(&format!(
            "containerd at {} has not answered for {since}: {}",
            c.address,
            tame(c.message.as_deref().unwrap_or("no reason given"))
        ));
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

/// The pods; the namespace is a column only where one is not `default`, or with `wide`.
pub fn pods_table(status: &Status, rows: &[&PodRow], wide: bool, paint: Paint) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let namespaces = wide || rows.iter().any(|r| r.namespace != "default");
    let mut lines = vec![header(namespaces, wide)];
    lines.extend(rows.iter().map(|r| cells(r, &status.time, namespaces, wide, paint)));
    table(&lines)
}

fn header(namespaces: bool, wide: bool) -> Vec<String> {
    let first = if namespaces { Some("NAMESPACE") } else { None };
    let last: &[&str] = if wide { &["UID", "MANIFEST"] } else { &[] };
    let names = first.into_iter().chain(["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"]).chain(last.iter().copied());
    names.map(str::to_owned).collect()
}

fn cells(row: &PodRow, now: &str, namespaces: bool, wide: bool, paint: Paint) -> Vec<String> {
    let restarts = match &row.last_restart {
        Some(at) if row.restarts > 0 => format!("{} ({} ago)", row.restarts, age_between(Some(at), now)),
        _ => row.restarts.to_string(),
    };
    let none = || "<none>".to_owned();
    let mut cells = Vec::new();
    if namespaces {
        cells.push(row.namespace.clone());
    }
    cells.extend([
        row.name.clone(),
        format!("{}/{}", row.ready_containers, row.total_containers),
        paint.tone(tone(row), &tame(&row.status)),
        restarts,
        age_between(row.start_time.as_deref(), now),
        row.ips.first().cloned().unwrap_or_else(none),
    ]);
    if wide {
        cells.extend([row.uid.clone(), row.path.clone().unwrap_or_else(none)]);
    }
    cells
}

fn tone(row: &PodRow) -> Tone {
    let bad = ["Err", "BackOff", "Error", "Failed", "OOMKilled", "Unknown", "ExitCode", "Signal", "Invalid"];
    match row {
        _ if row.ready => Tone::Good,
        _ if bad.iter().any(|word| row.status.contains(word)) => Tone::Bad,
        _ => Tone::Busy,
    }
}

/// Refused, stale and doubtful manifests, a line for each finding.
pub fn manifests_table(status: &Status, chosen: Option<&PodRow>, paint: Paint) -> String {
    let about = |m: &&Manifest| chosen.is_none_or(|row| row.path.as_ref() == Some(&m.path));
    let mut lines = Vec::new();
    for manifest in status.manifests.iter().filter(about) {
        let verdict = match manifest.verdict {
            Verdict::Rejected if manifest.stale => "refused, last good one runs",
            Verdict::Rejected => "refused",
            Verdict::Ignored => "ignored",
            _ if manifest.stale => "missing, last good one runs",
            _ if !manifest.errors.is_empty() => "refused in part",
            _ => "warning",
        };
        let bad = !manifest.errors.is_empty() || manifest.verdict == Verdict::Rejected;
        let verdict = paint.tone(if bad { Tone::Bad } else { Tone::Busy }, verdict);
        let findings: Vec<_> = manifest.errors.iter().chain(&manifest.warnings).collect();
        if findings.is_empty() {
            lines.push(vec![manifest.path.clone(), verdict.clone(), String::new()]);
        }
        for finding in findings {
            let place = if finding.line > 0 { format!(":{}:{}", finding.line, finding.column) } else { String::new() };
            let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
            lines.push(vec![format!("{}{place}", manifest.path), verdict.clone(), tame(&format!("{field}{}", finding.message))]);
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    lines.insert(0, ["MANIFEST", "VERDICT", "PROBLEM"].map(str::to_owned).to_vec());
    table(&lines)
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

/// Later lines keep the first's columns: with a namespace, of a fixed least width, as nobody knows what comes.
fn watch_lines(status: &Status, rows: &[&PodRow], first: bool, wide: bool) -> String {
    let mut lines = vec![header(true, wide)];
    lines.extend(rows.iter().map(|r| cells(r, &status.time, true, wide, Paint::stdout())));
    for line in &mut lines {
        for (cell, least) in line.iter_mut().zip([10, 30, 5, 18, 14, 5]) {
            *cell = format!("{cell:<least$}");
        }
    }
    let text = table(&lines);
    if first { text } else { text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()) }
}

fn pause(d: Duration) {
    let span = rustix::time::Timespec { tv_sec: 0, tv_nsec: d.subsec_nanos().into() };
    let _ = rustix::thread::nanosleep(&span);
}
