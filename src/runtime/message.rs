//! A container's termination message: the end of its file, or of its log where the manifest says so.
//!
//! Reads at most a few KiB. The kubelet's limits: 4096 bytes of the file, 80 lines and 2048 bytes of the log, and 12 KiB over
//! all containers of a pod: of what each may tell of itself its end is taken, of what its status then has no room for the beginning stays.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::labels::Labels;
use super::logs::line;
use super::paths::Paths;
use crate::pod::WantedPod;

const FILE_BYTES: u64 = 4096;
const LOG: (usize, usize) = (80, 2048);
const POD_BYTES: usize = 12 << 10;
/// So much of the log's end is looked at for its last lines.
const LOG_TAIL_BYTES: u64 = 32 << 10;

/// The message of one attempt that ended with this code.
pub fn read(paths: &Paths, pod: &WantedPod, labels: &Labels, code: u32) -> Option<String> {
    let limit = POD_BYTES / pod.containers.len().max(1);
    let written = end_of(&paths.termination_log(&labels.uid, &labels.name, labels.attempt), FILE_BYTES).unwrap_or_default();
    if !written.is_empty() {
        return Some(first(&String::from_utf8_lossy(&written), limit).to_owned());
    }
    let fallback = pod.container(&labels.name)?.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fallback || code == 0 {
        return None;
    }
    let log = end_of(&paths.log(&labels.key, &labels.uid, &labels.name, labels.attempt), LOG_TAIL_BYTES)?;
    let text = of_log(&String::from_utf8_lossy(&log));
    (!text.is_empty()).then(|| first(&text, limit).to_owned())
}

fn of_log(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for entry in text.split_inclusive('\n').filter_map(|l| line::parse(l.trim_end_matches('\n').as_bytes())) {
        let part = String::from_utf8_lossy(entry.text).into_owned();
        match lines.last_mut() {
            Some(line) if open => line.push_str(&part),
            _ => lines.push(part),
        }
        open = !entry.full;
    }
    let skip = lines.len().saturating_sub(LOG.0);
    let mut text = String::new();
    for line in lines.iter().skip(skip) {
        text.push_str(line);
        text.push('\n');
    }
    last(&text, LOG.1).to_owned()
}

fn end_of(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most))).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The last so many bytes, from a character's start.
fn last(text: &str, most: usize) -> &str {
    let from = (text.len().saturating_sub(most)..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(from..).unwrap_or_default()
}

/// The first so many bytes, to a character's end.
fn first(text: &str, most: usize) -> &str {
    let to = (0..=most.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(..to).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::Wall;
    use crate::pod::{ImageRef, Kind, Origin};
    use crate::settings::Settings;

    /// What a pod of so many containers is told of one that left these in its file and its log and ended with that code.
    fn told(containers: usize, file: &str, log: &str, code: u32) -> Option<String> {
        let dir =
            std::env::temp_dir().join(format!("pltest-message-{}-{containers}-{}-{code}", std::process::id(), file.len() + log.len()));
        let settings = Settings { data_dir: dir.join("data"), pod_logs_dir: dir.join("logs"), ..Settings::default() };
        let paths = Paths::new(&settings);
        let all: Vec<_> = (0..containers)
            .map(|n| serde_json::json!({"name": format!("c{n}"), "terminationMessagePolicy": "FallbackToLogsOnError"}))
            .collect();
        let object = serde_json::json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": all}});
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        let labels = Labels {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            name: "c0".into(),
            kind: Kind::Main,
            attempt: 0,
            image: ImageRef("a".into()),
            image_id: "".into(),
            boot: "".into(),
            sandbox: Some(Wall(0)),
            user: None,
            stop_signal: 15,
            exit: None,
        };
        let (at, log_at) = (paths.termination_log(&pod.uid, "c0", 0), paths.log(&pod.key, &pod.uid, "c0", 0));
        for (path, text) in [(&at, file), (&log_at, log)] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = read(&paths, &pod, &labels, code);
        std::fs::remove_dir_all(&dir).unwrap();
        found
    }

    #[test]
    fn limits_are_the_kubelets() {
        let file = format!("begin{}end", "x".repeat(5000));
        assert_eq!(told(1, &file, "", 0).map(|m| (m.len(), m.ends_with("xend"))), Some((4096, true)), "the end of the file");
        assert_eq!(told(1, "", "2026-01-02T03:04:05.0Z stdout F said\n", 0), None, "the log is for errors only");
        assert_eq!(told(1, "", "2026-01-02T03:04:05.0Z stdout F said\n", 1).as_deref(), Some("said\n"));
        assert_eq!(told(1, "own", "2026-01-02T03:04:05.0Z stdout F said\n", 1).as_deref(), Some("own"));
        let long: String = (0..200).map(|n| format!("2026-01-02T03:04:05.0Z stdout F {n:099}\n")).collect();
        assert_eq!(told(1, "", &long, 1).map(|m| (m.len(), m.ends_with("199\n"))), Some((2048, true)));
        // 12 KiB are shared out: each has 1 KiB of them, the first of what it says.
        let numbered: String = (0..500).map(|n| format!("{n:08}")).collect();
        let twelfth = told(12, &numbered, "", 0).unwrap();
        assert_eq!((twelfth.len(), &twelfth[..8]), (1024, "00000000"));
    }

    #[test]
    fn a_message_is_cut_at_its_start() {
        assert_eq!(last("abcdef", 3), "def");
        assert_eq!(last("aß", 1), "");
        assert_eq!(last("a", 9), "a");
    }

    #[test]
    fn the_log_gives_its_last_lines_without_their_stamps() {
        let mut log = String::new();
        for n in 0..100 {
            log.push_str(&format!("2026-01-02T03:04:05.000000000Z stdout F line {n}\n"));
        }
        log.push_str("2026-01-02T03:04:05.000000000Z stderr P half \n2026-01-02T03:04:05.000000000Z stderr F whole\n");
        let text = of_log(&log);
        assert!(text.starts_with("line 21\n") && text.ends_with("line 99\nhalf whole\n"), "{text}");
    }
}
