//! Containers of ours that containerd knows nothing of (any more), because its state was wiped or a create was cut short: nobody can
//! reach them by API, and the pod they belong to is about to be made anew.
//!
//! Found by our own directory of the OCI runtime (`<run>/oci/<namespace>/<id>`), which no other containerd shares; ended by
//! their cgroups, then their shim, then what is left mounted. A container with a record or a task is never touched.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Runtime, labels};
use crate::pod::Uid;
use crate::sys::{cgroup, mounts};

/// A killed process is gone within milliseconds, unless the kernel holds it: tries, and the pause between two.
const KILLS: (u32, Duration) = (100, Duration::from_millis(20));

/// A shim ends by itself once its last container is deleted: looks, and the pause between two.
const ENDS: (u32, Duration) = (10, Duration::from_millis(20));

impl Runtime {
    /// Ends every container of our OCI runtime directory that is not among these. What fails is said and tried at the next look.
    pub(super) async fn end_orphans(&self, here: &BTreeSet<String>) {
        let ids = std::fs::read_dir(self.oci_states()).into_iter().flatten().flatten();
        for id in ids.filter_map(|e| e.file_name().into_string().ok()) {
            if !here.contains(&id) && !self.making.borrow().contains(id.as_str()) {
                log::warn!("container={id} is there without containerd's knowledge (its state was lost, or a create was cut short): ended");
                if let Err(e) = self.end_orphan(&id).await {
                    log::warn!("container={id} end it: {e}");
                }
            }
        }
    }

    /// True if the OCI runtime has written anything down of it.
    pub(super) fn has_oci_state(&self, id: &str) -> bool {
        self.oci_states().join(id).exists()
    }

    /// Ends one: its processes, its shim unless that has others, its root mount, and what shim and OCI runtime keep of it on disk,
    /// which else stands in the way of the next create of that id ("file exists").
    pub(super) async fn end_orphan(&self, id: &str) -> std::io::Result<()> {
        let state = self.oci_states().join(id);
        let shim = init(&state).and_then(parent).filter(|pid| is_shim(*pid, &self.settings.namespace));
        let beside = shim.and_then(|pid| std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok());
        self.empty(id).await?;
        if let Some(shim) = shim {
            self.end_idle_shim(shim);
        }
        let root = format!("/{}/{id}/rootfs", self.settings.namespace);
        // containerd's shim stands in a bundle of its pod, plinth's where all of them are.
        let bundles = |b: PathBuf| if b.ends_with(&self.settings.namespace) { Some(b) } else { b.parent().map(Path::to_owned) };
        let mut bundle = beside.and_then(bundles).map(|dir| dir.join(id));
        for mount in mounts::below(&[Path::new("/")])?.into_iter().filter(|m| m.to_string_lossy().ends_with(&root)) {
            mounts::detach(&mount)?;
            bundle = mount.parent().map(Path::to_owned);
        }
        if let Some(bundle) = bundle.filter(|b| b.ends_with(format!("{}/{id}", self.settings.namespace))) {
            if let Ok(work) = std::fs::read_link(bundle.join("work"))
                && work.ends_with(id)
            {
                gone(std::fs::remove_dir_all(work))?;
            }
            gone(std::fs::remove_dir_all(bundle))?;
        }
        gone(std::fs::remove_dir_all(state))
    }

    /// Ends shims without a container, which a create leaves that was cut short between the two. They were listed before tasks and
    /// records were. `open`: every id with a task or with a record whose end is not written down. A pod's containers share one shim,
    /// so beside one that has children another of the same pod has nothing.
    pub(super) fn end_shims(&self, shims: &[Shim], open: &BTreeSet<String>) {
        let busy = |s: &Shim| open.iter().any(|id| s.is_of(id)) || self.making.borrow().iter().any(|id| s.is_of(id));
        for shim in shims.iter().filter(|s| !has_children(s.pid)) {
            if !busy(shim) || shims.iter().any(|o| o.is_of(&shim.id) && has_children(o.pid)) {
                shim.end();
            }
        }
    }

    /// The same for a pod that has nothing any more. A shim that is about to end by itself is given a moment.
    pub(super) async fn end_shims_of(&self, uid: &Uid) {
        let pod = labels::id(uid, "", 0);
        for _ in 0..ENDS.0 {
            if !self.shims().iter().any(|s| s.is_of(&pod)) {
                return;
            }
            tokio::time::sleep(ENDS.1).await;
        }
        self.shims().iter().filter(|s| s.is_of(&pod) && !has_children(s.pid)).for_each(Shim::end);
    }

