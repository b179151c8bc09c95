//! Capability sets, as containerd's CRI makes them: its default list, `ALL` first, then single adds and drops.

use super::Input;
use super::types::Capabilities;

/// What a container has when its manifest is silent.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The sets: bounding, effective and permitted alike; ambient and inheritable stay empty.
pub fn capabilities(input: &Input<'_>) -> Capabilities {
    let all = &input.node.capabilities;
    let set = if input.privileged() { all.clone() } else { chosen(input, all) };
    Capabilities { bounding: set.clone(), effective: set.clone(), permitted: set }
}

fn chosen(input: &Input<'_>, all: &[String]) -> Vec<String> {
    let wish = input.security().and_then(|s| s.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> { list.into_iter().flatten().map(|n| n.to_ascii_uppercase()).collect() };
    let (add, drop) = (names(wish.and_then(|w| w.add.as_ref())), names(wish.and_then(|w| w.drop.as_ref())));
    let is_all = |list: &[String]| list.iter().any(|n| n == "ALL");
    let mut set: Vec<String> = match (is_all(&drop), is_all(&add)) {
        (true, _) => Vec::new(),
        (false, true) => all.to_vec(),
        (false, false) => DEFAULT.map(str::to_owned).to_vec(),
    };
    for name in add.iter().filter(|n| *n != "ALL").map(|n| format!("CAP_{n}")) {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    set.retain(|name| !drop.iter().any(|d| name.strip_prefix("CAP_") == Some(d)));
    set
}
