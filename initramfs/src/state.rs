//! The state file system: blank it is made, with errors it is checked, small it grows; beyond repair a tmpfs takes its place.
//!
//! Nothing that may be somebody's data is ever made anew: only a partition that begins with zeros and has no backup superblock, and one
//! whose making was cut short, which a mark behind the file system says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::Access;
use rustix::mount::MountFlags;

use crate::disk::{Block, Disks};
use crate::failure::{Doing, Done, Failure};
use crate::gpt::{u32_at, u64_at};
use crate::mounts::{INERT, Mount};

/// Where an ext4 superblock is, and as much of it as is read here.
const SUPERBLOCK: (u64, usize) = (1024, 1024);
/// That much zero at its beginning makes a partition blank.
const BLANK_BYTES: usize = 1 << 20;
/// The end of a partition that no file system is made on: what is there while one is being made says that nothing before it counts yet.
/// Less than what a file system is grown for.
const MARK_BYTES: u64 = 64 << 10;
/// And that is what it says.
const MARK: &[u8; 49] = b"plinth: no file system here yet, it is being made";
/// Up to that size a new file system is written out at once; above, the kernel does so in the background for a while.
const EAGER_BYTES: u64 = 4 << 30;

/// What is written before somebody's fsync(2) is on disk with it, data too: blocks are found at the write and not later, and are flushed before
/// the journal that names them. containerd syncs its database and not what it unpacks: with ext4's defaults a power cut within half a minute of
/// that leaves snapshots of empty files which the database calls complete.
const ORDERED: &str = "data=ordered,nodelalloc,dioread_lock";
/// The reserved blocks are for who may exceed resources (CAP_SYS_RESOURCE: containerd, plinth), and not for everybody who is root: a pod that
/// fills the disk leaves its daemons room to record that it ended, and to stop it. No user has this number.
const RESERVED_FOR: &str = "resuid=2147483647";
/// So much is reserved at least, and one part in a hundred.
const RESERVED_BYTES: u64 = 16 << 20;

/// With fewer than that left not one container can be made.
const SPARE_INODES: u64 = 64;

/// What a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ext4 {
    /// Without errors. One that was mounted when the power went is as good: the kernel replays its journal as e2fsck would, and no more.
    pub clean: bool,
    /// Its size.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// Reads a superblock (linux/fs/ext4/ext4.h), `None` if there is none.
pub fn ext4(sb: &[u8]) -> Option<Ext4> {
    let log = u32_at(sb, 24);
    if u32_at(sb, 56) & 0xffff != 0xef53 || log > 6 {
        return None;
    }
    let (state, incompat) = (u32_at(sb, 56) >> 16 & 0xffff, u32_at(sb, 96));
    let high = if incompat & 0x80 != 0 { u64::from(u32_at(sb, 336)) } else { 0 };
    // EXT4_VALID_FS and not EXT4_ERROR_FS; without a journal it is not valid while mounted.
    let clean = state & 3 == 1;
    Some(Ext4 { clean, blocks: u64_at(sb, 4) & 0xffff_ffff | high << 32, block_bytes: 1024 << log })
}

/// Blocks a file system should have to fill so much of its partition; `None`: it does already, or nearly (a megabyte is not worth a write).
pub fn grown(fs: Ext4, bytes: u64) -> Option<u64> {
    let blocks = bytes / fs.block_bytes;
    (blocks.saturating_sub(fs.blocks) * fs.block_bytes >= 1 << 20).then_some(blocks)
}

