//! The labels on a container record: who it is, and how it ended. The durable facts of a container are here and nowhere else.
//!
//! Pure. `io.kubernetes.*` are the kubelet's own; `plinth.dev/*` are ours, and `plinth.dev/scheme` marks what is ours to touch.

use std::collections::HashMap;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::clock::Wall;
use crate::hex::hex;
use crate::plan::world::{Exit, RunsAs};
use crate::pod::{ImageRef, Kind, PodKey, Uid};

/// The version of this scheme; anything else is not touched.
pub const SCHEME: (&str, &str) = ("plinth.dev/scheme", "1");
/// The filter of containerd's list calls for what is ours.
pub const OURS: &str = "labels.\"plinth.dev/scheme\"==1";

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER: &str = "io.kubernetes.container.name";
const KIND: &str = "plinth.dev/kind";
const ATTEMPT: &str = "plinth.dev/attempt";
const IMAGE: &str = "plinth.dev/image";
const IMAGE_ID: &str = "plinth.dev/image-id";
const BOOT: &str = "plinth.dev/boot";
const SANDBOX: &str = "plinth.dev/sandbox";
const USER: &str = "plinth.dev/user";
const STOP_SIGNAL: &str = "plinth.dev/stop-signal";
const EXIT: &str = "plinth.dev/exit";
const REASON: &str = "plinth.dev/exit-reason";
const STARTED: &str = "plinth.dev/started";
const FINISHED: &str = "plinth.dev/finished";
const MESSAGE: &str = "plinth.dev/message";
const MESSAGE_MORE: &str = "plinth.dev/message.2";

/// containerd refuses a label whose key and value are longer than 4096 bytes together.
const VALUE_BYTES: usize = 4000;
/// containerd's identifiers: at most 76 characters, single separators.
const ID_NAME_CHARS: usize = 48;

/// What the labels of one record say.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// The pod's full name.
    pub key: PodKey,
    /// The pod.
    pub uid: Uid,
    /// The container's name in it.
    pub name: Rc<str>,
    /// Its part.
    pub kind: Kind,
    /// Which attempt.
    pub attempt: u32,
    /// The image asked for.
    pub image: ImageRef,
    /// The manifest used.
    pub image_id: Rc<str>,
    /// The boot it was made in.
    pub boot: Rc<str>,
    /// When the sandbox it was made in was made.
    pub sandbox: Option<Wall>,
    /// As whom it runs; left out where its groups are too many for a label.
    pub user: Option<Rc<RunsAs>>,
    /// The image's stop signal, as a number.
    pub stop_signal: u32,
    /// How it ended, once that is written down.
    pub exit: Option<Exit>,
}

/// The containerd id of one attempt: the same for the same attempt, so that a repeated create finds what is there.
pub fn id(uid: &Uid, name: &str, attempt: u32) -> Rc<str> {
    let pod: String = uid.0.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    // A DNS label may hold `--` and 63 characters; an id may not. What does not fit is told apart by a hash.
    let name = if name.len() <= ID_NAME_CHARS && !name.contains("--") { name.to_owned() } else { squeezed(name) };
    format!("{pod}-{name}-{attempt:x}").into()
}

fn squeezed(name: &str) -> String {
    let mut short = String::new();
    for c in name.chars().take(ID_NAME_CHARS - 9) {
        if c != '-' || !short.ends_with('-') {
            short.push(c);
        }
    }
    let hash = Sha256::digest(name.as_bytes());
    format!("{}-{}", short.trim_end_matches('-'), hex(hash.iter().take(4)))
}

/// The label filter for one pod's records.
pub fn of_pod(uid: &Uid) -> String {
    format!("{OURS},labels.\"{POD_UID}\"=={uid}")
}

/// True if the record is ours by this scheme.
pub fn ours(labels: &HashMap<String, String>) -> bool {
    labels.get(SCHEME.0).is_some_and(|v| v == SCHEME.1)
}

/// True if its end is written on the record.
pub fn ended(labels: &HashMap<String, String>) -> bool {
    labels.contains_key(EXIT)
}

impl Labels {
    /// As written on the record.
    pub fn write(&self) -> HashMap<String, String> {
        let mut out = HashMap::new();
        let mut put = |key: &str, value: String| out.insert(key.to_owned(), value);
        put(SCHEME.0, SCHEME.1.to_owned());
        put(POD_NAME, self.key.name.to_string());
        put(POD_NAMESPACE, self.key.namespace.to_string());
        put(POD_UID, self.uid.to_string());
        put(CONTAINER, self.name.to_string());
        put(KIND, word(self.kind).to_owned());
        put(ATTEMPT, self.attempt.to_string());
        put(IMAGE, self.image.to_string());
        put(IMAGE_ID, self.image_id.to_string());
        put(BOOT, self.boot.to_string());
        if let Some(sandbox) = self.sandbox {
            put(SANDBOX, sandbox.0.to_string());
        }
        if let Some(user) = self.user.as_deref().map(ids).filter(|text| text.len() <= VALUE_BYTES) {
            put(USER, user);
        }
        put(STOP_SIGNAL, self.stop_signal.to_string());
        if let Some(exit) = &self.exit {
            put(EXIT, exit.code.to_string());
            put(REASON, exit.reason.to_string());
            put(FINISHED, exit.finished.0.to_string());
            if let Some(started) = exit.started {
                put(STARTED, started.0.to_string());
            }
            if let Some(message) = &exit.message {
                let (first, more) = halves(message);
                put(MESSAGE, first.to_owned());
                if !more.is_empty() {
                    put(MESSAGE_MORE, more.to_owned());
                }
            }
        }
        out
    }