    /// Every shim our containerd started for one of our ids.
    pub(super) fn shims(&self) -> Vec<Shim> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw);
        pids.filter_map(|pid| self.shim(pid)).collect()
    }

    fn shim(&self, pid: Pid) -> Option<Shim> {
        if !may_be_shim(pid) {
            return None;
        }
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let words = words(pid);
        let value = |flag: &str| words.iter().skip_while(|w| *w != flag).nth(1);
        let ours = is_shim(pid, &self.settings.namespace) && value("-address")? == self.settings.containerd.to_str()?;
        let id = value("-id").filter(|id| ours && is_id(id))?.clone();
        Some(Shim { id, pid, fd })
    }

    /// Ends the shim that was started for a container which never came to be: it may hang in that create for half a minute, and the
    /// next one would join it.
    pub(super) fn end_shim_of(&self, id: &str) {
        self.shims().iter().filter(|s| s.id == id && !has_children(s.pid)).for_each(Shim::end);
    }

    fn end_idle_shim(&self, shim: Pid) {
        if let Ok(fd) = pidfd_open(shim, PidfdFlags::empty())
            && is_shim(shim, &self.settings.namespace)
            && !has_children(shim)
        {
            let _ = pidfd_send_signal(fd, Signal::KILL);
        }
    }

    /// Kills what is in its cgroups until they can be removed: a create that is still under way puts more in.
    async fn empty(&self, id: &str) -> std::io::Result<()> {
        let mut tries = 0;
        loop {
            let groups = self.groups(id);
            let killed = groups.iter().try_for_each(|g| cgroup::kill(g).and_then(|_| gone(std::fs::remove_dir(g))));
            match killed {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && tries < KILLS.0 => tries += 1,
                other => return other,
            }
            tokio::time::sleep(KILLS.1).await;
        }
    }

    /// The shim adds the namespace to the root it is given.
    fn oci_states(&self) -> PathBuf {
        self.settings.run_dir.join("oci").join(&self.settings.namespace)
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

/// A shim that was there.
pub(super) struct Shim {
    /// The container it was started for.
    id: String,
    pid: Pid,
    fd: OwnedFd,
}

impl Shim {
    /// Of the pod this container is of.
    fn is_of(&self, id: &str) -> bool {
        self.id.split('-').next() == id.split('-').next()
    }

    fn end(&self) {
        log::info!("shim of {} has no container (its create was cut short): ended", self.id);
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }
}

/// Of the form `labels::id` makes.
fn is_id(id: &str) -> bool {
    id.split_once('-').is_some_and(|(pod, _)| pod.len() == 12 && pod.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Not there is removed.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Whether a process has children, by all its threads.
fn has_children(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    threads.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default()).any(|c| !c.trim().is_empty())
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
    may_be_shim(pid) && words(pid).first().is_some_and(|program| program.contains("shim")) && has_flag(pid, "-namespace", namespace)
}

/// By the name the kernel has for it. To read a command line takes a lock of that process's memory, which one that hangs in the kernel may
/// hold for good: whoever else reads it hangs too, as `ps` is known to.
fn may_be_shim(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).is_ok_and(|name| is_name_of_shim(name.trim_end()))
}

/// `containerd-shim-…`, of which the kernel keeps 15 bytes; one of plinth's own that has not named itself yet was started by a descriptor and
/// is called by its number, or since Linux 6.14 as its program.
fn is_name_of_shim(name: &str) -> bool {
    name.contains("shim") || name == "plinth" || (!name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
}

fn has_flag(pid: Pid, flag: &str, value: &str) -> bool {
    words(pid).windows(2).any(|w| matches!(w, [f, v] if f == flag && v == value))
}

fn words(pid: Pid) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
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

    #[test]
    fn a_shim_is_told_by_its_name_before_its_command_line_is_read() {
        assert!(is_name_of_shim("containerd-shim") && is_name_of_shim("5") && is_name_of_shim("12"));
        assert!(is_name_of_shim("plinth") && !is_name_of_shim("postgres") && !is_name_of_shim("7z") && !is_name_of_shim(""));
        assert!(!may_be_shim(rustix::process::getpid()));
    }
}
