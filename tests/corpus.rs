//! The fuzz targets' checks over their corpus: inputs that once made something happen keep it from coming back. `make fuzz` makes more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

#[path = "fuzz/checks.rs"]
mod checks;

/// What is not optimised takes some ten times as long.
const MOST: Duration = Duration::from_secs(1);

/// Every file of a target's corpus.
fn each(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut tried = 0;
    for file in fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let done = std::panic::catch_unwind(|| checks::within(MOST, || check(&bytes)));
        assert!(done.is_ok(), "{}: see above", path.display());
        tried += 1;
    }
    assert!(tried >= 10, "{} is all but empty", dir.display());
}

#[test]
fn any_bytes_are_read_as_yaml_or_refused_with_a_place() {
    each("yaml", checks::yaml);
}

#[test]
fn any_bytes_are_a_manifest_or_refused_with_a_place() {
    each("manifest", checks::manifest);
}

#[test]
fn quantities_are_exact_and_written_canonically() {
    each("quantity", checks::quantity);
}

#[test]
fn any_bytes_are_spdy_frames_or_refused_however_they_are_cut() {
    each("spdy", checks::spdy);
}

#[test]
fn no_bytes_but_the_signature_are_one_of_the_body() {
    each("signature", checks::signature);
}

#[test]
fn any_bytes_are_an_answer_or_none_and_a_cut_one_is_never_another_one() {
    each("answer", checks::answer);
}
