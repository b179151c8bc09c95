//! An image's `/etc/passwd` and `/etc/group`, as text for `oci::user`.
//!
//! Read straight from the layers' directories named in the mounts of a snapshot, top layer first; nothing is mounted. Links
//! are followed inside a layer only, and what is no plain file is not opened.

use std::io::Read;
use std::path::Path;

use containerd_client::types::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

use super::error::{Error, Result};

/// No real one is larger.
const FILE_BYTES: u64 = 1 << 20;

/// The texts; `None` where the image has no such file, or the snapshotter keeps no directories.
#[derive(Debug, Default)]
pub struct Users {
    /// `/etc/passwd`.
    pub passwd: Option<String>,
    /// `/etc/group`.
    pub group: Option<String>,
}

/// From the mounts of a container's fresh snapshot.
pub fn read(mounts: &[Mount]) -> Result<Users> {
    let layers = layers(mounts).unwrap_or_default();
    Ok(Users { passwd: first(&layers, "etc/passwd")?, group: first(&layers, "etc/group")? })
}

/// The directories, top first.
pub fn layers(mounts: &[Mount]) -> Option<Vec<String>> {
    let mount = mounts.first()?;
    match mount.r#type.as_str() {
        "bind" => Some(vec![mount.source.clone()]),
        "overlay" => {
            let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir="))?;
            Some(lower.split(':').map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// The file of the topmost layer that says anything about it.
fn first(layers: &[String], name: &str) -> Result<Option<String>> {
    for layer in layers {
        match file(Path::new(layer), name) {
            Ok(said) => return Ok(said),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(e) => return Err(Error::File { verb: "read", path: format!("{layer}/{name}"), source: e.into() }),
        }
    }
    Ok(None)
}

/// `None`: a whiteout, it was deleted in this layer.
fn file(layer: &Path, name: &str) -> rustix::io::Result<Option<String>> {
    let root = openat(CWD, layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let look = openat2(&root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?;
    // Opening what is no plain file could block, or be a device of the host's.
    if FileType::from_raw_mode(fstat(&look)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let fd = openat2(&root, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let mut bytes = Vec::new();
    let read = std::fs::File::from(fd).take(FILE_BYTES).read_to_end(&mut bytes);
    read.map_err(|_| rustix::io::Errno::IO)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_wins_and_links_stay_inside() {
        let dir = std::env::temp_dir().join(format!("plinth-users-{}", std::process::id()));
        let (top, base) = (dir.join("top"), dir.join("base"));
        std::fs::create_dir_all(top.join("etc")).unwrap();
        std::fs::create_dir_all(base.join("etc")).unwrap();
        std::fs::write(base.join("etc/passwd"), "base").unwrap();
        std::fs::write(base.join("etc/group"), "group").unwrap();
        std::fs::write(top.join("etc/own"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/own", top.join("etc/passwd")).unwrap();
        let layers = [top.display().to_string(), base.display().to_string()];
        let users =
            read(&[Mount { r#type: "overlay".into(), options: vec![format!("lowerdir={}", layers.join(":"))], ..Mount::default() }])
                .unwrap();
        assert_eq!((users.passwd.as_deref(), users.group.as_deref()), (Some("inside"), Some("group")));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
