//! `plinth check`: manifests offline, by the same code as `run`. Reads files and prints; touches nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::manifest::identity::Source;
use crate::manifest::parse::{self, Context, Parsed};
use crate::manifest::yaml;
use crate::pod::Finding;

const USAGE: &str = "usage: plinth check [--node-name N] [--strict] [-o json] FILE|DIR...";
const OK: u8 = 0;
const FAILED_USAGE: u8 = 2;
const INVALID: u8 = 4;

#[derive(Default)]
struct Asked {
    node_name: Option<String>,
    strict: bool,
    json: bool,
    paths: Vec<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckReport<'a> {
    api_version: &'static str,
    kind: &'static str,
    files: Vec<FileEntry<'a>>,
}

#[derive(Serialize)]
struct FileEntry<'a> {
    path: &'a Path,
    verdict: &'static str,
    pods: Vec<&'a Pod>,
    errors: &'a [Finding],
    warnings: &'a [Finding],
}

/// Checks what the arguments name and prints what it found; the exit status: 0 all accepted, 2 usage, 4 something refused.
pub fn run(args: &[String]) -> u8 {
    let asked = match arguments(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("plinth check: {why}\n{USAGE}");
            return FAILED_USAGE;
        }
    };
    let node_name = asked.node_name.clone().unwrap_or_else(host_name);
    let mut checked = Vec::new();
    for path in asked.paths.iter().flat_map(|p| files(p)) {
        let parsed = check(&path, &node_name);
        checked.push((path, parsed));
    }
    let refused = |p: &Parsed| !p.errors.is_empty() || asked.strict && !p.warnings.is_empty();
    let text = if asked.json { as_json(&checked, refused) } else { as_text(&checked, refused, asked.strict) };
    if let Err(e) = io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("plinth check: write the report: {e}");
        return 1;
    }
    if checked.iter().any(|(_, p)| refused(p)) { INVALID } else { OK }
}

fn arguments(args: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut args = args.iter();
    let mut only_paths = false;
    while let Some(arg) = args.next() {
        let (flag, attached) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || attached.clone().or_else(|| args.next().cloned()).ok_or_else(|| format!("{flag} needs a value"));
        match flag {
            _ if only_paths || !arg.starts_with('-') => asked.paths.push(arg.into()),
            "--" => only_paths = true,
            "--node-name" => asked.node_name = Some(value()?),
            "--strict" => asked.strict = true,
            "-o" | "--output" => match value()?.as_str() {
                "json" => asked.json = true,
                other => return Err(format!("unknown output {other:?}: only json")),
            },
            "-ojson" => asked.json = true,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    if asked.paths.is_empty() {
        return Err("no FILE or DIR given".into());
    }
    Ok(asked)
}

/// What the kubelet calls the node when nobody names it: the host name in lower case.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

/// A file is itself whatever it is called; of a directory, the manifests in it by name, sorted.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    // A directory that cannot be listed is reported like a file that cannot be read.
    let Ok(listing) = fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut found: Vec<PathBuf> = listing.flatten().map(|e| e.path()).filter(|p| is_manifest(p)).collect();
    found.sort();
    found
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !hidden && matches!(extension, "yaml" | "yml" | "json") && path.is_file()
}

fn check(path: &Path, node_name: &str) -> Parsed {
    match read(path) {
        Ok(bytes) => parse::file(&bytes, &Context { node_name, source: Source::File, layer: "".into(), path }),
        Err(e) => {
            let finding = Finding { message: format!("cannot be read: {e}"), ..Finding::default() };
            Parsed { errors: vec![finding], ..Parsed::default() }
        }
    }
}

/// One byte more than is allowed, so that a file that is too large is seen to be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn as_json(checked: &[(PathBuf, Parsed)], refused: impl Fn(&Parsed) -> bool) -> String {
    let files = checked.iter().map(|(path, p)| {
        let verdict = if refused(p) { "rejected" } else { "accepted" };
        FileEntry { path, verdict, pods: p.pods.iter().map(|w| &*w.object).collect(), errors: &p.errors, warnings: &p.warnings }
    });
    let report = CheckReport { api_version: "plinth.dev/v1alpha1", kind: "CheckReport", files: files.collect() };
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn as_text(checked: &[(PathBuf, Parsed)], refused: impl Fn(&Parsed) -> bool, strict: bool) -> String {
    let mut out = String::new();
    for (path, parsed) in checked {
        for e in &parsed.errors {
            line(&mut out, path, e, "");
        }
        for w in &parsed.warnings {
            line(&mut out, path, w, if strict { "" } else { "warning: " });
        }
        if !refused(parsed) {
            let pods: Vec<_> = parsed.pods.iter().map(|p| p.key.to_string()).collect();
            let _ = writeln!(out, "{}: ok: {}", path.display(), pods.join(", "));
        }
    }
    let bad = checked.iter().filter(|(_, p)| refused(p)).count();
    if checked.is_empty() {
        out.push_str("no manifest found: only *.yaml, *.yml and *.json of a directory are read\n");
    } else if bad > 0 {
        let _ = writeln!(out, "{bad} of {} files refused", checked.len());
    }
    out
}

/// `file:line:col: field: message`, leaving out what there is not.
fn line(out: &mut String, path: &Path, f: &Finding, severity: &str) {
    let _ = write!(out, "{}:", path.display());
    if f.line > 0 {
        let _ = write!(out, "{}:{}:", f.line, f.column);
    }
    let _ = write!(out, " {severity}");
    if !f.field.is_empty() {
        let _ = write!(out, "{}: ", f.field);
    }
    let _ = writeln!(out, "{}", f.message);
}
