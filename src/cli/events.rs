//! `plinth events`: what happened to pods and to the node, newest last.

use std::collections::BTreeSet;
use std::io::BufRead;

use serde_json::Value;

use super::client::Client;
use super::resolve::{FullName, resolve};
use super::text::{Paint, Tone, age_between, table, tame};
use super::{Fail, output, print, print_as};
use crate::clock;
use crate::socket::query::encode;
use crate::socket::wire::Status;

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("events", args, |args| {
        let format = output("events", args)?;
        let client = Client::new(args);
        let filter = match args.operand() {
            Some(pod) => {
                let (ns, name) = find(&client, pod)?;
                format!("pod={}/{}", encode(&ns), encode(&name))
            }
            None => String::new(),
        };
        if args.has("follow") {
            return follow(&client, &filter, format);
        }
        let list: Value = client.json(&format!("/v1/events?{filter}"))?;
        if let Some(format) = format {
            print_as(format, &list)?;
            return Ok(0);
        }
        let items: Vec<&Value> = list.get("items").and_then(Value::as_array).into_iter().flatten().collect();
        let mut lines = vec![["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned).to_vec()];
        lines.extend(items.iter().map(|e| cells(e, Paint::stdout())));
        print(&if items.is_empty() { String::new() } else { table(&lines) })?;
        Ok(0)
    })
}

/// A pod that is gone still has its events: names are looked for among both.
fn find(client: &Client, asked: &str) -> Result<FullName, Fail> {
    let status: Status = client.json("/v1/status")?;
    let list: Value = client.json("/v1/events")?;
    let mut names: BTreeSet<FullName> = status.pods.iter().map(|p| (p.namespace.clone(), p.name.clone())).collect();
    for event in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("/involvedObject/kind") == "Pod" {
            names.insert((text("/involvedObject/namespace"), text("/involvedObject/name")));
        }
    }
    resolve(asked, &status.node.name, &names.into_iter().collect::<Vec<_>>())
}

fn cells(event: &Value, paint: Paint) -> Vec<String> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    let count = event.get("count").and_then(Value::as_i64).unwrap_or(1);
    let now = clock::now().wall.to_string();
    let last = text("/lastTimestamp").or_else(|| text("/eventTime"));
    let mut seen = age_between(last, &now);
    if count > 1 {
        seen = format!("{seen} (x{count} over {})", age_between(text("/firstTimestamp"), &now));
    }
    let kind = text("/type").unwrap_or_default();
    let tone = if kind == "Warning" { Tone::Bad } else { Tone::Good };
    let of = text("/involvedObject/kind").unwrap_or_default().to_lowercase();
    let object = format!("{of}/{}", text("/involvedObject/name").unwrap_or_default());
    let container = text("/involvedObject/fieldPath")
        .and_then(|p| p.rsplit_once('{'))
        .map_or_else(String::new, |(_, c)| format!(" ({})", c.trim_end_matches('}')));
    vec![
        seen,
        paint.tone(tone, kind),
        tame(text("/reason").unwrap_or_default()),
        tame(&format!("{object}{container}")),
        tame(text("/message").unwrap_or_default()),
    ]
}

fn follow(client: &Client, filter: &str, format: Option<&str>) -> Result<u8, Fail> {
    let answer = client.get(&format!("/v1/events?follow=1&{filter}"))?;
    answer.set_patience(None);
    for line in answer.lines().lines().map_while(Result::ok) {
        let event: Value = serde_json::from_str(&line).map_err(|e| Fail::failed(format!("understand an event: {e}")))?;
        match format {
            Some("json") => print(&format!("{line}\n"))?,
            Some(_) => print(&format!("---\n{}", super::yaml::document(&event)))?,
            None => print(&follow_line(&event))?,
        }
    }
    Err(Fail::failed(format!("`{}` closed the connection: has `plinth run` ended?", client.socket().display())))
}

/// With the moment instead of an age: the line stays on the screen.
fn follow_line(event: &Value) -> String {
    let mut cells = cells(event, Paint::stdout());
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    if let Some(first) = cells.first_mut() {
        *first = text("/lastTimestamp").or_else(|| text("/eventTime")).unwrap_or("<unknown>").to_owned();
    }
    for (cell, least) in cells.iter_mut().zip([20, 7, 16, 30]) {
        *cell = format!("{cell:<least$}");
    }
    table(&[cells])
}
