//! downwardAPI and projected volumes: the pod told to itself in files, on a tmpfs, swapped as a whole.
//!
//! ```text
//!  labels ──> ..data/labels      ..data ──> ..1        what a reader sees changes by one rename of `..data`,
//!  cpu    ──> ..data/cpu         ..1/labels ..1/cpu    the kubelet's AtomicWriter
//! ```
//! What the files say is fixed by the pod's uid but for the node's allocatable; it is compared, and written anew if need be, when a
//! container starts. A write that fails (no memory left) leaves what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use super::{Allocatable, VolumeError, empty_dir, file};
use crate::pod::WantedPod;
use crate::runtime::downward::{self as fields, Facts};
use crate::runtime::paths::Paths;
use crate::sys::mounts;

/// Mode of a file where the manifest was not defaulted.
const MODE: i32 = 0o644;
const DATA: &str = "..data";

/// Path below the volume, to text and mode.
type Files = BTreeMap<String, (String, u32)>;

/// Whether this volume is made here.
pub fn is_one(volume: &Volume) -> bool {
    volume.downward_api.is_some() || volume.projected.is_some()
}

/// Makes the volume, or brings it up to date; does nothing for other kinds.
pub fn refresh(paths: &Paths, pod: &WantedPod, volume: &Volume, node: &Allocatable) -> Result<(), VolumeError> {
    let Some(spec) = pod.object.spec.as_ref().filter(|_| is_one(volume)) else { return Ok(()) };
    let plugin = if volume.projected.is_some() { "projected" } else { "downward-api" };
    let dir = paths.volume(&pod.uid, plugin, &volume.name);
    let failed = |verb| file(&volume.name, verb, &dir);
    let files = files(pod, volume, node)?;
    let group = empty_dir::fs_group(spec);
    if !mounts::is_mount_point(&dir) {
        std::fs::create_dir_all(&dir).map_err(failed("make"))?;
        mounts::tmpfs(&dir, empty_dir::memory_bytes(spec, None, node), 0o777, true).map_err(failed("mount a tmpfs on"))?;
        give(&dir, group, 0o777).map_err(failed("set the mode of"))?;
    }
    swap(&dir, &files, group).map_err(failed("write the files of"))
}

fn files(pod: &WantedPod, volume: &Volume, node: &Allocatable) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.downward_api {
        add(&mut files, pod, volume, source.items.as_deref(), source.default_mode, node)?;
    }
    let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten().map(move |s| (p.default_mode, s)));
    for (mode, source) in projected {
        let Some(down) = &source.downward_api else {
            let why = "of its sources only downwardAPI needs no API object: leave the others out".to_owned();
            return Err(VolumeError::Refused { name: volume.name.clone(), why });
        };
        add(&mut files, pod, volume, down.items.as_deref(), mode, node)?;
    }
    Ok(files)
}

fn add(
    files: &mut Files,
    pod: &WantedPod,
    volume: &Volume,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
    node: &Allocatable,
) -> Result<(), VolumeError> {
    for item in items.unwrap_or_default() {
        let text = text(pod, item, node).ok_or_else(|| {
            let why = format!("file `{}` asks for what there is not: check its fieldRef or resourceFieldRef", item.path);
            VolumeError::Refused { name: volume.name.clone(), why }
        })?;
        let mode = item.mode.or(default_mode).and_then(|m| u32::try_from(m).ok()).unwrap_or(MODE.unsigned_abs());
        files.insert(item.path.clone(), (text, mode & 0o777));
    }
    Ok(())
}

/// The kubelet takes `fieldRef` where both are given.
fn text(pod: &WantedPod, item: &DownwardAPIVolumeFile, node: &Allocatable) -> Option<String> {
    let facts = Facts { pod_ips: &[], host_ips: &[], allocatable: node };
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => fields::field(&pod.object, facts, &field.field_path),
        (None, Some(wish)) => {
            let container = pod.container(wish.container_name.as_deref()?)?;
            fields::resource(&pod.object, container, facts, wish)
        }
        (None, None) => None,
    }
}

