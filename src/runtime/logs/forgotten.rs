//! Logs of which nothing tells but their names: whose they are, and whether this plinth wrote them.
//!
//! A kubelet's static pods have uids of the same shape, and another plinth may write into the same directory: what this one writes
//! is marked with its data directory. What is not marked so (by a file system that cannot, too) is nobody's to remove.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use super::super::labels;
use super::super::paths::Paths;
use super::super::sandbox::is_uid;
use super::{LogTarget, rotate};
use crate::pod::{PodKey, Uid};

/// As on cgroups.
const MARK: &str = "trusted.plinth";

/// Says of a pod's log directory whose it is.
pub fn mark(dir: &Path, data: &Path) {
    if !is_marked(dir, data) {
        let _ = lsetxattr(dir, MARK, data.as_os_str().as_bytes(), XattrFlags::empty());
    }
}

fn is_marked(dir: &Path, data: &Path) -> bool {
    let data = data.as_os_str().as_bytes();
    // One more: what is longer is another's.
    let mut value = vec![0; data.len() + 1];
    matches!(lgetxattr(dir, MARK, &mut value), Ok(len) if value.get(..len) == Some(data))
}

/// Every pod that has a log directory of ours.
pub fn pods(paths: &Paths) -> Vec<(PodKey, Uid)> {
    let found = std::fs::read_dir(paths.logs()).into_iter().flatten().flatten();
    found.filter(|d| is_marked(&d.path(), paths.data())).filter_map(|d| pod(d.file_name().to_str()?)).collect()
}

/// `<ns>_<name>_<uid>`.
fn pod(dir: &str) -> Option<(PodKey, Uid)> {
    let mut parts = dir.split('_');
    let key = PodKey { namespace: parts.next()?.into(), name: parts.next()?.into() };
    let uid = parts.next().filter(|uid| is_uid(uid) && parts.next().is_none())?;
    Some((key, Uid(uid.into())))
}

/// Whose log would be at this path, if we wrote it.
pub fn target(paths: &Paths, log: &Path) -> Option<LogTarget> {
    let mut parts = log.strip_prefix(paths.logs()).ok()?.iter().map(|part| part.to_str());
    let (dir, container, file) = (parts.next()??, parts.next()??, parts.next()??);
    let ((key, uid), attempt) = (pod(dir)?, rotate::attempt(file)?);
    let id = labels::id(&uid, container, attempt);
    Some(LogTarget { key, uid, container: container.into(), attempt, id })
}
