#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::runtime::archives::Archives;

const MANIFEST: &str = "sha256:aa";

fn archive_with(blobs: &[(&str, &str)], cut: usize) -> tempfile::Dir {
    let mut bytes: Vec<u8> = blobs.iter().flat_map(|(name, text)| tar::entry(name, text.as_bytes())).collect();
    bytes.extend(tar::END);
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
    let archives = Archives::default();
    let find = |name: &str| archives.find(std::slice::from_ref(&dir.path), &ImageRef::normalised(name)).map(|(_, d)| d.digest);
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
