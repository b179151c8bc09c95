//! What a service writes: cut into lines, to the console and to a bounded file. Never keeps a service waiting for either.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A file is put aside as `.1` at that size: twice as much is kept.
pub const FILE_BYTES: u64 = 1 << 20;
/// A longer line is cut in pieces.
const LINE_BYTES: usize = 4096;

/// Bytes to lines, across reads.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes what was read and gives the lines that are whole, or too long to wait for.
    pub fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") || self.rest.len() >= LINE_BYTES {
                lines.extend(self.end());
            }
        }
        lines
    }

    /// What is left of a line.
    pub fn end(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.rest);
        // Escapes of one service must not paint over another's lines.
        let text: String = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control() || *c == '\t').collect();
        (!text.is_empty()).then_some(text)
    }
}

/// A file that does not grow without end.
#[derive(Debug)]
pub struct Bounded {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Bounded {
    /// Goes on at the end of what is there. A file that cannot be opened is tried again with each line: the disk may have room later.
    pub fn new(path: &Path) -> Bounded {
        Bounded { path: path.into(), file: None, bytes: 0 }
    }

    /// Writes one line, or loses it.
    pub fn line(&mut self, text: &str) {
        if self.bytes >= FILE_BYTES {
            self.file = None;
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if self.file.is_none() {
            self.file = File::options().create(true).append(true).open(&self.path).ok();
            self.bytes = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(format!("{text}\n").as_bytes());
            self.bytes += text.len() as u64 + 1;
        }
    }

    /// Lets go of the file, so that its disk can be unmounted.
    pub fn close(&mut self) {
        self.file = None;
    }
}

/// One run's pipe.
#[derive(Debug)]
pub struct Output {
    /// The read end.
    pub fd: OwnedFd,
    /// Which service.
    pub service: usize,
    lines: Lines,
}

impl Output {
    /// Of a service.
    pub fn new(fd: OwnedFd, service: usize) -> Output {
        Output { fd, service, lines: Lines::default() }
    }

    /// What there is to read now, at most a pipe full; whether it goes on.
    pub fn read(&mut self) -> (Vec<String>, bool) {
        let (mut lines, mut buffer) = (Vec::new(), [0u8; 4096]);
        for _ in 0..16 {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => {
                    lines.extend(self.lines.end());
                    return (lines, false);
                }
                Ok(n) => lines.extend(self.lines.add(buffer.get(..n).unwrap_or_default())),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return (lines, e == rustix::io::Errno::AGAIN),
            }
        }
        (lines, true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_whole_across_reads_and_cut_when_too_long() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"one\ntw"), ["one"]);
        assert_eq!(lines.add(b"o\n\n\x1b[31mred\xff\n"), ["two", "[31mred\u{fffd}"]);
        assert_eq!(lines.add(&[b'x'; LINE_BYTES]), ["x".repeat(LINE_BYTES)]);
        assert_eq!((lines.add(b"end"), lines.end(), lines.end()), (vec![], Some("end".into()), None));
    }

    #[test]
    fn a_file_is_bounded() {
        let dir = std::env::temp_dir().join(format!("plinth-init-output-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut file = Bounded::new(&dir.join("x.log"));
        let line = "y".repeat(1023);
        for _ in 0..3 * FILE_BYTES / 1024 {
            file.line(&line);
        }
        let size = |name: &str| fs::metadata(dir.join(name)).unwrap().len();
        assert_eq!((size("x.log"), size("x.log.1")), (FILE_BYTES, FILE_BYTES));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
}
