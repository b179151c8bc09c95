//! Emptying a directory that containers may have filled with anything: deep, wide, full of links.
//!
//! Never follows a link, never crosses a mount (openat2 with RESOLVE_NO_XDEV sees bind mounts of the same file system too), needs two
//! descriptors whatever the depth: a directory found inside another is moved up first. Yields to the loop every few entries.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, ioctl_getflags, ioctl_setflags, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// Entries between two turns of the loop: some ms on a slow disk.
const TURN: u32 = 128;
/// Directories found filled again before it is given up for this time.
const AGAIN: u32 = 1000;

/// Removes the directory with all in it, the file `last` in it at the end; not there is success.
pub async fn tree(path: &Path, last: Option<&str>) -> io::Result<()> {
    let root = match open(rustix::fs::CWD, path, ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        root => root?,
    };
    let mut work = Work { root, moved: 0, turn: 0, again: 0 };
    while let Some(name) = work.first(last)? {
        work.remove(&name).await.map_err(|e| at(&name, e))?;
    }
    if let Some(last) = last {
        gone(unlinkat(&work.root, last, AtFlags::empty()))?;
    }
    super::unless_absent(std::fs::remove_dir(path))
}

fn open(at: impl AsFd, name: impl rustix::path::Arg, how: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    openat2(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), how)
}

fn gone(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Names the entry that stands in the way.
fn at(name: &CStr, e: Errno) -> io::Error {
    let e = io::Error::from(e);
    io::Error::new(e.kind(), format!("`{}` in it: {e}", name.to_string_lossy()))
}

/// Does it, and once more if flags of the file or its directory forbade it (`chattr +i`, `+a`: a privileged container may).
fn freed<T>(dir: &OwnedFd, name: &CStr, act: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::PERM) if unlock(dir) | unlock_entry(dir, name) => act(),
        done => done,
    }
}

fn unlock_entry(dir: &OwnedFd, name: &CStr) -> bool {
    // Only of these is it safe to open one: a device or a FIFO may do something on it.
    let plain = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| matches!(FileType::from_raw_mode(s.st_mode), FileType::RegularFile | FileType::Directory));
    let how = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    plain && openat2(dir, name, flags, Mode::empty(), how).is_ok_and(|fd| unlock(&fd))
}

/// True if there was such a flag and it is gone.
fn unlock(fd: &OwnedFd) -> bool {
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    ioctl_getflags(fd).is_ok_and(|flags| flags.intersects(locks) && ioctl_setflags(fd, flags.difference(locks)).is_ok())
}

struct Work {
    root: OwnedFd,
    moved: u64,
    turn: u32,
    again: u32,
}

impl Work {
    /// Some entry of the root that is not to stay till the end.
    fn first(&self, last: Option<&str>) -> rustix::io::Result<Option<CString>> {
        for entry in Dir::read_from(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." && last.is_none_or(|l| name.to_bytes() != l.as_bytes()) {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Removes one entry of the root; directories inside it become entries of the root.
    async fn remove(&mut self, name: &CStr) -> rustix::io::Result<()> {
        self.breathe().await;
        match freed(&self.root, name, || unlinkat(&self.root, name, AtFlags::empty())) {
            Err(Errno::ISDIR) => {}
            done => return gone(done),
        }
        let dir = open(&self.root, name, ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let inside = entry.file_name();
            if inside == c"." || inside == c".." {
                continue;
            }
            self.breathe().await;
            let unlink = || freed(&dir, inside, || unlinkat(&dir, inside, AtFlags::empty()));
            match if entry.file_type() == FileType::Directory { Err(Errno::ISDIR) } else { gone(unlink()) } {
                Err(Errno::ISDIR) => self.lift(&dir, inside)?,
                done => done?,
            }
        }
        match freed(&self.root, name, || unlinkat(&self.root, name, AtFlags::REMOVEDIR)) {
            // Somebody still writes there, or the listing missed what moved meanwhile: it is listed again, but not for ever.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.again < AGAIN => {
                self.again += 1;
                Ok(())
            }
            done => gone(done),
        }
    }

    /// Removes an empty directory, or moves it up to the root under a free name.
    fn lift(&mut self, dir: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        match freed(dir, name, || unlinkat(dir, name, AtFlags::REMOVEDIR)) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            done => return gone(done),
        }
        loop {
            self.moved += 1;
            match freed(dir, name, || renameat(dir, name, &self.root, format!(".removing-{}", self.moved))) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                done => return gone(done),
            }
        }
    }

    async fn breathe(&mut self) {
        self.turn += 1;
        if self.turn.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}
