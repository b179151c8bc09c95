//! `plinth check`: manifests offline, by the same code as `run`. Reads files and prints; touches nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::args::Args;
use super::{FAILED, Fail, INVALID};
use crate::manifest::identity::Source;
use crate::manifest::parse::{self, Context, Parsed};
use crate::manifest::yaml;
use crate::pod::Finding;

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

/// Checks what the arguments name and prints what it found; the exit status: 0 all accepted, 1 something could not
/// be read, 2 usage, 4 something refused for what it says.
pub fn run(args: &[String]) -> u8 {
    super::verb("check", args, act)
}

fn act(args: &Args) -> Result<u8, Fail> {
    let json = match args.value("output") {
        None => false,
        Some("json") => true,
        Some(other) => return Err(Fail::usage(format!("unknown output {other:?}: only json"))),
    };
    let node_name = args.value("node-name").map_or_else(host_name, str::to_owned);
    if node_name.is_empty() {
        return Err(Fail::usage("the node name is empty: give one with --node-name"));
    }
    let mut unread = 0;
    let mut checked = Vec::new();
    for path in args.operands.iter().map(Path::new).flat_map(files) {
        let bytes = read(&path);
        unread += usize::from(bytes.is_err());
        let parsed = check(bytes, &path, &node_name);
        checked.push((path, parsed));
    }
    let strict = args.has("strict");
    let refused = |p: &Parsed| !p.errors.is_empty() || strict && !p.warnings.is_empty();
    super::print(&if json { as_json(&checked, refused) } else { as_text(&checked, refused, strict) })?;
    Ok(match checked.iter().filter(|(_, p)| refused(p)).count() {
        0 => 0,
        // Nothing is known of them but that.
        bad if bad == unread => FAILED,
        _ => INVALID,
    })
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

fn check(bytes: io::Result<Vec<u8>>, path: &Path, node_name: &str) -> Parsed {
    match bytes {
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