/// Mounts the state on `target`; what it did is told to `say`.
pub fn mount(disks: &mut Disks, block: &Block, target: &str, say: &dyn Fn(&str)) -> Done {
    // Smaller than it could be is still a state.
    crate::widen::widen(disks, block, say).unwrap_or_else(|why| say(&why.to_string()));
    prepare(block, say)?;
    let state = Mount {
        source: block.path(),
        target: target.into(),
        kind: "ext4",
        flags: INERT | MountFlags::NOATIME,
        data: format!("{ORDERED},{RESERVED_FOR}"),
    };
    if let Err(first) = state.make() {
        // A journal that cannot be replayed, for one: the superblock looked well.
        say(&format!("{first}; checking it"));
        check(block, say)?;
        state.make()?;
    }
    let sb = block.read(SUPERBLOCK.0, SUPERBLOCK.1)?;
    if let Some((fs, blocks)) = ext4(&sb).and_then(|fs| Some((fs, grown(fs, mark_at(block).ok()?)?))) {
        let mib = |blocks| (blocks * fs.block_bytes) >> 20;
        let grow = File::open(target).and_then(|dir| crate::sys::grow_ext4(dir, blocks));
        match grow {
            Ok(()) => say(&format!("{}: grown from {} to {} MiB", block.path(), mib(fs.blocks), mib(blocks))),
            Err(why) => say(&format!("grow the file system on {}: {why}", block.path())),
        }
    }
    // Mounted, and yet nothing can be written to it: no state. Blocks are reserved for who has to make room, inodes cannot be.
    let writable = || format!("write to the state on {}", block.path());
    rustix::fs::access(target, Access::WRITE_OK).doing(writable)?;
    match rustix::fs::statfs(target).doing(writable)?.f_ffree {
        0..SPARE_INODES => Err(Failure::new(writable(), "it holds as many files as it can")),
        _ => Ok(()),
    }
}

/// A file system that can be mounted, or the reason why there is none.
fn prepare(block: &Block, say: &dyn Fn(&str)) -> Done {
    let (found, at) = (ext4(&block.read(SUPERBLOCK.0, SUPERBLOCK.1)?), mark_at(block)?);
    // Within a file system it would be somebody's file.
    if found.is_none_or(|fs| fs.blocks.saturating_mul(fs.block_bytes) <= at) && block.read(at, MARK.len())? == MARK {
        say(&format!("{}: the making of its file system was cut short", block.path()));
        return make(block, say);
    }
    match found {
        Some(fs) if fs.clean => Ok(()),
        Some(_) if program(&["e2fsck"]).is_none() => {
            say(&format!("{} is not clean and there is no e2fsck: mounted as it is", block.path()));
            Ok(())
        }
        Some(_) => check(block, say),
        None => {
            // e2fsck finds a backup superblock, where there is one.
            let lost = match check(block, say) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let head = block.read(0, usize::try_from(block.size_bytes()?).unwrap_or(BLANK_BYTES).min(BLANK_BYTES))?;
            if head.iter().any(|b| *b != 0) {
                return Err(lost);
            }
            make(block, say)
        }
    }
}

/// e2fsck: the sure repairs first, then all of them, because a repaired state is better than none.
fn check(block: &Block, say: &dyn Fn(&str)) -> Done {
    let program =
        program(&["e2fsck"]).ok_or_else(|| Failure::new(format!("check the file system on {}", block.path()), "there is no e2fsck"))?;
    let mut last = String::new();
    for how in ["-p", "-y"] {
        let out = Command::new(program).args([how, &block.path()]).output().doing(|| format!("start {program}"))?;
        // 0: clean, 1: repaired, 2: repaired, and it would want a reboot if it were mounted.
        let code = out.status.code().unwrap_or(8);
        last = [out.stdout, out.stderr].iter().map(|b| String::from_utf8_lossy(b).trim().replace('\n', "; ")).collect::<Vec<_>>().join(" ");
        if code < 4 {
            if code > 0 {
                say(&format!("{}: repaired: {last}", block.path()));
            }
            return Ok(());
        }
    }
    Err(Failure::new(format!("check the file system on {}", block.path()), last))
}

