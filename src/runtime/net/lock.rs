//! One lock a pod, held by the children themselves: when plinth dies while one runs, the next plinth waits for its end.
//!
//! Without it a DEL could overtake the ADD it is to undo, and the address would never be given back; or a pin appear behind the
//! unmounting. The lock belongs to an open file that children inherit (flock), so it ends with the last of them and nothing has to
//! be cleaned.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::NetError;
use crate::pod::Uid;
use crate::runtime::paths::Paths;
use crate::settings::Settings;

/// In the pod's run directory.
pub const NAME: &str = "lock";
/// Between two looks at a lock somebody else holds: after a crash, or another runtime that shares a network.
const LOOK: Duration = Duration::from_millis(20);

/// Takes the pod's lock, waiting as long as a plugin may run.
pub async fn take(settings: &Settings, paths: &Paths, uid: &Uid) -> Result<OwnedFd, NetError> {
    let dir = paths.run_pod(uid);
    let path = dir.join(NAME);
    let opened =
        DirBuilder::new().recursive(true).mode(0o750).create(&dir).and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
    let lock: OwnedFd = opened.map_err(|source| NetError::File { verb: "open", path: path.clone(), source })?.into();
    match wait(&lock, settings.cni_timeout).await {
        Ok(true) => Ok(lock),
        Ok(false) => Err(NetError::Busy { uid: uid.clone(), seconds: settings.cni_timeout.as_secs() }),
        Err(source) => Err(NetError::File { verb: "lock", path, source }),
    }
}

/// Whether the lock was had in time.
pub async fn wait(file: impl AsFd, patience: Duration) -> io::Result<bool> {
    let mut left = patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if left > LOOK => {
                tokio::time::sleep(LOOK).await;
                left = left.saturating_sub(LOOK);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}
