//! Mounts of ours: made, recognised, found and taken away. Never follows a link to what it unmounts.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Statx, StatxFlags, statfs, statx};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, mount_remount, unmount};

/// `statfs` type of a namespace file (linux/magic.h, NSFS_MAGIC).
const NSFS: u64 = 0x6e73_6673;
/// `statx` attribute: the root of a mount (linux/stat.h, STATX_ATTR_MOUNT_ROOT; Linux 5.8).
const MOUNT_ROOT: u64 = 0x2000;

/// One page is all mount(2) takes of options: some 40 layers at the usual place.
const OPTIONS_BYTES: usize = 4096;

/// A namespace is pinned here.
pub fn is_pin(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == NSFS))
}

/// Something is mounted exactly here; works for bind mounts of the same file system and of files too.
pub fn is_mount_point(path: &Path) -> bool {
    // Without asking a server behind it: that might take for ever.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    statx(rustix::fs::CWD, path, flags, StatxFlags::empty()).is_ok_and(|s| is_root(&s))
}

/// What was looked at is the root of a mount.
pub fn is_root(looked: &Statx) -> bool {
    looked.stx_attributes.bits() & MOUNT_ROOT != 0
}

/// A tmpfs of at most so many bytes (`None`: half of memory, the kernel's default), never swapped out if `noswap` and the kernel can.
pub fn tmpfs(target: &Path, size_bytes: Option<u64>, mode: u32, noswap: bool) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let size = size_bytes.map(|n| format!(",size={n}")).unwrap_or_default();
    let options = |extra: &str| CString::new(format!("mode={mode:04o}{size}{extra}"));
    if noswap && mount("tmpfs", target, "tmpfs", flags, options(",noswap")?.as_c_str()).is_ok() {
        return Ok(());
    }
    Ok(mount("tmpfs", target, "tmpfs", flags, options("")?.as_c_str())?)
}

/// The kernel's huge pages of one size as a file system, at most so many bytes.
pub fn hugetlbfs(target: &Path, page_bytes: u64, size_bytes: u64) -> io::Result<()> {
    let options = CString::new(format!("pagesize={page_bytes},size={size_bytes}"))?;
    Ok(mount("nodev", target, "hugetlbfs", MountFlags::empty(), options.as_c_str())?)
}

/// What a snapshotter says is to be mounted (`bind` or `overlay`), read-only.
pub fn snapshot(kind: &str, source: &str, options: &[String], target: &Path) -> io::Result<()> {
    as_said(kind, source, options, target, true)
}

/// The same for a container's root, which it may write to unless the options say `ro`.
pub fn root(kind: &str, source: &str, options: &[String], target: &Path) -> io::Result<()> {
    as_said(kind, source, options, target, options.iter().any(|o| o == "ro"))
}

fn as_said(kind: &str, source: &str, options: &[String], target: &Path, read_only: bool) -> io::Result<()> {
    if kind == "bind" {
        mount_bind_recursive(source, target)?;
        let sealed = if read_only { mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"") } else { Ok(()) };
        return sealed.or_else(|e| detach(target).and(Err(e.into())));
    }
    let flags = ["ro", "rw", "bind", "rbind"];
    let data: Vec<&str> = options.iter().map(String::as_str).filter(|o| !flags.contains(o)).collect();
    let data = data.join(",");
    if data.len() >= OPTIONS_BYTES {
        return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, "the image has too many layers to be mounted by their names"));
    }
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    Ok(mount(source, target, kind, flags, CString::new(data)?.as_c_str())?)
}

/// Binds what the descriptor holds, and nothing that could be swapped in for its name meanwhile.
pub fn bind_fd(source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(mount_bind_recursive(format!("/proc/self/fd/{}", source.as_raw_fd()), target)?)
}

/// Makes a mount nobody else has read-only (Linux 5.12).
pub(super) fn seal(mount: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(mount, nix::libc::MOUNT_ATTR_RDONLY, None)
}

/// This kernel can make a mount and all below it read-only: `mount_setattr`, since Linux 5.12.
pub fn can_seal_recursively(kernel: &str) -> bool {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(12))
}

/// Sets attributes of a mount nobody else has, and of all below it.
#[expect(unsafe_code, reason = "mount_setattr has no wrapper")]
pub(super) fn set_attributes(mount: BorrowedFd<'_>, attributes: u64, users: Option<BorrowedFd<'_>>) -> io::Result<()> {
    use nix::libc;
    let userns_fd = users.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let wish = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd };
    let (at, size) = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, size_of::<libc::mount_attr>());
    // SAFETY: the path is a text that ends with a zero, and the kernel reads `size` bytes of `wish`; both live across the call.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), at, &raw const wish, size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes away the mount at this very path, now or when its last user is gone; nothing mounted there is fine.
