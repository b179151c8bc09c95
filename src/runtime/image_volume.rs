//! The VOLUMEs of an image: for each a directory of the container's own, filled with what the image has at its path.
//!
//! Read straight from the layers' directories, bottom to top, with overlayfs's marks for what a layer takes away; nothing is
//! mounted and no link is followed. Like containerd, it does this anew for every attempt. Yields to the loop as it copies.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::paths::Paths;
use super::sandbox::remove;
use crate::pod::Uid;

/// Copied between two turns of the loop.
const TURN_BYTES: usize = 256 << 10;
/// Entries between two turns.
const TURN_ENTRIES: u32 = 64;

/// Where the volumes of a container lie, by their path in it.
pub fn places(paths: &Paths, uid: &Uid, container: &str, wanted: &[String]) -> BTreeMap<String, PathBuf> {
    let dir = paths.image_volumes(uid, container);
    wanted.iter().enumerate().map(|(i, path)| (path.clone(), dir.join(i.to_string()))).collect()
}

/// Makes them afresh. `layers` are the image's directories, top first; of a snapshotter without any, the volumes are empty.
pub async fn make(paths: &Paths, uid: &Uid, container: &str, wanted: &[String], layers: &[String]) -> io::Result<BTreeMap<String, String>> {
    let dir = paths.image_volumes(uid, container);
    remove::tree(&dir, None).await?;
    let mut made = BTreeMap::new();
    for (path, place) in places(paths, uid, container, wanted) {
        fs::create_dir_all(&place)?;
        fill(layers, &path, &place).await?;
        made.insert(path, place.to_string_lossy().into_owned());
    }
    Ok(made)
}

/// What one layer says of a path.
enum Said {
    /// Nothing.
    Nothing,
    /// Whatever is below it is gone.
    Gone,
    /// This directory; `alone`: and nothing of the layers below.
    There { dir: PathBuf, alone: bool },
}

async fn fill(layers: &[String], path: &str, place: &Path) -> io::Result<()> {
    for layer in layers.iter().rev() {
        match ask(Path::new(layer), path)? {
            Said::Nothing => {}
            Said::Gone => clear(place)?,
            Said::There { dir, alone } => {
                if alone {
                    clear(place)?;
                }
                own(place, &fs::symlink_metadata(&dir)?)?;
                copy(dir, place.to_owned()).await?;
            }
        }
    }
    Ok(())
}

fn ask(layer: &Path, path: &str) -> io::Result<Said> {
    let mut dir = layer.to_owned();
    let mut alone = false;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        dir.push(part);
        match fs::symlink_metadata(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(if alone { Said::Gone } else { Said::Nothing }),
            Err(e) => return Err(e),
            // A whiteout, or a file or link where a directory was.
            Ok(meta) if !meta.is_dir() => return Ok(Said::Gone),
            Ok(_) => alone |= opaque(&dir),
        }
    }
    Ok(Said::There { dir, alone })
}

/// overlayfs: the directory hides those of the layers below.
fn opaque(dir: &Path) -> bool {
    let mut value = [0u8; 2];
    matches!(rustix::fs::lgetxattr(dir, c"trusted.overlay.opaque", &mut value), Ok(1)) && value.first() == Some(&b'y')
}

/// overlayfs: the entry is gone from here up.
fn whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Copies a directory's content over what is in another; never recurses, so depth costs no stack.
async fn copy(from: PathBuf, to: PathBuf) -> io::Result<()> {
    let mut left = vec![(from, to)];
    let mut entries = 0u32;
    while let Some((from, to)) = left.pop() {
        for entry in fs::read_dir(&from)? {
            entries += 1;
            if entries.is_multiple_of(TURN_ENTRIES) {
                tokio::task::yield_now().await;
            }
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let meta = fs::symlink_metadata(&source)?;
            if !meta.is_dir() {
                remove_any(&target)?;
                leaf(&source, &target, &meta).await?;
                continue;
            }
            if fs::symlink_metadata(&target).is_ok_and(|t| !t.is_dir()) || opaque(&source) {
                remove_any(&target)?;
            }
            fs::create_dir_all(&target)?;
            own(&target, &meta)?;
            left.push((source, target));
        }
    }
    Ok(())
}