fn swap(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let now = std::fs::read_link(dir.join(DATA)).ok();
    let same = |(path, (text, mode)): (&String, &(String, u32))| {
        let at = dir.join(DATA).join(path);
        let kept = std::fs::metadata(&at).is_ok_and(|m| m.permissions().mode() & 0o777 == with_group(*mode, group));
        kept && std::fs::read(&at).is_ok_and(|bytes| bytes == text.as_bytes())
    };
    let heads: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    if now.is_none() || !files.iter().all(same) {
        let next = if now.as_deref() == Some(Path::new("..1")) { "..2" } else { "..1" };
        fill(&dir.join(next), files, group)?;
        let link = dir.join("..data_tmp");
        absent(std::fs::remove_file(&link))?;
        symlink(next, &link)?;
        std::fs::rename(&link, dir.join(DATA))?;
        if let Some(old) = now {
            absent(std::fs::remove_dir_all(dir.join(old)))?;
        }
    }
    for head in heads {
        match symlink(Path::new(DATA).join(head), dir.join(head)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => lchown(dir.join(head), None, group)?,
        }
    }
    Ok(())
}

/// One whole generation, in a directory of its own; what a write that was cut short left there goes first.
fn fill(root: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    absent(std::fs::remove_dir_all(root))?;
    std::fs::create_dir(root)?;
    give(root, group, 0o755)?;
    for (path, (text, mode)) in files {
        let mut at = root.to_path_buf();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            if parts.peek().is_some() && !at.exists() {
                std::fs::create_dir(&at)?;
                give(&at, group, 0o755)?;
            }
        }
        std::fs::write(&at, text)?;
        lchown(&at, None, group)?;
        std::fs::set_permissions(&at, PermissionsExt::from_mode(with_group(*mode, group)))?;
    }
    Ok(())
}

/// A file of a read-only volume, as the kubelet's `SetVolumeOwnership` leaves it: the pod's group can read it.
fn with_group(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

/// Likewise a directory: the group can enter, and what is made in it is the group's.
fn give(dir: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let mode = if group.is_some() { mode | 0o2550 } else { mode };
    lchown(dir, None, group)?;
    std::fs::set_permissions(dir, PermissionsExt::from_mode(mode))
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn place(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("pltest-downward-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn files(of: &[(&str, &str, u32)]) -> Files {
        of.iter().map(|(path, text, mode)| ((*path).to_owned(), ((*text).to_owned(), *mode))).collect()
    }

    #[test]
    fn a_change_is_seen_by_one_swap_and_no_change_swaps_nothing() {
        let dir = place("swap");
        swap(&dir, &files(&[("a", "1", 0o644), ("d/e/f", "2", 0o400)]), None).unwrap();
        assert_eq!(std::fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(std::fs::read_link(dir.join("d")).unwrap(), Path::new("..data/d"));
        assert_eq!(std::fs::read_to_string(dir.join("d/e/f")).unwrap(), "2");
        assert_eq!(std::fs::metadata(dir.join("d/e/f")).unwrap().mode() & 0o777, 0o400);
        let first = std::fs::read_link(dir.join(DATA)).unwrap();
        swap(&dir, &files(&[("a", "1", 0o644), ("d/e/f", "2", 0o400)]), None).unwrap();
        assert_eq!(std::fs::read_link(dir.join(DATA)).unwrap(), first);
        swap(&dir, &files(&[("a", "3", 0o644), ("d/e/f", "2", 0o400)]), None).unwrap();
        assert_ne!(std::fs::read_link(dir.join(DATA)).unwrap(), first);
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join(&first).exists(), "the old generation is gone");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_pods_group_can_read_what_others_cannot() {
        let dir = place("group");
        swap(&dir, &files(&[("d/a", "1", 0o400)]), Some(1234)).unwrap();
        let file = std::fs::metadata(dir.join("d/a")).unwrap();
        assert_eq!((file.gid(), file.mode() & 0o777), (1234, 0o440));
        let inner = std::fs::metadata(dir.join("d")).unwrap();
        assert_eq!((inner.gid(), inner.mode() & 0o7777), (1234, 0o2755));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let dir = place("fails");
        swap(&dir, &files(&[("a", "1", 0o644)]), None).unwrap();
        assert!(swap(&dir, &files(&[("a", "2", 0o644), (&"x".repeat(300), "", 0o644)]), None).is_err());
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1");
        swap(&dir, &files(&[("a", "2", 0o644)]), None).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "2");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
