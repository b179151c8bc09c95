//! The verdict on one change to a good pod, a line each: `refused.txt` says what is refused, where and in which words, `defaults.txt`
//! what is filled in. How to write a line is at the head of each; `VERDICTS_BLESS=1` writes what is said now: read the diff.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fmt::Write;
use std::path::Path;

use plinth::manifest::identity::Source;
use plinth::manifest::parse::{self, Context, Parsed};
use serde_json::Value;

/// So much of a message's beginning and of its end is held still.
const HELD: usize = 70;

/// `<ab*3>` in a text is `ababab`.
fn repeated(text: &str) -> String {
    let Some((before, (inside, after))) = text.split_once('<').and_then(|(b, rest)| Some((b, rest.split_once('>')?))) else {
        return text.to_owned();
    };
    let (unit, times) = inside.rsplit_once('*').unwrap();
    format!("{before}{}{}", unit.repeat(times.parse().unwrap()), repeated(after))
}

/// The manifest that a part and its text stand for, and the path of the part.
fn manifest(part: &str, text: &str) -> (String, &'static str) {
    let text = &repeated(text);
    let container = |more: &str| format!("containers: [{{name: c, image: 'i:1', {more}}}]");
    let spec = |more: &str| format!("metadata: {{name: p}}, spec: {{{more}}}");
    let (body, path) = match part {
        "manifest" => return (text.clone(), ""),
        "metadata" => (format!("metadata: {{name: p, {text}}}, spec: {{{}}}", container("")), "metadata"),
        "spec" => (spec(&format!("{}, {text}", container(""))), "spec"),
        "container" => (spec(&container(text)), "spec.containers[0]"),
        "init" => (spec(&format!("{}, initContainers: [{{name: i, image: 'i:1', {text}}}]", container(""))), "spec.initContainers[0]"),
        "volume" => (spec(&format!("{}, volumes: [{{name: v, {text}}}]", container(""))), "spec.volumes[0]"),
        "mount" => {
            let mounted = container(&format!("volumeMounts: [{{name: v, mountPath: /v, {text}}}]"));
            (spec(&format!("{mounted}, volumes: [{{name: v, emptyDir: {{}}}}]")), "spec.containers[0].volumeMounts[0]")
        }
        "variable" => (spec(&container(&format!("env: [{{name: A, {text}}}]"))), "spec.containers[0].env[0]"),
        "probe" => (spec(&container(&format!("readinessProbe: {{{text}}}"))), "spec.containers[0].readinessProbe"),
        "hook" => (spec(&container(&format!("lifecycle: {{postStart: {{{text}}}}}"))), "spec.containers[0].lifecycle.postStart"),
        other => panic!("no part {other:?}"),
    };
    (format!("{{apiVersion: v1, kind: Pod, {body}}}"), path)
}

fn parsed(manifest: &str) -> Parsed {
    // What begins with a brace would be JSON.
    parse::file(
        format!("---\n{manifest}\n").as_bytes(),
        &Context { node_name: "n", source: Source::File, layer: "l".into(), path: Path::new("f") },
    )
}

/// A field as the table has it: relative to its part.
fn relative(field: &str, part: &str) -> String {
    match field.strip_prefix(part) {
        Some("") => ".".to_owned(),
        Some(rest) if part.is_empty() || rest.starts_with(['.', '[']) => rest.strip_prefix('.').unwrap_or(rest).to_owned(),
        _ => format!("^{field}"),
    }
}

fn refused(part: &str, text: &str) -> String {
    let (manifest, path) = manifest(part, text);
    let found = parsed(&manifest);
    let twice = found.warnings.iter().find(|w| !w.message.contains("duplicate key") && !w.message.contains("ignored"));
    assert_eq!(twice, None, "{part} {text}: not what was meant");
    let told = found.errors.iter().map(|e| {
        let (all, n) = (&e.message, e.message.chars().count());
        let part = |from, to| all.chars().skip(from).take(to).collect::<String>();
        let message = if n > 2 * HELD { format!("{}…{}", part(0, HELD), part(n - HELD, HELD)) } else { all.clone() };
        format!("{}: {message}", relative(&e.field, path))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "ok".to_owned() } else { told.join("\n  & ") }
}

/// The value at a field, as JSON.
fn filled(part: &str, text: &str, field: &str) -> String {
    let (manifest, path) = manifest(part, text);
    let found = parsed(&manifest);
    let [pod] = found.pods.as_slice() else { panic!("{part} {text}: {:?}", found.errors) };
    let whole = match field.strip_prefix('^') {
        Some(root) => root.to_owned(),
        None if field == "." => path.to_owned(),
        None if path.is_empty() => field.to_owned(),
        None => format!("{path}.{field}"),
    };
    let object: Value = serde_json::to_value(&*pod.object).unwrap();
    let pointer: String = whole.split(['.', '[']).map(|step| format!("/{}", step.trim_end_matches(']'))).collect();
    object.pointer(&pointer).map_or("nothing".to_owned(), Value::to_string)
}

/// Reads a table, answers each line, and compares or blesses.
fn table(name: &str, arrow: &str, answer: impl Fn(&str, &str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verdicts").join(name);
    let old = std::fs::read_to_string(&path).unwrap();
    let mut new = String::new();
    for line in old.lines().filter(|l| !l.starts_with("  & ")) {
        if line.is_empty() || line.starts_with('#') {
            writeln!(new, "{line}").unwrap();
            continue;
        }
        let (question, _) = line.split_once(arrow).unwrap_or((line, ""));
        let (part, text) = question.split_once(' ').unwrap_or((question, ""));
        writeln!(new, "{question}{arrow}{}", answer(part, text)).unwrap();
    }
    if std::env::var_os("VERDICTS_BLESS").is_some() {
        std::fs::write(&path, &new).unwrap();
    }
    let differing: Vec<String> =
        old.lines().zip(new.lines()).filter(|(a, b)| a != b).map(|(a, b)| format!("said: {a}\n now: {b}")).take(10).collect();
    assert!(old == new, "{name} differs; VERDICTS_BLESS=1 writes it anew\n{}", differing.join("\n"));
}

#[test]
fn each_refusal_is_told_at_its_field() {
    table("refused.txt", " => ", refused);
}

#[test]
fn defaults_are_the_api_servers() {
    table("defaults.txt", " = ", |part, text| {
        let (text, field) = text.rsplit_once("> ").unwrap_or_else(|| panic!("{text}: no field"));
        filled(part, text, field)
    });
}
