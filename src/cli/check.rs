//! `plinth check`: manifests offline, by the same code as `run`. Reads files and prints; touches nothing.
//!
//! A directory is what `run` makes of it as its only layer, masks and names that are taken included; a file is looked at alone.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::args::Args;
use super::{FAILED, Fail, INVALID};
use crate::clock;
use crate::manifest::identity::Source;
use crate::manifest::layer::{self, Kind, Revision, State};
use crate::manifest::parse::{self, Context};
use crate::manifest::read::{Pass, Reader};
use crate::manifest::recall::Memory;
use crate::manifest::yaml;
use crate::pod::{FileReport, Finding, Verdict};

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

/// A file, and what it came to.
struct Checked {
    path: PathBuf,
    says: Revision,
    /// It hides its name in lower layers, and says nothing else.
    mask: bool,
    /// Nothing is known of it but that it cannot be read.
    unread: bool,
}

impl Checked {
    fn refused(&self, strict: bool) -> bool {
        !self.says.errors.is_empty() || strict && !self.says.warnings.is_empty()
    }
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
    let mut checked = Vec::new();
    for path in args.operands.iter().map(Path::new) {
        if path.is_dir() { checked.extend(directory(path, &node_name)) } else { checked.push(file(path, &node_name)) }
    }
    let strict = args.has("strict");
    super::print(&if json { as_json(&checked, strict) } else { as_text(&checked, strict) })?;
    let refused: Vec<&Checked> = checked.iter().filter(|c| c.refused(strict)).collect();
    Ok(match refused.as_slice() {
        [] => 0,
        some if some.iter().all(|c| c.unread) => FAILED,
        _ => INVALID,
    })
}

/// What the kubelet calls the node when nobody names it: the host name in lower case.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

/// What `run` makes of a layer, if it has no other. What is no manifest by its name is left out.
fn directory(path: &Path, node_name: &str) -> Vec<Checked> {
    let (mut reader, now) = (Reader::new(path), clock::now());
    let name = reader.name();
    let parse = |bytes: &[u8], path: &Path| revision(bytes, &Context { node_name, source: Source::File, layer: name.clone(), path });
    let never = |_: &OsStr| false;
    let listing = reader.read(&Pass { now, parse: &parse, busy: &never, aside: &never });
    let reports = layer::decide(std::slice::from_ref(&listing), &mut Memory::default(), now.mono).reports;
    reports.into_iter().filter(|r| r.verdict != Verdict::Ignored).map(|r| judged(r, &listing.state)).collect()
}

/// A row of a layer. The directory itself has one where it cannot be listed.
fn judged(report: FileReport, state: &State) -> Checked {
    let entries = if let State::Listed(entries) = state { entries.as_slice() } else { &[] };
    let kind = entries.iter().find(|e| Some(&*e.name) == report.path.file_name()).map(|e| &e.kind);
    let pods = if let Some(Kind::Manifest(text)) = kind { text.pods.as_slice() } else { &[] };
    // In the order of the documents, as of a file alone.
    let pods = pods.iter().filter(|p| report.pods.contains(&p.key)).cloned().collect();
    Checked {
        says: Revision { pods, errors: report.errors, warnings: report.warnings },
        mask: report.verdict == Verdict::Mask,
        unread: matches!(kind, None | Some(Kind::Unreadable(_))),
        path: report.path,
    }
}

/// A file is itself whatever it is called.
fn file(path: &Path, node_name: &str) -> Checked {
    let bytes = read(path);
    let unread = bytes.is_err();
    let says = match bytes {
        Ok(bytes) => revision(&bytes, &Context { node_name, source: Source::File, layer: "".into(), path }),
        Err(e) => {
            let finding = Finding { message: format!("cannot be read: {e}"), ..Finding::default() };
            Revision { errors: vec![finding], ..Revision::default() }
        }
    };
    Checked { path: path.to_owned(), says, mask: false, unread }
}

fn revision(bytes: &[u8], context: &Context<'_>) -> Revision {
    let parsed = parse::file(bytes, context);
    Revision { pods: parsed.pods.into_iter().map(Rc::new).collect(), errors: parsed.errors, warnings: parsed.warnings }
}

/// One byte more than is allowed, so that a file that is too large is seen to be.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn as_json(checked: &[Checked], strict: bool) -> String {
    let files = checked.iter().map(|c| FileEntry {
        path: &c.path,
        verdict: if c.refused(strict) { "rejected" } else { "accepted" },
        pods: c.says.pods.iter().map(|w| &*w.object).collect(),
        errors: &c.says.errors,
        warnings: &c.says.warnings,
    });
    let report = CheckReport { api_version: "plinth.dev/v1alpha1", kind: "CheckReport", files: files.collect() };
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

fn as_text(checked: &[Checked], strict: bool) -> String {
    let mut out = String::new();
    for c in checked {
        for e in &c.says.errors {
            line(&mut out, &c.path, e, "");
        }
        for w in &c.says.warnings {
            line(&mut out, &c.path, w, if strict { "" } else { "warning: " });
        }
        if c.mask {
            let _ = writeln!(out, "{}: ok: masks this name in lower layers", c.path.display());
        } else if !c.refused(strict) {
            let pods: Vec<_> = c.says.pods.iter().map(|p| p.key.to_string()).collect();
            let _ = writeln!(out, "{}: ok: {}", c.path.display(), pods.join(", "));
        }
    }
    let bad = checked.iter().filter(|c| c.refused(strict)).count();
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
