//! subPath: a path inside a volume that a container may have filled with links. Opened so that none leads out, then pinned.
//!
//! What was opened is bound on `volume-subpaths/<volume>/<container>/<mount>` (the kubelet's place) by its descriptor, so a link
//! swapped in later changes nothing. A restarted container opens it again, and keeps the pin only if that holds the same file, as with
//! the kubelet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, lstat, mkdirat, openat2};

use super::{VolumeError, file};
use crate::sys::mounts;

/// Opens `sub` below `volume` (making missing directories with the volume's mode) and binds it on `pin`.
pub fn pin(name: &str, volume: &Path, sub: &str, pin: &Path) -> Result<(), VolumeError> {
    let failed = |verb, path: &Path| file(name, verb, path);
    let whole = volume.join(sub);
    let opened = open(volume, sub).map_err(|e| match e {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
            let why = format!("subPath `{sub}` leads out of the volume by a link or `..`");
            VolumeError::Refused { name: name.to_owned(), why }
        }
        e => failed("open", &whole)(e.into()),
    })?;
    let found = fstat(&opened).map_err(|e| failed("look at", &whole)(e.into()))?;
    if mounts::is_mount_point(pin) {
        let same = |pinned: Stat| (pinned.st_dev, pinned.st_ino) == (found.st_dev, found.st_ino);
        if lstat(pin).is_ok_and(same) {
            return Ok(());
        }
        mounts::detach(pin).map_err(failed("unpin", pin))?;
    }
    target(pin, FileType::from_raw_mode(found.st_mode) == FileType::Directory).map_err(failed("make", pin))?;
    mounts::bind_fd(opened.as_fd(), pin).map_err(failed("pin", &whole))
}

/// Something of the same kind to bind on.
fn target(pin: &Path, is_dir: bool) -> io::Result<()> {
    if let Some(parent) = pin.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Left by a pin of another kind.
    let _ = if is_dir { std::fs::remove_file(pin) } else { std::fs::remove_dir(pin) };
    if is_dir { std::fs::create_dir_all(pin) } else { std::fs::OpenOptions::new().create(true).append(true).open(pin).map(drop) }
}

const SAFELY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

fn open(volume: &Path, sub: &str) -> rustix::io::Result<OwnedFd> {
    // The volume's own path is the node's; only what lies inside is not to be trusted.
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mut sub: PathBuf = Path::new(sub).components().filter(|c| *c != Component::CurDir).collect();
    if sub.as_os_str().is_empty() {
        sub.push(".");
    }
    let found = openat2(&root, &sub, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), SAFELY);
    if found.as_ref().err() != Some(&rustix::io::Errno::NOENT) {
        return found;
    }
    make(&root, &sub)
}

/// Makes the missing directories one by one, each below one that was opened safely.
fn make(root: &OwnedFd, sub: &Path) -> rustix::io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode & 0o7777);
    let mut at = openat2(root, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), SAFELY)?;
    let mut path = PathBuf::new();
    for part in sub.components() {
        path.push(part);
        match mkdirat(&at, part.as_os_str(), mode) {
            // The umask took bits away; the kubelet's directories have the volume's mode whatever it is.
            Ok(()) => {
                let made = openat2(&at, part.as_os_str(), OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), SAFELY)?;
                rustix::fs::fchmod(&made, mode)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        at = openat2(root, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), SAFELY)?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_sub_path_is_made_inside_and_never_leads_out() {
        let dir = std::env::temp_dir().join(format!("pltest-subpath-{}", std::process::id()));
        let (volume, secret) = (dir.join("volume"), dir.join("secret"));
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::create_dir_all(&secret).unwrap();
        std::fs::create_dir_all(volume.join("real")).unwrap();
        std::fs::write(volume.join("real/file"), "x").unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink(&secret, volume.join("away")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        for bad in ["up", "away", "up/x", "away/new/dir", "magic/etc", "../secret", "real/../../secret"] {
            assert!(open(&volume, bad).is_err(), "{bad}");
        }
        for good in ["real", "real/file", "inside/file", "new/deep/dir", "", "./real"] {
            assert!(open(&volume, good).is_ok(), "{good}: {:?}", open(&volume, good));
        }
        assert!(volume.join("new/deep/dir").is_dir());
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
