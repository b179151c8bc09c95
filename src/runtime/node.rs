//! The machine as specifications see it: small reads of /proc, /sys and /dev, done afresh for each container so that nothing is stale.
//! Changes nothing. What cannot be read counts as absent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::apparmor;
use super::oci::types::Device;
use super::oci::{NodeFacts, Support};
use crate::plan::apparmor::DEFAULT;
use crate::plan::world::Node;
use crate::quantity::Amount;
use crate::settings::Settings;
use crate::sys::mounts;

/// Reads the machine. `devices` too only for a privileged container: it walks /dev. Whether the OCI runtime can do recursive
/// read-only mounts is not to be read here: the caller sets it.
pub fn facts(settings: &Settings, devices: bool) -> NodeFacts {
    let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let memory_bytes = memory_bytes();
    let capabilities = capabilities();
    let free = capabilities.iter().any(|c| c == "CAP_SYS_RESOURCE");
    let own_score = read("/proc/self/oom_score_adj").trim().parse().unwrap_or(0);
    let profiles = apparmor::here().loaded;
    let default = profiles.as_ref().and_then(|loaded| loaded.get(DEFAULT)).cloned();
    NodeFacts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ips: settings.node_ips.clone(),
        allocatable: allocatable(settings),
        memory_bytes,
        cgroup_v2,
        swap_accounting: swap_accounting(cgroup_v2),
        lacking: ["cpu", "memory"].into_iter().filter(|name| !has_controller(cgroup_v2, name)).collect(),
        hugepage_sizes: hugepage_sizes(cgroup_v2),
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        seccomp_default: settings.seccomp_default,
        apparmor: profiles.is_some(),
        apparmor_default: default,
        recursive_read_only: Support::Unknown,
        capabilities,
        devices: if devices { self::devices(Path::new("/dev")) } else { Vec::new() },
        masked_paths: throttles(),
        cgroup_options: cgroup_options(&read("/proc/self/mountinfo")),
        oom_score_adj_floor: if free { -1000 } else { own_score },
    }
}

/// Whether a read-only mount of a pod of this class (empty: of none) can be so below too. runc since 1.1 and crun since 1.4 do it
/// wherever the kernel does; what a shim of another kind does is not known.
pub fn seals_recursively(settings: &Settings, class: &str) -> bool {
    let shim = settings.runtime_classes.get(class).and_then(|c| c.shim.as_ref()).unwrap_or(&settings.shim);
    shim.contains("runc") && mounts::can_seal_recursively(&rustix::system::uname().release().to_string_lossy())
}

/// What the machine's boot found wrong with it, a sentence a line: the image's init writes it there (`initramfs`), other machines have none.
pub fn degraded() -> Vec<String> {
    read("/run/init/degraded").lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
}

/// What the machine has, by resource name.
pub fn capacity(settings: &Settings) -> BTreeMap<String, Amount> {
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1));
    let own = [
        ("cpu".to_owned(), i64::from(cpus)),
        ("memory".to_owned(), memory_bytes()),
        ("ephemeral-storage".to_owned(), disk_bytes(&settings.data_dir)),
    ];
    own.into_iter().chain(hugepages()).map(|(name, units)| (name, Amount::of_units(units))).collect()
}

/// What pods may ask for of it: all but what is reserved and what hard eviction keeps free.
pub fn allocatable(settings: &Settings) -> BTreeMap<String, Amount> {
    let mut all = capacity(settings);
    // What is set aside for huge pages is memory nobody else gets.
    let huge = hugepages().values().fold(Amount::default(), |sum, bytes| sum.plus(Amount::of_units(*bytes)));
    for (name, has) in &mut all {
        let signal = match name.as_str() {
            "memory" => "memory.available",
            "ephemeral-storage" => "nodefs.available",
            _ => "",
        };
        let free = settings.reserve.least(signal).map(|least| least.of(u64::try_from(has.units()).unwrap_or(0)));
        let free = Amount::of_units(free.and_then(|free| i64::try_from(free).ok()).unwrap_or(0));
        *has = has.minus(settings.reserve.kept(name)).minus(free).minus(if name == "memory" { huge } else { Amount::default() });
    }
    all
}

/// The most memory all pods together may have, where some is reserved (`enforceNodeAllocatable: [pods]`).
pub fn memory_for_pods(settings: &Settings) -> Option<i64> {
    let kept = settings.reserve.kept("memory");
    kept.is_positive().then(|| Amount::of_units(memory_bytes()).minus(kept).units())
}

