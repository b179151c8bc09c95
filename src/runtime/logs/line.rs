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

/// What stands before the texts of one chunk: they have one time and one stream.
#[derive(Debug)]
pub struct Prefix {
    full: [u8; PREFIX_BYTES],
    part: [u8; PREFIX_BYTES],
}

const PREFIX_BYTES: usize = 30 + " stdout F ".len();

impl Prefix {
    /// For lines of one stream, at one time.
    pub fn new(time: &[u8; 30], which: Which) -> Prefix {
        let of = |tag: &[u8; 10]| {
            let mut text = [0; PREFIX_BYTES];
            text.iter_mut().zip(time.iter().chain(tag)).for_each(|(to, from)| *to = *from);
            text
        };
        match which {
            Which::Stdout => Prefix { full: of(b" stdout F "), part: of(b" stdout P ") },
            Which::Stderr => Prefix { full: of(b" stderr F "), part: of(b" stderr P ") },
        }
    }

    /// Appends one line to `out`.
    pub fn append(&self, out: &mut Vec<u8>, cut: &Cut<'_>) {
        out.reserve(cut.text.len() + FRAME_BYTES);
        out.extend_from_slice(if cut.full { &self.full } else { &self.part });
        out.extend_from_slice(cut.text);
        out.push(b'\n');
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    type Lines = Vec<(Vec<u8>, bool)>;

    /// All at once, a byte at a time, by the words of the facts.
    fn naive(data: &[u8]) -> Lines {
        let mut lines = Lines::new();
        let mut text: &[u8] = data;
        while let Some(end) = text.iter().position(|c| *c == b'\n') {
            let (mut line, rest) = (&text[..end], &text[end + 1..]);
            if line.last() == Some(&b'\r') {
                line = &line[..line.len() - 1];
            }
            while line.len() > TEXT_BYTES {
                lines.push((line[..TEXT_BYTES].to_vec(), false));
                line = &line[TEXT_BYTES..];
            }
            lines.push((line.to_vec(), true));
            text = rest;
        }
        text.chunks(TEXT_BYTES).for_each(|part| lines.push((part.to_vec(), false)));
        lines
    }

    /// As the pump does: what is not whole yet stays, what comes is put behind it.
    fn streamed(data: &[u8], sizes: &[usize]) -> Lines {
        let (mut lines, mut held, mut at, mut sizes) = (Lines::new(), Vec::new(), 0, sizes.iter().cycle());
        while at < data.len() {
            let to = data.len().min(at + sizes.next().unwrap());
            held.extend_from_slice(&data[at..to]);
            at = to;
            while let Some(cut) = cut(&held, at == data.len()) {
                lines.push((cut.text.to_vec(), cut.full));
                held.drain(..cut.taken);
            }
            assert!(held.len() <= TEXT_BYTES + 1, "{} bytes would wait in the FIFO", held.len());
        }
        assert!(held.is_empty());
        lines
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n"), Just("\r"), Just("x")];
        let len = prop_oneof![0usize..80, (TEXT_BYTES - 3)..(TEXT_BYTES + 4), (2 * TEXT_BYTES - 3)..(2 * TEXT_BYTES + 4)];
        prop::collection::vec((len, end), 0..12).prop_map(|parts| {
            let mut text = Vec::new();
            for (n, (len, end)) in parts.into_iter().enumerate() {
                text.extend((0..len).map(|i| b'a' + u8::try_from((i + n) % 26).unwrap()));
                text.extend_from_slice(end.as_bytes());
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn lines_are_the_same_however_the_bytes_come(data in text(), sizes in prop::collection::vec(1usize..40_000, 1..6)) {
            prop_assert_eq!(streamed(&data, &sizes), naive(&data));
        }

        #[test]
        fn what_is_appended_is_parsed_back(data in text(), wall in 0i64..4_000_000_000_000_000_000) {
            let (mut at, mut stamp) = (0, Stamp::default());
            while let Some(cut) = cut(&data[at..], true) {
                let mut out = Vec::new();
                Prefix::new(&stamp.at(Wall(wall)), Which::Stderr).append(&mut out, &cut);
                prop_assert!(out.len() <= cut.text.len() + FRAME_BYTES);
                let entry = parse(&out).unwrap();
                prop_assert_eq!((entry.at(), entry.which, entry.full, entry.text), (Some(Wall(wall)), Which::Stderr, cut.full, cut.text));
                at += cut.taken;
            }
            prop_assert_eq!(at, data.len());
        }
    }

    #[test]
    fn a_line_is_split_at_16_kib_and_not_before() {
        let a = |n: usize| vec![b'a'; n];
        let of = |text: &[u8], end: &[u8]| naive_and_cut(&[text, end].concat());
        assert_eq!(of(&a(TEXT_BYTES), b"\n"), [(TEXT_BYTES, true)]);
        assert_eq!(of(&a(TEXT_BYTES), b"\r\n"), [(TEXT_BYTES, true)]);
        assert_eq!(of(&a(TEXT_BYTES + 1), b"\n"), [(TEXT_BYTES, false), (1, true)]);
        assert_eq!(of(&a(TEXT_BYTES + 1), b"\r\n"), [(TEXT_BYTES, false), (1, true)]);
        assert_eq!(of(&a(TEXT_BYTES), b""), [(TEXT_BYTES, false)]);
        assert_eq!(of(&a(2 * TEXT_BYTES), b"\n"), [(TEXT_BYTES, false), (TEXT_BYTES, true)]);
        assert_eq!(of(b"", b"\n"), [(0, true)]);
        assert_eq!(of(b"", b"\r\n"), [(0, true)]);
        assert_eq!(of(b"no newline", b""), [(10, false)]);
        assert!(cut(&[a(TEXT_BYTES), b"\r".to_vec()].concat(), false).is_none(), "the LF may still come");
    }

    fn naive_and_cut(data: &[u8]) -> Vec<(usize, bool)> {
        let lines = streamed(data, &[1021, 1, 2]);
        assert_eq!(lines, naive(data));
        lines.iter().map(|(text, full)| (text.len(), *full)).collect()
    }

    #[test]
    fn the_stamp_follows_the_second() {
        let mut stamp = Stamp::default();
        for ns in [0, 1, 999_999_999, 1_000_000_000, 951_782_399_999_999_999, 951_782_400_000_000_001, 5] {
            let mut want = String::new();
            Wall(ns).write_nanos(&mut want).unwrap();
            assert_eq!(stamp.at(Wall(ns)).as_slice(), want.as_bytes());
        }
    }

    #[test]
    fn lines_of_others_are_read_and_nonsense_is_not() {
        let entry = parse(b"2026-11-20T21:41:59.1+02:00 stdout P:x:y two words\n").unwrap();
        assert_eq!((entry.which, entry.full, entry.text), (Which::Stdout, false, b"two words".as_slice()));
        assert_eq!(entry.at(), Wall::parse("2026-11-20T19:41:59.1Z"));
        assert_eq!(parse(b"2026-11-20T21:41:59Z stderr F\n").unwrap().text, b"");
        for bad in [b"".as_slice(), b"\n", b"x\n", b"t stdin F x\n", b"t stdout X x\n", b"\xff\x00"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_suffix_is_read_back() {
        let at = Wall::parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(suffix(at), "20260102-030405");
        assert_eq!(suffix_time("20260102-030405"), Some(at));
        assert_eq!(suffix_time("20260102"), None);
        assert_eq!(suffix_time("2026010é-030405"), None);
    }
}
