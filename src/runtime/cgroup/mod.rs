//! Pod cgroups: `<cgroup root>/kubepods/{,burstable/,besteffort/}pod<uid>`, laid and limited as the kubelet's cgroupfs driver does.
//!
//! Works on the v2 tree or on every v1 hierarchy. Where controllers or permission are missing pods go without limits, and that is
//! said once. Never touches a group outside `kubepods`, and there only the pod's own.

mod limits;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::node::memory_for_pods;
use super::paths::Paths;
use super::qos;
use crate::pod::{Uid, WantedPod};
use crate::quantity::Qos;
use crate::settings::Settings;
use crate::sys::cgroup::{self as kernel, Hierarchy};
use limits::{limit, memory_file, share_burstable, share_file, write};

/// After SIGKILL a group empties within milliseconds; one that is not empty by then holds a process the kernel cannot end.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// The pod's cgroup, from the root of a hierarchy: the parent of its containers' groups.
pub fn pod_group(paths: &Paths, pod: &WantedPod) -> PathBuf {
    paths.cgroup_root().join(qos::cgroup_parent(qos::class(&pod.object), &pod.uid))
}

/// Each class, for what is not known by its pod.
const CLASSES: [Qos; 3] = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];

/// Makes the pod's group in every hierarchy and limits it. Goes without where it cannot.
pub fn create(settings: &Settings, paths: &Paths, pod: &WantedPod) {
    let group = pod_group(paths, pod);
    let mut trouble = None;
    let hierarchies = kernel::hierarchies();
    // Each with the file that tells it is there, on v2 and v1.
    let mut missing = vec![("cpu", ["cpu.weight", "cpu.shares"]), ("memory", ["memory.max", "memory.limit_in_bytes"])];
    for h in &hierarchies {
        match make(h, &group) {
            Ok(dir) => {
                missing.retain(|(_, files)| !files.iter().any(|f| dir.join(f).exists()));
                kernel::mark(&dir);
                limit(h, &dir, pod, settings.pod_pids);
                share_burstable(h, &dir);
                if let (Some(all), Some(bytes)) = (dir.ancestors().find(|d| d.ends_with("kubepods")), memory_for_pods(settings)) {
                    write(all, &memory_file(h, bytes));
                }
            }
            Err(e) => trouble = Some(format!("make {}: {e}", under(&h.root, &group).display())),
        }
    }
    if let Some((controller, _)) = missing.first() {
        trouble =
            trouble.or_else(|| Some(format!("find control group controller `{controller}`: it is not there for {}", group.display())));
    }
    if hierarchies.is_empty() {
        trouble = Some("find control groups at /sys/fs/cgroup: none is mounted there".into());
    }
    if let Some(what) = trouble {
        say_once(&what);
    }
}

/// Makes the pod's group again where somebody removed it: a container that is made now still gets its pod's limits.
pub fn restore(settings: &Settings, paths: &Paths, pod: &WantedPod) {
    let group = pod_group(paths, pod);
    let hierarchies = kernel::hierarchies();
    let is_there = |h: &Hierarchy| under(&h.root, &group).is_dir();
    if !hierarchies.iter().all(is_there) {
        create(settings, paths, pod);
    }
}

/// Groups inside the pod's for the first process of its PID namespace; where they cannot be made it stays where it is.
pub fn create_pause(paths: &Paths, pod: &WantedPod) -> Vec<PathBuf> {
    let group = pod_group(paths, pod).join("pause");
    kernel::hierarchies().iter().filter_map(|h| make(h, &group).ok()).collect()
}

fn say_once(what: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("{what}; pods run without pod-level limits there (said once)");
    }
}

fn under(root: &Path, group: &Path) -> PathBuf {
    root.join(group.strip_prefix("/").unwrap_or(group))
}

