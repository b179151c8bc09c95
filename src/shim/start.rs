//! `start`: the address of a shim for one container: that of its pod's, if there is one, else of one that is started.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::api::Options;
use super::{Call, SOCKETS, is_name};
use crate::hex::hex;
use crate::sys::spawn;

/// Containers with the same value of the first of these that they have share a shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// The kind of options a runc shim has.
const OPTIONS: &str = "containerd.runc.v1.Options";

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What containerd reads on standard output; `None`: the shim's own program has to see to it, and nothing was left behind.
pub(super) fn start(call: &Call, input: &[u8], name: &Path) -> Option<Vec<u8>> {
    // Scheduling groups and control groups of shims are the program's own business.
    if std::env::var_os("SCHED_CORE").is_some() || !is_plain(input) {
        return None;
    }
    let spec: Spec = serde_json::from_slice(&fs::read("config.json").ok()?).ok()?;
    let socket = socket(call, group(&spec, &call.id))?;
    match listen(&socket) {
        Ok(Some(listener)) => serve(call, name, listener).map_err(|_| fs::remove_file(&socket)).ok()?,
        Ok(None) => {}
        Err(_) => return None,
    }
    Some(format!(r#"{{"version":3,"address":"unix://{}","protocol":"ttrpc"}}"#, socket.display()).into_bytes())
}

/// Options of a runc shim, written as containerd 2.0 to 2.2 does, and none that is not known here.
fn is_plain(input: &[u8]) -> bool {
    let any = prost_types::Any::decode(input).ok().filter(|any| any.type_url == OPTIONS);
    any.is_some_and(|any| Options::decode(any.value.as_slice()).is_ok_and(|o| o.encoded_len() == any.value.len()))
}

fn group<'a>(spec: &'a Spec, id: &'a str) -> &'a str {
    GROUPS.iter().find_map(|g| spec.annotations.get(*g)).map_or(id, String::as_str)
}

/// Named by containerd's socket, the namespace and the group, as the shim itself does: it removes its socket when it ends.
fn socket(call: &Call, group: &str) -> Option<PathBuf> {
    let is_clean = call.address.strip_prefix('/').is_some_and(|a| a.split('/').all(is_name));
    let path = (is_clean && is_name(&call.namespace) && is_name(group)).then(|| format!("{}/{}/{group}", call.address, call.namespace))?;
    Some(Path::new(SOCKETS).join(hex(&Sha256::digest(path))))
}

/// A socket for a new shim; `None`: one listens there already.
fn listen(path: &Path) -> io::Result<Option<UnixListener>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(SOCKETS)?;
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if answers(path)? {
                return Ok(None);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(Some(listener))
}

/// Whether a shim is there; never waits for one that hangs.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(true),
        // More wait there than it has room for.
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Starts the shim that stays: this program, with the socket as its descriptor 3. By a mount of its own, so that who looks for plinth's
/// processes by their program (`pidof`) finds the supervisor alone.
fn serve(call: &Call, name: &Path, listener: UnixListener) -> io::Result<()> {
    let args = ["-namespace", &call.namespace, "-id", &call.id, "-address", &call.address];
    let null: OwnedFd = fs::File::options().read(true).write(true).open("/dev/null")?.into();
    let own = spawn::own_program()?;
    let program = PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd()));
    let pid = spawn::leave(&program, name, &args, std::env::vars_os(), [&null, &null, &null, &listener.into()])?;
    spare(pid).inspect_err(|_| {
        let _ = kill_process(pid, Signal::KILL);
    })
}

/// When memory is short a shim goes before containerd does.
fn spare(pid: Pid) -> io::Result<()> {
    let containerd = fs::read_to_string(format!("/proc/{}/oom_score_adj", std::os::unix::process::parent_id()))?;
    let score: i32 = containerd.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), (score + 1).min(1000).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(address: &str, namespace: &str) -> Call {
        Call { address: address.into(), namespace: namespace.into(), id: "web-1".into(), ..Call::default() }
    }

    #[test]
    fn only_the_options_of_a_runc_shim_are_understood() {
        let known = Options { binary_name: "crun".into(), root: "/run/oci".into(), systemd_cgroup: false }.encode_to_vec();
        let any = |kind: &str, value: &[u8]| prost_types::Any { type_url: kind.into(), value: value.into() }.encode_to_vec();
        assert!(is_plain(&any(OPTIONS, &known)));
        // Its third field, the control group of the shim itself.
        assert!(!is_plain(&any(OPTIONS, &[&known[..], b"\x1a\x06/shims"].concat())));
        // What containerd 2.3 says begins with the container's id and the namespace.
        assert!(!is_plain(&any("web-1", b"plinth")));
        assert!(!is_plain(b""));
        assert!(!is_plain(b"\xff\xff"));
    }

    #[test]
    fn a_pods_containers_have_one_socket_and_odd_names_have_none() {
        let spec = |group: &str| Spec { annotations: BTreeMap::from([(GROUPS[1].into(), "b".into()), (group.into(), "a".into())]) };
        assert_eq!(group(&spec(GROUPS[0]), "web-1"), "a");
        assert_eq!(group(&spec("other"), "web-1"), "b");
        assert_eq!(group(&Spec { annotations: BTreeMap::new() }, "web-1"), "web-1");
        // printf %s /run/containerd/containerd.sock/plinth/a | sha256sum
        let expected = "/run/containerd/s/69bc083d474b6c02049c1f1efe585b1f7d0bffd9dcad0e1043b55e6ff8669876";
        assert_eq!(socket(&call("/run/containerd/containerd.sock", "plinth"), "a"), Some(expected.into()));
        for (address, namespace, group) in
            [("/run//c.sock", "n", "g"), ("/run/../c.sock", "n", "g"), ("c.sock", "n", "g"), ("/c.sock", "n", "a/b"), ("/c.sock", "", "g")]
        {
            assert_eq!(socket(&call(address, namespace), group), None, "{address} {namespace} {group}");
        }
    }
}
