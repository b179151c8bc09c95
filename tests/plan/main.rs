//! Golden cases of the decision: `cases/*.txt`, world in, plan out. `README.md` beside them says how to write one; no Rust is needed.
//!
//! `PLAN_BLESS=1` writes what the plan says now into every case: read the diff before it is committed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod read;
mod status;

use std::fmt::Write;
use std::path::Path;

use plinth::plan::action::Plan;
use plinth::plan::probe::Probing;
use plinth::plan::{plan, probe};

/// The plan as a case shows it: a line for each action, the wake time, a line for each probe, and when the next one is due.
fn tell(plan: &Plan, probing: &Probing) -> String {
    let mut out = String::new();
    for (action, why) in &plan.actions {
        let uid = action.uid().map(|uid| format!("{uid} ")).unwrap_or_default();
        writeln!(out, "{uid}{action}: {why}").unwrap();
    }
    for (uid, r) in &plan.refused {
        let passing = if r.passing { " [passing]" } else { "" };
        writeln!(out, "{uid} refused {}: {}{passing}", r.reason, r.message).unwrap();
    }
    if let Some(wake) = plan.wake {
        writeln!(out, "wake {}", read::seconds(wake)).unwrap();
    }
    for check in &probing.checks {
        writeln!(out, "{} ask {} {}", check.uid, check.id, check.probe.to_string().to_lowercase()).unwrap();
    }
    if let Some(wake) = probing.wake {
        writeln!(out, "ask {}", read::seconds(wake)).unwrap();
    }
    if out.is_empty() { "nothing\n".into() } else { out }
}

#[test]
fn every_case_plans_as_it_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    assert!(paths.len() >= 20, "the cases are gone");
    let bless = std::env::var_os("PLAN_BLESS").is_some();
    let mut wrong = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (given, expected) = text.split_once("---\n").unwrap_or_else(|| panic!("{}: has no --- line", path.display()));
        let (world, now) = read::world(given).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let told = tell(&plan(&world, now), &probe::due(&world, now.mono));
        if bless {
            std::fs::write(&path, format!("{given}---\n{told}")).unwrap();
        } else if told != expected {
            writeln!(wrong, "{}\nexpected:\n{expected}planned:\n{told}", path.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_word_the_language_does_not_have_is_named() {
    for (text, word) in [("now 1s\nfrob x\n", "frob"), ("pod web u1 color=red\n", "color"), ("seen u1 sandbox=cold\n", "cold")] {
        let error = read::world(text).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
