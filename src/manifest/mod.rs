//! Manifests: files and URLs to wanted pods. Pure but for the first line's: bytes in, pods and findings out.
//!
//! - `live`: the layers kept current, what the loop calls; `read`, `disk`: one layer off the disk; `news`: the log
//! - `url`: the layer that a server gives
//! - `layer`, `recall`, `rivals`: layers, masks, last good revisions to one winner per file name and per pod name
//! - `parse`: the way in, one file to its pods and findings
//! - `yaml`, `json`, `scalar`, `value`: text to a tree with places, as Kubernetes reads it
//! - `typed`: tree to the Kubernetes types, with every mismatch and unknown field named
//! - `defaults`, `image`: what the API server fills in
//! - `validate`: what the API server refuses; `references`: what a static pod may not refer to
//! - `identity`: suffix, namespace, UID, the kubelet's annotations

pub mod defaults;
mod disk;
pub mod identity;
mod image;
mod json;
pub mod layer;
pub mod live;
pub mod news;
mod omit;
pub mod parse;
pub mod read;
pub mod recall;
mod references;
mod rivals;
pub mod scalar;
mod typed;
pub mod url;
mod validate;
pub mod value;
pub mod yaml;

pub use typed::nearest;
