//! Containers of ours that containerd knows nothing of any more, because its state was wiped: nobody can reach them by API, and
//! the pod they belong to is about to be made anew.
//!
//! Found by our own directory of the OCI runtime (`<run>/oci/<namespace>/<id>`), which no other containerd shares; ended by
//! their cgroups, then their shim, then what is left mounted. A container with a record or a task is never touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Runtime;
use crate::sys::{cgroup, mounts};

/// A killed process is gone within milliseconds, unless the kernel holds it: tries, and the pause between two.
const KILLS: (u32, Duration) = (100, Duration::from_millis(20));

impl Runtime {
    /// Ends every container of our OCI runtime directory that is not among these. What fails is said and tried at the next look.
    pub(super) async fn end_orphans(&self, here: &BTreeSet<String>) {
        let dir = self.settings.run_dir.join("oci").join(&self.settings.namespace);
        let ids = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        for id in ids.filter_map(|e| e.file_name().into_string().ok()) {
            if !here.contains(&id) && !self.making.borrow().contains(id.as_str()) {
                log::warn!("container={id} runs on without containerd, whose state was lost: ended");
                if let Err(e) = self.end_orphan(&dir, &id).await {
                    log::warn!("container={id} end it: {e}");
                }
            }
        }
    }

    async fn end_orphan(&self, dir: &Path, id: &str) -> std::io::Result<()> {
        let init = init(&dir.join(id));
        let shim = init.and_then(parent).filter(|pid| is_shim(*pid, &self.settings.namespace));
        for group in self.groups(id) {
            for _ in 0..KILLS.0 {
                if cgroup::kill(&group)? == 0 {
                    break;
                }
                tokio::time::sleep(KILLS.1).await;
            }
        }
        if let Some(shim) = shim
            && let Ok(fd) = pidfd_open(shim, PidfdFlags::empty())
            && is_shim(shim, &self.settings.namespace)
        {
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
        let bundle = format!("/{}/{id}/rootfs", self.settings.namespace);
        for mount in mounts::below(&[Path::new("/")])?.into_iter().filter(|m| m.to_string_lossy().ends_with(&bundle)) {
            mounts::detach(&mount)?;
        }
        for group in self.groups(id) {
            std::fs::remove_dir(&group)?;
        }
        std::fs::remove_dir_all(dir.join(id))
    }

    /// The container's cgroups: one a hierarchy, below whichever pod has it.
    fn groups(&self, id: &str) -> Vec<PathBuf> {
        let kubepods = self.paths.cgroup_root().join("kubepods");
        let kubepods = kubepods.strip_prefix("/").unwrap_or(&kubepods);
        let classes =
            cgroup::hierarchies().into_iter().flat_map(|h| ["", "burstable", "besteffort"].map(|class| h.root.join(kubepods).join(class)));
        let pods = classes.flat_map(|class| std::fs::read_dir(class).into_iter().flatten().flatten());
        pods.map(|pod| pod.path().join(id)).filter(|group| group.is_dir()).collect()
    }
}

/// The init of a container, from runc's or crun's own state.
fn init(state: &Path) -> Option<Pid> {
    let read = |file: &str, key: &str| {
        let text = std::fs::read(state.join(file)).ok()?;
        serde_json::from_slice::<serde_json::Value>(&text).ok()?.get(key)?.as_i64()
    };
    let pid = read("state.json", "init_process_pid").or_else(|| read("status", "pid"))?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The fourth field of /proc/PID/stat, after the name in brackets.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let ppid = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    Pid::from_raw(ppid)
}

fn is_shim(pid: Pid, namespace: &str) -> bool {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<_> = line.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
    let ours = words.windows(2).any(|w| matches!(w, [flag, value] if flag == "-namespace" && value == namespace));
    ours && words.first().is_some_and(|program| program.contains("shim"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_from_proc() {
        let own = rustix::process::getpid();
        assert_eq!(parent(own), rustix::process::getppid());
        assert!(!is_shim(own, "plinth"));
    }
}
