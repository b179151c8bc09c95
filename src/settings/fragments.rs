//! Files, flags and kernel words to keys and values. Says of each what it does not know; decides nothing about precedence.

use std::fs;
use std::path::{Path, PathBuf};

use super::input::Input;
use super::keys::{self, KEYS};
use super::{Settings, SettingsError, kubelet};
use crate::manifest::nearest;
use crate::manifest::value::{Entry, Node, Place, Value};
use crate::manifest::yaml;
use crate::pod::Finding;

const OURS: (&str, &str) = ("plinth.dev/v1alpha1", "PlinthConfiguration");
const KUBELETS: (&str, &str) = ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration");

/// One key and its value, from a flag or a word.
#[derive(Debug)]
pub struct Given {
    place: String,
    key: &'static str,
    node: Node,
}

/// What flags or words came to.
#[derive(Debug, Default)]
pub struct Arguments {
    /// Files named to be read.
    pub config: Vec<PathBuf>,
    /// Keys set, in order.
    pub sets: Vec<Given>,
    /// What is somebody else's.
    pub rest: Vec<String>,
    /// What was taken without effect.
    pub warnings: Vec<String>,
}

impl Given {
    /// Sets it.
    pub fn apply(&self, settings: &mut Settings) -> Result<(), SettingsError> {
        set(settings, self.key, &Input { node: &self.node, base: Path::new("") }, &self.place)
    }
}

fn set(settings: &mut Settings, key: &str, input: &Input<'_>, place: &str) -> Result<(), SettingsError> {
    let wrong = |message: String| SettingsError::Wrong { place: place.to_owned(), message: format!("{key}: {message}") };
    let set = keys::find(key).ok_or_else(|| wrong("there is no such setting".into()))?;
    set(settings, input).map_err(wrong)
}

/// The files at their usual places, those that are there.
pub fn default_files() -> Result<Vec<PathBuf>, SettingsError> {
    let mut files = Vec::new();
    for dir in ["/usr/lib/plinth", "/etc/plinth"].map(Path::new) {
        files.extend(Some(dir.join("config.yaml")).filter(|f| f.exists()));
        let more = dir.join("config.d");
        if more.is_dir() {
            files.extend(yaml_files(&more)?);
        }
    }
    Ok(files)
}

/// The files named; of a directory its `*.yaml`.
pub fn named_files(paths: &[&PathBuf]) -> Result<Vec<PathBuf>, SettingsError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() { files.extend(yaml_files(path)?) } else { files.push((*path).clone()) }
    }
    Ok(files)
}

fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let failed = |source| SettingsError::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a file into the settings.
pub fn file(path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    let bytes = fs::read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    let documents = yaml::read(&bytes);
    if let Some(Finding { message, line, column, .. }) = documents.errors.into_iter().next() {
        return Err(SettingsError::Wrong { place: format!("{}:{line}:{column}", path.display()), message });
    }
    settings.warnings.extend(documents.warnings.iter().map(|f| format!("{}:{}:{}: {}", path.display(), f.line, f.column, f.message)));
    documents.roots.iter().try_for_each(|root| document(root, path, settings))
}

fn document(root: &Node, path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    let word = |name: &str| root.get(name).and_then(Node::text).unwrap_or_default();
    let found = (word("apiVersion"), word("kind"));
    let Value::Map(entries) = &root.value else {
        return Err(SettingsError::Wrong {
            place: at(path, root.place),
            message: format!("expected settings, found {}", root.value.described()),
        });
    };
    let entries = entries.iter().filter(|e| !matches!(&*e.key, "apiVersion" | "kind" | "metadata"));
    if found == OURS {
        entries.into_iter().try_for_each(|e| own(e, path, settings))
    } else if found == KUBELETS {
        kubelets(entries, root, path, settings)
    } else {
        let message =
            format!("expected kind {} of {} or {} of {}, found `{}` of `{}`", OURS.1, OURS.0, KUBELETS.1, KUBELETS.0, found.1, found.0);
        Err(SettingsError::Wrong { place: at(path, root.place), message })
    }
}

fn own(entry: &Entry, path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    if keys::find(&entry.key).is_none() {
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        settings.warnings.push(format!("{}: {}", at(path, entry.place), unknown(&entry.key, &known)));
        return Ok(());
    }
    set(settings, &entry.key, &input(&entry.node, path), &at(path, entry.node.place))
}

fn kubelets<'a>(entries: impl Iterator<Item = &'a Entry>, root: &Node, path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    let mut idle: Vec<&str> = Vec::new();
    // The kubelet takes a zero value as not set, and kubeadm writes many of them.
    for entry in entries.filter(|e| !is_zero(&e.node.value)) {
        if let Some((_, key)) = kubelet::FIELDS.iter().find(|(field, _)| *field == &*entry.key) {
            set(settings, key, &input(&entry.node, path), &at(path, entry.node.place))?;
        } else if &*entry.key == "crashLoopBackOff" {
            if let Some(node) = entry.node.get("maxContainerRestartPeriod").filter(|n| !is_zero(&n.value)) {
                set(settings, "maxContainerRestartPeriod", &input(node, path), &at(path, node.place))?;
            }
        } else if &*entry.key == "serializeImagePulls" {
            if root.get("maxParallelImagePulls").is_none_or(|n| is_zero(&n.value)) && !input(&entry.node, path).flag().unwrap_or(true) {
                settings.max_parallel_pulls = usize::MAX;
            }
        } else if kubelet::WITHOUT_EFFECT.contains(&&*entry.key) {
            idle.push(&entry.key);
        } else {
            let known: Vec<&str> = kubelet::FIELDS.iter().map(|(field, _)| *field).chain(kubelet::WITHOUT_EFFECT.iter().copied()).collect();
            settings.warnings.push(format!("{}: {}", at(path, entry.place), unknown(&entry.key, &known)));
        }
    }
    if !idle.is_empty() {
        settings.warnings.push(format!("{}: fields of KubeletConfiguration without effect here: {}", path.display(), idle.join(", ")));
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(..) => false,
        Value::Number(n, _) => n.whole() == Some(0),
        Value::Text(t) => matches!(&**t, "" | "0" | "0s"),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.iter().all(|e| is_zero(&e.node.value)),
    }
}

