//! Where containerd keeps its data, as it says itself; and what follows for us: that layers reach the disk, and that no other plinth
//! works in the same namespace.
//!
//! containerd writes an image down as unpacked before its files are on the disk: after a power cut the record would be there and the
//! files empty. So the file system is synced after each import or pull, in a child, beside everything else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1::PluginsRequest;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sha2::{Digest, Sha256};

use super::Runtime;
use super::client::{Client, Tried};
use super::error::{Error, Result};
use super::specify::file;
use crate::clock;
use crate::sys::asked;

/// A large image on a slow card; what is not on the disk by then is left to the kernel.
const SYNC: Duration = Duration::from_secs(600);
/// The first byte of a file that stands for a namespace, far behind the end of any database.
const NAMESPACES: i64 = 1 << 60;

/// The files of one containerd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its database.
    pub database: Option<PathBuf>,
    /// The snapshotter's directory.
    pub layers: Option<PathBuf>,
}

impl Place {
    /// Asks for them.
    pub async fn of(client: &Client, snapshotter: &str) -> Result<Place> {
        let filters = vec!["type==io.containerd.metadata.v1".to_owned(), format!("type==io.containerd.snapshotter.v1,id=={snapshotter}")];
        let request = client.ask(PluginsRequest { filters });
        let plugins = client.introspection().plugins(request).await.tried("ask for the plugins of", "containerd")?.plugins;
        let export = |kind: &str, name: &str| {
            let plugin = plugins.iter().find(|p| p.r#type.ends_with(kind))?;
            plugin.exports.get(name).map(PathBuf::from)
        };
        Ok(Place { database: export("metadata.v1", "path"), layers: export("snapshotter.v1", "root") })
    }
}

/// A namespace of one containerd, held until this is dropped.
#[derive(Debug)]
pub struct Held {
    file: File,
    namespace: String,
}

impl Held {
    /// Takes a namespace of the containerd with this database for this process: a record lock, which ends with the process and is held
    /// on by no child, on a byte far behind the database's end. It is as good over every path to the same containerd, from every mount
    /// and network namespace, and it outlives containerd's restarts. Nothing is read or written.
    pub fn take(database: &Path, namespace: &str) -> Result<Held> {
        let file = OpenOptions::new().read(true).write(true).open(database).map_err(file("open", database))?;
        let digest = Sha256::digest(namespace.as_bytes());
        let number = digest.iter().take(4).fold(0i64, |n, byte| n << 8 | i64::from(*byte));
        let wish = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: NAMESPACES + number,
            l_len: 1,
            l_pid: 0,
        };
        if fcntl(&file, FcntlArg::F_SETLK(&wish)).is_ok() {
            return Ok(Held { file, namespace: namespace.to_owned() });
        }
        let mut holder = wish;
        let _ = fcntl(&file, FcntlArg::F_GETLK(&mut holder));
        // A process of another pid namespace has no number here.
        let who = if holder.l_pid > 0 { format!("another plinth (pid {})", holder.l_pid) } else { "another plinth".to_owned() };
        Err(Error::Taken(format!(
            "use containerd namespace `{namespace}`: {who} works in it; stop that one, or give this one a namespace, a runDir and a dataDir of its own"
        )))
    }

    /// It is still what `take` would take: the database was not replaced since.
    fn is_of(&self, database: &Path, namespace: &str) -> bool {
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.namespace == namespace && self.file.metadata().ok().zip(std::fs::metadata(database).ok()).is_some_and(|(a, b)| same(a, b))
    }
}

impl Runtime {
    /// Takes our namespace of the containerd just found, unless it is held already. One whose files are not in our sight is taken as it is.
    pub(super) fn hold_namespace(&self, place: &Place) -> Result<()> {
        let namespace = &self.settings.namespace;
        let Some(database) = &place.database else { return Ok(()) };
        let mut held = self.held.borrow_mut();
        if held.as_ref().is_some_and(|h| h.is_of(database, namespace)) {
            return Ok(());
        }
        match Held::take(database, namespace) {
            Ok(taken) => *held = Some(taken),
            Err(e @ Error::Taken(_)) => return Err(e),
            Err(e) => log::debug!("whether another plinth works in namespace {namespace} is not known: {}", super::error::chain(&e)),
        }
        Ok(())
    }

    /// What was just unpacked is to be on the disk soon.
    pub(super) fn unpacked(&self) {
        self.unsynced.notify_one();
    }
}

/// Has the layers' file system synced after each unpacking; never ends.
pub(super) async fn watch(rt: Rc<Runtime>) {
    loop {
        rt.unsynced.notified().await;
        let place = rt.link.borrow().as_ref().map(|l| l.place.clone()).unwrap_or_default();
        let mut synced = Vec::new();
        for path in place.layers.iter().chain(&place.database) {
            let device = std::fs::metadata(path).map(|m| m.dev()).ok();
            if synced.contains(&device) {
                continue;
            }
            let began = clock::now().mono;
            match asked::sync(path, SYNC).await {
                Ok(()) => {
                    log::debug!("what was unpacked is on the disk: {} synced in {} ms", path.display(), clock::now().mono.since_ms(began))
                }
                Err(e) => log::warn!("sync the file system of {}: {e}; after a power cut images may be damaged", path.display()),
            }
            synced.push(device);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_held_until_the_database_is_another() {
        let path = std::env::temp_dir().join(format!("plinth-place-{}", std::process::id()));
        std::fs::write(&path, "db").unwrap();
        let held = Held::take(&path, "plinth").unwrap();
        assert!(held.is_of(&path, "plinth") && !held.is_of(&path, "other"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "new").unwrap();
        assert!(!held.is_of(&path, "plinth"));
        std::fs::remove_file(&path).unwrap();
    }
}
