#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::clock::Wall;
use crate::pod::Finding;

/// A directory of its own, gone at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("plinth-read-{}-{n}", std::process::id()));
        fs::create_dir_all(path.join("layer")).unwrap();
        Dir(path)
    }
    fn at(&self, name: &str) -> PathBuf {
        self.0.join("layer").join(name)
    }
    fn put(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `bad…` does not parse; everything else does, and warns with its text.
fn parse(bytes: &[u8], _: &Path) -> Revision {
    let finding = Finding { message: String::from_utf8_lossy(bytes).into(), ..Finding::default() };
    if bytes.starts_with(b"bad") {
        Revision { errors: vec![finding], ..Revision::default() }
    } else {
        Revision { warnings: vec![finding], ..Revision::default() }
    }
}

fn at_ms(ms: u64) -> Now {
    Now { mono: Moment(ms), wall: Wall(i64::MAX / 2) }
}

fn shown(listing: &Listing) -> String {
    let State::Listed(entries) = &listing.state else { return format!("{:?}", listing.state) };
    let words = entries.iter().map(|e| {
        let says = match &e.kind {
            Kind::Manifest(r) => r.errors.iter().chain(&r.warnings).map(|f| f.message.clone()).collect(),
            Kind::Mask => "mask".into(),
            Kind::NotManifest => "?".into(),
            Kind::Unreadable(why) | Kind::Away(why) => format!("<{why}>"),
        };
        format!("{}={says}", e.name.to_string_lossy())
    });
    words.collect::<Vec<_>>().join(" ")
}

fn read(reader: &mut Reader, ms: u64) -> String {
    shown(&reader.read(&Pass { now: at_ms(ms), parse: &parse, busy: &|_| false, aside: &|_| false }))
}

fn once(path: &Path) -> String {
    read(&mut Reader::new(path), 0)
}

#[test]
fn only_manifests_by_name_are_read_and_dot_files_are_not_there() {
    let d = Dir::new();
    for name in ["a.yaml", "b.yml", "c.json", "d.yaml~", "README", ".e.yaml", "..data"] {
        d.put(name, name);
    }
    assert_eq!(once(&d.at("")), "README=? a.yaml=a.yaml b.yml=b.yml c.json=c.json d.yaml~=?");
}

#[test]
fn empty_file_and_link_to_dev_null_are_masks() {
    let d = Dir::new();
    d.put("a.yaml", "");
    symlink("/dev/null", d.at("b.yaml")).unwrap();
    symlink("../layer/a.yaml", d.at("c.yaml")).unwrap();
    assert_eq!(once(&d.at("")), "a.yaml=mask b.yaml=mask c.yaml=mask");
}

#[test]
fn links_are_followed_to_regular_files() {
    let d = Dir::new();
    fs::write(d.0.join("target"), "text").unwrap();
    symlink("../target", d.at("a.yaml")).unwrap();
    symlink("nowhere", d.at("b.yaml")).unwrap();
    assert_eq!(once(&d.at("")), "a.yaml=text b.yaml=<read file: link to nowhere, which is not there>");
}

#[test]
fn what_is_no_regular_file_is_said_and_never_opened() {
    let d = Dir::new();
    fs::create_dir(d.at("dir.yaml")).unwrap();
    nix::unistd::mkfifo(&d.at("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(d.at("sock.yaml")).unwrap();
    symlink("/dev/zero", d.at("zero.yaml")).unwrap();
    let text = once(&d.at(""));
    for (name, what) in [("dir", "a directory"), ("fifo", "a FIFO"), ("sock", "a socket"), ("zero", "a device")] {
        assert!(text.contains(&format!("{name}.yaml=<read file: it is {what}, not a regular file>")), "{text}");
    }
}

#[test]
fn file_of_ten_mebibytes_is_refused() {
    let d = Dir::new();
    fs::File::create(d.at("a.yaml")).unwrap().set_len(10 << 20).unwrap();
    assert!(once(&d.at("")).contains("too large"), "{}", once(&d.at("")));
}

#[test]
fn unchanged_file_is_parsed_once_and_a_touched_one_again() {
    let d = Dir::new();
    d.put("a.yaml", "one");
    let count = Cell::new(0);
    let counting = move |bytes: &[u8], path: &Path| {
        count.set(count.get() + 1);
        let mut revision = parse(bytes, path);
        revision.warnings[0].message = count.get().to_string();
        revision
    };
    let mut reader = Reader::new(&d.at(""));
    let mut read = |ms| shown(&reader.read(&Pass { now: at_ms(ms), parse: &counting, busy: &|_| false, aside: &|_| false }));
    assert_eq!((read(0), read(1)), ("a.yaml=1".into(), "a.yaml=1".into()));
    fs::write(d.at("new"), "one").unwrap();
    fs::rename(d.at("new"), d.at("a.yaml")).unwrap();
    assert_eq!(read(2), "a.yaml=2");
}

#[test]
fn good_change_is_taken_at_once_and_a_bad_one_after_50_ms() {
    let d = Dir::new();
    d.put("a.yaml", "one");
    let mut r = Reader::new(&d.at(""));
    assert_eq!(read(&mut r, 0), "a.yaml=one");
    d.put("a.yaml", "three");
    assert_eq!(read(&mut r, 1), "a.yaml=three");
    for (ms, bad, says) in [(100, "bad text", "bad text"), (300, "", "mask")] {
        d.put("a.yaml", "good");
        assert_eq!(read(&mut r, ms - 1), "a.yaml=good");
        d.put("a.yaml", bad);
        assert_eq!(read(&mut r, ms), "a.yaml=good");
        assert_eq!(r.again(), Some(Moment(ms + 50)));
        assert_eq!(read(&mut r, ms + 50), format!("a.yaml={says}"));
        assert_eq!(r.again(), None);
    }
    d.put("b.yaml", "bad");
    assert_eq!(read(&mut r, 500), "a.yaml=mask", "a new file that does not parse is not seen yet");
    assert_eq!(read(&mut r, 550), "a.yaml=mask b.yaml=bad");
}

#[test]
fn deleted_file_goes_after_2_ms_and_not_if_it_is_back_by_then() {
    let d = Dir::new();
    d.put("a.yaml", "one");
    let mut r = Reader::new(&d.at(""));
    read(&mut r, 0);
    fs::remove_file(d.at("a.yaml")).unwrap();
    assert_eq!(read(&mut r, 1), "a.yaml=one");
    assert_eq!(r.again(), Some(Moment(3)));
    d.put("a.yaml", "two");
    assert_eq!(read(&mut r, 2), "a.yaml=two");
    fs::remove_file(d.at("a.yaml")).unwrap();
    assert_eq!(read(&mut r, 3), "a.yaml=two");
    assert_eq!(read(&mut r, 5), "");
}

#[test]
fn file_moved_aside_is_waited_for_as_long_as_the_watch_says() {
    let d = Dir::new();
    d.put("a.yaml", "one");
    let mut r = Reader::new(&d.at(""));
    read(&mut r, 0);
    fs::rename(d.at("a.yaml"), d.at("a.yaml~")).unwrap();
    let mut aside = |ms| shown(&r.read(&Pass { now: at_ms(ms), parse: &parse, busy: &|_| false, aside: &|name| name == "a.yaml" }));
    assert_eq!((aside(1), aside(40)), ("a.yaml=one".into(), "a.yaml=one".into()));
    assert_eq!(r.again(), None, "the watch wakes, not the reader");
    assert_eq!(read(&mut r, 51), "a.yaml~=?");
}

#[test]
fn file_being_written_stays_as_it_was() {
    let d = Dir::new();
    d.put("a.yaml", "one");
    let mut r = Reader::new(&d.at(""));
    read(&mut r, 0);
    d.put("a.yaml", "two");
    d.put("b.yaml", "new");
    let listing = r.read(&Pass { now: at_ms(1), parse: &parse, busy: &|_| true, aside: &|_| false });
    assert_eq!(shown(&listing), "a.yaml=one");
    assert_eq!(read(&mut r, 2), "a.yaml=two b.yaml=new");
}

#[test]
fn layer_that_is_a_file_is_that_one_manifest() {
    let d = Dir::new();
    d.put("pod", "one");
    assert_eq!(once(&d.at("pod")), "pod=one");
}

#[test]
fn layer_that_is_no_directory_is_said() {
    let d = Dir::new();
    symlink("nowhere", d.at("link")).unwrap();
    nix::unistd::mkfifo(&d.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    d.put("file", "x");
    assert!(once(&d.at("link")).contains("link to nowhere"));
    assert!(once(&d.at("fifo")).contains("layer is a FIFO"));
    assert!(once(&d.at("file/below")).starts_with("Unreadable"));
    assert_eq!(once(&d.at("gone")), "Removed");
    assert_eq!(once(&d.at("gone/below")), "Missing");
}
