//! OCI image archives (`*.tar`, an OCI layout) on this host: which images they hold, and the pieces of one image as a tar of its own.
//!
//! Only headers, index and manifests are read to know that; blobs are read piece by piece when they are sent. No decompression,
//! no digests: containerd checks those. Never writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::transfer::{PIECE_BYTES, Pipe, architecture};
use crate::pod::ImageRef;

const BLOCK: u64 = 512;
/// An index or a manifest is a few KiB; more is not one.
const JSON_BYTES: u64 = 4 << 20;
/// An archive of more entries than this is no image archive.
const ENTRIES: usize = 100_000;

/// A descriptor of the image layout, as far as it is needed here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An index or a manifest: whichever list is there says which.
#[derive(Default, Deserialize)]
pub struct Node {
    /// Of an index.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Of a manifest.
    pub config: Option<Descriptor>,
    /// Of a manifest.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl Node {
    /// The manifest of an index that runs here.
    pub fn for_this_machine(&self) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture());
        self.manifests.iter().find(fits).or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }
}

/// One archive, read once as long as its time and size stay the same.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    stamp: Stamp,
    entries: BTreeMap<String, (u64, u64)>,
    images: Vec<(Option<ImageRef>, Descriptor)>,
}

/// Modification time, its nanoseconds, and size: while they stay, so does the file.
type Stamp = (i64, i64, u64);

/// All archives of the image directories.
#[derive(Default)]
pub struct Archives {
    /// What was read; of what cannot be read, which state of it.
    read: BTreeMap<PathBuf, std::result::Result<Rc<Archive>, Stamp>>,
}

impl Archives {
    /// The first archive, in order of search, that holds this image. What cannot be read is said once, and skipped.
    pub fn find(&mut self, dirs: &[PathBuf], image: &ImageRef) -> Option<(Rc<Archive>, Descriptor)> {
        for path in dirs.iter().flat_map(|d| tars(d)) {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            let stamp = (meta.mtime(), meta.mtime_nsec(), meta.size());
            let known = self.read.get(&path).is_some_and(|a| a.as_ref().map_or_else(|s| *s, |a| a.stamp) == stamp);
            if !known {
                let read = Archive::read(&path, stamp).inspect_err(|e| log::warn!("{}; skipped", super::error::chain(e)));
                self.read.insert(path.clone(), read.map(Rc::new).map_err(|_| stamp));
            }
            if let Some(Ok(archive)) = self.read.get(&path)
                && let Some(descriptor) = archive.holds(image)
            {
                return Some((archive.clone(), descriptor));
            }
        }
        None
    }
}

fn tars(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "tar")).collect();
    paths.sort();
    paths
}

impl Archive {
    fn read(path: &Path, stamp: Stamp) -> Result<Archive> {
        let mut file = open(path)?;
        let entries = entries(&mut file, path)?;
        let mut archive = Archive { path: path.to_owned(), stamp, entries, images: Vec::new() };
        let index: Node = archive.json(&file, "index.json")?;
        archive.images = index.manifests.into_iter().map(|d| (name(&d.annotations), d)).collect();
        Ok(archive)
    }

