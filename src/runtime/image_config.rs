//! An OCI image configuration, as far as a container is made from it. Parsing only: who reads the blob is `image`'s affair.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The image configuration document.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// How to run it; absent in images made to hold files only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// Its layers, to find the snapshot to stand on.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: Rootfs,
}

/// `config`: how an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `USER`: `name`, `uid`, with or without `:group`.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `ENTRYPOINT`.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `ENV`, `NAME=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `WORKDIR`.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `STOPSIGNAL`: a name or a number, empty when the image has none.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// `VOLUME`s: the paths are the keys.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde::de::IgnoredAny>,
}

/// `rootfs`: the layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Rootfs {
    /// Digest of each uncompressed layer, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

impl ImageConfig {
    /// Reads the document.
    pub fn parse(json: &[u8]) -> serde_json::Result<ImageConfig> {
        serde_json::from_slice(json)
    }

    /// The image's user without its group: containerd's CRI tells the kubelet no more than that, so the group of `USER` has
    /// no effect in a pod. Empty when the image names none.
    pub fn user_name(&self) -> &str {
        self.config.user.split(':').next().unwrap_or_default()
    }
}

/// Image builders write `null` for what is empty.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nulls_and_absent_parts_read_as_empty() {
        let image = ImageConfig::parse(br#"{"config":{"Cmd":null,"Volumes":null,"User":"app:staff"},"rootfs":null}"#).unwrap();
        assert_eq!(image.config.cmd, Vec::<String>::new());
        assert_eq!(image.user_name(), "app");
        assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::default());
    }

    #[test]
    fn volumes_are_the_keys() {
        let image = ImageConfig::parse(br#"{"config":{"Volumes":{"/data":{},"/cache":{}}}}"#).unwrap();
        assert_eq!(image.config.volumes.keys().collect::<Vec<_>>(), ["/cache", "/data"]);
    }
}
