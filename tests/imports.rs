//! The rules of the house that the compiler does not check: who may import whom, where unsafe may stand, what keeps `plan` pure,
//! and which calls would start a thread behind our back. Reads src/ as text; code of tests is exempt.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms it may name. `run`, `cli`, `main` and `lib` may name all and are not listed.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("clock", &[]),
    ("pod", &[]),
    ("quantity", &[]),
    ("hex", &[]),
    ("dial", &[]),
    ("shim", &["hex", "sys"]),
    ("session", &["pod"]),
    ("watch", &["sys", "clock"]),
    ("plan", &["pod", "clock", "quantity"]),
    ("manifest", &["hex", "watch", "dial", "sys", "clock", "pod", "quantity", "plan", "settings"]),
    ("runtime", &["hex", "shim", "watch", "dial", "sys", "clock", "pod", "quantity", "session", "plan", "settings"]),
    ("socket", &["sys", "clock", "pod", "quantity", "session", "plan", "settings"]),
    // It gives others the socket's answers.
    ("kubelet", &["hex", "clock", "plan", "pod", "session", "settings", "socket", "spdy"]),
    ("spdy", &[]),
    ("cluster", &["hex", "dial", "sys", "clock", "pod", "quantity", "plan", "settings"]),
    // Settings are YAML, and the reader of YAML with places is the manifests'.
    ("settings", &["sys", "pod", "plan", "quantity", "manifest"]),
    ("log", &["settings"]),
];

/// What would make a decision depend on more than its arguments.
const IMPURE: &[&str] =
    &["Instant", "SystemTime", "tokio", "log", "async", "await", "std::fs", "std::io", "std::env", "println", "eprintln"];

/// Each starts a thread, or waits on one.
const THREADS: &[&str] = &[
    "spawn_blocking",
    "block_in_place",
    "tokio::fs",
    "tokio::process",
    "tokio::io::stdin",
    "tokio::io::stdout",
    "std::thread",
    "ToSocketAddrs",
    "lookup_host",
];

/// One path as written, groups of a `use` taken apart: `crate::plan::world::World`, `unsafe`, `tokio::select`.
#[derive(Debug, PartialEq)]
struct Named {
    line: usize,
    path: Vec<String>,
}

impl Named {
    fn has(&self, what: &str) -> bool {
        let what: Vec<&str> = what.split("::").collect();
        self.path.windows(what.len()).any(|w| w == what)
    }
}

/// What is wrong with a file of src/, named by its path below src/.
fn faults(file: &str, text: &str) -> Vec<String> {
    if is_test(file) {
        return Vec::new();
    }
    let code = without_tests(&code_only(text));
    let room = file.split(['/', '.']).next().unwrap();
    let allowed = ROOMS.iter().find(|(r, _)| *r == room).map(|(_, allowed)| *allowed);
    let depth = depth(file);
    let mut out = Vec::new();
    let mut fault = |n: &Named, why: &str| out.push(format!("src/{file}:{}: `{}`: {why}", n.line, n.path.join("::")));
    for n in paths(&code) {
        let supers = n.path.iter().take_while(|p| *p == "super").count();
        let target = match n.path.first().map(String::as_str) {
            Some("crate") => n.path.get(1),
            Some("super") if supers >= depth => n.path.get(supers),
            _ => None,
        };
        if let (Some(allowed), Some(target)) = (allowed, target)
            && target != room
            && !allowed.contains(&target.as_str())
        {
            fault(&n, &format!("`{room}` may not know `{target}`"));
        }
        if n.has("unsafe") && room != "sys" {
            fault(&n, "unsafe stands in src/sys only");
        }
        if room == "plan"
            && let Some(what) = IMPURE.iter().find(|what| n.has(what))
        {
            fault(&n, &format!("`plan` is pure: no `{what}`"));
        }
        if let Some(what) = THREADS.iter().find(|what| n.has(what)) {
            fault(&n, &format!("`{what}` starts a thread or waits on one"));
        }
    }
    out
}

