//! `/var/log/containers/<pod>_<ns>_<container>-<id>.log`: links to the logs, where log shippers look. The kubelet's names.
//!
//! Best effort: a link that cannot be made is said and costs nothing else. Never removes what does not point at our log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{LogTarget, rotate};

/// A file name's limit on the usual file systems, as the kubelet assumes it.
const NAME_BYTES: usize = 255;

/// Makes the link, in place of an old one of that name.
pub fn make(dir: &Path, target: &LogTarget, log: &Path) {
    let link = path(dir, target);
    if fs::read_link(&link).is_ok_and(|to| to == log) {
        return;
    }
    if let Err(e) = replace(dir, &link, log) {
        log::warn!("link `{}` to `{}`: {e}", link.display(), log.display());
    }
}

/// Removes the link if it is ours.
pub fn remove(dir: &Path, target: &LogTarget, log: &Path) {
    let link = path(dir, target);
    if fs::read_link(&link).is_ok_and(|to| to == log)
        && let Err(e) = fs::remove_file(&link)
    {
        log::warn!("remove link `{}`: {e}", link.display());
    }
}

/// Removes every dead link that is the one `make` makes of the log it leads to: `of` says whose log that would be.
pub fn prune(dir: &Path, of: impl Fn(&Path) -> Option<LogTarget>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for link in entries.flatten().map(|e| e.path()) {
        let Ok(to) = fs::read_link(&link) else { continue };
        if is_dead(&to) && of(&to).is_some_and(|target| path(dir, &target) == link) {
            let _ = fs::remove_file(&link);
        }
    }
}

fn is_dead(to: &Path) -> bool {
    fs::symlink_metadata(to).is_err_and(|e| rotate::is_gone(&e))
}

/// Removes every link into `logs` that `of` accepts.
pub fn sweep(dir: &Path, of: impl Fn(&Path) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for link in entries.flatten().map(|e| e.path()) {
        if fs::read_link(&link).is_ok_and(|to| of(&to)) {
            let _ = fs::remove_file(&link);
        }
    }
}

fn replace(dir: &Path, link: &Path, log: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match fs::remove_file(link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::os::unix::fs::symlink(log, link)
}

fn path(dir: &Path, target: &LogTarget) -> PathBuf {
    let mut name = format!("{}_{}_{}-{}", target.key.name, target.key.namespace, target.container, target.id);
    // Names of pods, containers and ids are ASCII; a cut elsewhere would still be a valid boundary here.
    let most = NAME_BYTES - ".log".len();
    if name.len() > most {
        name.truncate((0..=most).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0));
    }
    dir.join(name + ".log")
}
