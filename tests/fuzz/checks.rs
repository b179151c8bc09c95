//! What must hold for any bytes at all: the fuzz targets try it with what libFuzzer makes up, `tests/corpus.rs` with the corpus.
#![allow(dead_code, reason = "each fuzz target uses one")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use plinth::manifest::identity::Source;
use plinth::manifest::parse::{self, Context, Parsed};
use plinth::manifest::url::fetch::{self, Answer};
use plinth::manifest::url::minisign::Key;
use plinth::manifest::yaml;
use plinth::pod::Finding;
use plinth::quantity::Amount;
use plinth::quantity::written::Written;
use plinth::spdy::{Decoder, Error, Frame};
use tokio::io::AsyncWriteExt;

/// Longer than this no input may take, optimised.
pub const MOST: Duration = Duration::from_millis(100);
/// Nor more memory.
const MOST_BYTES: u64 = 64 << 20;

/// Does it; what takes long is done again, and held to the bounds.
pub fn within(most: Duration, check: impl Fn()) {
    let start = spent();
    check();
    let took = spent().saturating_sub(start);
    if took > most / 10 {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let ((), again, grown) = cost(check);
        assert!(took.min(again) < most, "took {took:?}, then {again:?}");
        assert!(grown < MOST_BYTES, "took {} MiB", grown >> 20);
    }
}

/// CPU time of this thread, and by how much the most memory there ever was has grown, in bytes: since a start or a clear_refs.
pub fn cost<T>(of: impl FnOnce() -> T) -> (T, Duration, u64) {
    let (before, start) = (peak_bytes(), spent());
    let done = of();
    let took = spent().saturating_sub(start);
    (done, took, peak_bytes().saturating_sub(before))
}

fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// What a busy machine takes from the test is not counted.
fn spent() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.try_into().unwrap(), t.tv_nsec.try_into().unwrap())
}

/// SPDY frames: the same ones however the bytes are cut, and no more in them than came, headers aside, which are bounded.
pub fn spdy(bytes: &[u8]) {
    let whole = frames(bytes, bytes.len().max(1));
    for size in [1, 7] {
        assert_eq!(frames(bytes, size), whole, "in pieces of {size}");
    }
    let of = |frame: &Frame| if let Frame::Data { bytes, .. } = frame { bytes.len() } else { 0 };
    assert!(whole.0.iter().map(of).sum::<usize>() <= bytes.len());
    for frame in &whole.0 {
        if let Frame::Open { headers, .. } = frame {
            assert!(headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= 16 << 10);
        }
    }
}

/// All frames of these bytes given in pieces, and what ended them; pieces of data are put together.
fn frames(bytes: &[u8], size: usize) -> (Vec<Frame>, Option<Error>) {
    let (mut decoder, mut all) = (Decoder::default(), Vec::new());
    let mut open = None;
    for piece in bytes.chunks(size) {
        decoder.push(piece);
        loop {
            match decoder.frame() {
                Ok(Some(Frame::Data { stream, bytes, last })) => {
                    // Empty pieces say nothing unless they are the last.
                    if let (Some(Frame::Data { stream: s, bytes: b, last: l }), true) = (all.last_mut(), open == Some(stream)) {
                        assert_eq!(*s, stream);
                        *b = [b.as_ref(), bytes.as_ref()].concat().into();
                        *l = last;
                    } else {
                        all.push(Frame::Data { stream, bytes, last });
                    }
                    open = (!last).then_some(stream);
                }
                Ok(Some(frame)) => {
                    open = None;
                    all.push(frame);
                }
                Ok(None) => break,
                Err(e) => return (all, Some(e)),
            }
        }
    }
    (all, None)
}

/// Bytes as a signature, or as a key: only the real one is of the body, and it says when it was made.
pub fn signature(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let body = include_bytes!("../signed/one.yaml");
    let known = Key::parse(include_str!("../signed/key")).unwrap();
    if let Ok(at) = known.signed_at(body, &text) {
        assert_eq!(at, 1_795_235_334);
        assert!(text.contains("trusted comment: timestamp:1795235334\tfile:one.yaml\thashed"));
    }
    if let Ok(other) = Key::parse(text.lines().next().unwrap_or_default()) {
        let real = other.signed_at(body, include_str!("../signed/one.yaml.minisig"));
        // `Ed` or `ED`: the two algorithms of one key.
        let key = ["RWTQ", "RUTQ"].iter().find_map(|algorithm| text.trim_start().strip_prefix(algorithm));
        assert!(real.is_err() || key.is_some_and(|key| key.starts_with("uCJxBzbRmqMfzYwcgGUmfWI66JznbGvpnpXIKTPH+Qy3PTWuv3")));
    }
}

/// Bytes as what a server answers: the body is bounded, and what is called whole is not made another one by being cut off.
pub fn answer(bytes: &[u8]) {
    let read = |bytes: &[u8]| match answered(bytes) {
        Ok(Ok(Answer::Body { bytes: body, whole, .. })) => {
            assert!(body.len() <= bytes.len() && body.len() <= ANSWER_BYTES);
            whole.then_some(body)
        }
        Ok(Ok(Answer::Unchanged) | Err(_)) => None,
        Err(failure) => {
            assert!(!failure.why.is_empty());
            None
        }
    };
    let whole = read(bytes);
    for cut in [bytes.len() / 2, bytes.len() * 3 / 4, bytes.len().saturating_sub(7), bytes.len().saturating_sub(1)] {
        if let Some(body) = bytes.get(..cut).and_then(read) {
            assert_eq!(Some(body), whole, "cut off at {cut}");
        }
    }
}

