//! Mounts as data, and the doing of one. Every mount is nosuid, nodev and noexec where it can be.

use std::ffi::CString;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount};

use crate::failure::{Doing, Done};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device, or a word for /proc/mounts.
    pub source: String,
    /// Where; made if it is missing and can be.
    pub target: String,
    /// File system; `bind` is none.
    pub kind: &'static str,
    /// What it forbids.
    pub flags: MountFlags,
    /// Options.
    pub data: String,
}

/// Nothing in it is run, no set-user-ID, no devices.
pub const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What every Linux program expects, in order. Devices and programs stay out of all of them but /dev.
pub fn kernels() -> Vec<Mount> {
    let m =
        |kind, target: &str, flags, data: &str| Mount { source: kind_name(kind), target: target.into(), kind, flags, data: data.into() };
    vec![
        m("proc", "/proc", INERT, ""),
        m("sysfs", "/sys", INERT, ""),
        m("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755"),
        m("tmpfs", "/run", INERT, "mode=0755,size=25%"),
    ]
}

/// What comes with PID 1: nothing in the initramfs needs it.
pub fn later() -> Vec<Mount> {
    let m =
        |kind, target: &str, flags, data: &str| Mount { source: kind_name(kind), target: target.into(), kind, flags, data: data.into() };
    let dev = MountFlags::NOSUID | MountFlags::NOEXEC;
    vec![
        m("devpts", "/dev/pts", dev, "gid=5,mode=0620,ptmxmode=0666"),
        m("tmpfs", "/dev/shm", INERT, "mode=1777"),
        m("mqueue", "/dev/mqueue", INERT, ""),
        m("tmpfs", "/tmp", INERT, "mode=1777,size=25%"),
        m("bpf", "/sys/fs/bpf", INERT, "mode=0700"),
        m("securityfs", "/sys/kernel/security", INERT, ""),
    ]
}

fn kind_name(kind: &str) -> String {
    kind.to_owned()
}

/// A read-only erofs.
pub fn image(device: &str, target: &str, flags: MountFlags) -> Mount {
    Mount { source: device.into(), target: target.into(), kind: "erofs", flags: MountFlags::RDONLY | flags, data: String::new() }
}

/// What makes a read-only root one that is lived in: overlays on /etc and /var whose upper halves are in the state, and binds for what must not
/// lie on an overlay. All paths below `root`. A pod's volumes and snapshots carry its programs, so those two binds allow running them;
/// a snapshot's mount has flags of its own.
pub fn lived_in(root: &str) -> Vec<Mount> {
    let overlay = |name: &str, flags| Mount {
        source: "overlay".into(),
        target: format!("{root}/{name}"),
        kind: "overlay",
        flags,
        // Another upper than last time (a wiped state) must mount: no index.
        data: format!(
            "lowerdir={root}/{name},upperdir={root}/state/{name},workdir={root}/state/.{name}.work,index=off,xino=off,metacopy=off"
        ),
    };
    let bind = |from: &str, to: &str, flags| Mount {
        source: format!("{root}/state/{from}"),
        target: format!("{root}/{to}"),
        kind: "bind",
        flags,
        data: String::new(),
    };
    vec![
        overlay("etc", INERT),
        overlay("var", INERT),
        bind("containerd", "var/lib/containerd", MountFlags::NODEV),
        bind("plinth", "var/lib/plinth", MountFlags::NODEV),
        bind("log", "var/log", INERT),
    ]
}

impl Mount {
    /// Does it.
    pub fn make(&self) -> Done {
        let words = || format!("mount {} ({}) on {}", self.source, self.kind, self.target);
        // On a read-only root the directory is there or it is not; mount(2) says so.
        let _ = std::fs::create_dir_all(&self.target);
        let data = CString::new(self.data.as_str()).doing(words)?;
        if self.kind == "bind" {
            mount_bind(&self.source, &self.target).doing(words)?;
            return mount_remount(&self.target, MountFlags::BIND | self.flags, "").doing(words);
        }
        mount(&self.source, &self.target, self.kind, self.flags, data.as_c_str()).doing(words)
    }

    /// Does it unless something is mounted there: by the initramfs, or by whoever keeps this machine in a namespace.
    pub fn make_once(&self, table: &str) -> Done {
        if mounted(table).any(|(target, _)| target == self.target) { Ok(()) } else { self.make() }
    }
}

/// Target and kind of each line of /proc/self/mounts, in order. Spaces in a target stay escaped: ours have none.
pub fn mounted(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|l| {
        let mut words = l.split(' ');
        Some((words.nth(1)?, words.next()?))
    })
}

/// Mounts made below are seen by containers that ask for it (`mountPropagation: HostToContainer`), as systemd has it.
pub fn share_root() -> Done {
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).doing(|| "share the mounts below /")
}

/// The order in which everything is let go: newest first, without what the kernel itself is and the root.
pub fn to_unmount(table: &str) -> Vec<String> {
    let kept = |target: &str| target == "/" || ["/proc", "/sys", "/dev", "/run"].contains(&target);
    let mut targets: Vec<_> = mounted(table).map(|(target, _)| target.to_owned()).filter(|t| !kept(t)).collect();
    targets.reverse();
    targets
}

/// Unmounts everything it can; what is left on a disk is made read-only. Says what refused both.
pub fn release() -> Vec<String> {
    // Twice: what held another is gone in the second round.
    for _ in 0..2 {
        for target in to_unmount(&table()) {
            let _ = unmount(unescape(&target), UnmountFlags::NOFOLLOW);
        }
    }
    let left = table();
    let disks = mounted(&left).filter(|(_, kind)| *kind == "ext4");
    disks
        .filter_map(|(target, _)| {
            let refused = mount_remount(target, MountFlags::RDONLY, "").err()?;
            Some(format!("make {target} read-only: {refused}"))
        })
        .collect()
}

/// The mounts as they are.
pub fn table() -> String {
    std::fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

/// A path as /proc/self/mounts writes it: `\040` is a space.
fn unescape(text: &str) -> std::path::PathBuf {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let code =
            (*first == b'\\').then(|| tail.get(..3).and_then(|t| u8::from_str_radix(std::str::from_utf8(t).ok()?, 8).ok())).flatten();
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    Path::new(std::ffi::OsStr::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&out))).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_let_go_newest_first_but_the_kernels_own() {
        let table = "/dev/dm-0 / erofs ro 0 0\nproc /proc proc rw 0 0\n/dev/vda4 /state ext4 rw 0 0\noverlay /var overlay rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n";
        assert_eq!(to_unmount(table), ["/dev/shm", "/var", "/state"]);
    }

    #[test]
    fn nothing_but_a_pods_own_directories_may_hold_programs_or_devices() {
        for m in lived_in("/sysroot").iter().chain(&kernels()).chain(&later()) {
            let pods = ["/sysroot/var/lib/containerd", "/sysroot/var/lib/plinth"].contains(&m.target.as_str());
            assert!(pods || m.flags.contains(MountFlags::NOEXEC | MountFlags::NOSUID), "{m:?}");
            assert!(m.target.starts_with("/dev") || m.flags.contains(MountFlags::NODEV), "{m:?}");
        }
    }

    #[test]
    fn escaped_paths_are_read() {
        assert_eq!(unescape(r"/a\040b\134c\x"), Path::new(r"/a b\c\x"));
    }
}
