//! Images: what containerd has, what an archive on this host or a registry can give, and what a container needs to know of one.
//!
//! A name is resolved every time (it may move); what hangs on a digest never changes and is kept. An image's own record is
//! what keeps it from garbage collection: manifest, config, and through the config's label the unpacked snapshots.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::{CreateImageRequest, GetImageRequest, Image as ImageRecord, ReadContentRequest, UpdateImageRequest};
use containerd_client::types::Descriptor as Target;
use sha2::{Digest, Sha256};
use tonic::Code;

use super::Runtime;
use super::archive::Archive;
use super::archive::layout::{Descriptor, Node};
use super::client::{Client, Tried, Unless};
use super::error::{Error, Result};
use super::image_config::ImageConfig;
use super::labels::SCHEME;
use super::transfer::{self, Lease, Wish};
use crate::hex::hex;
use crate::plan::action::{Class, Failure};
use crate::plan::world::SeenImage;
use crate::pod::{ImageRef, PullPolicy};

/// So many images are kept in memory; more is no mistake, only another read.
const KEPT: usize = 64;
/// A manifest or config larger than this is none.
const JSON_BYTES: i64 = 8 << 20;

/// What a container needs of its image.
#[derive(Debug)]
pub struct Image {
    /// Digest of what the name stands for: the kubelet's image id.
    pub id: Rc<str>,
    /// How to run it.
    pub config: ImageConfig,
    /// The snapshot a container of it stands on.
    pub chain: String,
    /// What it takes as it came: manifests, config and layers of this machine's.
    pub bytes: u64,
}

/// What is kept between calls.
#[derive(Default)]
pub struct Kept {
    images: BTreeMap<Rc<str>, Rc<Image>>,
}

impl Runtime {
    /// Has an image ready to run, as the policy says.
    pub(super) async fn prepare(&self, image: &ImageRef, pull: PullPolicy) -> std::result::Result<SeenImage, Failure> {
        valid(&image.0).map_err(|why| Failure {
            class: Class::Refused,
            reason: "InvalidImageName".into(),
            message: format!("use image `{image}`: {why}").into(),
        })?;
        let client = self.client().map_err(|e| e.into_failure("ImageInspectError"))?;
        let archive = self.archived(image);
        let local = archive.is_some();
        let newest = |found: &Image| archive.as_ref().is_some_and(|(_, root)| root.digest == *found.id);
        match self.ready(&client, image).await.map_err(|e| e.into_failure("ImageInspectError"))? {
            Some(found) if pull != PullPolicy::Always || newest(&found) => return Ok(SeenImage::Ready { id: found.id.clone(), local }),
            _ => {}
        }
        let had = match &archive {
            // An archive on this host is no registry: `Never` has it too, and it never queues behind a pull.
            Some((archive, root)) => self.import(&client, image, archive, root).await,
            None if pull == PullPolicy::Never => return Ok(SeenImage::Absent),
            None => match (self.pull(&client, image).await, self.archived(image)) {
                (Err(_), Some((archive, root))) => self.import(&client, image, &archive, &root).await,
                (pulled, _) => pulled,
            },
        };
        had.map_err(failed_pull)?;
        self.unpacked();
        let local = self.archived(image).is_some();
        match self.ready(&client, image).await {
            Ok(Some(found)) => Ok(SeenImage::Ready { id: found.id.clone(), local }),
            Ok(None) => Err(Error::Again(format!(
                "get image `{image}`: it is not there after all; it has nothing for this machine, or was removed at once"
            ))
            .into_failure("ErrImagePull")),
            Err(e) => Err(e.into_failure("ImageInspectError")),
        }
    }

    /// The image if it is there, whole and unpacked.
    async fn ready(&self, client: &Client, image: &ImageRef) -> Result<Option<Rc<Image>>> {
        let Some(found) = self.resolve(client, image).await? else { return Ok(None) };
        let stat = StatSnapshotRequest { snapshotter: self.settings.snapshotter.clone(), key: found.chain.clone() };
        let unpacked =
            client.snapshots().stat(client.ask(stat)).await.tried("look for the snapshot of image", &image.0).unless(Code::NotFound)?;
        Ok(unpacked.map(|_| found))
    }

    /// The image if its record, manifest and config are there.
    pub(super) async fn resolve(&self, client: &Client, image: &ImageRef) -> Result<Option<Rc<Image>>> {
        let request = GetImageRequest { name: image.to_string() };
        let record = client.images().get(client.ask(request)).await.tried("look for image", &image.0).unless(Code::NotFound)?;
        let Some(target) = record.and_then(|r| r.image).and_then(|i| i.target) else { return Ok(None) };
        self.known_image(client, &target).await
    }

