//! Volumes of a pod: emptyDir, hostPath, downwardAPI, projected, nfs, laid out as the kubelet lays them.
//!
//! - `downward`: the pod told to itself in files, swapped as a whole
//! - `empty_dir`: a directory of the pod's own, on disk or in memory
//! - `host_path`: what `hostPath.type` checks and makes
//! - `nfs`: an export, mounted by the kernel's client
//! - `sub_path`: a path inside a volume, opened so that no link leads out of it, and pinned
//! - `usage`: what a pod's own volumes hold, and emptyDirs on disk against their sizeLimit; `walk`: counts it
//!
//! Never writes into a hostPath, never changes its owner or mode. Taking volumes away is the sandbox's work (unmount, remove).

mod downward;
mod empty_dir;
mod host_path;
mod nfs;
mod sub_path;
pub mod usage;
mod walk;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Volume};

use super::error::chain;
use super::oci::{self, VolumeSource};
use super::paths::Paths;
use crate::plan::action::{Class, Failure};
use crate::pod::WantedPod;
use crate::quantity::Amount;
use crate::sys::{asked, mounts};

/// A server, or a program behind a file system, that does not answer by then is asked again later.
const ANSWER: Duration = Duration::from_secs(5);

/// What the node can give, by resource name: files of resources tell it of a container without a limit.
pub type Allocatable = BTreeMap<String, Amount>;

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A kind plinth does not have.
    #[error("set up volume `{name}`: {kind} volumes are not supported yet; use emptyDir or hostPath, or bake the files into the image")]
    Unsupported {
        /// The volume.
        name: String,
        /// Its field.
        kind: &'static str,
    },
    /// The manifest asks for what cannot be.
    #[error("set up volume `{name}`: {why}")]
    Refused {
        /// The volume.
        name: String,
        /// Why not.
        why: String,
    },
    /// `hostPath.type` does not hold.
    #[error("set up volume `{name}`: hostPath type check failed: {path} is not {wanted}")]
    HostPath {
        /// The volume.
        name: String,
        /// The path on the host.
        path: String,
        /// What its type asks for.
        wanted: &'static str,
    },
    /// Making or opening something failed.
    #[error("{verb} {path} for volume `{name}`")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The volume.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// As data, under the kubelet's reason for where it happened.
    pub fn into_failure(self, reason: &str) -> Failure {
        let class = if self.is_refusal() { Class::Refused } else { Class::Retry };
        Failure { class, reason: reason.into(), message: chain(&self) }
    }

    /// Only another manifest would help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, VolumeError::Unsupported { .. } | VolumeError::Refused { .. })
    }
}

/// Where each volume of the pod lies on this host, by volume name; nothing is looked at.
pub fn places(paths: &Paths, pod: &WantedPod) -> BTreeMap<String, VolumeSource> {
    volumes(pod).map(|v| (v.name.clone(), place(paths, pod, v))).collect()
}

/// The same, ready to be mounted: files of the pod's own fields brought up to date, links resolved, and a hostPath without a type made
/// as a directory if nothing is there. That last is the runtime's part (containerd's CRI), done when a container mounts it and not
/// before. Only what `container` mounts, or has variables from.
pub fn ready(
    paths: &Paths,
    pod: &WantedPod,
    container: &Container,
    node: &Allocatable,
) -> Result<BTreeMap<String, VolumeSource>, VolumeError> {
    let read = oci::files_wanted(container);
    let used =
        |v: &&Volume| container.volume_mounts.iter().flatten().any(|m| m.name == v.name) || read.iter().any(|(name, _)| *name == v.name);
    let mut found = BTreeMap::new();
    for volume in volumes(pod).filter(used) {
        downward::refresh(paths, pod, volume, node)?;
        let place = place(paths, pod, volume);
        let path = resolved(&volume.name, Path::new(&place.path))?;
        found.insert(volume.name.clone(), VolumeSource { path: path.to_string_lossy().into_owned(), ..place });
    }
    Ok(found)
}

