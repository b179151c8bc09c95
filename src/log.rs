//! The writer behind the `log` facade: one line per fact, one write(2) per line, no heap.
//!
//! It never waits and never fails its caller: a line that cannot be written now (a full pipe, a stopped terminal, a full file system)
//! is lost and counted, and the count stands before the next line that gets through. It never reads the clock: journal, kernel log
//! and service managers stamp lines themselves.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};

use crate::settings::LogTarget;

/// The longest line, bytes: less than PIPE_BUF, so that poll's word about a pipe holds for the whole of it.
const LINE_BYTES: usize = 2048;
/// The longest line for /dev/kmsg, bytes: the kernel refuses records from 1 KiB.
const KMSG_LINE_BYTES: usize = 960;
/// Stands where a line was cut off.
const CUT: &str = "…";

static WRITER: Writer = Writer { kmsg: OnceLock::new(), marked: AtomicBool::new(false), lost: AtomicU32::new(0) };

struct Writer {
    /// The kernel's log, if lines go there.
    kmsg: OnceLock<OwnedFd>,
    /// Standard error is the journal's, which reads a priority off the front of a line (sd-daemon(3)).
    marked: AtomicBool,
    /// Lines lost since the last one that got through.
    lost: AtomicU32,
}

/// Starts logging; to standard error when /dev/kmsg cannot be opened, which it says there. The first call counts.
pub fn start(target: LogTarget, level: LevelFilter) {
    WRITER.marked.store(to_journal(), Ordering::Relaxed);
    let refused = match target {
        LogTarget::Stderr => None,
        LogTarget::Kmsg => match open("/dev/kmsg", OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => WRITER.kmsg.set(fd).err().map(|_| rustix::io::Errno::EXIST),
            Err(e) => Some(e),
        },
    };
    // An error here means that a logger is set already: this is not the first call.
    let _ = log::set_logger(&WRITER);
    log::set_max_level(level);
    if let Some(e) = refused {
        log::warn!("open /dev/kmsg: {e}: logging to standard error");
    }
}

/// JOURNAL_STREAM is inherited by whoever redirects standard error elsewhere too: it counts only if it names what stands there.
fn to_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|s| named == format!("{}:{}", s.st_dev, s.st_ino))
}

impl Log for Writer {
    /// Libraries are heard from `warn` up: their chatter is not our facts.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target().split("::").next() == Some("plinth")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.put(record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

impl Writer {
    fn put(&self, level: Level, args: &fmt::Arguments<'_>) {
        let stderr = std::io::stderr();
        let (fd, form, limit) = match self.kmsg.get() {
            Some(fd) => (fd.as_fd(), Form::Kmsg, KMSG_LINE_BYTES),
            None if self.marked.load(Ordering::Relaxed) => (stderr.as_fd(), Form::Marked, LINE_BYTES),
            None => (stderr.as_fd(), Form::Plain, LINE_BYTES),
        };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let line = Line::new(form, limit, level, lost, args);
        if !send(fd, line.bytes()) {
            self.lost.store(lost.saturating_add(1), Ordering::Relaxed);
        }
    }
}

/// Writes if that can be done at once. Standard error is shared with others, so it is asked and not made non-blocking.
fn send(fd: BorrowedFd<'_>, line: &[u8]) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let ready = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    matches!(ready, Ok(n) if n > 0) && rustix::io::write(fd, line).is_ok()
}

/// How a line begins.
#[derive(Clone, Copy)]
enum Form {
    /// `warn message`, for people.
    Plain,
    /// `<4>message`, for the journal.
    Marked,
    /// `<4>plinth: message`, for the kernel's log.
    Kmsg,
}

/// One line on the stack; what does not fit is cut off and marked.
struct Line {
    buffer: [u8; LINE_BYTES],
    used: usize,
    limit: usize,
    full: bool,
}

impl Line {
    fn new(form: Form, limit: usize, level: Level, lost: u32, args: &fmt::Arguments<'_>) -> Line {
        let mut line = Line { buffer: [0; LINE_BYTES], used: 0, limit: limit.min(LINE_BYTES) - CUT.len() - 1, full: false };
        let (word, priority) = match level {
            Level::Error => ("error", 3),
            Level::Warn => ("warn", 4),
            Level::Info => ("info", 6),
            Level::Debug | Level::Trace => ("debug", 7),
        };
        // Writing to a Line never fails: it is cut instead. A Display that fails leaves what it wrote.
        let _ = match form {
            Form::Plain => write!(line, "{word} "),
            Form::Marked => write!(line, "<{priority}>"),
            Form::Kmsg => write!(line, "<{priority}>plinth: "),
        };
        if lost > 0 {
            let _ = write!(line, "({lost} lines lost) ");
        }
        let _ = line.write_fmt(*args);
        line.end();
        line
    }

    /// Room for these two was kept back.
    fn end(&mut self) {
        self.limit += CUT.len() + 1;
        if std::mem::take(&mut self.full) {
            self.push(CUT.as_bytes());
        }
        self.push(b"\n");
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.used..end) {
            room.copy_from_slice(bytes);
            self.used = end;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.used).unwrap_or_default()
    }
}

impl Write for Line {
    /// A line is one line: control characters become spaces, whoever wrote them.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if self.full || self.used + c.len_utf8() > self.limit {
                self.full = true;
                break;
            }
            self.push(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(form: Form, limit: usize, lost: u32, text: &str) -> String {
        let line = Line::new(form, limit, Level::Warn, lost, &format_args!("{text}"));
        String::from_utf8(line.bytes().to_vec()).unwrap()
    }

    #[test]
    fn line_begins_as_its_reader_expects() {
        assert_eq!(line(Form::Plain, LINE_BYTES, 0, "pod=a/b text"), "warn pod=a/b text\n");
        assert_eq!(line(Form::Marked, LINE_BYTES, 0, "text"), "<4>text\n");
        assert_eq!(line(Form::Kmsg, KMSG_LINE_BYTES, 7, "text"), "<4>plinth: (7 lines lost) text\n");
    }

    #[test]
    fn record_is_one_line_whatever_it_holds() {
        assert_eq!(line(Form::Plain, LINE_BYTES, 0, "a\nb\x1b[0m\t"), "warn a b [0m \n");
    }

    #[test]
    fn long_line_is_cut_at_a_character_and_marked() {
        for limit in [KMSG_LINE_BYTES, LINE_BYTES] {
            for pad in ["", "a", "aa"] {
                let text = line(Form::Plain, limit, 0, &(pad.to_owned() + &"€".repeat(3000)));
                assert!(text.len() <= limit && text.len() > limit - 8 && text.ends_with("€…\n"), "{}", text.len());
            }
        }
    }

    #[test]
    fn full_pipe_neither_blocks_nor_fails_and_the_loss_is_counted() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let line = [b'x'; 1000];
        let sent = (0..1000).take_while(|_| send(writer.as_fd(), &line)).count();
        assert!(sent > 10 && sent < 1000, "{sent}");
        assert!(!send(writer.as_fd(), &line));
        let mut some = vec![0; 8192];
        rustix::io::read(&reader, &mut some).unwrap();
        assert!(send(writer.as_fd(), &line));
    }
}
