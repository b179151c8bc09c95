//! One plinth per run directory: two would take each other's log lines and undo each other's pods.
//!
//! A record lock, as the socket's: it ends with its process, and no child holds it on. Says nothing about containerd's namespace.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::specify::file;

/// Takes the run directory for this process, until the file is closed.
pub fn hold(run_dir: &Path) -> Result<File> {
    DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(file("make", run_dir))?;
    let path = run_dir.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(file("open", &path))?;
    match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => Err(Error::Refused(format!(
            "use {}: another plinth works in it; stop that one, or give this one a runDir, a dataDir and a namespace of its own",
            run_dir.display()
        ))),
        Err(e) => Err(file("lock", &path)(e.into())),
    }
}
