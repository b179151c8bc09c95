//! `delete`: the last look at a container that its shim has deleted already, which is what a container is that ended in order.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use prost::Message;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde::Deserialize;

use super::api::Deleted;
use super::{Call, is_name};

/// Of a container whose end nobody saw: 128 and SIGKILL.
const KILLED: u32 = 137;

/// The runc shim's options as it keeps them in the bundle.
#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    root: String,
}

/// What containerd reads on standard output; `None`: something is left of the container, for the shim's own program to remove.
pub(super) fn delete(call: &Call) -> Option<Vec<u8>> {
    let bundle = Path::new(&call.bundle);
    let options: Options = serde_json::from_slice(&fs::read(bundle.join("options.json")).ok()?).ok()?;
    let known = !options.root.is_empty() && is_name(&call.namespace) && is_name(&call.id);
    let state = Path::new(&options.root).join(&call.namespace).join(&call.id);
    if !known || !is_gone(&state) || is_mounted(&bundle.join("rootfs")) {
        return None;
    }
    let pid = fs::read_to_string(bundle.join("init.pid")).ok().and_then(|pid| pid.trim().parse().ok());
    let deleted = Deleted { pid: pid.unwrap_or_default(), exit_status: KILLED, exited_at: Some(SystemTime::now().into()) };
    Some(deleted.encode_to_vec())
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Whether something is mounted there, or it is not known.
fn is_mounted(path: &Path) -> bool {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(seen) => {
            !seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) || seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        Err(e) => e != rustix::io::Errno::NOENT,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_container_of_which_nothing_is_left_is_answered_for() {
        let dir = std::env::temp_dir().join(format!("plinth-shim-{}", std::process::id()));
        let (bundle, root) = (dir.join("bundle"), dir.join("oci"));
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::create_dir_all(root.join("ns/web-1")).unwrap();
        fs::write(bundle.join("init.pid"), "77").unwrap();
        let call = Call { namespace: "ns".into(), id: "web-1".into(), bundle: bundle.display().to_string(), ..Call::default() };
        assert_eq!(delete(&call), None, "its options are not known");
        fs::write(bundle.join("options.json"), format!(r#"{{"binary_name":"runc","root":{:?}}}"#, root.display())).unwrap();
        assert_eq!(delete(&call), None, "the OCI runtime still has it");
        fs::remove_dir(root.join("ns/web-1")).unwrap();
        let said = Deleted::decode(delete(&call).unwrap().as_slice()).unwrap();
        assert_eq!((said.pid, said.exit_status, said.exited_at.is_some()), (77, 137, true));
        assert!(is_mounted(Path::new("/proc")) && !is_mounted(&bundle));
        fs::remove_dir_all(&dir).unwrap();
    }
}
