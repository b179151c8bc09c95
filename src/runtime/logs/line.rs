//! The CRI log line: `<RFC3339Nano> <stdout|stderr> <F|P> <text>\n`. Pure: cuts bytes into lines, writes and reads them.
//!
//! Never keeps anything between calls: what is not a whole line yet stays with the caller.

use std::fmt::Write as _;

use memchr::memchr;

use crate::clock::Wall;

/// A longer text goes out in parts, tagged `P`. containerd's number, not the kubelet's.
pub const TEXT_BYTES: usize = 16 << 10;

/// What a line costs beyond its text: time, stream, tag, spaces, newline.
pub const FRAME_BYTES: usize = 30 + 1 + 6 + 1 + 1 + 1 + 1;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum Which {
    Stdout,
    Stderr,
}

impl Which {
    /// As the log line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Which::Stdout => "stdout",
            Which::Stderr => "stderr",
        }
    }
}

/// One line cut from the front of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// Its text, without LF and a CR before it.
    pub text: &'a [u8],
    /// It ended with LF (`F`), or it is a part of a longer one (`P`).
    pub full: bool,
    /// How many bytes of the stream it took.
    pub taken: usize,
}

/// Cuts the first line off `data`; `None`: not a whole one yet. With `last` nothing more will come: the rest goes out as `P`,
/// as containerd does. A text of exactly `TEXT_BYTES` and its LF is one full line.
pub fn cut(data: &[u8], last: bool) -> Option<Cut<'_>> {
    // Two more than a text: a CR and LF may follow a text of full length.
    let window = data.get(..TEXT_BYTES + 2).unwrap_or(data);
    let part = || Some(Cut { text: window.get(..TEXT_BYTES)?, full: false, taken: TEXT_BYTES });
    if let Some(end) = memchr(b'\n', window) {
        let raw = window.get(..end)?;
        let text = raw.strip_suffix(b"\r").unwrap_or(raw);
        return if text.len() <= TEXT_BYTES { Some(Cut { text, full: true, taken: end + 1 }) } else { part() };
    }
    let maybe_crlf = window.len() == TEXT_BYTES + 1 && window.last() == Some(&b'\r');
    match window.len() {
        0 => None,
        n if n > TEXT_BYTES && (last || !maybe_crlf) => part(),
        n if last => Some(Cut { text: window, full: false, taken: n }),
        _ => None,
    }
}

/// Writes times as text, cheaply: the part above the second is kept until the second changes.
#[derive(Debug)]
pub struct Stamp {
    sec: i64,
    text: [u8; 30],
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp { sec: i64::MIN, text: [b'0'; 30] }
    }
}

impl Stamp {
    /// RFC 3339 in UTC with nine fractional digits.
    pub fn at(&mut self, now: Wall) -> [u8; 30] {
        if now.secs() != self.sec {
            let mut whole = String::with_capacity(32);
            if now.write_nanos(&mut whole).is_ok() && whole.len() == self.text.len() {
                self.text.copy_from_slice(whole.as_bytes());
                self.sec = now.secs();
            }
        }
        let mut nanos = now.0.rem_euclid(1_000_000_000);
        for digit in self.text.iter_mut().skip(20).take(9).rev() {
            *digit = b'0' + u8::try_from(nanos % 10).unwrap_or(0);
            nanos /= 10;
        }
        self.text
    }
}

/// Appends one line to `out`.
pub fn append(out: &mut Vec<u8>, time: &[u8; 30], which: Which, cut: &Cut<'_>) {
    out.extend_from_slice(time);
    let (full, part) = match which {
        Which::Stdout => (b" stdout F ", b" stdout P "),
        Which::Stderr => (b" stderr F ", b" stderr P "),
    };
    out.extend_from_slice(if cut.full { full } else { part });
    out.extend_from_slice(cut.text);
    out.push(b'\n');
}

/// A line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When, as written.
    pub time: &'a [u8],
    /// From which stream.
    pub which: Which,
    /// The line ends here.
    pub full: bool,
    /// What the container wrote.
    pub text: &'a [u8],
}

impl Entry<'_> {
    /// When; `None` if it is no time.
    pub fn at(&self) -> Option<Wall> {
        Wall::parse(std::str::from_utf8(self.time).ok()?)
    }
}

/// Reads a line (with or without its LF); `None` if it is not a log line.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (time, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    // An empty text may come without the space before it; tags beyond the first are for later versions.
    let (tags, text) = split(rest).unwrap_or((rest, b""));
    let which = match stream {
        b"stdout" => Which::Stdout,
        b"stderr" => Which::Stderr,
        _ => return None,
    };
    let full = match tags.split(|c| *c == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry { time, which, full, text })
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr(b' ', text)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// `YYYYMMDD-HHMMSS` in UTC: the suffix of a rotated file.
pub fn suffix(at: Wall) -> String {
    let mut text = String::with_capacity(20);
    let _ = write!(text, "{at}");
    text.retain(|c| c.is_ascii_digit() || c == 'T');
    text.replace('T', "-")
}

/// The time in such a suffix; `None` if it is none.
pub fn suffix_time(text: &str) -> Option<Wall> {
    let part = |from: usize, to: usize| text.get(from..to);
    if part(8, 9)? != "-" {
        return None;
    }
    let (y, mo, d, h, mi, s) = (part(0, 4)?, part(4, 6)?, part(6, 8)?, part(9, 11)?, part(11, 13)?, part(13, 15)?);
    Wall::parse(&format!("{y}-{mo}-{d}T{h}:{mi}:{s}Z"))
}