    /// From a record; `None` if it is not ours, or not whole.
    pub fn read(labels: &HashMap<String, String>) -> Option<Labels> {
        if !ours(labels) {
            return None;
        }
        let get = |key: &str| labels.get(key).map(String::as_str);
        let exit = get(EXIT).and_then(|code| code.parse().ok()).map(|code| Exit {
            code,
            started: get(STARTED).and_then(|ns| ns.parse().ok()).map(Wall),
            finished: Wall(get(FINISHED).and_then(|ns| ns.parse().ok()).unwrap_or_default()),
            reason: get(REASON).unwrap_or_default().into(),
            message: get(MESSAGE).map(|first| format!("{first}{}", get(MESSAGE_MORE).unwrap_or_default()).into()),
        });
        Some(Labels {
            key: PodKey { namespace: get(POD_NAMESPACE)?.into(), name: get(POD_NAME)?.into() },
            uid: Uid(get(POD_UID)?.into()),
            name: get(CONTAINER)?.into(),
            kind: kind(get(KIND)?)?,
            attempt: get(ATTEMPT)?.parse().ok()?,
            image: ImageRef(get(IMAGE).unwrap_or_default().into()),
            image_id: get(IMAGE_ID).unwrap_or_default().into(),
            boot: get(BOOT).unwrap_or_default().into(),
            sandbox: get(SANDBOX).and_then(|ns| ns.parse().ok()).map(Wall),
            user: get(USER).and_then(runs_as).map(Rc::new),
            stop_signal: get(STOP_SIGNAL).and_then(|n| n.parse().ok()).unwrap_or(SIGTERM),
            exit,
        })
    }
}

/// The signal of an image that names none.
pub const SIGTERM: u32 = 15;

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "init",
        Kind::Sidecar => "sidecar",
        Kind::Main => "main",
    }
}

fn kind(word: &str) -> Option<Kind> {
    match word {
        "init" => Some(Kind::Init),
        "sidecar" => Some(Kind::Sidecar),
        "main" => Some(Kind::Main),
        _ => None,
    }
}

/// `UID:GID:GROUP,GROUP`.
fn ids(user: &RunsAs) -> String {
    let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
    format!("{}:{}:{}", user.uid, user.gid, groups.join(","))
}

fn runs_as(text: &str) -> Option<RunsAs> {
    let mut parts = text.split(':');
    let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(RunsAs { uid, gid, groups: parts.next()?.split(',').filter_map(|g| g.parse().ok()).collect() })
}

/// A termination message (at most 4096 bytes) over two labels, cut where a character ends.
fn halves(message: &str) -> (&str, &str) {
    let at = |text: &str| (0..=VALUE_BYTES.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let (first, rest) = message.split_at(at(message));
    (first, rest.split_at(at(rest)).0)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` as a number; `None` if it is no signal.
pub fn signal(text: &str) -> Option<u32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
        "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.get(1..)?.parse::<u32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        34 + offset(rest)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        64u32.checked_sub(offset(rest)?)?
    } else {
        u32::try_from(NAMES.iter().position(|n| *n == name)?).ok()? + 1
    };
    (1..=64).contains(&number).then_some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels {
            key: PodKey { namespace: "default".into(), name: "web-node1".into() },
            uid: Uid("0123456789abcdef0123456789abcdef".into()),
            name: "web".into(),
            kind: Kind::Sidecar,
            attempt: 17,
            image: ImageRef("docker.io/library/busybox:1.35".into()),
            image_id: "sha256:00".into(),
            boot: "b".into(),
            sandbox: Some(Wall(4)),
            user: Some(Rc::new(RunsAs { uid: 33, gid: 33, groups: vec![33, 44] })),
            stop_signal: 3,
            exit: Some(Exit { code: 7, started: Some(Wall(5)), finished: Wall(9), reason: "Error".into(), message: Some("no".into()) }),
        }
    }

    #[test]
    fn labels_survive_the_record() {
        assert_eq!(Labels::read(&labels().write()), Some(labels()));
    }

    #[test]
    fn a_record_without_our_scheme_is_nobody() {
        let mut written = labels().write();
        written.insert(SCHEME.0.into(), "2".into());
        assert_eq!(Labels::read(&written), None);
    }

    #[test]
    fn no_label_is_longer_than_containerd_takes() {
        let mut l = labels();
        l.exit.as_mut().unwrap().message = Some("ß".repeat(5000).into());
        assert!(l.write().iter().all(|(k, v)| k.len() + v.len() <= 4096));
    }

    #[test]
    fn ids_are_valid_and_tell_names_apart() {
        let uid = labels().uid;
        assert_eq!(&*id(&uid, "web", 17), "0123456789ab-web-11");
        let long = "a".repeat(63);
        for name in [long.as_str(), "a--b", "a-b", "x---"] {
            let id = id(&uid, name, u32::MAX);
            assert!(id.len() <= 76 && !id.contains("--") && !id.ends_with('-'), "{id}");
        }
        assert_ne!(id(&uid, "a--b", 0), id(&uid, "a-b", 0));
    }

    #[test]
    fn signals_are_read_as_docker_writes_them() {
        for (text, number) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("SIGRTMAX-1", 63)] {
            assert_eq!(signal(text), Some(number), "{text}");
        }
        assert_eq!(signal("SIGNOPE"), None);
        assert_eq!(signal("0"), None);
        assert_eq!(signal("SIGRTMIN+99"), None);
    }
}
