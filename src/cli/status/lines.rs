//! What `plinth status` prints for people: the pods in kubectl's columns, and the manifests that need attention.

use crate::cli::text::{Paint, Tone, age_between, table, tame};
use crate::pod::Verdict;
use crate::socket::wire::{Manifest, PodRow, Status};

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
            _ if manifest.stale && !manifest.errors.is_empty() => "refused in part, last good one runs",
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

/// Later lines keep the first's columns: with a namespace, of a fixed least width, as nobody knows what comes.
pub fn watch_lines(status: &Status, rows: &[&PodRow], first: bool, wide: bool) -> String {
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
