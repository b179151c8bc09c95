//! `/init` of the initramfs and PID 1 of the image, one static binary: this page is what the image is built against.
//!
//! ```text
//!  kernel ─> /init (initrd): modules, partitions, verity, mounts ─> /usr/lib/plinth/init (root): PID 1, services, shutdown
//! ```
//!
//! # Kernel command line
//! ```text
//!  plinth.root=WHERE            the root file system (erofs)                     [plinth-root]
//!  plinth.roothash=HEX          dm-verity root hash of it: a root that does not match is refused; without it nothing is verified
//!  plinth.manifests=WHERE       the read-only manifests (erofs)                  [plinth-manifests]
//!  plinth.manifestshash=HEX     the same for the manifests
//!  plinth.state=WHERE|tmpfs     what is kept (ext4)                              [plinth-state]
//!  plinth.ip=dhcp|ADDR/PREFIX[,GATEWAY[,DNS]]   the first Ethernet port          [loopback only]
//!  plinth.hostname=NAME         [/etc/hostname, else `plinth`]
//!  plinth.fallback=shell|reboot|poweroff|halt   what a failure before PID 1 ends in   [reboot, after 10 s]
//!  plinth.wait=SECONDS          how long a partition may take to appear          [10]
//!  plinth.debug                 say more
//! ```
//! WHERE is a GPT partition name (`plinth-root`, `PARTLABEL=plinth-root`), `UUID=`/`PARTUUID=` a GPT partition GUID, or `/dev/…`.
//!
//! # Partitions
//! `plinth-root` and `plinth-manifests` hold an erofs. Its hash tree (veritysetup's format, with superblock) is on the
//! partition `<name>-verity` of the same disk if there is one, else on the same partition, right behind the erofs
//! (`veritysetup format --hash-offset` = the image's size, a multiple of 4096). `plinth-state` is ext4; blank, it is made; unclean, it is
//! checked; as the last partition of a larger disk it is made as large as the disk, table and file system; beyond repair or missing,
//! a tmpfs takes its place for this boot and `/run/init/degraded` says why, one line each.
//!
//! # In the initrd
//! `/init` (this), `/etc/modules` (one `.ko` a line, absolute or below `/lib/modules`, in loading order, parameters behind it, `#` comments),
//! `/sbin/e2fsck`, `/sbin/mke2fs` (static; without them the state is only mounted), `/bin/busybox` (for `plinth.fallback=shell`).
//! Directories are made as needed.
//!
//! # In the root
//! `/usr/lib/plinth/init` (this), `/etc/plinth-release` (`BUILD_TIME=<seconds>`: no clock is earlier), `/usr/lib/plinth/modules`
//! (a second list, loaded beside containerd's start, below `/usr/lib/modules`), `/usr/lib/plinth/rules.nft` (for nft, if it
//! is there), `/usr/bin/{containerd,plinth}`, `/etc/containerd/config.toml`, `/bin/busybox` (DHCP client), and the empty directories
//! `/dev /proc /sys /run /tmp /state /usr/lib/plinth/manifests`.
//! `/etc/resolv.conf` should be a link to `../run/resolv.conf`.
//! The state is on `/state`; `/etc` and `/var` are overlays of the root's with `/state/{etc,var}`; `/var/lib/containerd`,
//! `/var/lib/plinth` and `/var/log` are binds from `/state`, since overlayfs does not stack as an upper layer.
//!
//! # To PID 1
//! SIGTERM, SIGINT (ctrl-alt-del), SIGUSR2 and the power button power off, SIGUSR1 halts, SIGHUP reboots, each in order;
//! `/usr/lib/plinth/init poweroff|halt|reboot` sends them. `/dev/watchdog` is fed if it is there.
//! As `udhcpc -s /usr/lib/plinth/init` it is the lease script. On the console every line opens with the milliseconds since the kernel began.

mod cmdline;
mod console;
mod disk;
mod dm;
mod failure;
mod gpt;
mod lease;
mod modules;
mod mounts;
mod net;
mod pid1;
mod stage1;
mod state;
mod sys;
mod verity;
mod widen;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let (name, rest) = args.split_first().map_or(("", [].as_slice()), |(n, r)| (n.as_str(), r));
    if rustix::process::getpid().is_init() {
        failure::last_words();
        if name == "/init" { stage1::run() } else { pid1::run() }
    }
    let port = std::env::var("interface");
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let done = match (words.as_slice(), port) {
        (["exec", ..], _) => pid1::exec(rest.get(1..).unwrap_or_default()),
        (["settle"], _) => pid1::settle(),
        (["dhcp"], _) => pid1::dhcp(),
        ([event], Ok(port)) => lease::run(event, &port),
        ([word @ ("poweroff" | "reboot" | "halt")], _) => pid1::tell(word),
        _ => Err(failure::Failure::new("plinth-init", "is PID 1 of the image; as another process, poweroff, reboot or halt tells PID 1")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
