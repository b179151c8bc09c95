//! What a container or command reads and writes: FIFOs of whoever asked for it, or a terminal that is copied to and from them.
//!
//! ```text
//!  no terminal: container ──> FIFO ──> reader          nothing is copied here: the container has the FIFO itself
//!  terminal:    container <──> pty <──> copied here <──> FIFOs
//! ```
//! Of each output this process holds both ends until the end of the container's own process, so that a reader that goes costs neither a
//! byte nor a SIGPIPE, and opening waits for nobody. Of the input it holds the writing end until `CloseIO`: a writer that goes is not the
//! input's end.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    listen, recvmsg, socket_with,
};
use rustix::termios::{Winsize, tcsetwinsize};
use sha2::{Digest, Sha256};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::SOCKETS;
use crate::hex::hex;
use crate::sys;

/// Names of FIFOs; an empty one is /dev/null.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// What is held here of one process's input and outputs.
pub(super) enum Held {
    Fifos { outputs: Vec<OwnedFd>, input: Option<OwnedFd> },
    Terminal(Terminal),
}

pub(super) struct Terminal {
    /// The end that the container does not have; gone once it was hung up.
    ptmx: Rc<RefCell<Option<OwnedFd>>>,
    input: Option<OwnedFd>,
    feeding: Option<JoinHandle<()>>,
    showing: Option<JoinHandle<()>>,
}

impl Held {
    /// The end of the input, once its last writer is gone too.
    pub fn close_input(&mut self) {
        match self {
            Held::Fifos { input, .. } => *input = None,
            Held::Terminal(terminal) => terminal.input = None,
        }
    }

    pub fn resize(&self, columns: u32, rows: u32) -> io::Result<()> {
        let Held::Terminal(terminal) = self else { return Ok(()) };
        let ptmx = terminal.ptmx.borrow();
        let Some(ptmx) = &*ptmx else { return Ok(()) };
        let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Ok(tcsetwinsize(ptmx, Winsize { ws_row: cells(rows), ws_col: cells(columns), ws_xpixel: 0, ws_ypixel: 0 })?)
    }

    /// The process has ended: a reader finds the end of its output once nothing it left behind has it open.
    pub fn ended(&mut self) {
        match self {
            Held::Fifos { outputs, input } => {
                outputs.clear();
                *input = None;
            }
            Held::Terminal(terminal) => {
                // Nobody hangs up: it is read to its end.
                if let Some(feeding) = terminal.feeding.take() {
                    feeding.abort();
                }
                terminal.input = None;
            }
        }
    }

