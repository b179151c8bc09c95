//! nfs volumes, by the kernel's own client: no helper program, no resolver. A server that is dead costs its own pod time and nobody else.
//!
//! Versions are tried from the newest down, as mount.nfs(8) does. NFSv3 goes without locks, which would need a daemon beside the kernel.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::NFSVolumeSource;

use super::{VolumeError, file};
use crate::runtime::hosts;
use crate::sys::asked::{self, Wish};
use crate::sys::mounts;

/// A server that does not answer by then is tried again later.
const MOUNT: Duration = Duration::from_secs(30);
const VERSIONS: [&str; 4] = ["4.2", "4.1", "4.0", "3"];

/// Mounts the export.
pub async fn mount(name: &str, nfs: &NFSVolumeSource, dir: &Path) -> Result<(), VolumeError> {
    if mounts::is_mount_point(dir) {
        return Ok(());
    }
    let refused = |why| VolumeError::Refused { name: name.to_owned(), why };
    let Some(ip) = address(&nfs.server) else {
        let why = format!("nfs server `{}` is no address and not in the node's /etc/hosts: write its address", nfs.server);
        return Err(refused(why));
    };
    std::fs::create_dir_all(dir).map_err(file(name, "make", dir))?;
    let source = source(&nfs.server, &nfs.path);
    let end = tokio::time::Instant::now() + MOUNT;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for version in VERSIONS {
        let (kind, options) = ("nfs", options(version, ip));
        let wish = Wish { source: &source, target: dir, kind, read_only: nfs.read_only.unwrap_or(false), options: &options };
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        match asked::mount(wish, left).await {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                return Err(refused("this kernel has no NFS client: load or build its module `nfs`".into()));
            }
            Err(e) if speaks_another(&e) => last = e,
            Err(e) => return Err(mount_error(name, &source, e)),
        }
    }
    Err(mount_error(name, &source, last))
}

fn mount_error(name: &str, source: &str, e: io::Error) -> VolumeError {
    file(name, "mount nfs export", Path::new(source))(e)
}

/// The server, or the kernel, does not have that version.
fn speaks_another(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::PROTONOSUPPORT, Errno::PROTO, Errno::INVAL, Errno::OPNOTSUPP];
    codes.iter().any(|code| e.raw_os_error() == Some(code.raw_os_error()))
}

fn address(server: &str) -> Option<IpAddr> {
    server.parse().ok().or_else(|| hosts::listed(server).into_iter().next())
}

/// `server:/path`, an IPv6 address in brackets.
fn source(server: &str, path: &str) -> String {
    if server.contains(':') { format!("[{server}]:{path}") } else { format!("{server}:{path}") }
}

/// What mount.nfs(8) would give the kernel.
fn options(version: &str, ip: IpAddr) -> String {
    let proto = if ip.is_ipv6() { "tcp6" } else { "tcp" };
    let legacy = if version == "3" { format!(",mountvers=3,mountproto={proto},mountaddr={ip},nolock") } else { String::new() };
    format!("vers={version},proto={proto},addr={ip},hard{legacy}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernel_is_told_what_mount_nfs_would_tell_it() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(options("4.2", v4), "vers=4.2,proto=tcp,addr=192.0.2.1,hard");
        assert_eq!(options("4.1", v6), "vers=4.1,proto=tcp6,addr=2001:db8::1,hard");
        assert_eq!(options("3", v4), "vers=3,proto=tcp,addr=192.0.2.1,hard,mountvers=3,mountproto=tcp,mountaddr=192.0.2.1,nolock");
        assert_eq!(source("192.0.2.1", "/export"), "192.0.2.1:/export");
        assert_eq!(source("2001:db8::1", "/export"), "[2001:db8::1]:/export");
    }

    #[test]
    fn another_version_is_tried_only_where_that_may_help() {
        let of = |code: rustix::io::Errno| io::Error::from_raw_os_error(code.raw_os_error());
        assert!(speaks_another(&of(rustix::io::Errno::PROTONOSUPPORT)));
        for other in [rustix::io::Errno::ACCESS, rustix::io::Errno::NOENT, rustix::io::Errno::CONNREFUSED] {
            assert!(!speaks_another(&of(other)));
        }
        assert_eq!(address("no-such-name.invalid"), None);
    }
}