/// The node as pods are measured against it; its labels are those the kubelet gives itself.
pub fn as_planned(settings: &Settings) -> Node {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let (os, arch) = ("linux", super::transfer::architecture());
    let own = [
        label("kubernetes.io/hostname", &settings.node_name),
        label("kubernetes.io/os", os),
        label("kubernetes.io/arch", arch),
        label("beta.kubernetes.io/os", os),
        label("beta.kubernetes.io/arch", arch),
    ];
    Node {
        name: settings.node_name.clone(),
        labels: settings.node_labels.clone().into_iter().chain(own).collect(),
        allocatable: allocatable(settings),
        max_pods: Some(settings.max_pods),
        unsafe_sysctls: settings.allowed_unsafe_sysctls.clone(),
        runtime_classes: settings.runtime_classes.keys().cloned().collect(),
        unsealed_classes: settings
            .runtime_classes
            .keys()
            .map(String::as_str)
            .chain([""])
            .filter(|c| !seals_recursively(settings, c))
            .map(str::to_owned)
            .collect(),
        no_own_users: crate::sys::users::missing(),
        apparmor: Some(apparmor::here()),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory_bytes() -> i64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit).max(1);
    i64::try_from(info.totalram.saturating_mul(unit)).unwrap_or(i64::MAX)
}

/// Of the file system below the data directory, or of the nearest parent that is there yet.
fn disk_bytes(dir: &Path) -> i64 {
    let size = dir.ancestors().find_map(|d| rustix::fs::statvfs(d).ok());
    size.and_then(|s| i64::try_from(s.f_blocks.saturating_mul(s.f_frsize)).ok()).unwrap_or(0)
}

