//! Which kernel settings a pod has: its own (`securityContext.sysctls`) and the two containerd's CRI adds to every pod network.
//!
//! Only settings that live in a namespace of the pod's own are ever written: nothing of the host's changes.

use std::path::PathBuf;

use super::{SandboxError, kinds};
use crate::pod::WantedPod;
use crate::sys::namespaces::{Kind, Sysctl};

/// containerd's CRI (`enable_unprivileged_ports`, `enable_unprivileged_icmp`): not for user namespaces, nor if the pod says otherwise.
const DEFAULTS: [(&str, &str); 2] = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// All to be written in the pod's namespaces, the pod's own last.
pub fn of_pod(pod: &WantedPod) -> Result<Vec<Sysctl>, SandboxError> {
    let own = kinds(pod);
    let spec = pod.object.spec.as_ref();
    let asked = spec.and_then(|s| s.security_context.as_ref()).and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    let mut all = Vec::new();
    if own.contains(&Kind::Net) {
        for (name, value) in DEFAULTS {
            all.push(Sysctl { file: path(name)?, value: value.to_owned(), required: false });
        }
    }
    for s in asked {
        let file = path(&s.name)?;
        let refused = |why| SandboxError::Sysctl { name: s.name.clone(), why };
        match namespace(&file) {
            None => return Err(refused("it is not of a namespace, so it would change the whole node; set it on the node instead")),
            Some(kind) if !own.contains(&kind) => {
                return Err(refused("the pod shares that namespace with the host; drop hostNetwork or hostIPC, or set it on the node"));
            }
            Some(_) => all.push(Sysctl { file, value: s.value.clone(), required: true }),
        }
    }
    Ok(all)
}

/// `net.ipv4.conf.eth0` and `net/ipv4/conf/eth0.100` to a path; whichever separator comes first separates (sysctl(8)).
fn path(name: &str) -> Result<PathBuf, SandboxError> {
    let swap = name.find(['.', '/']).and_then(|at| name.get(at..)).is_some_and(|rest| rest.starts_with('.'));
    let turned = |c: char| match c {
        '.' if swap => '/',
        '/' if swap => '.',
        c => c,
    };
    let text: String = name.chars().map(turned).collect();
    if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") || text.contains('\0') {
        return Err(SandboxError::Sysctl { name: name.to_owned(), why: "it is no sysctl name" });
    }
    Ok(text.into())
}

/// The namespace a setting belongs to (kubelet: `sysctl.GetNamespace`).
fn namespace(file: &std::path::Path) -> Option<Kind> {
    let text = file.to_str()?;
    let ipc = ["kernel/shm", "kernel/msg", "fs/mqueue/"].iter().any(|p| text.starts_with(p)) || text == "kernel/sem";
    match text {
        _ if ipc => Some(Kind::Ipc),
        _ if text.starts_with("net/") => Some(Kind::Net),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::json;

    fn refusal(host_network: bool, name: &str) -> Option<String> {
        let object = json!({ "metadata": { "name": "a", "uid": "u" }, "spec": { "hostNetwork": host_network, "containers": [],
            "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } } });
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        of_pod(&pod).err().map(|e| e.to_string())
    }

    #[test]
    fn only_settings_of_the_pods_own_namespaces_are_written() {
        assert_eq!(refusal(false, "net.core.somaxconn"), None);
        assert_eq!(refusal(false, "kernel.shm_rmid_forced"), None);
        assert_eq!(refusal(true, "kernel.msgmax"), None);
        assert!(refusal(true, "net.core.somaxconn").unwrap().contains("hostNetwork"));
        for bad in ["vm.swappiness", "kernel.core_pattern", "kernel.hostname"] {
            assert!(refusal(false, bad).unwrap().contains("whole node"), "{bad}");
        }
        for bad in ["net/../kernel/core_pattern", "net..kernel", "/net/x", "net.", ""] {
            assert!(refusal(false, bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(path("net.ipv4.conf.eth0/100.rp_filter").unwrap(), PathBuf::from("net/ipv4/conf/eth0.100/rp_filter"));
        assert_eq!(path("net/ipv4/conf/eth0.100/rp_filter").unwrap(), PathBuf::from("net/ipv4/conf/eth0.100/rp_filter"));
    }
}