/// That what a container mounts answers: what a server or a program has that is away would keep whoever touches it waiting, and here that
/// is all of plinth.
pub async fn answer(paths: &Paths, pod: &WantedPod, container: &Container) -> Result<(), VolumeError> {
    let mut touched = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let sub = mount.sub_path.as_deref().unwrap_or_default();
        // Of a pod's own volumes only what is inside may lie elsewhere: one that was mounted there by a container.
        let may = |v: &&Volume| v.name == mount.name && (v.nfs.is_some() || v.host_path.is_some() || !sub.is_empty());
        touched.extend(volumes(pod).find(may).map(|v| (v.name.as_str(), Path::new(&place(paths, pod, v).path).join(sub))));
    }
    reach(touched, ANSWER).await
}

/// Asks, in a child, those of these paths that somebody else answers for. That nothing is there is an answer.
async fn reach(paths: Vec<(&str, PathBuf)>, within: Duration) -> Result<(), VolumeError> {
    let first = paths.first().map_or("", |(name, _)| name);
    let elsewhere = mounts::elsewhere(paths).map_err(file(first, "read", Path::new("/proc/thread-self/mountinfo")))?;
    for (name, path) in elsewhere {
        match asked::answers(&path, within).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(file(name, "reach the server or program behind", &path)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn resolved(name: &str, path: &Path) -> Result<PathBuf, VolumeError> {
    let failed = |verb| file(name, verb, path);
    match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("make directory"))?;
            path.canonicalize().map_err(failed("resolve"))
        }
        there => there.map_err(failed("resolve")),
    }
}

