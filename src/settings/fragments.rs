//! Files of settings to keys and values. Says what it does not know; decides nothing about precedence.

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

/// Sets a key, or says where that failed.
pub fn set(settings: &mut Settings, key: &str, input: &Input<'_>, place: &str) -> Result<(), SettingsError> {
    let wrong = |message: String| SettingsError::Wrong { place: place.to_owned(), message: format!("{key}: {message}") };
    let set = keys::find(key).ok_or_else(|| wrong("there is no such setting".into()))?;
    set(settings, input).map_err(wrong)
}

/// The files of settings below these directories, those that are there, and which of them cannot be listed.
pub fn files_below(dirs: &[&Path]) -> (Vec<PathBuf>, Vec<SettingsError>) {
    let (mut files, mut unlisted) = (Vec::new(), Vec::new());
    // A link to nothing is there: somebody meant it to say something.
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    for dir in dirs {
        files.extend(Some(dir.join("config.yaml")).filter(|f| is_there(f)));
        let more = dir.join("config.d");
        if is_there(&more) {
            yaml_files(&more).map_or_else(|e| unlisted.push(e), |more| files.extend(more));
        }
    }
    (files, unlisted)
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
        entries.into_iter().try_for_each(|e| own(&e.key, e, path, settings))
    } else if found == KUBELETS {
        kubelets(entries, root, path, settings)
    } else {
        let message =
            format!("expected kind {} of {} or {} of {}, found `{}` of `{}`", OURS.1, OURS.0, KUBELETS.1, KUBELETS.0, found.1, found.0);
        Err(SettingsError::Wrong { place: at(path, root.place), message })
    }
}

/// `key` is the entry's, after those of the maps it is in: `manifestURL.publicKey` may be written either way.
fn own(key: &str, entry: &Entry, path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    if keys::find(key).is_none() {
        if let Value::Map(inner) = &entry.node.value
            && KEYS.iter().any(|(k, _)| k.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
        {
            return inner.iter().try_for_each(|e| own(&format!("{key}.{}", e.key), e, path, settings));
        }
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        settings.warnings.push(format!("{}: {}", at(path, entry.place), unknown(key, &known)));
        return Ok(());
    }
    set(settings, key, &input(&entry.node, path), &at(path, entry.node.place))
}

fn kubelets<'a>(entries: impl Iterator<Item = &'a Entry>, root: &Node, path: &Path, settings: &mut Settings) -> Result<(), SettingsError> {
    let mut idle: Vec<&str> = Vec::new();
    // The kubelet takes a zero value as not set, and kubeadm writes many of them.
    for entry in entries.filter(|e| !is_zero(&e.node.value)) {
        if let Some((_, key)) = kubelet::FIELDS.iter().find(|(field, _)| *field == &*entry.key) {
            set(settings, key, &input(&entry.node, path), &at(path, entry.node.place))?;
        } else if kubelet::NESTED.iter().any(|(names, _)| names.first() == Some(&&*entry.key)) {
            for (names, key) in kubelet::NESTED.iter().filter(|(names, _)| names.first() == Some(&&*entry.key)) {
                let found = names.iter().skip(1).try_fold(&entry.node, |node, name| node.get(name));
                if let Some(node) = found.filter(|n| !is_zero(&n.value)) {
                    set(settings, key, &input(node, path), &at(path, node.place))?;
                }
            }
        } else if &*entry.key == "serializeImagePulls" {
            if root.get("maxParallelImagePulls").is_none_or(|n| is_zero(&n.value)) && !input(&entry.node, path).flag().unwrap_or(true) {
                settings.max_parallel_pulls = usize::MAX;
            }
        } else if kubelet::WITHOUT_EFFECT.contains(&&*entry.key) {
            idle.push(&entry.key);
        } else {
            let nested = kubelet::NESTED.iter().filter_map(|(names, _)| names.first());
            let fields = kubelet::FIELDS.iter().map(|(field, _)| field).chain(nested);
            let known: Vec<&str> = fields.chain(kubelet::WITHOUT_EFFECT).copied().collect();
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
