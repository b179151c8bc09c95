//! Whether containerd can call this program in place of its runc shim's (`crate::shim`), and the link it is told to call it by.
//!
//! Only where that is sure to be the same: a containerd whose calls are known, that sees this program and the link as we do, and that would
//! have taken the shim beside itself. Anything else has the shim's own program, as ever.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::client::{Client, Tried};
use super::error::Result;
use super::specify::file;
use crate::shim::{PROGRAM, beside, would_answer};

/// The name of a shim that may be stood in for: of another, or of one by its path, somebody chose it.
pub const SHIM: &str = "io.containerd.runc.v2";

/// The link, if containerd can call it.
pub async fn stand_in(client: &Client, run_dir: &Path) -> Result<Option<Rc<str>>> {
    if !would_answer() {
        return Ok(None);
    }
    let server = client.introspection().server(client.ask(())).await.tried("ask for the process of", "containerd")?;
    let ours = fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).map_err(file("read", Path::new("/proc/self/ns/pid")))?;
    if server.pidns != ours {
        return Ok(None);
    }
    let process = PathBuf::from(format!("/proc/{}", server.pid));
    let Some(own) = own_program().filter(|own| is_seen(&process, own) && is_seen(&process, run_dir) && takes_the_shim_beside(&process))
    else {
        return Ok(None);
    };
    let link = run_dir.join(PROGRAM);
    lead(&link, &own).map_err(file("make link", &link))?;
    Ok(link.to_str().map(Rc::from))
}

/// Where this program is; `None` once another has its place.
fn own_program() -> Option<PathBuf> {
    let path = fs::read_link("/proc/self/exe").ok()?;
    is_same(&path, Path::new("/proc/self/exe")).then_some(path)
}

/// Whether a process has the same thing at a path as we do.
fn is_seen(process: &Path, path: &Path) -> bool {
    path.strip_prefix("/").is_ok_and(|below| is_same(&process.join("root").join(below), path))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let id = |path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}

/// containerd looks along its PATH first.
fn takes_the_shim_beside(process: &Path) -> bool {
    let program = fs::read_link(process.join("exe")).ok().and_then(|exe| beside(&exe));
    let Some(program) = program.filter(|p| is_seen(process, p)) else { return false };
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let path = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"PATH=")).unwrap_or_default().to_vec();
    let first = std::env::split_paths(&OsString::from_vec(path)).map(|dir| dir.join(PROGRAM)).find(|p| p.exists());
    first.is_none_or(|first| is_same(&first, &program))
}

/// A link that leads there, in place of one that leads elsewhere: by another name first, so that there is one at every moment.
fn lead(link: &Path, to: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|at| at == to) {
        return Ok(());
    }
    let new = link.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => symlink(to, &new)?,
    }
    fs::rename(&new, link)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_link_is_led_elsewhere_and_a_process_sees_what_it_sees() {
        let dir = std::env::temp_dir().join(format!("plinth-stand-in-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let link = dir.join(PROGRAM);
        for to in ["/bin/sh", "/bin/sh", "/bin/ls"] {
            lead(&link, Path::new(to)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(to));
        }
        assert!(is_seen(Path::new("/proc/self"), &dir) && !is_seen(Path::new("/proc/self"), &dir.join("none")));
        assert_eq!(own_program(), std::env::current_exe().ok());
        assert!(!takes_the_shim_beside(Path::new("/proc/self")), "there is no shim beside a test");
        fs::remove_dir_all(&dir).unwrap();
    }
}