const ANSWER_BYTES: usize = 1000;

fn answered(bytes: &[u8]) -> Result<Result<Answer, String>, fetch::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let request = hyper::Request::get("/m.yaml").header("host", "h").body(http_body_util::Empty::new()).unwrap();
        fetch::exchange(ours, request, ANSWER_BYTES).await
    })
}

/// The YAML and JSON reader.
pub fn yaml(bytes: &[u8]) {
    let read = yaml::read(bytes);
    placed(bytes, read.errors.iter().chain(&read.warnings));
}

/// The whole way of a manifest, to its verdict.
pub fn manifest(bytes: &[u8]) {
    let parsed = parsed(bytes);
    placed(bytes, parsed.errors.iter().chain(&parsed.warnings));
    assert!(!parsed.errors.is_empty() || !parsed.pods.is_empty() || !parsed.warnings.is_empty(), "neither accepted nor refused");
    assert_eq!(parsed, self::parsed(bytes), "read twice");
    for pod in &parsed.pods {
        // As it is kept in pod.json for the next start.
        let json = serde_json::to_string(&*pod.object).unwrap();
        let mut kept = (*pod.object).clone();
        kept.clone_from(&serde_json::from_str(&json).unwrap());
        assert_eq!(*pod.object, kept);
    }
}

/// As a layer's file on a node called node1.
pub fn parsed(bytes: &[u8]) -> Parsed {
    parse::file(bytes, &Context { node_name: "node1", source: Source::File, layer: "layer".into(), path: Path::new("f.yaml") })
}

/// Findings say something, of a place that is there, and nothing that a terminal would obey.
fn placed<'a>(bytes: &[u8], findings: impl Iterator<Item = &'a Finding>) {
    // UTF-16 has a zero byte beside each; a carriage return ends a line too, and so do two Unicode characters.
    let ends = |b: &&u8| matches!(b, b'\n' | b'\r' | 0x28 | 0x29 | 0x85 | 0xA8 | 0xA9);
    let lines = bytes.iter().filter(ends).count() + 1;
    for f in findings {
        assert!(!f.message.is_empty(), "{f:?}");
        assert!(usize::try_from(f.line).unwrap() <= lines + 1, "line {} of {lines}: {f:?}", f.line);
    }
}

/// Quantities: what is read is written back as the same amount.
pub fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (Some(written), amount) = (Written::parse(text), Amount::parse(text)) else {
        assert_eq!(Amount::parse(text), None, "{text:?}");
        return;
    };
    let amount = amount.unwrap_or_else(|| panic!("{text:?} is a quantity and no amount"));
    if let Some(exact) = exact(text) {
        assert_eq!(written.nanos(), exact, "{text:?}");
    }
    let again = written.to_string();
    let back = Written::parse(&again).unwrap_or_else(|| panic!("{text:?} is written {again:?}, which is none"));
    assert_eq!(back.nanos(), written.nanos(), "{text:?} is written {again:?}");
    assert_eq!(back.to_string(), again, "{text:?}: the written form is canonical");
    let milli = written.rounded_to_milli();
    assert!(milli.nanos().abs() >= written.nanos().abs() && (milli.nanos() - written.nanos()).abs() < 1_000_000, "{text:?}");
    assert_eq!(written.plus(written).nanos(), written.nanos().saturating_mul(2).clamp(-MOST_NANOS, MOST_NANOS), "{text:?}");
    assert!(i128::from(amount.units()) * 1000 >= i128::from(amount.milli()) || matches!(amount.milli(), i64::MIN | i64::MAX), "{text:?}");
}

/// In billionths, rounded away from nothing and capped, by plain arithmetic; `None` where that overflows.
fn exact(text: &str) -> Option<i128> {
    let unsigned = text.trim_start_matches(['+', '-']);
    let (number, suffix) = unsigned.split_at(unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix).map_or(0, |i| i + 1);
    let ten = match ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|s| *s == suffix) {
        Some(at) => 3 * i32::try_from(at).ok()? - 9,
        None if binary > 0 => 0,
        None => suffix.get(1..)?.parse().ok()?,
    };
    let shift = 9 + ten - i32::try_from(fraction.len()).ok()?;
    let top = digits.checked_mul(1024i128.pow(u32::try_from(binary).ok()?))?;
    let power = 10i128.checked_pow(shift.unsigned_abs())?;
    let nanos = if shift < 0 { top / power + i128::from(top % power != 0) } else { top.checked_mul(power)? };
    Some(nanos.min(if binary > 0 { CAP } else { MOST_NANOS }) * if text.starts_with('-') { -1 } else { 1 })
}

/// Where binary suffixes are capped, as Kubernetes does, and where all others are.
const MOST_NANOS: i128 = 10i128.pow(38);
const CAP: i128 = i64::MAX as i128 * 1_000_000_000;