fn input<'a>(node: &'a Node, path: &'a Path) -> Input<'a> {
    Input { node, base: path.parent().unwrap_or(Path::new("")) }
}

fn at(path: &Path, place: Place) -> String {
    format!("{}:{}:{}", path.display(), place.line, place.column)
}

fn unknown(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown field `{key}` is ignored: did you mean `{near}`?"),
        None => format!("unknown field `{key}` is ignored"),
    }
}

/// Reads flags: every key in kebab case (`--data-dir DIR`), the kubelet's names, `--config`, and `--set key=value`.
pub fn arguments(args: &[String]) -> Result<Arguments, SettingsError> {
    let mut out = Arguments::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.rest.push(arg.clone());
            out.rest.extend(args.cloned());
            break;
        }
        let Some(flag) = arg.strip_prefix("--") else {
            out.rest.push(arg.clone());
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
        let Some(meant) = Meant::of(name) else {
            out.rest.push(arg.clone());
            continue;
        };
        let place = format!("--{name}");
        let value = match value {
            Some(value) => value,
            // Go's boolean flags take no second word.
            None if meant == Meant::Key("seccompDefault") => "true",
            None => args
                .next()
                .map(String::as_str)
                .ok_or_else(|| SettingsError::Wrong { place: place.clone(), message: "needs a value".into() })?,
        };
        out.take(&meant, place, value)?;
    }
    Ok(out)
}

/// Reads `plinth.key=value` of the kernel command line. A word that is not known costs no boot: it is a warning.
pub fn words(cmdline: &str) -> Result<Arguments, SettingsError> {
    let mut out = Arguments::default();
    for word in split(cmdline) {
        let Some((name, value)) = word.strip_prefix("plinth.").map(|w| w.split_once('=').unwrap_or((w, "true"))) else { continue };
        match Meant::of(name) {
            Some(meant) => out.take(&meant, format!("kernel command line, plinth.{name}"), value)?,
            None => out.warnings.push(format!("kernel command line: unknown word `plinth.{name}` is ignored")),
        }
    }
    Ok(out)
}

/// The words of a kernel command line; double quotes hold one together, as the kernel has it.
fn split(cmdline: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in cmdline.trim().chars() {
        match (c, words.last_mut()) {
            ('"', _) => quoted = !quoted,
            (c, _) if c.is_whitespace() && !quoted => words.push(String::new()),
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}

/// What a flag or word is about.
#[derive(Debug, PartialEq)]
enum Meant {
    Key(&'static str),
    Config,
    Set,
    Nothing,
}

impl Meant {
    /// Spelling is free in case, `-` and `_`: `--data-dir`, `plinth.data_dir`, `dataDir`.
    fn of(name: &str) -> Option<Meant> {
        let plain = |s: &str| s.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase();
        let name = plain(name);
        let alias = || kubelet::FLAGS.iter().find(|(flag, _)| *flag == name).map(|(_, key)| *key);
        match name.as_str() {
            "config" => Some(Meant::Config),
            "set" => Some(Meant::Set),
            other if kubelet::FLAGS_WITHOUT_EFFECT.contains(&other) => Some(Meant::Nothing),
            _ => KEYS.iter().map(|(key, _)| *key).find(|key| plain(key) == name).or_else(alias).map(Meant::Key),
        }
    }
}

impl Arguments {
    fn take(&mut self, meant: &Meant, place: String, value: &str) -> Result<(), SettingsError> {
        match meant {
            Meant::Config => self.config.push(value.into()),
            Meant::Nothing => self.warnings.push(format!("{place}: has no effect yet")),
            Meant::Key(key) => self.key(key, place, value),
            Meant::Set => {
                let wrong = |message: String| SettingsError::Wrong { place: place.clone(), message };
                let (name, value) = value.split_once('=').ok_or_else(|| wrong(format!("expected key=value, found `{value}`")))?;
                let Some(Meant::Key(key)) = Meant::of(name) else {
                    let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
                    let near = nearest(name, &known).map_or(String::new(), |n| format!(": did you mean `{n}`?"));
                    return Err(wrong(format!("there is no setting `{name}`{near}")));
                };
                self.key(key, format!("{place} {name}"), value);
            }
        }
        Ok(())
    }

    /// Layers named one by one are one list.
    fn key(&mut self, key: &'static str, place: String, value: &str) {
        let scalar = Node { place: Place::default(), value: Value::Text(value.into()) };
        if key == "layers" {
            let parts: Vec<&str> = value.split(',').filter(|p| !p.is_empty()).collect();
            let nodes = parts.iter().map(|p| Node { place: Place::default(), value: Value::Text((*p).into()) });
            match self.sets.iter_mut().find(|s| s.key == key).map(|s| &mut s.node.value) {
                Some(Value::List(items)) => items.extend(nodes),
                _ => self.sets.push(Given { place, key, node: Node { value: Value::List(nodes.collect()), ..scalar } }),
            }
            return;
        }
        self.sets.push(Given { place, key, node: scalar });
    }
}
