//! The largest images, for whoever shows what is on this node. Looked for when one came or went; changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use containerd_client::services::v1::ListImagesRequest;

use super::Runtime;
use super::client::Tried;
use super::error::{Result, chain};

/// The kubelet's default `nodeStatusMaxImages`.
const SHOWN: usize = 50;
/// The kubelet's `MaxNamesPerImageInNodeStatus`.
const NAMES: usize = 5;

/// Names and size in bytes, the largest first.
pub type Inventory = Vec<(Vec<String>, u64)>;

impl Runtime {
    /// As it was last looked for.
    pub fn inventory(&self) -> Rc<Inventory> {
        self.inventory.borrow().clone()
    }

    /// Looks for it.
    pub async fn take_inventory(self: Rc<Runtime>) {
        match self.images_by_size().await {
            Ok(found) => *self.inventory.borrow_mut() = Rc::new(found),
            Err(e) => log::debug!("list images: {}", chain(&e)),
        }
    }

    /// Where unpacked images are, if that can be seen from here.
    pub fn images_dir(&self) -> Option<PathBuf> {
        self.link.borrow().as_ref().and_then(|l| l.place.layers.clone())
    }

    async fn images_by_size(&self) -> Result<Inventory> {
        let client = self.client()?;
        let listed = client.images().list(client.ask(ListImagesRequest::default())).await.tried("list images of", "containerd")?.images;
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for record in listed {
            let Some(target) = record.target else { continue };
            // What is not for this machine, or not whole, is nothing that could run here.
            if let Ok(Some(image)) = self.known_image(&client, &target).await {
                sizes.insert(target.digest.clone(), image.bytes);
                names.entry(target.digest).or_default().push(record.name);
            }
        }
        let mut all: Inventory = names.into_iter().map(|(id, names)| (names, sizes.get(&id).copied().unwrap_or(0))).collect();
        all.sort_by(|(a_names, a), (b_names, b)| b.cmp(a).then_with(|| a_names.cmp(b_names)));
        all.truncate(SHOWN);
        all.iter_mut().for_each(|(names, _)| names.truncate(NAMES));
        Ok(all)
    }
}
