//! What stands behind a path: a layer, a manifest, a mask, or something that is never opened.
//!
//! Types are told by O_PATH descriptors, and only a regular file is then opened, through that very descriptor: no FIFO blocks us, no
//! device is touched, and no race can swap one in. Keeps no state.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, makedev, open, openat, readlinkat, statat};
use rustix::io::Errno;

use super::layer::{Kind, State};
use super::read::Parse;

/// The kubelet's cap on a manifest; reaching it is an error there and here.
pub const MAX_FILE_BYTES: usize = 10 << 20;

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: i64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(s: &Stat) -> Stamp {
        let nanos = |n: u64| i64::try_from(n).unwrap_or(0);
        Stamp {
            dev: s.st_dev,
            ino: s.st_ino,
            size: s.st_size,
            modified: (s.st_mtime, nanos(s.st_mtime_nsec)),
            changed: (s.st_ctime, nanos(s.st_ctime_nsec)),
        }
    }
}

/// What stands at a layer's path.
pub(super) enum Place {
    Directory(OwnedFd),
    File,
    None(State),
}

impl Place {
    pub(super) fn of(path: &Path) -> Place {
        let error = match open_directory(path) {
            Ok(fd) => return Place::Directory(fd),
            Err(e) => e,
        };
        let state = match (error, statat(CWD, path, AtFlags::empty())) {
            (Errno::NOTDIR, Ok(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => return Place::File,
            (Errno::NOTDIR, Ok(stat)) => {
                let what = described(FileType::from_raw_mode(stat.st_mode));
                State::Unreadable(format!("layer is {what}: it must be a directory, or one manifest"))
            }
            (Errno::NOENT, _) => absent(path),
            (e, _) => State::Unreadable(format!("open layer: {e}")),
        };
        Place::None(state)
    }
}

/// A layer that is not there: a link to nothing is a fault, a name that is not in its parent was removed, the rest is missing.
fn absent(path: &Path) -> State {
    if let Ok(target) = readlinkat(CWD, path, Vec::new()) {
        return State::Unreadable(format!("layer is a link to {}, which is not there", target.to_string_lossy()));
    }
    match path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        Some(parent) if open_directory(parent).is_ok() => State::Removed,
        _ => State::Missing,
    }
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a directory, sorted, dot-files left out, each with whether it is a manifest by its name.
pub(super) fn names(fd: &OwnedFd) -> Result<Vec<(OsString, bool)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !name.starts_with(b".") {
            let manifest = [&b".yaml"[..], b".yml", b".json"].iter().any(|end| name.ends_with(end));
            names.push((OsString::from_vec(name), manifest));
        }
    }
    names.sort();
    Ok(names)
}

/// What stands behind a file's name, links followed.
pub(super) enum Resolved {
    /// Gone between listing and looking.
    Vanished,
    /// Not to be read: a mask, or nothing that can be read.
    Not { stamp: Stamp, kind: Kind },
    /// A regular file, held by its path only: not opened yet.
    Regular { file: OwnedFd, stat: Stat },
}

pub(super) fn resolve(dir: &OwnedFd, name: &OsStr) -> Resolved {
    let unreadable = |why: String| {
        let stamp = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| Stamp::of(&s));
        stamp.map_or(Resolved::Vanished, |stamp| Resolved::Not { stamp, kind: Kind::Unreadable(why) })
    };
    let held = openat(dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(|file| Ok((fstat(&file)?, file)));
    let (stat, file) = match held {
        Ok(found) => found,
        Err(Errno::NOENT) => match readlinkat(dir, name, Vec::new()) {
            Ok(target) if target.as_bytes() == b"/dev/null" => {
                return Resolved::Not { stamp: Stamp { dev: 0, ino: 0, size: 0, modified: (0, 0), changed: (0, 0) }, kind: Kind::Mask };
            }
            Ok(target) => return unreadable(format!("read file: link to {}, which is not there", target.to_string_lossy())),
            Err(_) => return Resolved::Vanished,
        },
        Err(e) => return unreadable(format!("read file: {e}")),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size > 0 => Resolved::Regular { file, stat },
        FileType::RegularFile => Resolved::Not { stamp: Stamp::of(&stat), kind: Kind::Mask },
        FileType::CharacterDevice if stat.st_rdev == makedev(1, 3) => Resolved::Not { stamp: Stamp::of(&stat), kind: Kind::Mask },
        other => unreadable(format!("read file: it is {}, not a regular file", described(other))),
    }
}

fn described(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    }
}

pub(super) fn content(file: OwnedFd, stat: &Stat, path: &Path, parse: &Parse<'_>) -> Kind {
    if usize::try_from(stat.st_size).unwrap_or(usize::MAX) >= MAX_FILE_BYTES {
        return Kind::Unreadable(too_large());
    }
    match bytes(&file, usize::try_from(stat.st_size).unwrap_or(0)) {
        Ok(bytes) if bytes.len() >= MAX_FILE_BYTES => Kind::Unreadable(too_large()),
        Ok(bytes) if bytes.is_empty() => Kind::Mask,
        Ok(bytes) => Kind::Manifest(Rc::new(parse(&bytes, path))),
        Err(e) => Kind::Unreadable(format!("read file: {e}")),
    }
}

fn too_large() -> String {
    format!("read file: it is too large, a manifest may have {} MiB", MAX_FILE_BYTES >> 20)
}

/// Opens what is known to be a regular file, through the descriptor that says so: no race can make it a FIFO or a device.
fn bytes(file: &OwnedFd, size: usize) -> Result<Vec<u8>, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let mut out: Vec<u8> = Vec::with_capacity(size.saturating_add(1));
    while out.len() < MAX_FILE_BYTES {
        out.reserve(4096);
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut out)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}
