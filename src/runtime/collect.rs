//! Removes images nobody needs: what `plan::garbage` names, one at a time, and looks again after each.
//!
//! Only those plinth brought here. When one was last needed is kept in memory: a start of plinth lets every image begin anew.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use containerd_client::services::v1::{DeleteImageRequest, ListImagesRequest};
use tonic::Code;

use super::Runtime;
use super::client::{Client, Tried, Unless};
use super::error::{Result, chain};
use super::labels::{Labels, OURS};
use super::observe::records;
use super::place::Place;
use crate::clock::{self, Moment};
use crate::plan::action::Event;
use crate::plan::garbage::{self, Image};
use crate::pod::ImageRef;

/// containerd's CRI: never to be removed.
const PINNED: &str = "io.cri-containerd.pinned";

/// When an image was first seen and last needed, by its digest.
pub(super) type Ages = BTreeMap<Rc<str>, (Moment, Moment)>;

impl Runtime {
    /// Removes what may go; `named`: what manifests and pods name.
    pub async fn collect_images(self: Rc<Runtime>, named: BTreeSet<ImageRef>) {
        let failed = self.collect(&named).await.err();
        // Once may be a containerd that was away just then: the kubelet tells of it from the second time on, too.
        let again = self.collect_failed.replace(failed.is_some());
        let Some(e) = failed else { return };
        let message = format!("remove unused images: {}; tried again later", chain(&e));
        match again {
            true => self.tell(Event::Told { of: None, reason: "ImageGCFailed", message: message.into() }),
            false => log::warn!("{message}"),
        }
    }

    async fn collect(&self, named: &BTreeSet<ImageRef>) -> Result<()> {
        let client = self.client()?;
        let rule = &self.settings.image_gc;
        let mut freeing = false;
        loop {
            let images = self.survey(&client, named).await?;
            let full = self.fullness(&client).await?;
            freeing |= full.is_some_and(|full| garbage::is_too_full(full, freeing, rule));
            let Some((image, why)) = garbage::next(&images, full, freeing, rule, clock::now().mono) else {
                if let Some(full) = full.filter(|full| freeing && garbage::is_too_full(*full, true, rule)) {
                    let message = format!("free disk space: {full} % of the images' file system is used, and no further image is unused");
                    self.tell(Event::Told { of: None, reason: "FreeDiskSpaceFailed", message: message.into() });
                }
                return Ok(());
            };
            for name in &image.names {
                log::info!("removing image {name}: {why}");
                // With what hangs on it, and at once: the next look at the disk is to see it.
                let request = DeleteImageRequest { name: name.to_string(), sync: true, target: None };
                let deleted = client.images().delete(client.ask_within(request, super::task::START)).await.tried("remove image", &name.0);
                deleted.unless(Code::NotFound)?;
            }
        }
    }

    /// Every image of ours, and who needs it.
    async fn survey(&self, client: &Client, named: &BTreeSet<ImageRef>) -> Result<Vec<Image>> {
        // Containers first: one made in between stands on an image a manifest names.
        let held: BTreeSet<Rc<str>> =
            records(client, OURS.to_owned()).await?.iter().filter_map(|r| Labels::read(&r.labels)).map(|l| l.image_id).collect();
        let request = ListImagesRequest { filters: vec![OURS.to_owned()] };
        let listed = client.images().list(client.ask(request)).await.tried("list images of", "containerd")?.images;
        let now = clock::now().mono;
        let mut images: BTreeMap<Rc<str>, Image> = BTreeMap::new();
        for record in listed {
            let id: Rc<str> = record.target.map(|t| t.digest).unwrap_or_default().into();
            let (first_seen, last_used) = self.ages.borrow().get(&id).copied().unwrap_or((now, now));
            let image = images.entry(id.clone()).or_insert_with(|| Image { id, names: Vec::new(), used: false, first_seen, last_used });
            let name = ImageRef(record.name.into());
            image.used |= named.contains(&name) || held.contains(&image.id) || record.labels.contains_key(PINNED);
            image.names.push(name);
        }
        let mut images: Vec<Image> = images.into_values().collect();
        images.iter_mut().filter(|i| i.used).for_each(|i| i.last_used = now);
        *self.ages.borrow_mut() = images.iter().map(|i| (i.id.clone(), (i.first_seen, i.last_used))).collect();
        Ok(images)
    }

    /// How much of the snapshots' file system is used, percent, if it can be seen from here.
    async fn fullness(&self, client: &Client) -> Result<Option<u8>> {
        let root = Place::of(client, &self.settings.snapshotter).await?.layers;
        let disk = root.and_then(|root| rustix::fs::statvfs(root).ok());
        if disk.as_ref().is_some_and(|d| d.f_blocks == 0) {
            let message = "invalid capacity 0 on image filesystem: images are removed by age alone".into();
            self.tell(Event::Told { of: None, reason: "InvalidDiskCapacity", message });
        }
        Ok(disk
            .filter(|d| d.f_blocks > 0)
            .map(|d| 100 - u8::try_from(u128::from(d.f_bavail) * 100 / u128::from(d.f_blocks)).unwrap_or(100).min(100)))
    }
}
