//! FIFOs that carry a container's output: make, open, look at what stands in one without taking it, take it.
//!
//! Looking and taking are apart so that a byte leaves the FIFO only after it was written to the log: a `kill -9` between
//! the two leaves it where it is. Never opens a FIFO for writing, so the end of the last writer stays visible.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};

/// What one look can see: the capacity of a pipe as the kernel makes it.
pub const LOOK_BYTES: usize = 64 << 10;

/// Makes a FIFO for root alone; one that is there already is kept, with what stands in it.
pub fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Err(rustix::io::Errno::EXIST) if path.symlink_metadata()?.file_type().is_fifo() => Ok(()),
        other => Ok(other?),
    }
}

/// Opens the read end, without waiting for a writer.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether `fd` is the FIFO at `path`.
pub fn is_at(fd: &OwnedFd, path: &Path) -> bool {
    match (rustix::fs::fstat(fd), path.symlink_metadata()) {
        (Ok(a), Ok(b)) => a.st_dev == b.dev() && a.st_ino == b.ino(),
        _ => false,
    }
}

/// A pipe of our own to copy into, and a hole to move what is done with into.
#[derive(Debug)]
pub struct Glass {
    read: OwnedFd,
    write: OwnedFd,
    hole: Option<File>,
}

impl Glass {
    /// One serves every FIFO of the process.
    pub fn new() -> io::Result<Glass> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Glass { read, write, hole: File::options().write(true).open("/dev/null").ok() })
    }

    /// Copies what stands in the FIFO to `buf` and leaves it there. `Ok(0)`: nothing, and nobody to write more;
    /// `WouldBlock`: nothing yet. What it returns is all there was, unless it fills `buf`.
    pub fn look(&self, fifo: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
        let held = rustix::pipe::tee(fifo, &self.write, buf.len(), SpliceFlags::NONBLOCK)?;
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..held).filter(|r| !r.is_empty()) {
            match rustix::io::read(&self.read, rest) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(got)
    }

    /// Takes `len` bytes that were looked at. `buf` is overwritten with them where the hole does not work.
    pub fn take(&self, fifo: &OwnedFd, mut len: usize, buf: &mut [u8]) -> io::Result<()> {
        while len > 0 {
            let moved = match &self.hole {
                Some(hole) => rustix::pipe::splice(fifo, None, hole.as_fd(), None, len, SpliceFlags::NONBLOCK).or(Err(())),
                None => Err(()),
            };
            let moved = match moved {
                Ok(n) => n,
                Err(()) => rustix::io::read(fifo, buf.get_mut(..len).unwrap_or(&mut []))?,
            };
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            len -= moved;
        }
        Ok(())
    }
}

/// Takes over the FIFOs among the descriptors the service manager handed to this process whose names begin with `prefix`.
/// To be called once, before anything else owns them; the others are left as they are.
#[expect(unsafe_code, reason = "a number from the service manager becomes an owned descriptor")]
pub fn handed_over(prefix: &str) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut taken = Vec::new();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        if name.starts_with(prefix) {
            // SAFETY: LISTEN_FDS protocol: the number is open, was meant for this very process (LISTEN_PID is checked), and
            // nobody else takes names with our prefix; the caller calls once, so no two owners come to be.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            taken.push((name, fd));
        }
    }
    Ok(taken)
}
