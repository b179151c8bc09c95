//! Rotation as the kubelet names it: `<n>.log` becomes `<n>.log.YYYYMMDD-HHMMSS`, the oldest go.
//!
//! Never compresses: the kubelet gzips all but the newest, which would be 10 MiB of deflate in the one loop (or a child
//! process per rotation) to save what `log_max_bytes` × `log_max_files` already bounds. A `.gz` left by a kubelet is counted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::line::{suffix, suffix_time};
use crate::clock::Wall;

/// Moves the log aside under a name that sorts after every earlier one (the clock may have gone back, or two fall into one second).
/// `None`: somebody had removed it, there is nothing to move.
pub fn move_aside(path: &Path, now: Wall) -> io::Result<Option<PathBuf>> {
    let newest = rotated(path)?.pop().and_then(|p| time_of(path, &p));
    let at = newest.map_or(now.secs(), |t| now.secs().max(t.secs() + 1));
    let aside = with_suffix(path, &suffix(Wall(at.saturating_mul(1_000_000_000))));
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Deletes the oldest until at most `keep` rotated files are left.
pub fn prune(path: &Path, keep: usize) -> io::Result<()> {
    let all = rotated(path)?;
    for old in all.iter().take(all.len().saturating_sub(keep)) {
        fs::remove_file(old)?;
    }
    Ok(())
}

/// The rotated files of a log, oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(dir) = path.parent() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let candidate = entry?.path();
                if time_of(path, &candidate).is_some() {
                    found.push(candidate);
                }
            }
        }
        Err(e) if is_gone(&e) => {}
        Err(e) => return Err(e),
    }
    found.sort();
    Ok(found)
}

/// Removes a log and its rotated files; what is gone already is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    for file in rotated(path)?.iter().map(PathBuf::as_path).chain([path]) {
        match fs::remove_file(file) {
            Err(e) if !is_gone(&e) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// There is nothing of that name, or (too long a name, a file on the way) there can be nothing.
pub fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory)
}

/// Whose log a file is by its name: `<n>.log`, `<n>.log.…`. Beyond nine digits it is nobody's: no container was restarted so often.
pub fn attempt(name: &str) -> Option<u32> {
    let (number, rest) = name.split_once(".log")?;
    let counts = number.len() < 10 && number.bytes().all(|b| b.is_ascii_digit()) && (rest.is_empty() || rest.starts_with('.'));
    number.parse().ok().filter(|_| counts)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// When `candidate` was rotated away from `path`; `None`: it is something else.
pub fn time_of(path: &Path, candidate: &Path) -> Option<Wall> {
    let base = path.file_name()?.to_str()?;
    let rest = candidate.file_name()?.to_str()?.strip_prefix(base)?.strip_prefix('.')?;
    suffix_time(rest.strip_suffix(".gz").unwrap_or(rest)).filter(|_| rest.len() == 15 || rest.ends_with(".gz"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::Root;
    use super::*;

    #[test]
    fn a_name_tells_whose_log_it_is() {
        let told =
            ["0.log", "7.log.20260102-030405", "12.log.20260102-030405.gz", "x.log", ".log", "3.logs", "3", "+3.log", "4294967296.log"];
        assert_eq!(told.map(attempt), [Some(0), Some(7), Some(12), None, None, None, None, None, None]);
    }

    #[test]
    fn names_keep_their_order_when_the_clock_does_not() {
        let root = Root::new();
        let log = root.0.join("0.log");
        let at = Wall::parse("2026-01-02T03:04:05Z").unwrap();
        for (n, now) in [at, at, Wall(0)].into_iter().enumerate() {
            fs::write(&log, n.to_string()).unwrap();
            assert!(move_aside(&log, now).unwrap().is_some());
        }
        fs::write(root.0.join("0.log.txt"), "").unwrap();
        fs::write(root.0.join("10.log.20260102-030405"), "").unwrap();
        let all = rotated(&log).unwrap();
        let names: Vec<_> = all.iter().map(|p| p.extension().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["20260102-030405", "20260102-030406", "20260102-030407"]);
        let texts: Vec<_> = all.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
        assert_eq!(texts, ["0", "1", "2"]);
        prune(&log, 1).unwrap();
        assert_eq!(rotated(&log).unwrap(), all.get(2..).unwrap());
        assert_eq!(move_aside(&log, at).unwrap(), None);
        remove(&log).unwrap();
        assert_eq!(fs::read_dir(&root.0).unwrap().count(), 2);
    }
}