    /// What a name stands for, if its manifest and config are there.
    pub(super) async fn known_image(&self, client: &Client, target: &Target) -> Result<Option<Rc<Image>>> {
        let kept = self.kept.borrow().images.get(target.digest.as_str()).cloned();
        let found = match kept {
            Some(found) => found,
            None => match read(client, target).await.unless(Code::NotFound)? {
                Some(found) => Rc::new(found),
                None => return Ok(None),
            },
        };
        let mut kept = self.kept.borrow_mut();
        if kept.images.len() >= KEPT {
            kept.images.clear();
        }
        kept.images.insert(found.id.clone(), found.clone());
        Ok(Some(found))
    }

    async fn pull(&self, client: &Client, image: &ImageRef) -> Result<()> {
        let dir = &self.settings.registry_hosts_dir;
        let hosts = self.link.borrow().as_ref().is_some_and(|l| l.hosts) && dir.is_dir();
        let wish = self.wish(image, hosts.then(|| dir.display().to_string()));
        let lease = self.lease(client).await?;
        // An archive that comes meanwhile is better than a registry that stalls.
        let done = tokio::select! {
            done = transfer::pull(client, &lease, &wish) => done,
            () = self.archives.arrival(&self.settings.image_dirs, image) => {
                Err(Error::Again(format!("pull `{image}`: given up for an archive of it on this host")))
            }
        };
        self.give_back(client, lease).await;
        done
    }

    fn archived(&self, image: &ImageRef) -> Option<(Rc<Archive>, Descriptor)> {
        self.archives.find(&self.settings.image_dirs, image)
    }

    /// Imports one image of an archive, then names it: containerd would name all of an archive's images, or none.
    async fn import(&self, client: &Client, image: &ImageRef, archive: &Rc<Archive>, root: &Descriptor) -> Result<()> {
        let parts = archive.image(root)?;
        let wish = self.wish(image, None);
        let lease = self.lease(client).await?;
        let sent = transfer::import(client, &lease, &wish, |pipe| archive.send(parts, pipe)).await;
        let done = match sent {
            Ok(()) => name(client, &lease, image, root, &wish.labels).await,
            Err(e) => Err(damaged(archive, e)),
        };
        self.give_back(client, lease).await;
        done
    }

    /// A lease that `look_all` knows to be in use.
    async fn lease(&self, client: &Client) -> Result<Lease> {
        let id = transfer::lease_id()?;
        self.leases.borrow_mut().insert(id.clone());
        Lease::take(client, id.clone()).await.inspect_err(|_| {
            self.leases.borrow_mut().remove(&id);
        })
    }

    async fn give_back(&self, client: &Client, lease: Lease) {
        self.leases.borrow_mut().remove(&lease.0);
        lease.give_back(client).await;
    }

    fn wish<'a>(&'a self, image: &'a ImageRef, hosts_dir: Option<String>) -> Wish<'a> {
        let labels = HashMap::from([(SCHEME.0.to_owned(), SCHEME.1.to_owned())]);
        Wish { reference: &image.0, hosts_dir, snapshotter: &self.settings.snapshotter, stall: self.settings.pull_stall, labels }
    }
}

/// Gives an imported manifest the name it is wanted under.
async fn name(client: &Client, lease: &Lease, image: &ImageRef, root: &Descriptor, labels: &HashMap<String, String>) -> Result<()> {
    let target = Target { media_type: root.media_type.clone(), digest: root.digest.clone(), size: root.size, ..Target::default() };
    let record = ImageRecord { name: image.to_string(), labels: labels.clone(), target: Some(target), ..ImageRecord::default() };
    let create = CreateImageRequest { image: Some(record.clone()), source_date_epoch: None };
    let made = client.images().create(client.leased(client.ask(create), &lease.0)).await.tried("name image", &image.0);
    if made.unless(Code::AlreadyExists)?.is_none() {
        let update = UpdateImageRequest { image: Some(record), update_mask: None, source_date_epoch: None };
        client.images().update(client.leased(client.ask(update), &lease.0)).await.tried("name image", &image.0)?;
    }
    Ok(())
}

/// containerd keeps what is sent under the digest it really has: what the manifest names is then not there.
fn damaged(archive: &Archive, e: Error) -> Error {
    match e.code() {
        Some(Code::NotFound | Code::FailedPrecondition | Code::Unknown | Code::InvalidArgument | Code::DataLoss) => Error::Refused(
            format!("import from {}: it is damaged, make or copy it anew: {}", archive.path().display(), super::error::chain(&e)),
        ),
        _ => e,
    }
}

/// `ErrImagePull` whatever it was: the kubelet knows `RegistryUnavailable` too, but containerd's CRI never gives it cause to say so.
fn failed_pull(e: Error) -> Failure {
    let failure = e.into_failure("ErrImagePull");
    // What a registry does not have may come, and an archive may be replaced: nothing of this is for good.
    let class = if failure.class == Class::Unreachable { Class::Unreachable } else { Class::Retry };
    Failure { class, ..failure }
}

