//! `/init` of the initramfs: from a kernel with nothing to a root that is verified, mounted and lived in, and PID 1 started from it.
//!
//! The only thing it leaves running is itself, as another program. What fails ends in the chosen fallback, except for the state: without
//! it the machine boots on memory and says so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount_move, unmount};

use crate::cmdline::{self, Where, Words};
use crate::console::{say, since_boot_ms};
use crate::disk::{Block, Disks};
use crate::failure::{Doing, Done, Failure, fall_back};
use crate::mounts::{self, INERT, Mount};
use crate::verity::{EROFS_AT, SUPERBLOCK_BYTES, Tree, erofs_bytes};
use crate::{modules, state};

/// The root, before it is one.
const SYSROOT: &str = "/sysroot";
/// PID 1 in the root.
pub const NEXT: &str = "/usr/lib/plinth/init";
/// What is wrong with a machine that runs all the same, one line each.
pub const DEGRADED: &str = "/run/init/degraded";

/// Does all of it. Returns never.
pub fn run() -> ! {
    let began = since_boot_ms();
    let early: Vec<_> = mounts::kernels().iter().filter_map(|m| m.make().err()).collect();
    // A kernel that panics from here on, also over a killed PID 1, reboots. `panic=` on its command line wins.
    if fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|t| t.trim() == "0") {
        let _ = fs::write("/proc/sys/kernel/panic", "10");
    }
    let (words, complaints) = cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    for line in early.iter().map(ToString::to_string).chain(complaints) {
        say(&line);
    }
    let failure = match boot(&words, began) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    fall_back(&failure, words.fallback)
}

fn boot(words: &Words, began: u64) -> Done<std::convert::Infallible> {
    let debug = |text: &str| {
        if words.debug {
            say(text)
        }
    };
    let (loaded, wrong) = modules::load(Path::new("/etc/modules"), Path::new("/lib/modules"));
    debug(&format!("{loaded} modules loaded, {} ms after the kernel was done", since_boot_ms().saturating_sub(began)));
    wrong.iter().for_each(|w| say(w));
    // A typing error in a hash must not boot what nobody verified.
    if let Some(bad) = &words.bad_hash {
        return Err(Failure::new("verify the root", format!("`{bad}` is no hash in hexadecimal")));
    }
    let mut disks = Disks::default();
    let root = disks.find(&words.root, None, words.wait)?;
    debug(&format!("root is {}", root.path()));
    let device = verified(&mut disks, &root, ("plinth-root", &words.root), words.root_hash.as_deref())?;
    mounts::image(&device, SYSROOT, MountFlags::NOSUID | MountFlags::NODEV).make()?;

    let manifests = disks.find(&words.manifests, Some(&root.disk), words.wait)?;
    debug(&format!("manifests are {}", manifests.path()));
    let device = verified(&mut disks, &manifests, ("plinth-manifests", &words.manifests), words.manifests_hash.as_deref())?;
    mounts::image(&device, &format!("{SYSROOT}/usr/lib/plinth/manifests"), INERT).make()?;

    keep(words, &mut disks, &root.disk)?;
    live_in()?;
    say(&format!("root, manifests and state are mounted, {} ms after the kernel was done", since_boot_ms().saturating_sub(began)));
    switch()
}

/// The device to mount: the verity one, if a hash is given; and a first read through it, which a wrong hash does not survive.
/// The tree is behind what it verifies, or in the partition that is called as that of the data is and `-verity`.
fn verified(disks: &mut Disks, block: &Block, (name, place): (&str, &Where), hash: Option<&str>) -> Done<String> {
    let Some(hash) = hash else {
        say(&format!("{} is not verified: no hash for it on the kernel command line", block.path()));
        return Ok(block.path());
    };
    let what = || format!("verify {} with root hash {hash}", block.path());
    let label = if let Where::Label(label) = place { label } else { name };
    let own = disks.beside(block, &format!("{label}-verity"));
    let at = match own {
        Some(_) => 0,
        None => erofs_bytes(&block.read(EROFS_AT, SUPERBLOCK_BYTES)?).ok_or_else(|| Failure::new(what(), "no erofs on it"))?,
    };
    let hashes = own.as_ref().unwrap_or(block);
    let tree = Tree::read(&hashes.read(at, SUPERBLOCK_BYTES)?).doing(|| format!("{}, hash tree at {at} of {}", what(), hashes.path()))?;
    let table = tree.table(&block.number()?, &hashes.number()?, at, hash);
    let device = crate::dm::verity(name, tree.sectors(), &table).doing(what)?;
    let device = Block { disk: device.clone(), name: device };
    let first = device.read(EROFS_AT, SUPERBLOCK_BYTES);
    if let Err(refused) =
        first.and_then(|sb| erofs_bytes(&sb).map(drop).ok_or_else(|| Failure::new(what(), "what it verifies is no erofs")))
    {
        crate::dm::remove(name);
        return Err(Failure::new(what(), format!("it does not match, refused ({refused})")));
    }
    Ok(device.path())
}

