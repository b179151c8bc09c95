//! Which shim and OCI runtime run a pod, as they are written on its records.

use containerd_client::services::v1::Container;
use containerd_client::to_any;
use prost::Message;
use prost_types::Any;

use crate::pod::WantedPod;
use crate::runtime::Runtime;
use crate::runtime::error::{Error, Result};
use crate::runtime::stand_in::SHIM;
use crate::runtime::userns;
use crate::settings::RuntimeClass;

/// `containerd.runc.v1.Options`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
}

impl prost::Name for RuncOptions {
    const NAME: &'static str = "Options";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

impl Runtime {
    /// Shim and its options for a pod. A class nobody knows is not admitted; the settings may have changed since.
    pub(super) fn handler(&self, pod: &WantedPod) -> Result<(String, Option<Any>)> {
        let settings = &*self.settings;
        let name = pod.object.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty());
        let class = match name {
            None => &RuntimeClass::default(),
            Some(name) => settings
                .runtime_classes
                .get(name)
                .ok_or_else(|| Error::Refused(format!("find RuntimeClass `{name}`: the setting runtimeClasses does not have it")))?,
        };
        let shim = class.shim.as_ref().unwrap_or(&settings.shim);
        // Its root is mounted by the shim: as overlayfs of the whole machine's users it is known there.
        let is_known = shim == SHIM && settings.snapshotter == "overlayfs" && !userns::own(pod);
        let stand_in = self.link.borrow().as_ref().and_then(|l| l.stand_in.clone()).filter(|_| is_known);
        let shim = stand_in.map_or_else(|| shim.clone(), |path| path.to_string());
        let options = RuncOptions {
            binary_name: class.oci_runtime.clone().unwrap_or_else(|| settings.oci_runtime.clone()),
            // runc's own default is one directory for the whole host, whoever calls it: two containerds would collide.
            root: settings.run_dir.join("oci").display().to_string(),
        };
        // Shims of another kind have options of another type.
        let options = shim.contains("runc").then(|| to_any(&options));
        Ok((shim, options))
    }
}

/// The init of a container with this record is the container's own process: not with a runtime that puts a virtual machine there.
pub fn runs_in_place(record: &Container) -> bool {
    let Some(runtime) = &record.runtime else { return false };
    let options = runtime.options.as_ref().and_then(|any| RuncOptions::decode(any.value.as_slice()).ok());
    let binary = options.map(|o| o.binary_name).unwrap_or_default();
    runtime.name.contains("runc") && matches!(binary.rsplit('/').next(), Some("runc" | "crun"))
}

#[cfg(test)]
mod tests {
    use containerd_client::services::v1::container;

    use super::*;

    #[test]
    fn only_runc_and_crun_run_the_container_itself() {
        let record = |shim: &str, binary: Option<&str>| {
            let options = binary.map(|b| to_any(&RuncOptions { binary_name: b.into(), root: String::new() }));
            Container { runtime: Some(container::Runtime { name: shim.into(), options }), ..Container::default() }
        };
        for (shim, binary, own) in [
            ("io.containerd.runc.v2", Some("runc"), true),
            ("/usr/bin/containerd-shim-runc-v2", Some("/opt/bin/crun"), true),
            ("io.containerd.runc.v2", Some("runsc"), false),
            ("io.containerd.kata.v2", None, false),
        ] {
            assert_eq!(runs_in_place(&record(shim, binary)), own, "{shim} {binary:?}");
        }
        assert!(!runs_in_place(&Container::default()));
    }
}