/// Reads manifest and config of what a name stands for.
async fn read(client: &Client, target: &Target) -> Result<Image> {
    let mut node: Node = json(client, &target.digest).await?;
    let mut bytes = target.size;
    if node.config.is_none() {
        let here = node
            .for_this_machine()
            .ok_or_else(|| Error::Refused(format!("use image {}: it has nothing for linux/{}", target.digest, transfer::architecture())))?;
        bytes = bytes.saturating_add(here.size);
        node = json(client, &here.digest).await?;
    }
    bytes = node.config.iter().chain(&node.layers).fold(bytes, |sum, part| sum.saturating_add(part.size));
    let config = node.config.ok_or_else(|| Error::Refused(format!("use image {}: its manifest has no config", target.digest)))?;
    let text = blob(client, &config.digest).await?;
    let config = ImageConfig::parse(&text).map_err(|e| Error::Refused(format!("read the config of image {}: {e}", target.digest)))?;
    let chain = chain_id(&config.rootfs.diff_ids);
    Ok(Image { id: target.digest.as_str().into(), config, chain, bytes: u64::try_from(bytes).unwrap_or(0) })
}

async fn json<T: for<'de> serde::Deserialize<'de>>(client: &Client, digest: &str) -> Result<T> {
    let text = blob(client, digest).await?;
    serde_json::from_slice(&text).map_err(|e| Error::Refused(format!("read {digest} as JSON: {e}")))
}

async fn blob(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let mut stream = client.content().read(client.ask(request)).await.tried("read blob", digest)?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await.map(tonic::Response::new).tried("read blob", digest)? {
        bytes.extend_from_slice(&piece.data);
        if i64::try_from(bytes.len()).is_ok_and(|n| n > JSON_BYTES) {
            return Err(Error::Refused(format!("read blob {digest}: it is no manifest, it has more than {JSON_BYTES} bytes")));
        }
    }
    Ok(bytes)
}

/// The name of the snapshot of these layers: each is the hash of the one below and the layer (OCI image-spec, ChainID).
fn chain_id(diff_ids: &[String]) -> String {
    let mut chain = String::new();
    for id in diff_ids {
        chain = if chain.is_empty() { id.clone() } else { format!("sha256:{}", hex(&Sha256::digest(format!("{chain} {id}").as_bytes()))) };
    }
    chain
}

/// distribution/reference's grammar over a normalised reference: what is wrong with it, if anything is.
fn valid(reference: &str) -> std::result::Result<(), &'static str> {
    let (rest, digest) = reference.split_once('@').map_or((reference, None), |(r, d)| (r, Some(d)));
    let hex64 = |d: &str| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digest.is_some_and(|d| !d.strip_prefix("sha256:").is_some_and(hex64)) {
        return Err("its digest is not sha256 and 64 hex digits");
    }
    let (host, path) = rest.split_once('/').ok_or("it has no name")?;
    let (path, tag) = path.split_once(':').map_or((path, None), |(p, t)| (p, Some(t)));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_some_and(|t| t.len() > 128 || !t.starts_with(word) || !t.chars().all(|c| word(c) || c == '.' || c == '-')) {
        return Err("its tag is not letters, digits, `_`, `.`, `-`");
    }
    if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')) {
        return Err("its registry is no host name");
    }
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |p: &str| {
        p.starts_with(lower) && p.ends_with(lower) && p.chars().all(|c| lower(c) || matches!(c, '.' | '_' | '-')) && !p.contains("..")
    };
    if path.len() > 255 || !path.split('/').all(part) {
        return Err("its name must be lower case letters, digits and single separators");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_folded_from_the_layers() {
        let one = "sha256:aaaa".to_owned();
        assert_eq!(chain_id(std::slice::from_ref(&one)), one);
        let two = chain_id(&[one.clone(), "sha256:bbbb".to_owned()]);
        assert_eq!(two, format!("sha256:{}", hex(&Sha256::digest(b"sha256:aaaa sha256:bbbb"))));
        assert_eq!(chain_id(&[]), "");
    }

    #[test]
    fn references_are_judged_as_docker_does() {
        for good in [
            "docker.io/library/busybox:1.35",
            "127.0.0.1:5000/a/b_c:latest",
            "r.io/x@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        ] {
            assert_eq!(valid(good), Ok(()), "{good}");
        }
        for bad in [
            "docker.io/library/Busy:1",
            "docker.io/library/a:b:c",
            "r.io/x@sha256:00",
            "docker.io/library/:1",
            "docker.io/a//b:1",
            "r.io/-a:1",
            "r o/x:1",
        ] {
            assert!(valid(bad).is_err(), "{bad}");
        }
    }
}