    fn holds(&self, image: &ImageRef) -> Option<Descriptor> {
        let digest = image.0.split_once('@').map(|(_, d)| d);
        let found = self.images.iter().find(|(name, d)| digest.map_or_else(|| name.as_ref() == Some(image), |digest| d.digest == digest));
        found.map(|(_, d)| Descriptor { annotations: BTreeMap::new(), ..d.clone() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What must be sent for this image: a layout of its own with the blobs it needs here, and nothing else of the archive.
    pub fn image(&self, root: &Descriptor) -> Result<Vec<Part>> {
        let file = open(&self.path)?;
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [root] }).to_string();
        let mut parts = Vec::new();
        push_bytes(&mut parts, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        push_bytes(&mut parts, "index.json", index.as_bytes());
        let mut blob = |d: &Descriptor| -> Result<()> {
            let name = blob_name(&d.digest);
            let (offset, size) = self.entry(&name)?;
            parts.push(Part::Bytes(header(&name, size)));
            parts.push(Part::File { offset, size });
            parts.push(Part::Bytes(vec![0; usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0)]));
            Ok(())
        };
        blob(root)?;
        let mut node: Node = self.json(&file, &blob_name(&root.digest))?;
        if node.config.is_none() {
            let here = node.for_this_machine().cloned();
            let here = here.ok_or_else(|| {
                Error::Refused(format!("import from {}: nothing in it is for linux/{}", self.path.display(), architecture()))
            })?;
            blob(&here)?;
            node = self.json(&file, &blob_name(&here.digest))?;
        }
        let mut sent = Vec::new();
        for d in node.config.iter().chain(&node.layers) {
            if !sent.contains(&&d.digest) {
                blob(d)?;
                sent.push(&d.digest);
            }
        }
        parts.push(Part::Bytes(vec![0; 1024]));
        Ok(parts)
    }

    /// Sends those parts, yielding between pieces.
    pub async fn send(&self, parts: Vec<Part>, mut pipe: Pipe) -> Result<Pipe> {
        let file = open(&self.path)?;
        for part in parts {
            match part {
                Part::Bytes(mut bytes) => {
                    while !bytes.is_empty() {
                        let rest = bytes.split_off(pipe.room().await?.min(bytes.len()));
                        pipe.send(std::mem::replace(&mut bytes, rest)).await;
                    }
                }
                Part::File { mut offset, size } => {
                    let end = offset + size;
                    while offset < end {
                        let left = usize::try_from(end - offset).unwrap_or(PIECE_BYTES);
                        let mut piece = vec![0; pipe.room().await?.min(left)];
                        file.read_exact_at(&mut piece, offset).map_err(|source| self.failed("read", source))?;
                        offset += piece.len() as u64;
                        pipe.send(piece).await;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        Ok(pipe)
    }

    fn entry(&self, name: &str) -> Result<(u64, u64)> {
        let missing = || Error::Refused(format!("import from {}: {name} is missing; make the archive anew", self.path.display()));
        let &(offset, size) = self.entries.get(name).ok_or_else(missing)?;
        if offset + size > self.stamp.2 {
            let at = self.stamp.2;
            let text = format!("import from {}: the archive is cut short at byte {at}, in {name}; copy it anew", self.path.display());
            return Err(Error::Refused(text));
        }
        Ok((offset, size))
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, file: &File, name: &str) -> Result<T> {
        let (offset, size) = self.entry(name)?;
        let mut bytes = vec![0; usize::try_from(size.min(JSON_BYTES)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, offset).map_err(|source| self.failed("read", source))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Refused(format!("read {name} of {}: {e}", self.path.display())))
    }

    fn failed(&self, verb: &'static str, source: std::io::Error) -> Error {
        Error::File { verb, path: self.path.display().to_string(), source }
    }
}

/// One part of what is sent.
#[derive(Debug)]
pub enum Part {
    /// Made here.
    Bytes(Vec<u8>),
    /// From the archive.
    File {
        /// From.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

fn push_bytes(parts: &mut Vec<Part>, name: &str, bytes: &[u8]) {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(512), 0);
    parts.push(Part::Bytes(header(name, bytes.len() as u64)));
    parts.push(Part::Bytes(padded));
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// containerd's own annotation, else the layout's; a bare tag names no image.
fn name(annotations: &BTreeMap<String, String>) -> Option<ImageRef> {
    let full = annotations.get("io.containerd.image.name");
    let name = full.or_else(|| annotations.get("org.opencontainers.image.ref.name").filter(|n| n.contains(['/', ':'])))?;
    Some(ImageRef::normalised(name))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::File { verb: "open", path: path.display().to_string(), source })
}

/// Name to offset and size of every regular file, from the headers alone.
fn entries(file: &mut File, path: &Path) -> Result<BTreeMap<String, (u64, u64)>> {
    let failed = |source| Error::File { verb: "read", path: path.display().to_string(), source };
    let mut found = BTreeMap::new();
    let mut at = 0u64;
    let mut block = [0u8; 512];
    loop {
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        // A cut archive has no end mark; what was there so far counts, and what is missing is named when it is needed.
        if file.read_exact(&mut block).is_err() || block.iter().all(|&b| b == 0) || found.len() > ENTRIES {
            return Ok(found);
        }
        let (Some(name), Some(size)) = (text(block.get(..100)), octal(block.get(124..136))) else {
            return Err(Error::Refused(format!(
                "read {}: no tar header at byte {at}; is it compressed? only plain tar is read",
                path.display()
            )));
        };
        if matches!(block.get(156), Some(0 | b'0')) {
            found.insert(name.trim_start_matches("./").to_owned(), (at + BLOCK, size));
        }
        at = at.saturating_add(BLOCK).saturating_add(size.next_multiple_of(BLOCK));
    }
}

fn text(field: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(field?.split(|&b| b == 0).next()?).ok()
}

/// Octal digits, or GNU's base 256 for what is larger than 8 GiB.
fn octal(field: Option<&[u8]>) -> Option<u64> {
    let field = field?;
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return field.get(4..)?.iter().try_fold(0u64, |n, &b| n.checked_mul(256)?.checked_add(u64::from(b)));
    }
    let digits = text(Some(field))?.trim();
    u64::from_str_radix(digits, 8).ok().filter(|n| *n < 1 << 50)
}

/// A ustar header of a regular file.
fn header(name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()).for_each(|(to, from)| *to = from);
    block
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const MANIFEST: &str = "sha256:aa";

    fn archive_with(blobs: &[(&str, &str)], cut: usize) -> tempfile::Dir {
        let mut bytes = Vec::new();
        let mut parts = Vec::new();
        for (name, text) in blobs {
            push_bytes(&mut parts, name, text.as_bytes());
        }
        for part in parts {
            if let Part::Bytes(b) = part {
                bytes.extend(b);
            }
        }
        bytes.extend([0; 1024]);
        bytes.truncate(bytes.len() - cut);
        let dir = tempfile::Dir::new();
        std::fs::write(dir.path.join("a.tar"), bytes).unwrap();
        dir
    }

    mod tempfile {
        pub struct Dir {
            pub path: std::path::PathBuf,
        }
        impl Dir {
            pub fn new() -> Dir {
                static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
                let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let path = std::env::temp_dir().join(format!("plinth-archive-{}-{n}", std::process::id()));
                std::fs::create_dir_all(&path).unwrap();
                Dir { path }
            }
        }
        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.path);
            }
        }
    }

    fn blobs() -> Vec<(&'static str, &'static str)> {
        vec![
            ("oci-layout", "{}"),
            (
                "index.json",
                r#"{"manifests":[{"mediaType":"m","digest":"sha256:aa","size":2,"annotations":{"io.containerd.image.name":"docker.io/library/box:1"}},
                {"mediaType":"m","digest":"sha256:bb","size":2,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}"#,
            ),
            (
                "blobs/sha256/aa",
                r#"{"config":{"digest":"sha256:cc","size":1},"layers":[{"digest":"sha256:dd","size":5},{"digest":"sha256:dd","size":5}]}"#,
            ),
            ("blobs/sha256/bb", "{}"),
            ("blobs/sha256/cc", "c"),
            ("blobs/sha256/dd", "layer"),
        ]
    }

    #[test]
    fn an_archive_is_found_by_name_and_by_digest() {
        let dir = archive_with(&blobs(), 0);
        let mut archives = Archives::default();
        let mut find = |name: &str| archives.find(std::slice::from_ref(&dir.path), &ImageRef::normalised(name)).map(|(_, d)| d.digest);
        assert_eq!(find("box:1").as_deref(), Some(MANIFEST));
        assert_eq!(find("other@sha256:bb").as_deref(), Some("sha256:bb"));
        assert_eq!(find("box:2"), None);
        assert_eq!(find("latest"), None, "a bare tag names no image");
    }

    #[test]
    fn only_the_blobs_of_the_wanted_image_are_sent() {
        let dir = archive_with(&blobs(), 0);
        let (archive, root) = Archives::default().find(std::slice::from_ref(&dir.path), &ImageRef::normalised("box:1")).unwrap();
        let parts = archive.image(&root).unwrap();
        let sizes: Vec<u64> = parts.iter().filter_map(|p| if let Part::File { size, .. } = p { Some(*size) } else { None }).collect();
        assert_eq!(sizes.len(), 3, "manifest, config, one layer once");
        assert_eq!(sizes[1..], [1, 5]);
    }

    #[test]
    fn a_cut_archive_is_named_with_the_blob_it_ends_in() {
        let dir = archive_with(&blobs(), 1024 + 510);
        let (archive, root) = Archives::default().find(std::slice::from_ref(&dir.path), &ImageRef::normalised("box:1")).unwrap();
        let said = archive.image(&root).unwrap_err().to_string();
        assert!(said.contains("a.tar: the archive is cut short") && said.contains("blobs/sha256/dd"), "{said}");
    }

    #[test]
    fn a_missing_blob_is_named() {
        let dir = archive_with(&blobs()[..5], 0);
        let (archive, root) = Archives::default().find(std::slice::from_ref(&dir.path), &ImageRef::normalised("box:1")).unwrap();
        assert!(archive.image(&root).unwrap_err().to_string().contains("blobs/sha256/dd is missing"));
    }

    #[test]
    fn what_is_no_tar_is_skipped() {
        let dir = archive_with(&[], 0);
        std::fs::write(dir.path.join("a.tar"), vec![0x1f; 4096]).unwrap();
        assert!(Archives::default().find(std::slice::from_ref(&dir.path), &ImageRef::normalised("box:1")).is_none());
    }
}
