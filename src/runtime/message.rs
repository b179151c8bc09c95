//! A container's termination message: the end of its file, or of its log where the manifest says so.
//!
//! Reads at most a few KiB. The kubelet's limits: 4096 bytes of the file, 80 lines and 2048 bytes of the log, and 12 KiB over
//! all containers of a pod.

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
    let limit = (POD_BYTES / pod.containers.len().max(1)).min(4096);
    let written = end_of(&paths.termination_log(&labels.uid, &labels.name, labels.attempt), FILE_BYTES).unwrap_or_default();
    if !written.is_empty() {
        return Some(last(&String::from_utf8_lossy(&written), limit).to_owned());
    }
    let fallback = pod.container(&labels.name)?.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fallback || code == 0 {
        return None;
    }
    let log = end_of(&paths.log(&labels.key, &labels.uid, &labels.name, labels.attempt), LOG_TAIL_BYTES)?;
    let text = of_log(&String::from_utf8_lossy(&log));
    (!text.is_empty()).then(|| last(&text, limit).to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

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