/// Opens and pins the sub paths a container mounts (`oci::sub_paths`: by mountPath, expanded); their places, by mountPath.
pub fn open_sub_paths(
    paths: &Paths,
    pod: &WantedPod,
    container: &Container,
    wanted: &BTreeMap<String, String>,
    sources: &BTreeMap<String, VolumeSource>,
) -> Result<BTreeMap<String, String>, VolumeError> {
    let mut found = BTreeMap::new();
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if let (Some(sub), Some(source)) = (wanted.get(&mount.mount_path), sources.get(&mount.name)) {
            let place = paths.sub_path(&pod.uid, &mount.name, &container.name, at);
            sub_path::pin(&mount.name, Path::new(&source.path), sub, &place)?;
            found.insert(mount.mount_path.clone(), place.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

fn file(name: &str, verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError + use<> {
    let (name, path) = (name.to_owned(), path.to_path_buf());
    move |source| VolumeError::File { verb, path, name, source }
}

fn place(paths: &Paths, pod: &WantedPod, volume: &Volume) -> VolumeSource {
    let (plugin, read_only) = match volume {
        Volume { host_path: Some(host), .. } => return VolumeSource { path: host.path.clone(), ..VolumeSource::default() },
        Volume { downward_api: Some(_), .. } => ("downward-api", true),
        Volume { projected: Some(_), .. } => ("projected", true),
        Volume { image: Some(_), .. } => ("image", true),
        Volume { nfs: Some(nfs), .. } => ("nfs", nfs.read_only.unwrap_or(false)),
        // A volume without a source is an emptyDir by the API's defaulting.
        _ => ("empty-dir", false),
    };
    let path = paths.volume(&pod.uid, plugin, &volume.name).to_string_lossy().into_owned();
    VolumeSource { path, read_only, ..VolumeSource::default() }
}

fn volumes(pod: &WantedPod) -> impl Iterator<Item = &Volume> {
    pod.object.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

/// Makes what the volumes need. Repeating it changes nothing.
pub async fn set_up(paths: &Paths, pod: &WantedPod, node: &Allocatable) -> Result<(), VolumeError> {
    let Some(spec) = &pod.object.spec else { return Ok(()) };
    // Without a type nothing of it is touched yet.
    let checked = |v: &&Volume| v.host_path.as_ref().is_some_and(|host| host.type_.as_ref().is_some_and(|t| !t.is_empty()));
    reach(volumes(pod).filter(checked).map(|v| (v.name.as_str(), place(paths, pod, v).path.into())).collect(), ANSWER).await?;
    for volume in volumes(pod) {
        if let Some(kind) = kind(volume) {
            return Err(VolumeError::Unsupported { name: volume.name.clone(), kind });
        }
        if let Some(host) = &volume.host_path {
            host_path::check(&volume.name, host)?;
        } else if let Some(export) = &volume.nfs {
            nfs::mount(&volume.name, export, Path::new(&place(paths, pod, volume).path)).await?;
        } else if volume.image.is_some() {
            // Mounted with the first container that uses it: it waits for its image as that does.
        } else if downward::is_one(volume) {
            downward::refresh(paths, pod, volume, node)?;
        } else {
            let dir = paths.volume(&pod.uid, "empty-dir", &volume.name);
            empty_dir::make(&dir, spec, &volume.name, volume.empty_dir.as_ref().unwrap_or(&EmptyDirVolumeSource::default()), node)?;
        }
    }
    Ok(())
}

/// The field of a source plinth does not have.
fn kind(v: &Volume) -> Option<&'static str> {
    let has: [(bool, &'static str); 24] = [
        (v.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (v.azure_disk.is_some(), "azureDisk"),
        (v.azure_file.is_some(), "azureFile"),
        (v.cephfs.is_some(), "cephfs"),
        (v.cinder.is_some(), "cinder"),
        (v.config_map.is_some(), "configMap"),
        (v.csi.is_some(), "csi"),
        (v.ephemeral.is_some(), "ephemeral"),
        (v.fc.is_some(), "fc"),
        (v.flex_volume.is_some(), "flexVolume"),
        (v.flocker.is_some(), "flocker"),
        (v.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (v.git_repo.is_some(), "gitRepo"),
        (v.glusterfs.is_some(), "glusterfs"),
        (v.iscsi.is_some(), "iscsi"),
        (v.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (v.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (v.portworx_volume.is_some(), "portworxVolume"),
        (v.quobyte.is_some(), "quobyte"),
        (v.rbd.is_some(), "rbd"),
        (v.scale_io.is_some(), "scaleIO"),
        (v.secret.is_some(), "secret"),
        (v.storageos.is_some(), "storageos"),
        (v.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    has.into_iter().find(|(there, _)| *there).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::asked::tests::beside_a_deaf_one;

    /// `set_up` and `answer` would wait for ever, and all of plinth with them.
    #[test]
    fn a_host_path_behind_a_deaf_program_is_given_up_and_one_that_is_not_there_is_not() {
        beside_a_deaf_one("hostpath", async |dir| {
            std::os::unix::fs::symlink("deaf/x", dir.join("link")).unwrap();
            let settings = crate::settings::Settings { data_dir: dir.join("data"), run_dir: dir.join("run"), ..Default::default() };
            let paths = Paths::new(&settings);
            let pod = |path: &str, kind: &str| {
                let host = serde_json::json!({ "path": dir.join(path), "type": kind });
                let mounts = [serde_json::json!({ "name": "v", "mountPath": "/v" })];
                let spec = serde_json::json!({
                    "volumes": [{ "name": "v", "hostPath": host }],
                    "containers": [{ "name": "c", "image": "x", "volumeMounts": mounts }],
                });
                let meta = serde_json::json!({ "name": "p-node", "namespace": "default", "uid": format!("{:032x}", 1) });
                let object = serde_json::from_value(serde_json::json!({ "metadata": meta, "spec": spec })).unwrap();
                let origin = crate::pod::Origin { layer: "test".into(), path: "/x.yaml".into(), line: 3 };
                WantedPod::from_object(object, origin).unwrap()
            };
            let none = Allocatable::new();
            let said = chain(&set_up(&paths, &pod("link", "DirectoryOrCreate"), &none).await.unwrap_err()).to_string();
            assert!(said.contains("reach the server or program behind") && said.contains("for volume `v`: no answer within"), "{said}");
            // Without a type nothing is touched before a container mounts it.
            let untyped = pod("deaf", "");
            set_up(&paths, &untyped, &none).await.unwrap();
            assert!(answer(&paths, &untyped, untyped.container("c").unwrap()).await.is_err());
            let absent = pod("absent", "DirectoryOrCreate");
            answer(&paths, &absent, absent.container("c").unwrap()).await.unwrap();
            set_up(&paths, &absent, &none).await.unwrap();
            assert!(dir.join("absent").is_dir());
        });
    }
}
