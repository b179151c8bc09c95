//! Loads kernel modules from a list, in its order. A module that does not load is a line, not an end: what needs it will say so.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel unpacks, if it was built to.
const COMPRESSED: i32 = 4;

/// Loads what `list` names, below `dir` unless it is absolute; how many, and what went wrong.
pub fn load(list: &Path, dir: &Path) -> (usize, Vec<String>) {
    let Ok(text) = fs::read_to_string(list) else { return (0, Vec::new()) };
    let (mut loaded, mut wrong) = (0, Vec::new());
    for (path, params) in entries(&text, dir) {
        match insert(&path, &params) {
            Ok(()) => loaded += 1,
            Err(why) => wrong.push(format!("load module {}: {why}", path.display())),
        }
    }
    (loaded, wrong)
}

/// File and parameters of each line.
fn entries(text: &str, dir: &Path) -> Vec<(PathBuf, String)> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty());
    lines
        .map(|l| {
            let (path, params) = l.split_once(char::is_whitespace).unwrap_or((l, ""));
            (dir.join(path), params.trim().to_owned())
        })
        .collect()
}

fn insert(path: &Path, params: &str) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let params = CString::new(params).map_err(|e| e.to_string())?;
    let plain = path.extension().is_some_and(|e| e == "ko");
    match rustix::system::finit_module(&file, &params, if plain { 0 } else { COMPRESSED }) {
        // There already, as part of the kernel or by an earlier line.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // The hardware it drives is not here: cpu features, another machine's bus.
        Err(Errno::NODEV) => Err("its hardware is not here".into()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_paths_parameters_and_comments() {
        let text = "# disks\nkernel/virtio_blk.ko\n\n/x/loop.ko  max_loop=8 a=b # why\n";
        let entry = |p: &str, a: &str| (PathBuf::from(p), a.to_owned());
        assert_eq!(
            entries(text, Path::new("/lib/modules")),
            [entry("/lib/modules/kernel/virtio_blk.ko", ""), entry("/x/loop.ko", "max_loop=8 a=b")]
        );
    }
}
