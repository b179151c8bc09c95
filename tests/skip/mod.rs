//! What a test says when it cannot run here.

use std::fs::File;
use std::io::Write;

/// A line for the list of what was not run, which `make test` prints; in CI that is a failure.
pub fn skip(why: &str) {
    if let Some(list) = std::env::var_os("PLINTH_SKIPPED") {
        let mut list = File::options().create(true).append(true).open(list).unwrap();
        writeln!(list, "{why}").unwrap();
    }
    assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure: {why}");
    eprintln!("skipped: {why}");
}