pub fn detach(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Every mount at or below these directories, last mounted first: the order to take them away in.
pub fn below(dirs: &[&Path]) -> io::Result<Vec<PathBuf>> {
    let table = table()?;
    // The table shows resolved names; `/var/run` may be a link to `/run`.
    let dirs: Vec<PathBuf> = dirs.iter().filter_map(|d| d.canonicalize().ok()).collect();
    Ok(table.into_iter().rev().map(|row| row.at).filter(|at| dirs.iter().any(|d| at.starts_with(d))).collect())
}

/// The mount a resolved path lies on: where it is mounted, and its optional fields (`shared:1`, `master:2`), as the kernel writes them.
pub fn holding(path: &Path) -> io::Result<(PathBuf, String)> {
    let table = table()?;
    let held = deepest(&table, path).map(|row| (row.at.clone(), row.passes.clone()));
    held.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no mount holds it"))
}

/// File systems with a server or a program behind them, beside `fuse.*`: who touches what lies there waits for as long as that is away.
const ELSEWHERE: [&[u8]; 17] = [
    b"nfs",
    b"nfs4",
    b"fuse",
    b"fuseblk",
    b"autofs",
    b"cifs",
    b"smb3",
    b"9p",
    b"virtiofs",
    b"ceph",
    b"lustre",
    b"beegfs",
    b"afs",
    b"coda",
    b"gfs2",
    b"ocfs2",
    b"orangefs",
];
/// Links on the way of one path: the kernel's own limit.
const LINKS: u32 = 40;

/// Those of these paths that lie, or lead on their way, where a server or a program may keep whoever touches them waiting. None is touched:
/// the table of mounts says which lie where, and of links those alone are read that lie on this machine.
pub fn elsewhere<T>(paths: Vec<(T, PathBuf)>) -> io::Result<Vec<(T, PathBuf)>> {
    if paths.is_empty() {
        return Ok(paths);
    }
    let table = table()?;
    let any = table.iter().any(|row| row.elsewhere);
    Ok(paths.into_iter().filter(|(_, path)| any && leads_elsewhere(&table, path)).collect())
}

fn leads_elsewhere(table: &[Row], path: &Path) -> bool {
    let parts = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut left, mut at, mut links) = (parts(path), PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        if deepest(table, &at).is_some_and(|row| row.elsewhere) {
            return true;
        }
        if let Ok(to) = std::fs::read_link(&at) {
            links += 1;
            if links > LINKS {
                return false;
            }
            at.pop();
            left.extend(parts(&to));
        }
    }
    false
}

/// One mount.
struct Row {
    /// Where it is.
    at: PathBuf,
    /// Its optional fields.
    passes: String,
    /// It is one of `ELSEWHERE`.
    elsewhere: bool,
}

/// What this very thread sees, in the order in which it was mounted; in tests that is a mount namespace of their own.
fn table() -> io::Result<Vec<Row>> {
    Ok(rows(&std::fs::read("/proc/thread-self/mountinfo")?))
}

fn rows(table: &[u8]) -> Vec<Row> {
    let rows = table.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let at = unescape(fields.nth(4)?);
        let passes: Vec<_> = fields.by_ref().skip(1).take_while(|f| *f != b"-").map(String::from_utf8_lossy).collect();
        let kind = fields.next().unwrap_or_default();
        Some(Row { at, passes: passes.join(" "), elsewhere: kind.starts_with(b"fuse.") || ELSEWHERE.contains(&kind) })
    });
    rows.collect()
}

/// The mount that a path lies on. Of two at one place the later one is on top.
fn deepest<'a>(table: &'a [Row], path: &Path) -> Option<&'a Row> {
    table.iter().filter(|row| path.starts_with(&row.at)).max_by_key(|row| row.at.components().count())
}

/// `\040` and the like are blank, tab, newline and backslash.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(can_seal_recursively("5.12.0") && can_seal_recursively("6.1.0-25-amd64"));
        assert!(!can_seal_recursively("5.9.1") && !can_seal_recursively("4.19") && !can_seal_recursively(""));
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"22 27 0:21 / /proc rw - proc proc rw\n23 27 0:22 / /a\\040b\\134c rw shared:1 - tmpfs x rw\n";
        assert_eq!(rows(table).into_iter().map(|row| row.at).collect::<Vec<_>>(), [PathBuf::from("/proc"), PathBuf::from("/a b\\c")]);
    }

    #[test]
    fn a_path_lies_on_the_deepest_and_latest_mount_above_it() {
        let table = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /a rw shared:1 - tmpfs x rw\n3 2 0:3 / /a rw,noatime shared:1 master:2 - tmpfs y rw\n4 1 0:4 / /ab rw shared:3 - tmpfs z rw\n";
        let table = rows(table);
        let lies = |path: &str| deepest(&table, Path::new(path)).map(|row| (row.at.display().to_string(), row.passes.clone()));
        assert_eq!(lies("/a/b/c"), Some(("/a".into(), "shared:1 master:2".into())));
        assert_eq!(lies("/abc"), Some(("/".into(), String::new())));
    }

    #[test]
    fn a_path_leads_elsewhere_by_its_mount_or_by_a_link_on_its_way() {
        let dir = std::env::temp_dir().canonicalize().unwrap().join(format!("pltest-elsewhere-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("here")).unwrap();
        std::os::unix::fs::symlink("../far/deep", dir.join("here/link")).unwrap();
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
        let at = dir.display();
        let table = format!(
            "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {at}/far rw shared:1 - nfs4 s:/ rw\n3 2 0:3 / {at}/far/near rw - tmpfs x rw\n\
             4 1 0:4 / {at}/sshfs rw - fuse.sshfs x rw\n5 1 0:5 / {at}/control rw - fusectl x rw\n"
        );
        let table = rows(table.as_bytes());
        for (path, leads) in [
            ("far", true),
            ("far/not/there", true),
            ("far/near/x", true),
            ("farther", false),
            ("here/link/x", true),
            ("here/../far", true),
            ("sshfs/x", true),
            ("control", false),
            ("here", false),
            ("loop/x", false),
        ] {
            assert_eq!(leads_elsewhere(&table, &dir.join(path)), leads, "{path}");
        }
        assert!(leads_elsewhere(&rows(b"1 0 0:1 / / rw - nfs s:/ rw"), Path::new("/")));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn proc_is_a_mount_point_and_its_self_is_not() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/sys")));
        assert!(is_pin(Path::new("/proc/self/ns/net")));
        assert!(!is_pin(Path::new("/proc/self/status")));
    }
}
