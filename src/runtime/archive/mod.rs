//! One OCI image archive (`*.tar`, an OCI layout): which images it holds, and the pieces of one of them as a tar of its own.
//!
//! Only headers, index and manifests are read to know that; blobs are read piece by piece when they are sent. No decompression,
//! no digests: containerd checks those. Never writes. `layout`: what an image layout says; `tar`: the headers.

pub mod layout;
mod tar;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{Error, Result};
use super::transfer::{PIECE_BYTES, Pipe, architecture};
use crate::pod::ImageRef;
use layout::{Descriptor, Node};

/// An index or a manifest is a few KiB; more is not one.
const JSON_BYTES: u64 = 4 << 20;

/// One archive, read once as long as its time and size stay the same.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    stamp: Stamp,
    entries: BTreeMap<String, (u64, u64)>,
    images: Vec<(Option<ImageRef>, Descriptor)>,
}

/// Modification time, its nanoseconds, and size: while they stay, so does the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(i64, i64, u64);

impl Stamp {
    /// Of the file at this path, if it is there.
    pub fn of(path: &Path) -> Option<Stamp> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Stamp(meta.mtime(), meta.mtime_nsec(), meta.size()))
    }
}

impl Archive {
    /// Reads what it holds.
    pub fn read(path: &Path, stamp: Stamp) -> Result<Archive> {
        let mut file = open(path)?;
        let entries = tar::entries(&mut file).map_err(|e| match e {
            tar::TarError::Io(source) => Error::File { verb: "read", path: path.display().to_string(), source },
            e @ tar::TarError::NoHeader(_) => Error::Refused(format!("read {}: {e}", path.display())),
        })?;
        let mut archive = Archive { path: path.to_owned(), stamp, entries, images: Vec::new() };
        let index: Node = archive.json(&file, "index.json")?;
        archive.images = index.manifests.into_iter().map(|d| (name(&d.annotations), d)).collect();
        Ok(archive)
    }

    /// The image of that name or digest, if it is in it.
    pub fn holds(&self, image: &ImageRef) -> Option<Descriptor> {
        let digest = image.0.split_once('@').map(|(_, d)| d);
        let found = self.images.iter().find(|(name, d)| digest.map_or_else(|| name.as_ref() == Some(image), |digest| d.digest == digest));
        found.map(|(_, d)| Descriptor { annotations: BTreeMap::new(), ..d.clone() })
    }

    /// Which state of the file was read.
    pub fn stamp(&self) -> Stamp {
        self.stamp
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
        for (name, bytes) in [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", &index)] {
            parts.push(Part::Bytes(tar::entry(name, bytes.as_bytes())));
        }
        let mut blob = |d: &Descriptor| -> Result<()> {
            let name = blob_name(&d.digest);
            let (offset, size) = self.entry(&name)?;
            parts.push(Part::Bytes(tar::header(&name, size)));
            parts.push(Part::File { offset, size });
            parts.push(Part::Bytes(tar::padding(size)));
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
        parts.push(Part::Bytes(tar::END.to_vec()));
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
