//! What an OCI image layout says of its images, as far as it is needed here. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::transfer::architecture;

/// A descriptor of the image layout, as far as it is needed here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An index or a manifest: whichever list is there says which.
#[derive(Default, Deserialize)]
pub struct Node {
    /// Of an index.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Of a manifest.
    pub config: Option<Descriptor>,
    /// Of a manifest.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl Node {
    /// The manifest of an index that runs here.
    pub fn for_this_machine(&self) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture());
        self.manifests.iter().find(fits).or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }
}
