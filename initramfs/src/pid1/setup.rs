//! What a machine is given: mounts, control groups and a name before its first service, kernel settings beside them. What fails is a line, never the end.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use crate::cmdline::Words;
use crate::failure::{Doing, Done};
use crate::mounts::{self, INERT, Mount};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Kernel settings, and why. A kernel that does not have one has no need of it.
const SYSCTLS: &[(&str, &str)] = &[
    // The initramfs has none, and says so to the kernel: it would start one in vain for each module.
    ("kernel/modprobe", "/usr/sbin/modprobe"),
    // Pods reach each other and the world through this machine.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
    // A container may ping without a capability, as with containerd's CRI.
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // The kubelet's (protectKernelDefaults).
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
    // Twenty pods that watch files.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    ("vm/max_map_count", "262144"),
    ("kernel/pid_max", "4194304"),
    // Nothing here needs to see the kernel's addresses or to follow another's links.
    ("kernel/kptr_restrict", "1"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "1"),
    ("fs/protected_regular", "2"),
];

/// All that comes before the first service; what went wrong.
pub fn all(words: &Words) -> Vec<String> {
    let mut wrong = mount_all();
    wrong.extend(groups().err().map(|e| e.to_string()));
    wrong.extend(hostname(words).err().map(|e| e.to_string()));
    wrong
}

fn mount_all() -> Vec<String> {
    let mut wrong: Vec<_> = mounts::kernels().iter().filter_map(|m| m.make_once(&mounts::table()).err()).collect();
    let table = mounts::table();
    // Some are file systems this kernel may not have: what needs them will say so.
    let optional = |m: &Mount| matches!(m.kind, "mqueue" | "bpf" | "securityfs");
    wrong.extend(mounts::later().iter().filter_map(|m| m.make_once(&table).err().filter(|_| !optional(m))));
    wrong.extend(mounts::share_root().err());
    for (link, to) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = std::os::unix::fs::symlink(to, Path::new("/dev").join(link));
    }
    let _ = fs::create_dir_all("/run/lock");
    wrong.iter().map(ToString::to_string).collect()
}

/// The v2 tree, with every controller for those below, and one group for the services.
fn groups() -> Done {
    let mut done = Ok(());
    if !mounts::mounted(&mounts::table()).any(|m| m.0 == CGROUPS) {
        // favordynmods makes starting a process in a group cheap, for kernels from 6.0; an older one refuses the whole mount.
        for data in ["nsdelegate,memory_recursiveprot,favordynmods", "nsdelegate,memory_recursiveprot", "nsdelegate", ""] {
            let tree = Mount {
                source: "cgroup2".into(),
                target: CGROUPS.into(),
                kind: "cgroup2",
                flags: INERT | MountFlags::RELATIME,
                data: data.into(),
            };
            done = tree.make();
            if done.is_ok() {
                break;
            }
        }
    }
    done?;
    // A group that is divided has no members, but for the machine's own root: in a node that is a guest PID 1 has a group of its own.
    let own = Path::new(CGROUPS).join("init");
    let _ = fs::create_dir_all(&own).and_then(|()| fs::write(own.join("cgroup.procs"), "0"));
    let all = fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers")).unwrap_or_default();
    let services = Path::new(CGROUPS).join("system");
    fs::create_dir_all(&services).doing(|| format!("make {}", services.display()))?;
    for group in [Path::new(CGROUPS), &services] {
        for controller in all.split_whitespace() {
            // One by one: one that cannot be had costs no other.
            let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

/// Where a service's processes are.
pub fn service_group(name: &str) -> PathBuf {
    Path::new(CGROUPS).join("system").join(name)
}

fn hostname(words: &Words) -> Done {
    let file = fs::read_to_string("/etc/hostname").ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let name = words.hostname.clone().or(file).unwrap_or_else(|| "plinth".into());
    rustix::system::sethostname(name.as_bytes()).doing(|| format!("set host name `{name}`"))
}

/// Once the drivers are there: some settings come with them. In a node that is a guest most are the host's, and stay as they are.
pub fn sysctls() -> Vec<String> {
    let set = SYSCTLS.iter().map(|(name, value)| (name, Path::new("/proc/sys").join(name), value));
    let done = set.filter(|(_, path, _)| path.exists()).map(|(name, path, value)| (name, value, fs::write(path, value)));
    done.filter_map(|(name, value, done)| Some((name, value, done.err()?)))
        .filter(|(_, _, why)| why.kind() != std::io::ErrorKind::ReadOnlyFilesystem)
        .map(|(name, value, why)| format!("set {name} = {value}: {why}"))
        .collect()
}
