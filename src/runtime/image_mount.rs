//! Image volumes: the files of an image as a read-only directory of the pod.
//!
//! A view of the image's snapshot under a key of the pod's own, mounted at the volume's place when the first container that uses it is
//! made. The view's label keeps the layers from garbage collection, whatever becomes of the image's name. `sandbox` unmounts it
//! like every mount of the pod; then the view is removed here.

use containerd_client::services::v1::snapshots::ViewSnapshotRequest;
use containerd_client::types::Mount;
use tonic::Code;

use super::Runtime;
use super::client::{Client, Tried, Unless};
use super::error::{Error, Result};
use super::labels::SCHEME;
use super::sandbox;
use super::specify::file;
use crate::plan::world::Sandbox;
use crate::pod::{Uid, WantedPod};
use crate::sys::mounts;

/// Between the pod's uid and the volume's name in a view's key: no id of a container has it after 32 hex digits.
const MARK: &str = "-volume-";

/// The pod a snapshot's key says it is a volume of.
pub fn pod_of(key: &str) -> Option<Uid> {
    let (uid, _) = key.split_once(MARK)?;
    sandbox::is_uid(uid).then(|| Uid(uid.into()))
}

impl Runtime {
    /// Mounts the image volumes this container uses; what is mounted stays as it is.
    pub(super) async fn mount_images(&self, client: &Client, pod: &WantedPod, container: &str) -> Result<()> {
        for wish in pod.volume_images.iter().filter(|v| v.users.iter().any(|u| &**u == container)) {
            let dir = self.paths.volume(&pod.uid, "image", &wish.volume);
            if mounts::is_mount_point(&dir) {
                continue;
            }
            let image = self.resolve(client, &wish.image).await?;
            let image = image.ok_or_else(|| Error::Gone(format!("mount volume `{}`: image `{}` is gone", wish.volume, wish.image)))?;
            let view = self.view(client, &format!("{}{MARK}{}", pod.uid, wish.volume), &image.chain).await?;
            let [Mount { r#type: kind, source, options, .. }] = view.as_slice() else {
                let why = format!("mount volume `{}`: snapshotter {} gives no single mount", wish.volume, self.settings.snapshotter);
                return Err(Error::Refused(why));
            };
            std::fs::create_dir_all(&dir).map_err(file("make", &dir))?;
            mounts::snapshot(kind, source, options, &dir).map_err(file("mount the image on", &dir))?;
        }
        Ok(())
    }

    async fn view(&self, client: &Client, key: &str, chain: &str) -> Result<Vec<Mount>> {
        let labels = [("containerd.io/gc.root", "plinth"), SCHEME].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let snapshotter = self.settings.snapshotter.clone();
        let request = ViewSnapshotRequest { snapshotter, key: key.to_owned(), parent: chain.to_owned(), labels };
        let made = client.snapshots().view(client.ask(request.clone())).await.tried("view snapshot", key);
        if let Some(made) = made.unless(Code::AlreadyExists)? {
            return Ok(made.mounts);
        }
        // Of an earlier boot, or of a mount that failed: the image may be another by now.
        self.remove_snapshot(client, key).await?;
        Ok(client.snapshots().view(client.ask(request)).await.tried("view snapshot", key)?.mounts)
    }

    /// Removes the views of a pod whose sandbox is gone.
    pub(super) async fn release_images(&self, uid: &Uid) -> Result<()> {
        let client = self.client()?;
        for key in self.snapshots(&client).await?.iter().filter(|key| pod_of(key).as_ref() == Some(uid)) {
            self.remove_snapshot(&client, key).await?;
        }
        Ok(())
    }

    /// A snapshot that is a volume of a pod which stands on it.
    pub(super) fn is_volume_in_use(&self, key: &str) -> bool {
        let pod = pod_of(key).and_then(|uid| sandbox::scan_one(&self.paths, &uid));
        pod.is_some_and(|found| found.sandbox != Sandbox::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_views_key_names_its_pod_and_no_containers_id_does() {
        let uid = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod_of(&format!("{uid}-volume-tools")), Some(Uid(uid.into())));
        for other in ["0123456789ab-volume-tools-0", "0123456789ab-app-0", "sha256:00"] {
            assert_eq!(pod_of(other), None, "{other}");
        }
    }
}