/// Every directory down to the group, each with what children need: controllers (v2), processors and memory nodes (v1 cpuset).
fn make(h: &Hierarchy, group: &Path) -> io::Result<PathBuf> {
    let whole = under(&h.root, group);
    match std::fs::create_dir(&whole) {
        // The first pod of its class made the way, and controllers pass down it.
        Ok(()) => {
            inherit_cpuset(whole.parent().unwrap_or(&h.root), &whole);
            return Ok(whole);
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(whole),
        Err(_) => {}
    }
    let mut dir = h.root.clone();
    for part in group.strip_prefix("/").unwrap_or(group).components() {
        if h.unified {
            pass_controllers_down(&dir);
        }
        let parent = dir.clone();
        dir.push(part);
        match std::fs::create_dir(&dir) {
            Ok(()) => {
                inherit_cpuset(&parent, &dir);
                if part.as_os_str() == "besteffort" {
                    write(&dir, &share_file(h, 2));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(dir)
}

/// One by one: a controller that cannot be enabled must not cost the others.
fn pass_controllers_down(dir: &Path) {
    let read = |file| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (have, passed) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in have.split_whitespace().filter(|c| !passed.split_whitespace().any(|p| p == *c)) {
        write(dir, &("cgroup.subtree_control", format!("+{controller}")));
    }
}

/// A new v1 cpuset group has no processors and memory nodes, and takes no process without them.
fn inherit_cpuset(parent: &Path, dir: &Path) {
    if !parent.join("cgroup.clone_children").exists() {
        return;
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read_to_string(parent.join(file)) {
            write(dir, &(file, value));
        }
    }
}

/// Removes the pod's group from every hierarchy and class, killing what is left in it and only there.
pub async fn delete(paths: &Paths, uid: &Uid) -> io::Result<()> {
    for (h, dir) in groups_of(paths, uid) {
        remove(&dir).await.map_err(|e| io::Error::new(e.kind(), format!("remove {}: {e}", dir.display())))?;
        share_burstable(&h, &dir);
    }
    Ok(())
}

/// Every place a group of that pod may be: its class may have been another one.
fn groups_of(paths: &Paths, uid: &Uid) -> Vec<(Hierarchy, PathBuf)> {
    let classes = CLASSES.map(|q| paths.cgroup_root().join(qos::cgroup_parent(q, uid)));
    let all = kernel::hierarchies().into_iter().flat_map(|h| classes.clone().map(|c| (h.clone(), under(&h.root, &c))));
    all.filter(|(_, dir)| dir.is_dir()).collect()
}

async fn remove(dir: &Path) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    let mut pause = Duration::from_millis(1);
    loop {
        match remove_now(dir) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && waited < EMPTY_WITHIN => {
                tokio::time::sleep(pause).await;
                waited += pause;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            done => return done,
        }
    }
}

/// Containers' groups first (children last in the walk come first), then itself.
fn remove_now(dir: &Path) -> io::Result<()> {
    let mut order = vec![dir.to_path_buf()];
    let mut at = 0;
    while let Some(here) = order.get(at).cloned() {
        at += 1;
        let children = std::fs::read_dir(&here).into_iter().flatten().flatten();
        order.extend(children.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    for group in order.iter().rev() {
        match std::fs::remove_dir(group) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                kernel::kill(group)?;
                return Err(e);
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Whether any group of the pod is left.
pub fn exists(paths: &Paths, uid: &Uid) -> bool {
    !groups_of(paths, uid).is_empty()
}

/// The pods that have a group of ours: those of a kubelet beside us have the same kind of name but not our mark.
pub fn scan(paths: &Paths) -> BTreeSet<Uid> {
    let mut found = BTreeSet::new();
    for h in kernel::hierarchies() {
        for qos in CLASSES {
            let class = under(&h.root, &paths.cgroup_root().join(qos::cgroup_parent(qos, &Uid("".into()))));
            for entry in class.parent().map(std::fs::read_dir).into_iter().flatten().flatten().flatten() {
                let name = entry.file_name();
                let uid = name.to_str().and_then(|n| n.strip_prefix("pod")).filter(|u| super::sandbox::is_uid(u));
                if let Some(uid) = uid.filter(|_| kernel::is_marked(&entry.path())) {
                    found.insert(Uid(uid.into()));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::json;

    pub fn pod(resources: serde_json::Value) -> WantedPod {
        let object = json!({ "metadata": { "name": "a", "uid": "0123456789abcdef0123456789abcdef" },
            "spec": { "containers": [{ "name": "c", "resources": resources }] } });
        WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap()
    }

    #[test]
    fn a_pods_group_lies_below_its_class() {
        let settings = crate::settings::Settings { cgroup_root: "/pltest".into(), ..Default::default() };
        let paths = Paths::new(&settings);
        let uid = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod_group(&paths, &pod(json!({}))), PathBuf::from(format!("/pltest/kubepods/besteffort/pod{uid}")));
        let guaranteed = pod(json!({ "limits": { "cpu": "1", "memory": "1Gi" } }));
        assert_eq!(pod_group(&paths, &guaranteed), PathBuf::from(format!("/pltest/kubepods/pod{uid}")));
    }
}