/// Anything but a directory. Sockets are left out: nobody is behind them.
async fn leaf(source: &Path, target: &Path, meta: &Metadata) -> io::Result<()> {
    let kind = meta.file_type();
    if whiteout(meta) || kind.is_socket() {
        return Ok(());
    }
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
        return lchown(target, Some(meta.uid()), Some(meta.gid()));
    }
    if kind.is_file() {
        content(source, target).await?;
    } else {
        let node = FileType::from_raw_mode(meta.mode());
        mknodat(CWD, target, node, Mode::from_raw_mode(meta.mode() & 0o7777), meta.rdev())?;
    }
    own(target, meta)
}

async fn content(source: &Path, target: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(source)?, File::create_new(target)?);
    let mut piece = vec![0; TURN_BYTES];
    loop {
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(piece.get(..n).unwrap_or_default())?;
        if n == TURN_BYTES {
            tokio::task::yield_now().await;
        }
    }
}

/// Owner first: giving a file away takes its set-id bits.
fn own(path: &Path, like: &Metadata) -> io::Result<()> {
    lchown(path, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(like.mode() & 0o7777))
}

fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        remove_any(&entry?.path())?;
    }
    Ok(())
}

fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::Settings;

    fn layer(root: &Path, name: &str, files: &[(&str, &str)]) -> String {
        let dir = root.join(name);
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir.to_string_lossy().into_owned()
    }

    fn run(root: &Path, wanted: &[&str], layers: &[String]) -> BTreeMap<String, String> {
        let paths = Paths::new(&Settings { data_dir: root.join("data"), ..Settings::default() });
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(make(&paths, &Uid("u".into()), "c", &wanted, layers)).unwrap()
    }

    fn whited_out(layer: &str, path: &str) {
        let path = Path::new(layer).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn listing(dir: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_volume_holds_what_all_layers_together_have_there() {
        let root = std::env::temp_dir().join(format!("plinth-image-volume-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let base = layer(
            &root,
            "base",
            &[("data/kept", "1"), ("data/changed", "old"), ("data/gone", "x"), ("data/sub/old", "x"), ("other/x", "")],
        );
        let middle = layer(&root, "middle", &[("data/changed", "new"), ("data/sub/new", "2")]);
        let top = layer(&root, "top", &[("unrelated", "")]);
        whited_out(&middle, "data/gone");
        rustix::fs::lsetxattr(Path::new(&middle).join("data/sub"), c"trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .unwrap();
        symlink("/etc/shadow", Path::new(&base).join("data/link")).unwrap();
        lchown(Path::new(&base).join("data/kept"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(Path::new(&middle).join("data"), fs::Permissions::from_mode(0o1770)).unwrap();
        whited_out(&top, "other");

        let made = run(&root, &["/data", "/none", "/other"], &[top, middle, base]);
        let data = made.get("/data").unwrap();
        assert_eq!(listing(data), ["changed", "kept", "link", "sub"]);
        assert_eq!(fs::read_to_string(format!("{data}/changed")).unwrap(), "new");
        assert_eq!(listing(&format!("{data}/sub")), ["new"]);
        assert_eq!(fs::read_link(format!("{data}/link")).unwrap(), Path::new("/etc/shadow"));
        let kept = fs::metadata(format!("{data}/kept")).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (1234, 5678));
        assert_eq!(fs::metadata(data).unwrap().mode() & 0o7777, 0o1770);
        for empty in ["/none", "/other"] {
            assert!(listing(made.get(empty).unwrap()).is_empty(), "{empty}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn another_attempt_begins_with_the_images_content() {
        let root = std::env::temp_dir().join(format!("plinth-image-volume-again-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let base = layer(&root, "base", &[("data/a", "1")]);
        let made = run(&root, &["/data"], std::slice::from_ref(&base));
        fs::write(format!("{}/b", made.get("/data").unwrap()), "left by the first attempt").unwrap();
        let made = run(&root, &["/data"], &[base]);
        assert_eq!(listing(made.get("/data").unwrap()), ["a"]);
        fs::remove_dir_all(&root).unwrap();
    }
}
