//! The last good answer on disk, in one file: a line of JSON, then the body as it came. It is replaced as a whole or not at all, and
//! whatever does not match its digest is as if it were not there.
//!
//! What is slow about a disk is waited for in a child; nothing here blocks the loop on it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::manifest::disk::MAX_FILE_BYTES;
use crate::sys::asked;

/// Below the data directory.
const NAME: &str = "manifests-by-url";
/// A disk that takes longer is not waited for any more; the next answer is written again.
const SYNC: Duration = Duration::from_secs(60);
/// What stands before the body is no longer than this: a signature is at most half of it.
pub const HEAD_BYTES: usize = 128 << 10;

/// What is kept beside the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Head {
    /// Where it came from, for people.
    pub url: String,
    /// The server's mark of this body, to be shown to it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When the server says it changed, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Its minisign signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// SHA-256 of the body, hex.
    pub sha256: String,
}

/// SHA-256, hex.
pub fn digest(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// Where it is kept.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// What was kept; `None`: nothing was. An error says why it is not to be used.
pub fn read(path: &Path) -> io::Result<Option<(Head, Vec<u8>)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let most = MAX_FILE_BYTES + HEAD_BYTES;
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    let damaged = || io::Error::other("it is damaged");
    let end = memchr::memchr(b'\n', bytes.get(..HEAD_BYTES.min(bytes.len())).unwrap_or_default()).ok_or_else(damaged)?;
    let body = bytes.split_off(end + 1);
    let head: Head = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if bytes.len() + body.len() > most || digest(&body) != head.sha256 {
        return Err(damaged());
    }
    Ok(Some((head, body)))
}

/// Keeps it: it is on the disk when this returns, or what was there before still is.
pub async fn write(path: &Path, head: &Head, body: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut line = serde_json::to_vec(head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.write_all(body)?;
    drop(file);
    asked::fsync(&new, SYNC).await?;
    fs::rename(&new, path)?;
    asked::fsync(dir, SYNC).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_no_damage_does() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&rt, async {
            let dir = std::env::temp_dir().join(format!("plinth-kept-{}", std::process::id()));
            let at = path(&dir);
            assert!(read(&at).unwrap().is_none());
            let body = b"kind: Pod\n\0\xff".to_vec();
            let head = Head { url: "http://h/".into(), etag: Some("\"1\"".into()), sha256: digest(&body), ..Head::default() };
            write(&at, &head, &body).await.unwrap();
            assert_eq!(read(&at).unwrap(), Some((head.clone(), body.clone())));
            write(&at, &Head { sha256: digest(b""), ..head }, b"").await.unwrap();
            assert_eq!(read(&at).unwrap().unwrap().1, b"");
            let whole = fs::read(&at).unwrap();
            for cut in 0..whole.len() {
                fs::write(&at, &whole[..cut]).unwrap();
                assert!(read(&at).is_err(), "cut at {cut}");
            }
            fs::write(&at, [&whole[..], b"x"].concat()).unwrap();
            assert!(read(&at).is_err());
            fs::remove_dir_all(&dir).unwrap();
        });
    }
}
