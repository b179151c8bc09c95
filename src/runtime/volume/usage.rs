//! How much the emptyDirs on disk hold that have a sizeLimit: counted now and then, a few entries at a time, and told as events.
//!
//! Never follows a link, never crosses a mount, holds two descriptors whatever it finds. What it decides is nothing: `plan` does.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use k8s_openapi::api::core::v1::Volume;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

use super::{place, volumes};
use crate::plan::action::Event;
use crate::plan::world::Sandbox;
use crate::pod::WantedPod;
use crate::quantity::Amount;
use crate::runtime::{Runtime, sandbox};

/// Entries between two turns of the loop: under a millisecond.
const TURN: u32 = 128;
/// Directories yet to be looked into, and files of several names, that are kept in mind; what is beyond is not counted.
const KEPT: usize = 1 << 16;

/// Counts for ever, each period anew; never ends.
pub async fn watch(runtime: Rc<Runtime>) {
    let period = runtime.settings.volume_stats_period;
    if period.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(period).await;
        let pods = sandbox::scan(&runtime.paths).into_iter().filter(|(_, found)| matches!(found.sandbox, Sandbox::Ready { .. }));
        for pod in pods.filter_map(|(_, found)| found.made_from) {
            for (volume, limit) in limited(&pod) {
                let dir = PathBuf::from(place(&runtime.paths, &pod, volume).path);
                match bytes(&dir).await {
                    Ok(used) => runtime.tell(Event::Measured { uid: pod.uid.clone(), volume: volume.name.as_str().into(), used, limit }),
                    Err(e) => log::debug!("pod={} count what is in {}: {e}", pod.key, dir.display()),
                }
            }
        }
    }
}

/// The pod's emptyDirs on disk that have a limit; the kernel itself keeps the others to theirs.
fn limited(pod: &WantedPod) -> impl Iterator<Item = (&Volume, u64)> {
    volumes(pod).filter_map(|v| {
        let source = v.empty_dir.as_ref().filter(|e| e.medium.as_deref().unwrap_or_default().is_empty())?;
        let limit = Amount::parse(&source.size_limit.as_ref()?.0).filter(|a| a.is_positive())?;
        Some((v, limit.units().unsigned_abs()))
    })
}

/// What a directory with all in it takes on its disk. A file of several names counts once.
async fn bytes(dir: &Path) -> rustix::io::Result<u64> {
    let root = openat2(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    let (mut total, mut turn, mut linked) = (0u64, 0u32, BTreeSet::new());
    let mut left = vec![PathBuf::from(".")];
    while let Some(at) = left.pop() {
        // Gone meanwhile, or swapped for something else: not counted.
        let Ok(here) = open(&root, &at) else { continue };
        for entry in Dir::read_from(&here)?.flatten() {
            turn += 1;
            if turn.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
            let name = entry.file_name();
            let Ok(stat) = statat(&here, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if name == c".." || (is_dir && name != c"." && left.len() >= KEPT) {
                continue;
            }
            if is_dir && name != c"." {
                left.push(at.join(OsStr::from_bytes(name.to_bytes())));
            } else if is_dir || stat.st_nlink < 2 || (linked.len() < KEPT && linked.insert(stat.st_ino)) {
                total = total.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            }
        }
    }
    Ok(total)
}

fn open(root: &OwnedFd, at: &Path) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root.as_fd(), at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), how)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_inside_counts_once_and_what_is_linked_to_does_not() {
        let dir = std::env::temp_dir().join(format!("pltest-usage-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("volume/a/b")).unwrap();
        std::fs::write(dir.join("volume/a/b/big"), vec![1u8; 1 << 20]).unwrap();
        std::fs::hard_link(dir.join("volume/a/b/big"), dir.join("volume/again")).unwrap();
        std::fs::write(dir.join("outside"), vec![1u8; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(dir.join("outside"), dir.join("volume/link")).unwrap();
        std::os::unix::fs::symlink("/", dir.join("volume/root")).unwrap();
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let used = rt.block_on(bytes(&dir.join("volume"))).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&used), "{used}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
