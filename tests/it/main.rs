//! Real containerd, real runc, real files: each test has a private node (namespaces, containerd, directories of its own).
//!
//! No sleeps: wait on a condition with a deadline, and dump the logs when it does not come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![allow(missing_docs, reason = "test names are sentences")]

#[path = "../apiserver/mod.rs"]
mod apiserver;
mod node;
#[path = "../web/mod.rs"]
mod web;

mod cluster;
mod containerd;
mod environment;
mod extremes;
mod faults;
mod images;
mod isolation;
mod kubectl;
mod mounts;
mod pods;
mod ports;
mod probes;
mod restarts;
mod service;
mod sessions;
mod stand_in;
mod url;
mod volumes;
