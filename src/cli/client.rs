//! A small HTTP/1.1 client for the status socket. Blocking on purpose: a verb asks one thing and prints the answer.
//!
//! Knows only what our server sends: content-length or chunked, no redirects, one request a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::Args;
use super::{Fail, NOT_THERE};
use crate::settings::Settings;

/// An answer that does not begin, or stops in the middle, for so long means the server hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Our server's headers are a few hundred bytes.
const HEADER_BYTES: u64 = 16 << 10;

/// Where to ask.
pub struct Client {
    socket: PathBuf,
}

/// An answer: its status code, and a body still to be read.
pub struct Answer {
    /// The status code.
    pub code: u16,
    body: Body,
}

impl Client {
    /// `--socket`, else PLINTH_SOCKET, else where `plinth run` would serve it on this machine.
    pub fn new(args: &Args) -> Client {
        let given = args.value("socket").map(PathBuf::from);
        let env = || std::env::var_os("PLINTH_SOCKET").filter(|v| !v.is_empty()).map(PathBuf::from);
        Client { socket: given.or_else(env).unwrap_or_else(settled) }
    }

    /// Where it asks.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET, any code but 200 is a failure.
    pub fn get(&self, path: &str) -> Result<Answer, Fail> {
        self.ask("GET", path)?.successful()
    }

    /// GET of a whole JSON document.
    pub fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Fail> {
        let mut text = Vec::new();
        let read = self.get(path)?.read_to_end(&mut text);
        read.map_err(|e| Fail::failed(format!("read {path} from `{}`: {}", self.socket.display(), plain(&e))))?;
        serde_json::from_slice(&text).map_err(|e| Fail::failed(format!("understand {path} from `{}`: {e}", self.socket.display())))
    }

    /// One request; the answer may have any code.
    pub fn ask(&self, method: &str, path: &str) -> Result<Answer, Fail> {
        let stream = UnixStream::connect(&self.socket).map_err(|e| self.unreachable(&e))?;
        let failed = |e: io::Error| Fail::failed(format!("ask `{}` for {path}: {}", self.socket.display(), plain(&e)));
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: plinth\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        match (&stream).write_all(request.as_bytes()) {
            // A server that is full answers before it reads, and closes: its answer says more than our EPIPE.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(failed(e)),
            _ => {}
        }
        Answer::begin(stream).map_err(failed)
    }

    /// Why it cannot be reached, and what to do.
    pub fn unreachable(&self, e: &io::Error) -> Fail {
        let at = self.socket.display();
        let (code, hint) = match e.kind() {
            io::ErrorKind::NotFound => (NOT_THERE, "is `plinth run` up? its socket may be elsewhere: --socket PATH or PLINTH_SOCKET"),
            io::ErrorKind::ConnectionRefused => (NOT_THERE, "`plinth run` has ended without cleaning up: start it again"),
            io::ErrorKind::PermissionDenied => (1, "root and the socket's group may read it: run this as root, or join that group"),
            _ => (1, "is that plinth's status socket? give another with --socket PATH or PLINTH_SOCKET"),
        };
        Fail { code, text: format!("connect to `{at}`: {}; {hint}", plain(e)) }
    }
}

/// The settings' socket; settings that cannot be read are `run`'s to complain about.
fn settled() -> PathBuf {
    let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    Settings::load(&[], &words).map_or_else(|_| Settings::default().socket, |(settings, _)| settings.socket)
}

/// An answer that is no success.
pub fn refused(code: u16, text: &str) -> Fail {
    let code = match code {
        404 | 400 => NOT_THERE,
        _ => 1,
    };
    Fail { code, text: text.trim().to_owned() }
}

/// The error without Rust's `(os error N)`.
pub fn plain(e: &io::Error) -> String {
    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return "no answer in time".into();
    }
    let text = e.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl Answer {
    fn begin(stream: UnixStream) -> io::Result<Answer> {
        let mut reader = BufReader::new(stream);
        let mut head = (&mut reader).take(HEADER_BYTES);
        let mut line = String::new();
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {what}"));
        head.read_line(&mut line)?;
        let code = line.strip_prefix("HTTP/1.").and_then(|l| l.split(' ').nth(1)).and_then(|c| c.trim().parse().ok());
        let code = code.ok_or_else(|| broken(line.trim_end()))?;
        let mut framing = Framing::Close;
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(broken("it ends within the headers"));
            }
            let header = line.trim_end();
            let Some((name, value)) = header.split_once(':') else {
                if header.is_empty() {
                    break;
                }
                return Err(broken(header));
            };
            if name.eq_ignore_ascii_case("content-length") {
                framing = Framing::Length(value.trim().parse().map_err(|_| broken(header))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
                framing = Framing::Chunk { left: 0, first: true };
            }
        }
        Ok(Answer { code, body: Body { reader, framing } })
    }

    fn successful(mut self) -> Result<Answer, Fail> {
        if (200..300).contains(&self.code) {
            return Ok(self);
        }
        let mut text = String::new();
        let _ = self.by_ref().take(64 << 10).read_to_string(&mut text);
        Err(refused(self.code, &text))
    }

    /// The text of an answer that is no success.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        let _ = self.by_ref().take(64 << 10).read_to_string(&mut text);
        text.trim().to_owned()
    }

    /// How long a read may wait from now on; `None`: for ever.
    pub fn set_patience(&self, patience: Option<Duration>) {
        // A zero timeout is an error to the standard library; the shortest is as good.
        let _ = self.body.reader.get_ref().set_read_timeout(patience.map(|p| p.max(Duration::from_millis(1))));
    }

    /// The body by lines.
    pub fn lines(self) -> BufReader<Answer> {
        BufReader::new(self)
    }
}

impl Read for Answer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.body.read(buf)
    }
}

enum Framing {
    Length(u64),
    Chunk { left: u64, first: bool },
    Close,
    Done,
}

struct Body {
    reader: BufReader<UnixStream>,
    framing: Framing,
}

impl Body {
    /// The size line of the next chunk; the end of the one before is read first.
    fn chunk(&mut self, first: bool) -> io::Result<u64> {
        let mut line = String::new();
        if !first {
            (&mut self.reader).take(2).read_line(&mut line)?;
            line.clear();
        }
        (&mut self.reader).take(64).read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunk { left: 0, first } = self.framing {
            let left = self.chunk(first)?;
            self.framing = if left == 0 { Framing::Done } else { Framing::Chunk { left, first: false } };
        }
        let left = match &mut self.framing {
            Framing::Done => return Ok(0),
            Framing::Close => return self.reader.read(buf),
            Framing::Length(left) | Framing::Chunk { left, .. } => left,
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..most).filter(|p| !p.is_empty()) else { return Ok(0) };
        let n = self.reader.read(part)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= n as u64;
        Ok(n)
    }
}