fn make(block: &Block, say: &dyn Fn(&str)) -> Done {
    let program = program(&["mke2fs", "mkfs.ext4"]);
    let program =
        program.ok_or_else(|| Failure::new(format!("make a file system on {}", block.path()), "it is blank and there is no mke2fs"))?;
    let lazy =
        if block.size_bytes()? > EAGER_BYTES { "lazy_itable_init=1,nodiscard" } else { "lazy_itable_init=0,lazy_journal_init=0,nodiscard" };
    let reserved = (RESERVED_BYTES * 100 / block.size_bytes()?.max(1)).clamp(1, 25).to_string();
    let at = mark_at(block)?;
    let args = ["-t", "ext4", "-q", "-F", "-m", &reserved, "-L", "plinth-state", "-E", lazy];
    // A cut in the middle leaves some of its blocks: a superblock that names tables which are not there, or none and no zeros either.
    mark(block, at, MARK)?;
    let kib = format!("{}k", at / 1024);
    let out = Command::new(program).args(args).args([&block.path(), &kib]).output().doing(|| format!("start {program}"))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
        return Err(Failure::new(format!("make a file system on {}", block.path()), why));
    }
    mark(block, at, &[0; MARK.len()])?;
    say(&format!("{}: blank, made a file system", block.path()));
    Ok(())
}

/// Behind every file system made here.
fn mark_at(block: &Block) -> Done<u64> {
    block.size_bytes().map(|all| all.saturating_sub(MARK_BYTES) / MARK_BYTES * MARK_BYTES)
}

/// Whatever was written before is on the disk before this, and this when it returns.
fn mark(block: &Block, at: u64, mark: &[u8]) -> Done {
    let device = File::options().write(true).open(block.path());
    let write = |device: File| device.sync_all().and_then(|()| device.write_all_at(mark, at)).and_then(|()| device.sync_all());
    device.and_then(write).doing(|| format!("write the mark at {at} of {}", block.path()))
}

fn program(names: &[&str]) -> Option<&'static str> {
    const ALL: [&str; 6] =
        ["/sbin/e2fsck", "/usr/sbin/e2fsck", "/sbin/mke2fs", "/usr/sbin/mke2fs", "/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"];
    ALL.into_iter().find(|p| names.iter().any(|n| p.rsplit('/').next() == Some(n)) && Path::new(p).exists())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn superblock(blocks: u64, state: u16, incompat: u32) -> Vec<u8> {
        let mut sb = vec![0u8; 1024];
        sb[4..8].copy_from_slice(&(blocks as u32).to_le_bytes());
        sb[24] = 2;
        sb[56..58].copy_from_slice(&0xef53u16.to_le_bytes());
        sb[58..60].copy_from_slice(&state.to_le_bytes());
        sb[96..100].copy_from_slice(&incompat.to_le_bytes());
        sb[336..340].copy_from_slice(&((blocks >> 32) as u32).to_le_bytes());
        sb
    }

    #[test]
    fn a_file_system_with_errors_is_checked() {
        let clean = |state, incompat| ext4(&superblock(9, state, incompat)).unwrap().clean;
        assert!(clean(1, 0x80));
        assert!(clean(1, 4), "a journal to replay is the kernel's to replay");
        assert!(!clean(0, 0), "mounted when the power went, without a journal");
        assert!(!clean(3, 0), "errors were seen");
        assert!(!clean(3, 4), "errors were seen, and it was mounted when the power went");
        assert_eq!(ext4(&[0; 1024]), None);
    }

    #[test]
    fn it_grows_to_its_partition_and_never_shrinks() {
        let fs = ext4(&superblock((1 << 33) + 5, 1, 0x80)).unwrap();
        assert_eq!((fs.blocks, fs.block_bytes), ((1 << 33) + 5, 4096));
        assert_eq!(grown(fs, fs.blocks * 4096), None);
        assert_eq!(grown(fs, (fs.blocks + 255) * 4096), None, "less than a megabyte");
        assert_eq!(grown(fs, (fs.blocks + 256) * 4096 + 100), Some(fs.blocks + 256));
        assert_eq!(grown(fs, 4096), None);
        assert_eq!(ext4(&superblock((1 << 33) + 5, 1, 0)).unwrap().blocks, 5, "without 64bit the high half means nothing");
    }
}