fn is_test(file: &str) -> bool {
    file.split('/').any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

/// How many `super`s lead out of the file's room to the crate.
fn depth(file: &str) -> usize {
    let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    parts.len() - usize::from(parts.last() == Some(&"mod"))
}

/// The text with comments, strings and characters blanked, line by line as long as before.
fn code_only(text: &str) -> String {
    let c: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, from: usize, to: usize| out.extend(c[from..to].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    while i < c.len() {
        let end = match (c[i], c.get(i + 1)) {
            ('/', Some('/')) => (i..c.len()).find(|j| c[*j] == '\n').unwrap_or(c.len()),
            ('/', Some('*')) => block_comment(&c, i),
            ('"', _) => string(&c, i),
            ('r', Some('"' | '#')) if i == 0 || !word(c[i - 1]) || c[i - 1] == 'b' => raw_string(&c, i).unwrap_or(i),
            ('\'', Some('\\')) => (i + 3..c.len()).find(|j| c[*j] == '\'').map_or(c.len(), |j| j + 1),
            ('\'', Some(_)) if c.get(i + 2) == Some(&'\'') => i + 3,
            _ => i,
        };
        if end == i {
            out.push(c[i]);
            i += 1;
        } else {
            blank(&mut out, i, end);
            i = end;
        }
    }
    out
}

fn block_comment(c: &[char], from: usize) -> usize {
    let (mut i, mut open) = (from + 2, 1);
    while i < c.len() && open > 0 {
        match (c[i], c.get(i + 1)) {
            ('/', Some('*')) => (i, open) = (i + 2, open + 1),
            ('*', Some('/')) => (i, open) = (i + 2, open - 1),
            _ => i += 1,
        }
    }
    i
}

fn string(c: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < c.len() && c[i] != '"' {
        i += if c[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(c.len())
}

fn raw_string(c: &[char], from: usize) -> Option<usize> {
    let hashes = c[from + 1..].iter().take_while(|c| **c == '#').count();
    let start = from + 1 + hashes;
    (c.get(start) == Some(&'"')).then_some(())?;
    let close = |j: &usize| c[*j] == '"' && c[*j + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (start + 1..c.len()).find(close).map(|j| j + 1 + hashes)
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code with every item under `#[cfg(test)]` blanked.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        out.push_str(before);
        let end = item_end(item);
        out.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    out + rest
}

/// Up to the semicolon or the closing brace of the first item.
fn item_end(item: &str) -> usize {
    let mut open = 0;
    for (i, c) in item.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return i + 1,
            '}' => open -= 1,
            ';' if open == 0 => return i + 1,
            _ => {}
        }
    }
    item.len()
}

fn paths(code: &str) -> Vec<Named> {
    let mut tokens: Vec<(usize, String)> = Vec::new();
    for (i, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(c) = rest.chars().next() {
            let len = match c {
                c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => c.len_utf8(),
            };
            tokens.push((i + 1, rest[..len].to_owned()));
            rest = rest[len..].trim_start();
        }
    }
    let (mut out, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        at = path(&tokens, at, &[], &mut out);
    }
    out
}

/// Reads the path that starts here, if one does; answers where it ends.
fn path(tokens: &[(usize, String)], mut at: usize, before: &[String], out: &mut Vec<Named>) -> usize {
    let is = |at: usize, what: &str| tokens.get(at).is_some_and(|(_, t)| t == what);
    let mut path = before.to_vec();
    let line = tokens[at].0;
    if !tokens[at].1.starts_with(word) {
        return at + 1;
    }
    loop {
        path.push(tokens[at].1.clone());
        at += 1;
        if !is(at, "::") {
            break;
        }
        at += 1;
        if is(at, "{") {
            at += 1;
            while at < tokens.len() && !is(at, "}") {
                at = self::path(tokens, at, &path, out);
            }
            return at + 1;
        }
        if !tokens.get(at).is_some_and(|(_, t)| t.starts_with(word)) {
            break;
        }
    }
    out.push(Named { line, path });
    at
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn source_keeps_the_house_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "only {} files below {}", files.len(), src.display());
    let mut found = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        found.extend(faults(&name, &fs::read_to_string(file).unwrap()));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_room_has_its_rule() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        let free = ["run", "cli", "main", "lib"].contains(&name.as_str());
        assert!(free || ROOMS.iter().any(|(r, _)| *r == name), "src/{name} has no line in ROOMS");
    }
}

#[test]
fn each_rule_can_fail() {
    for (file, text, says) in [
        ("manifest/x.rs", "use crate::runtime::logs::Pump;", "`manifest` may not know `runtime`"),
        ("manifest/x.rs", "use crate::{pod::Uid, runtime};", "`manifest` may not know `runtime`"),
        ("socket/x/y.rs", "fn f() { crate::manifest::parse::file(b) }", "`socket` may not know `manifest`"),
        ("runtime/mod.rs", "use super::socket::Server;", "`runtime` may not know `socket`"),
        ("runtime/logs/mod.rs", "use super::super::socket::Server;", "`runtime` may not know `socket`"),
        ("pod.rs", "use crate::plan::world::World;", "`pod` may not know `plan`"),
        ("plan/step.rs", "use crate::settings::Settings;", "`plan` may not know `settings`"),
        ("plan/step.rs", "use std::time::{Duration, Instant};", "no `Instant`"),
        ("plan/step.rs", "fn f() { log::info!(\"x\") }", "no `log`"),
        ("plan/step.rs", "async fn f() {}", "no `async`"),
        ("runtime/x.rs", "fn f() { unsafe { g() } }", "unsafe stands"),
        ("main.rs", "fn f() { std::thread::spawn(g); }", "`std::thread`"),
        ("run.rs", "use std::{fs, thread::{self, sleep}};", "`std::thread`"),
        ("cli/x.rs", "use tokio::{fs, net};", "`tokio::fs`"),
        ("cli/x.rs", "let x = tokio::task::spawn_blocking(f);", "`spawn_blocking`"),
        ("cli/x.rs", "use std::net::ToSocketAddrs as _;", "`ToSocketAddrs`"),
    ] {
        let found = faults(file, text);
        assert!(found.iter().any(|f| f.contains(says)), "{file}: `{text}` should say {says}, says {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_named() {
    for (file, text) in [
        ("manifest/x.rs", "use crate::pod::{Finding, Origin};\nuse super::layer;\nuse crate::manifest::yaml;"),
        ("manifest/layer/x.rs", "use super::super::rivals;"),
        ("plan/step.rs", "// Instant, tokio, crate::settings\n/* unsafe /* log::x */ */ const A: &str = \"unsafe crate::run\";"),
        ("plan/step.rs", "const A: &str = r#\"tokio \"unsafe\" \"#; const B: char = '\"'; fn f<'a>(x: &'a str) {}"),
        ("plan/step.rs", "fn f(x: Catalog) { catalog(x.login) }"),
        ("plan/step.rs", "#[cfg(test)]\nmod tests { use crate::settings::Settings; fn f() { std::thread::yield_now() } }\n"),
        ("plan/tests/a.rs", "use std::time::Instant;"),
        ("sys/x.rs", "#[expect(unsafe_code)] fn f() { unsafe { g() } }"),
        ("runtime/x.rs", "#![deny(unsafe_code)] use rustix::thread::gettid;"),
        ("run.rs", "use crate::{runtime, socket, manifest};"),
    ] {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{text}");
    }
    let after = "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::run::X;";
    assert_eq!(faults("pod.rs", after), ["src/pod.rs:3: `crate::run::X`: `pod` may not know `run`"]);
}
