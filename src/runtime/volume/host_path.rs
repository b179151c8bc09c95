//! What `hostPath.type` asks for: checked, and made where it says so, exactly as the kubelet does (`pkg/volume/hostpath`).
//!
//! Follows links as the kubelet does: the path is the node's own business.

use std::fs::{DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{VolumeError, file};

/// Checks or makes the path. With no type nothing is checked and nothing made: that is the runtime's duty at the mount.
pub fn check(name: &str, host: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&host.path);
    let failed = |verb| file(name, verb, path);
    let kind = host.type_.as_deref().unwrap_or_default();
    let (wanted, holds): (&'static str, fn(&FileType) -> bool) = match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" | "Directory" => ("a directory", FileType::is_dir),
        "FileOrCreate" | "File" => ("a file", FileType::is_file),
        "Socket" => ("a socket file", FileTypeExt::is_socket),
        "CharDevice" => ("a character device", FileTypeExt::is_char_device),
        "BlockDevice" => ("a block device", FileTypeExt::is_block_device),
        other => {
            let why = format!("`{other}` is no hostPath type");
            return Err(VolumeError::Refused { name: name.to_owned(), why });
        }
    };
    match std::fs::metadata(path) {
        Ok(found) if holds(&found.file_type()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && kind == "DirectoryOrCreate" => {
            DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make directory"))
        }
        // Parents are not made, as with the kubelet.
        Err(e) if e.kind() == io::ErrorKind::NotFound && kind == "FileOrCreate" => {
            let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            made.map(drop).map_err(failed("make file"))
        }
        Ok(_) => Err(VolumeError::HostPath { name: name.to_owned(), path: host.path.clone(), wanted }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(VolumeError::HostPath { name: name.to_owned(), path: host.path.clone(), wanted })
        }
        Err(e) => Err(failed("look at")(e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn checked(path: &Path, kind: &str) -> Result<(), String> {
        let host = HostPathVolumeSource { path: path.to_string_lossy().into_owned(), type_: Some(kind.into()) };
        check("v", &host).map_err(|e| e.to_string())
    }

    #[test]
    fn each_type_is_checked_and_only_the_create_types_make() {
        let dir = std::env::temp_dir().join(format!("pltest-hostpath-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "kept").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        for (path, kind, ok) in [
            (dir.join("absent"), "", true),
            (dir.join("absent"), "Directory", false),
            (dir.join("absent"), "File", false),
            (dir.clone(), "Directory", true),
            (dir.clone(), "FileOrCreate", false),
            (file.clone(), "File", true),
            (file.clone(), "FileOrCreate", true),
            (file.clone(), "DirectoryOrCreate", false),
            (dir.join("socket"), "Socket", true),
            ("/dev/null".into(), "CharDevice", true),
            ("/dev/null".into(), "BlockDevice", false),
            (dir.join("a/b/file"), "FileOrCreate", false),
            (dir.join("a/b"), "DirectoryOrCreate", true),
            (dir.join("a/b/file"), "FileOrCreate", true),
            (dir.join("x"), "Bogus", false),
        ] {
            assert_eq!(checked(&path, kind).is_ok(), ok, "{} {kind}", path.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
        assert!(!dir.join("absent").exists());
        let wrong = checked(&file, "Directory").unwrap_err();
        assert!(wrong.contains("hostPath type check failed") && wrong.contains("is not a directory"), "{wrong}");
        drop(socket);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