/// The state, or a tmpfs and the reason.
fn keep(words: &Words, disks: &mut Disks, disk: &str) -> Done {
    let target = format!("{SYSROOT}/state");
    if words.state != Where::Tmpfs {
        let found = disks.find(&words.state, Some(disk), words.wait);
        let mounted = found.and_then(|block| state::mount(disks, &block, &target, &say));
        match mounted {
            Ok(()) => return Ok(()),
            Err(why) => degraded(&format!("nothing is kept beyond this boot: {why}")),
        }
        // It may be mounted and of no use.
        let _ = unmount(&target, UnmountFlags::DETACH);
    }
    Mount { source: "tmpfs".into(), target, kind: "tmpfs", flags: INERT, data: "mode=0755,size=50%".into() }.make()
}

/// Overlays and binds. One that cannot be made on the state (a damaged directory) is made on memory.
fn live_in() -> Done {
    for name in ["etc", "var", ".etc.work", ".var.work", "containerd", "plinth", "log"] {
        let dir = format!("{SYSROOT}/state/{name}");
        fs::create_dir_all(&dir).unwrap_or_else(|e| degraded(&format!("make {dir}: {e}")));
    }
    for mount in mounts::lived_in(SYSROOT) {
        if let Err(why) = mount.make() {
            degraded(&format!("{why}; a tmpfs instead"));
            if mount.kind == "bind" {
                Mount { source: "tmpfs".into(), kind: "tmpfs", data: "mode=0755".into(), ..mount }.make()?;
                continue;
            }
            let spare = format!("/run/init/{}", mount.target.rsplit('/').next().unwrap_or_default());
            let (upper, work) = (format!("{spare}/upper"), format!("{spare}/work"));
            for dir in [&upper, &work] {
                fs::create_dir_all(dir).doing(|| format!("make {dir}"))?;
            }
            let data = format!("lowerdir={},upperdir={upper},workdir={work}", mount.target);
            Mount { data, ..mount }.make()?;
        }
    }
    Ok(())
}

/// On the console, and in a file for whoever asks later.
fn degraded(why: &str) {
    say(&format!("degraded: {why}"));
    let _ = fs::create_dir_all("/run/init");
    let file = fs::File::options().create(true).append(true).open(DEGRADED);
    let _ = file.and_then(|mut f| std::io::Write::write_all(&mut f, format!("{why}\n").as_bytes()));
}

/// Leaves the initramfs, frees its memory, and becomes PID 1 of the root.
fn switch() -> Done<std::convert::Infallible> {
    if !Path::new(&format!("{SYSROOT}{NEXT}")).exists() {
        return Err(Failure::new(format!("start {NEXT}"), "it is not in the root"));
    }
    for dir in ["/run", "/dev", "/sys", "/proc"] {
        let to = format!("{SYSROOT}{dir}");
        mount_move(dir, &to).doing(|| format!("move {dir} to {to}"))?;
    }
    rustix::process::chdir(SYSROOT).doing(|| format!("enter {SYSROOT}"))?;
    empty("/");
    mount_move(".", "/").doing(|| format!("move {SYSROOT} to /"))?;
    rustix::process::chroot(".").doing(|| format!("make {SYSROOT} the root"))?;
    rustix::process::chdir("/").doing(|| "enter the root")?;
    Err(Failure::new(format!("start {NEXT}"), Command::new(NEXT).env_clear().exec()))
}

/// Deletes the initramfs: it is memory nobody uses again. Never leaves its file system, and never runs on another kind.
fn empty(root: &str) {
    let is_ours = rustix::fs::statfs(root).is_ok_and(|s| matches!(s.f_type as u64, 0x0102_1994 | 0x8584_58f6));
    let Ok(device) = fs::symlink_metadata(root).map(|m| m.dev()) else { return };
    if is_ours {
        empty_below(Path::new(root), device);
    }
}

fn empty_below(dir: &Path, device: u64) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(m) if m.dev() != device => {}
            Ok(m) if m.is_dir() => {
                empty_below(&path, device);
                let _ = fs::remove_dir(&path);
            }
            _ => drop(fs::remove_file(&path)),
        }
    }
}
