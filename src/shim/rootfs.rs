//! A container's root file system: mounted where its snapshotter says, unmounted when it is deleted.

use std::io;
use std::path::{Path, PathBuf};

use containerd_client::types::Mount;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::sys::mounts;

/// Mounts all of them there, in order; of what fails nothing is left.
pub(super) fn mount_all(given: &[Mount], target: &Path) -> io::Result<()> {
    for one in given {
        mount(one, target).inspect_err(|_| drop(unmount_all(target)))?;
    }
    Ok(())
}

fn mount(mount: &Mount, target: &Path) -> io::Result<()> {
    match mounts::root(&mount.r#type, &mount.source, &mount.options, target) {
        Err(e) if e.kind() == io::ErrorKind::ArgumentListTooLong => {
            let (dir, options) = shortened(&mount.options).ok_or(e)?;
            // The names of layers are long for what they have in common, and the kernel reads them from where we are.
            let here = std::env::current_dir()?;
            std::env::set_current_dir(dir)?;
            let mounted = mounts::root(&mount.r#type, &mount.source, &options, target);
            std::env::set_current_dir(here).and(mounted)
        }
        mounted => mounted,
    }
}

/// The directory all lower layers are in, and the options with the layers named from there.
fn shortened(options: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let layers: Vec<&Path> = options.iter().find_map(|o| o.strip_prefix("lowerdir="))?.split(':').map(Path::new).collect();
    let mut dir = layers.first()?.parent()?.to_owned();
    while !layers.iter().all(|l| l.starts_with(&dir)) {
        dir = dir.parent()?.to_owned();
    }
    let names: Option<Vec<&str>> = layers.iter().map(|l| l.strip_prefix(&dir).ok()?.to_str().filter(|n| !n.is_empty())).collect();
    let names = format!("lowerdir={}", names?.join(":"));
    let options = options.iter().map(|o| if o.starts_with("lowerdir=") { names.clone() } else { o.clone() }).collect();
    Some((dir, options))
}

/// Whatever is mounted there; what is in use goes with its last user.
pub(super) fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => mounts::detach(target)?,
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn layers_are_named_from_the_directory_they_share() {
        let options = ["index=off", "upperdir=/s/9/fs", "lowerdir=/s/snapshots/12/fs:/s/snapshots/1/fs"].map(String::from);
        let (dir, short) = shortened(&options).unwrap();
        assert_eq!(dir, Path::new("/s/snapshots"));
        assert_eq!(short, ["index=off", "upperdir=/s/9/fs", "lowerdir=12/fs:1/fs"]);
        assert_eq!(shortened(&["lowerdir=/a".into()]).unwrap().1, ["lowerdir=a"]);
        assert_eq!(shortened(&["lowerdir=/a:/".into()]), None);
        assert_eq!(shortened(&["ro".into()]), None);
    }
}
