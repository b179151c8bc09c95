//! Flags and words of the kernel command line to keys and values. Leaves alone what it does not know: it may be a verb's own.

use std::path::{Path, PathBuf};

use super::fragments::set;
use super::input::Input;
use super::keys::KEYS;
use super::{Settings, SettingsError, kubelet};
use crate::manifest::nearest;
use crate::manifest::value::{Node, Place, Value};

/// Words of the kernel command line that are for the image's init; `plinth.manifests` is a partition there, and no layer.
const INIT: [&str; 10] = ["root", "roothash", "manifests", "manifestshash", "state", "ip", "hostname", "fallback", "wait", "debug"];

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

/// Reads flags: every key in kebab case (`--data-dir DIR`), the kubelet's names, `--config`, and `--set key=value`.
pub fn flags(args: &[String]) -> Result<Arguments, SettingsError> {
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
            None if matches!(
                meant,
                Meant::Key(
                    "seccompDefault"
                        | "registerNode"
                        | "rotateCertificates"
                        | "enableServer"
                        | "anonymousAuth"
                        | "authenticationTokenWebhook"
                )
            ) =>
            {
                "true"
            }
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
            _ if INIT.contains(&name) => {}
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
            _ => KEYS.iter().map(|(key, _)| *key).find(|key| plain(key) == name).or_else(alias).map(Meant::Key),
        }
    }
}

impl Arguments {
    fn take(&mut self, meant: &Meant, place: String, value: &str) -> Result<(), SettingsError> {
        match meant {
            Meant::Config => self.config.push(value.into()),
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

    /// Layers named one by one are one list, and so are headers.
    fn key(&mut self, key: &'static str, place: String, value: &str) {
        let scalar = Node { place: Place::default(), value: Value::Text(value.into()) };
        if matches!(key, "layers" | "staticPodURLHeader") {
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
