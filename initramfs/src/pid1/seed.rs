//! Randomness kept across boots. A seed is used once: it is replaced on disk before the kernel counts on it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::sys::{SEED_BYTES, add_entropy};

/// On the state partition, which is this machine's alone.
pub const FILE: &str = "/state/random-seed";

/// Feeds what was kept and keeps a new one; what went wrong.
pub fn load() -> Result<(), String> {
    let old: Option<[u8; SEED_BYTES]> = fs::read(FILE).ok().and_then(|b| b.try_into().ok());
    let random = || File::options().read(true).write(true).open("/dev/urandom");
    if let Some(old) = old {
        // Mixed in uncounted first, so that the new one depends on it.
        random().and_then(|mut r| r.write_all(&old)).map_err(|e| format!("feed the random seed: {e}"))?;
    }
    save()?;
    match old {
        Some(old) => random().and_then(|r| add_entropy(r, old)).map_err(|e| format!("count the random seed: {e}")),
        None => Ok(()),
    }
}

/// Keeps a new one, whole and on disk, or the old one.
pub fn save() -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut seed = [0u8; SEED_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let part = Path::new(FILE).with_extension("new");
        let _ = fs::remove_file(&part);
        let mut file = File::options().write(true).create_new(true).open(&part)?;
        fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.write_all(&seed)?;
        file.sync_all()?;
        fs::rename(&part, FILE)?;
        File::open("/state")?.sync_all()
    };
    write().map_err(|e| format!("keep a random seed in {FILE}: {e}"))
}
