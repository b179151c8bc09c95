//! `plinth version`.

use serde_json::json;

use super::{output, print, print_as};
use crate::socket::wire::API_VERSION;

/// The Kubernetes whose Pod this is.
const KUBERNETES: &str = "v1.36";

/// The verb.
pub fn run(args: &[String]) -> u8 {
    super::verb("version", args, |args| {
        let version = env!("CARGO_PKG_VERSION");
        match output("version", args)? {
            Some(format) => {
                print_as(format, &json!({"apiVersion": API_VERSION, "kind": "Version", "version": version, "kubernetes": KUBERNETES}))?;
            }
            None => print(&format!("plinth {version} (Pods of Kubernetes {KUBERNETES})\n"))?,
        }
        Ok(0)
    })
}
