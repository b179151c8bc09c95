//! The socket file: replaced when stale, refused when another plinth runs, mode 0660 before anyone can connect.
//!
//! The lock beside it, not the socket, tells a living plinth from a dead one: a crash frees it, a busy loop does not.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;

/// Why the status socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process holds the lock or answers on the socket.
    #[error("serve `{0}`: another plinth runs (or another program listens there); stop it, or choose another path with --socket")]
    Taken(PathBuf),
    /// There is something else of that name.
    #[error("serve `{0}`: a file that is not a socket has that name; remove it, or choose another path with --socket")]
    NotASocket(PathBuf),
    /// The group is unknown to /etc/group.
    #[error("find group `{0}` for the status socket; use a name of /etc/group or a number")]
    Group(String),
    /// A system call failed.
    #[error("{what} `{path}`")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A served socket; the file goes when this goes.
#[derive(Debug)]
pub struct Listener {
    pub(super) inner: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is still held here, so the file is ours to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket: `group` (a name or number) may read, nobody else but root.
pub fn listen(path: &Path, group: Option<&str>) -> Result<Listener, ListenError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ListenError::Io { what, path, source }
    };
    let gid = group.map(|g| group_id(g).ok_or_else(|| ListenError::Group(g.to_owned()))).transpose()?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
    }
    let lock_path = beside(path, ".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open lock", &lock_path))?;
    // A record lock, not flock(2): a child forked just before a crash would hold that one on.
    match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS) => return Err(ListenError::Taken(path.to_owned())),
        Err(e) => return Err(failed("lock", &lock_path)(e.into())),
    }
    judge_remains(path)?;
    // Bound under another name and renamed: nobody can connect before mode and group are right, and the old file never leaves a gap.
    let fresh = beside(path, ".new");
    let _ = std::fs::remove_file(&fresh);
    let listener = StdListener::bind(&fresh).map_err(failed("bind", path))?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o660)).map_err(failed("set mode of", path))?;
    if let Some(gid) = gid {
        chown(&fresh, None, Some(gid)).map_err(failed("set group of", path))?;
    }
    std::fs::rename(&fresh, path).map_err(failed("put in place", path))?;
    listener.set_nonblocking(true).map_err(failed("make non-blocking", path))?;
    let inner = UnixListener::from_std(listener).map_err(failed("watch", path))?;
    Ok(Listener { inner, path: path.to_owned(), _lock: lock })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// `Ok` when there is nothing, or a socket nobody answers on.
fn judge_remains(path: &Path) -> Result<(), ListenError> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::Io { what: "look at", path: path.to_owned(), source }),
    };
    if !kind.is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match answers(path) {
        // A full backlog is somebody, too.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(ListenError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Non-blocking: a listener with a full backlog must not hold up our start.
fn answers(path: &Path) -> rustix::io::Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Reads /etc/group itself: the C library's lookup may load modules and talk to the network.
fn group_id(group: &str) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    std::fs::read_to_string("/etc/group").ok()?.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    })
}