    /// What a terminal still shows, to be waited for.
    pub fn showing(&mut self) -> Option<JoinHandle<()>> {
        match self {
            Held::Fifos { .. } => None,
            Held::Terminal(terminal) => terminal.showing.take(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for copying in [self.feeding.take(), self.showing.take()].into_iter().flatten() {
            copying.abort();
        }
    }
}

/// What the process is given as descriptors 0, 1 and 2, and what is held of it.
pub(super) fn open_fifos(paths: &Paths) -> io::Result<([OwnedFd; 3], Held)> {
    let (stdin, input) = open_input(&paths.stdin)?;
    let mut outputs = Vec::new();
    let mut output = |path: &str| -> io::Result<OwnedFd> {
        if path.is_empty() {
            return null();
        }
        let path = fifo(path)?;
        outputs.push(open_at(path, OFlags::RDWR | OFlags::NONBLOCK)?);
        // Waits for nobody: a reader is there, which is this process.
        open_at(path, OFlags::WRONLY)
    };
    let fds = [stdin, output(&paths.stdout)?, output(&paths.stderr)?];
    Ok((fds, Held::Fifos { outputs, input }))
}

/// A reader's end that waits, and the writer's.
fn open_input(path: &str) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    if path.is_empty() {
        return Ok((null()?, None));
    }
    let path = fifo(path)?;
    let reader = open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let writer = open_at(path, OFlags::WRONLY | OFlags::NONBLOCK)?;
    fcntl_setfl(&reader, fcntl_getfl(&reader)? - OFlags::NONBLOCK)?;
    Ok((reader, Some(writer)))
}

fn open_at(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    open(path, how | OFlags::CLOEXEC, Mode::empty()).map_err(|e| io::Error::other(format!("open {}: {e}", path.display())))
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// A FIFO's path: files, loggers and whatever else containerd's own shim takes by an address are not known here.
fn fifo(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    match path.symlink_metadata() {
        Ok(m) if m.file_type().is_fifo() => Ok(path),
        Ok(_) => Err(io::Error::other(format!("open {}: it is no FIFO", path.display()))),
        Err(e) => Err(io::Error::other(format!("open {}: {e}", path.display()))),
    }
}

/// Where the OCI runtime hands over the terminal it made.
pub(super) struct ConsoleSocket {
    listener: OwnedFd,
    pub path: PathBuf,
}

impl ConsoleSocket {
    /// One for this process of this bundle. A socket's path has room for 107 bytes, a bundle's may be longer.
    pub fn new(bundle: &Path, process: &str) -> io::Result<ConsoleSocket> {
        let name = hex(&Sha256::digest(format!("{}/{process}", bundle.display())));
        let path = Path::new(SOCKETS).join(format!("{}.tty", name.get(..32).unwrap_or_default()));
        let _ = std::fs::remove_file(&path);
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        bind(&listener, &SocketAddrUnix::new(&path)?)?;
        let socket = ConsoleSocket { listener, path };
        listen(&socket.listener, 1)?;
        Ok(socket)
    }

    /// What the OCI runtime sent before it ended.
    fn take(&self) -> io::Result<OwnedFd> {
        let stream = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // The payload is the terminal's name.
        let mut name = [0u8; 4096];
        recvmsg(&stream, &mut [io::IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let sent = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        sent.ok_or_else(|| io::Error::other("it sent no descriptor"))
    }

    /// Copies between the terminal and the FIFOs from now on.
    pub fn attach(&self, paths: &Paths) -> io::Result<Held> {
        let ptmx = self.take()?;
        fcntl_setfl(&ptmx, fcntl_getfl(&ptmx)? | OFlags::NONBLOCK)?;
        let hung_up = Rc::new(Notify::new());
        let (shown, typed) = (ptmx.try_clone()?, ptmx.try_clone()?);
        let ptmx = Rc::new(RefCell::new(Some(ptmx)));
        let (mut feeding, mut input) = (None, None);
        if !paths.stdin.is_empty() {
            let path = fifo(&paths.stdin)?;
            let reader = open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
            input = Some(open_at(path, OFlags::WRONLY | OFlags::NONBLOCK)?);
            let (reader, typed) = (sys::readable(reader)?, sys::writable(typed)?);
            let (ptmx, hung_up) = (Rc::clone(&ptmx), Rc::clone(&hung_up));
            feeding = Some(tokio::task::spawn_local(async move {
                let _ = copy(&reader, &typed).await;
                // The end of a terminal's input is that somebody hangs up, as with containerd's own shim.
                drop(typed);
                ptmx.borrow_mut().take();
                hung_up.notify_one();
            }));
        }
        let mut showing = None;
        if !paths.stdout.is_empty() {
            let fifo = sys::writable(open_at(fifo(&paths.stdout)?, OFlags::RDWR | OFlags::NONBLOCK)?)?;
            let shown = sys::readable(shown)?;
            showing = Some(tokio::task::spawn_local(async move {
                let mut copying = std::pin::pin!(copy(&shown, &fifo));
                tokio::select! {
                    // It ends with an error: a terminal nobody has open says EIO.
                    _ = &mut copying => {}
                    () = hung_up.notified() => {
                        // What was said so far.
                        let _ = tokio::time::timeout(LAST_WORDS, copying).await;
                    }
                }
            }));
        }
        Ok(Held::Terminal(Terminal { ptmx, input, feeding, showing }))
    }
}

/// What stands in a terminal when it is hung up is copied in less.
const LAST_WORDS: Duration = Duration::from_millis(100);

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// To the end of what comes in, at the pace of who takes it.
async fn copy(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut chunk = [0u8; 4096];
    loop {
        let mut ready = from.readable().await?;
        let got = match rustix::io::read(from.get_ref(), &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let mut rest = chunk.get(..got).unwrap_or_default();
        while !rest.is_empty() {
            let mut ready = to.writable().await?;
            match rustix::io::write(to.get_ref(), rest) {
                Ok(put) => rest = rest.get(put..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_reader_that_goes_costs_nothing_and_the_end_is_seen() {
        let dir = std::env::temp_dir().join(format!("plinth-stdio-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (out, input) = (dir.join("out"), dir.join("in"));
        for path in [&out, &input] {
            sys::fifo::make(path).unwrap();
        }
        let paths = Paths { stdin: input.display().to_string(), stdout: out.display().to_string(), stderr: String::new(), terminal: false };
        let ([stdin, stdout, stderr], mut held) = open_fifos(&paths).unwrap();
        let mut stdout = File::from(stdout);
        let first = sys::fifo::open(&out).unwrap();
        drop(first);
        stdout.write_all(b"nobody reads this yet\n").unwrap();
        File::from(stderr).write_all(b"nobody ever\n").unwrap();
        let reader = sys::fifo::open(&out).unwrap();
        drop(stdout);
        held.ended();
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said).unwrap();
        assert_eq!(said, "nobody reads this yet\n");

        let ([again, ..], mut held) = open_fifos(&paths).unwrap();
        drop(stdin);
        File::options().write(true).open(&input).unwrap().write_all(b"typed").unwrap();
        held.close_input();
        let mut typed = String::new();
        File::from(again).read_to_string(&mut typed).unwrap();
        assert_eq!(typed, "typed");

        std::fs::write(dir.join("file"), "").unwrap();
        let file = Paths { stdout: dir.join("file").display().to_string(), ..Paths::default() };
        assert!(open_fifos(&file).err().unwrap().to_string().ends_with("file: it is no FIFO"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