fn swap_accounting(cgroup_v2: bool) -> bool {
    if !cgroup_v2 {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root has no memory.swap.max: any group below it tells.
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    groups.map(|g| g.path().join("memory.swap.max")).any(|f| f.exists())
}

/// Bytes of each pool of huge pages, by resource name (`hugepages-2Mi`).
fn hugepages() -> BTreeMap<String, i64> {
    let pools = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let of = |pool: fs::DirEntry| {
        let kib = size_kib(&pool.file_name().to_string_lossy())?;
        let pages: i64 = fs::read_to_string(pool.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let name = size_name(kib).trim_end_matches('B').to_owned();
        Some((format!("hugepages-{name}i"), pages.saturating_mul(i64::try_from(kib).ok()?).saturating_mul(1024)))
    };
    pools.filter_map(of).collect()
}

fn has_controller(cgroup_v2: bool, name: &str) -> bool {
    match cgroup_v2 {
        true => read("/sys/fs/cgroup/cgroup.controllers").split_ascii_whitespace().any(|c| c == name),
        false => Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists(),
    }
}

fn hugepage_sizes(cgroup_v2: bool) -> Vec<String> {
    let there = has_controller(cgroup_v2, "hugetlb");
    let pools = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten().filter(|_| there);
    let mut kib: Vec<u64> = pools.filter_map(|e| size_kib(&e.file_name().to_string_lossy())).collect();
    kib.sort_unstable();
    kib.into_iter().map(size_name).collect()
}

fn size_kib(pool: &str) -> Option<u64> {
    pool.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

/// As the controller's files are called.
fn size_name(kib: u64) -> String {
    match kib {
        kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
        kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

/// Capability names by bit number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What PID 1 may pass on: ours may be fewer by our own unit's doing, and it is containerd that starts containers.
fn capabilities() -> Vec<String> {
    let status = match read("/proc/1/status") {
        hidden if hidden.is_empty() => read("/proc/self/status"),
        status => status,
    };
    let hex = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
    named(hex.and_then(|h| u64::from_str_radix(h.trim(), 16).ok()).unwrap_or(0))
}

fn named(bits: u64) -> Vec<String> {
    let held = CAPABILITIES.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
    held.map(|(_, name)| format!("CAP_{name}")).collect()
}

fn throttles() -> Vec<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let mut found: Vec<String> = cpus
        .filter(|e| e.file_name().to_string_lossy().strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
        .map(|e| e.path().join("thermal_throttle"))
        .filter(|p| p.exists())
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

/// See `NodeFacts::cgroup_options`.
fn cgroup_options(mountinfo: &str) -> Vec<String> {
    let line = mountinfo.lines().find(|l| l.split(' ').nth(4) == Some("/sys/fs/cgroup") && l.contains(" - cgroup2 "));
    let options = line.and_then(|l| l.rsplit(' ').next()).unwrap_or_default();
    options.split(',').filter(|o| matches!(*o, "nsdelegate" | "memory_recursiveprot")).map(str::to_owned).collect()
}

/// Every device node below `dir`, without what each container has its own of.
fn devices(dir: &Path) -> Vec<Device> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let own = matches!(name.to_str(), Some("pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev" | "console") | None);
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            let kind = meta.file_type();
            if own {
                continue;
            } else if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                let rdev = meta.rdev();
                found.push(Device {
                    path: entry.path().to_string_lossy().into_owned(),
                    kind: if kind.is_block_device() { "b" } else { "c" }.to_owned(),
                    major: i64::from(rustix::fs::major(rdev)),
                    minor: i64::from(rustix::fs::minor(rdev)),
                    file_mode: meta.mode() & 0o7777,
                    uid: meta.uid(),
                    gid: meta.gid(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_reserved_or_to_be_kept_free_is_not_allocatable() {
        let (all, mib) = (capacity(&Settings::default()), 1 << 20);
        let left = |settings: &Settings, name: &str| all.get(name).unwrap().minus(*allocatable(settings).get(name).unwrap());
        let plain = Settings::default();
        let huge: i64 = hugepages().values().sum();
        assert_eq!(left(&plain, "memory").units(), 100 * mib + huge);
        assert_eq!(left(&plain, "ephemeral-storage").units(), all.get("ephemeral-storage").unwrap().units() / 10);
        assert_eq!((left(&plain, "cpu"), memory_for_pods(&plain)), (Amount::default(), None));
        let mut kept = Settings::default();
        let amount = |text| Amount::parse(text).unwrap();
        kept.reserve.system = [("cpu", "100m"), ("memory", "64Mi")].map(|(k, v)| (k.to_owned(), amount(v))).into();
        kept.reserve.kube = [("cpu".to_owned(), amount("50m"))].into();
        assert_eq!((left(&kept, "cpu").milli(), left(&kept, "memory").units()), (150, 164 * mib + huge));
        assert_eq!(memory_for_pods(&kept), Some(memory_bytes() - 64 * mib));
        kept.reserve.system.insert("memory".into(), amount("1Ei"));
        assert_eq!(allocatable(&kept).get("memory").unwrap().units(), 0);
    }

    #[test]
    fn only_runcs_kind_of_shim_is_known_to_seal_mounts_recursively() {
        let mut settings = Settings::default();
        let with = |shim: Option<&str>| crate::settings::RuntimeClass { shim: shim.map(str::to_owned), oci_runtime: None };
        let classes = [("crun", None), ("kata", Some("io.containerd.kata.v2")), ("own", Some("/usr/bin/containerd-shim-runc-v2"))];
        settings.runtime_classes = classes.map(|(name, shim)| (name.to_owned(), with(shim))).into();
        // The tests' kernel can.
        assert_eq!(["", "crun", "kata", "own"].map(|c| seals_recursively(&settings, c)), [true, true, false, true]);
        assert_eq!(as_planned(&settings).unsealed_classes, ["kata".to_owned()].into());
        settings.shim = "io.containerd.kata.v2".into();
        assert_eq!(["", "crun", "own"].map(|c| seals_recursively(&settings, c)), [false, false, true]);
    }

    #[test]
    fn page_sizes_are_named_as_the_controller_names_them() {
        let names: Vec<String> =
            ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB"].iter().filter_map(|p| size_kib(p)).map(size_name).collect();
        assert_eq!(names, ["2MB", "1GB", "64KB"]);
    }

    #[test]
    fn capability_bits_have_names() {
        assert_eq!(named(1 | 1 << 21 | 1 << 40 | 1 << 60), ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]);
    }

    #[test]
    fn only_options_that_would_be_stripped_are_kept() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot,favordynmods\n";
        assert_eq!(cgroup_options(v2), ["nsdelegate", "memory_recursiveprot"]);
        assert!(cgroup_options("30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,nsdelegate\n").is_empty());
    }

    #[test]
    fn the_machine_has_memory_a_cpu_and_a_null_device() {
        let facts = facts(&Settings::default(), true);
        assert!(facts.memory_bytes > 100 << 20);
        assert!(facts.allocatable.get("cpu").unwrap().units() >= 1);
        assert!(facts.devices.iter().any(|d| d.path == "/dev/null" && (d.major, d.minor) == (1, 3)));
        assert!(!facts.devices.iter().any(|d| d.path.starts_with("/dev/pts/")));
    }
}
