//! How much a directory holds: counted a few entries at a time, with others between.
//!
//! Never follows a link, never crosses a mount nor asks who is behind it (it may be away), holds two descriptors whatever it finds.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use crate::sys::mounts;

/// Entries between two turns of the loop: under a millisecond.
const TURN: u32 = 128;
/// Directories yet to be looked into, and files of several names, that are kept in mind; what is beyond is not counted.
const KEPT: usize = 1 << 16;
/// What is mounted inside is seen to be that, and not asked.
const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT).union(AtFlags::STATX_DONT_SYNC);

/// What a directory with all in it takes on its disk, bytes and inodes. A file of several names counts once.
pub async fn held(dir: &Path) -> rustix::io::Result<(u64, u64)> {
    let root = openat2(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    let (mut bytes, mut inodes, mut turn, mut linked) = (0u64, 0u64, 0u32, BTreeSet::new());
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
            if name == c".." {
                continue;
            }
            let Ok(stat) = statx(&here, name, LOOK, StatxFlags::BASIC_STATS) else { continue };
            let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
            if name != c"." && (mounts::is_root(&stat) || (is_dir && left.len() >= KEPT)) {
                continue;
            }
            if is_dir && name != c"." {
                left.push(at.join(OsStr::from_bytes(name.to_bytes())));
            } else if is_dir || stat.stx_nlink < 2 || (linked.len() < KEPT && linked.insert(stat.stx_ino)) {
                bytes = bytes.saturating_add(stat.stx_blocks.saturating_mul(512));
                inodes += 1;
            }
        }
    }
    Ok((bytes, inodes))
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
        let (used, inodes) = rt.block_on(held(&dir.join("volume"))).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&used), "{used}");
        assert_eq!(inodes, 3 + 1 + 2, "directories, the file, the links");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_mounted_inside_is_neither_counted_nor_asked() {
        crate::sys::asked::tests::beside_a_deaf_one("usage-mounts", async |dir| {
            std::fs::write(dir.join("own"), vec![1u8; 1 << 20]).unwrap();
            for name in ["healthy", "plain"] {
                std::fs::create_dir(dir.join(name)).unwrap();
            }
            mounts::tmpfs(&dir.join("healthy"), None, 0o777, false).unwrap();
            std::fs::write(dir.join("healthy/big"), vec![1u8; 4 << 20]).unwrap();
            std::fs::write(dir.join("under"), "").unwrap();
            rustix::mount::mount_bind(dir.join("healthy/big"), dir.join("under")).unwrap();
            let (used, inodes) = held(dir).await.unwrap();
            assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&used), "{used}");
            assert_eq!(inodes, 1 + 1 + 1, "itself, the file, the directory");
            // A volume in memory is a mount itself.
            assert!(held(&dir.join("healthy")).await.unwrap().0 >= 4 << 20);
            mounts::detach(&dir.join("under")).unwrap();
            mounts::detach(&dir.join("healthy")).unwrap();
        });
    }

    #[test]
    fn while_a_large_directory_is_counted_others_have_their_turn() {
        let dir = std::env::temp_dir().join(format!("pltest-usage-large-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        (0..20 * TURN).for_each(|n| drop(std::fs::File::create(dir.join(n.to_string())).unwrap()));
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut turns, mut counted) = (0, None);
        rt.block_on(async {
            let mut count = std::pin::pin!(held(&dir));
            while counted.is_none() {
                turns += 1;
                if let std::task::Poll::Ready(held) = futures_util::poll!(&mut count) {
                    counted = Some(held.unwrap().1);
                }
            }
        });
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(counted, Some(u64::from(20 * TURN) + 1));
        assert!(turns > 20, "{turns}");
    }
}
