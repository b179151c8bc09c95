//! The simulation: random wishes, worlds, faults and amnesia at any moment, and the ten laws of `src/plan` watched at every step.
//!
//! `SIM_SEED=123` replays one world and tells its story when it fails, `SIM_RUNS=n` runs so many, `SIM_SECONDS=s` so long (20 by
//! default). A seed that ever failed goes into `seeds.txt` and is run first from then on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod chaos;
mod drive;
mod host;
mod laws;
mod mutate;
mod rng;
mod story;
mod wish;

use std::time::{Duration, Instant};

use drive::{Knobs, Sim};
use laws::Breach;
use mutate::Mutation;
use rng::Rng;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number: {v}")))
}

/// The world of a seed.
fn knobs(seed: u64) -> Knobs {
    let mut rng = Rng::new(seed ^ 0xFACE);
    Knobs {
        pods: rng.between(1, 5),
        chaos_ms: rng.pick(&[500, 20_000, 300_000, 1_500_000]),
        faults: rng.pick(&[0, 5, 25]),
        off: 0,
        trace: false,
    }
}

fn run(seed: u64, knobs: Knobs, mutation: Mutation) -> Result<(), (Breach, Vec<String>)> {
    let mut sim = Sim::new(seed, knobs, mutation);
    sim.run().map_err(|b| (b, std::mem::take(&mut sim.trace)))
}

/// The smallest world, of those tried, that still breaks the law.
fn shrink(seed: u64, mut knobs: Knobs, mutation: Mutation, law: u8) -> Knobs {
    let fails = |k: Knobs| run(seed, k, mutation).is_err_and(|(b, _)| b.law == law);
    for bit in 0..10 {
        let less = Knobs { off: knobs.off | 1 << bit, ..knobs };
        knobs = if fails(less) { less } else { knobs };
    }
    for less in [Knobs { faults: 0, ..knobs }, Knobs { faults: 5, ..knobs }] {
        knobs = if less.faults < knobs.faults && fails(less) { less } else { knobs };
    }
    for pods in 1..knobs.pods {
        let less = Knobs { pods, ..knobs };
        if fails(less) {
            knobs = less;
            break;
        }
    }
    while knobs.chaos_ms > 100 && fails(Knobs { chaos_ms: knobs.chaos_ms * 2 / 3, ..knobs }) {
        knobs.chaos_ms = knobs.chaos_ms * 2 / 3;
    }
    knobs
}

fn check(seed: u64) {
    let Err((first, _)) = run(seed, knobs(seed), Mutation::None) else { return };
    let least = shrink(seed, knobs(seed), Mutation::None, first.law);
    let (breach, story) = run(seed, Knobs { trace: true, ..least }, Mutation::None).unwrap_err();
    let told = story.len().saturating_sub(number("SIM_LINES").unwrap_or(120) as usize);
    panic!(
        "law {} is broken: {}\nas first seen: {}\nreplay with SIM_SEED={seed}, and add the number to tests/sim/seeds.txt\nthe end of the story, with {least:?}:\n{}",
        breach.law,
        breach.what,
        first.what,
        story[told..].join("\n")
    );
}

#[test]
fn kept_seeds_still_hold() {
    for line in include_str!("seeds.txt").lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        check(line.split_whitespace().next().unwrap().parse().expect("a seed, then a word on it"));
    }
}

#[test]
fn random_worlds_obey_the_ten_laws() {
    if let Some(seed) = number("SIM_SEED") {
        return check(seed);
    }
    let (runs, budget) = (number("SIM_RUNS"), Duration::from_secs(number("SIM_SECONDS").unwrap_or(20)));
    let first = number("SIM_FIRST").unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() * 1000);
    let begun = Instant::now();
    let mut done = 0;
    while runs.map_or(begun.elapsed() < budget, |n| done < n) {
        check(first + done);
        done += 1;
    }
    println!("{done} worlds from seed {first}");
}

/// Some world of the first few breaks the law, and no other law is blamed for it.
fn breaks(mutation: Mutation, law: u8) {
    let mut blamed = Vec::new();
    for seed in 0..60 {
        match run(seed, knobs(seed), mutation) {
            Err((b, _)) if b.law == law => return,
            Err((b, _)) => blamed.push(b),
            Ok(()) => {}
        }
    }
    panic!("{mutation:?} does not break law {law}; blamed: {:?}", blamed.first());
}

#[test]
fn law_1_can_fail_when_sandboxes_are_never_made() {
    breaks(Mutation::NeverStarts, 1);
}

#[test]
fn law_2_can_fail_when_a_settled_world_is_fidgeted_with() {
    breaks(Mutation::Fidgets, 2);
}

#[test]
fn law_3_can_fail_when_amnesia_mistrusts_the_running() {
    breaks(Mutation::Mistrusts, 3);
}

#[test]
fn law_4_can_fail_when_what_was_started_is_forgotten() {
    breaks(Mutation::ForgetStarted, 4);
}

#[test]
fn law_5_can_fail_when_looks_list_what_is_not_ours() {
    breaks(Mutation::ListForeign, 5);
}

#[test]
fn law_6_can_fail_when_a_half_made_sandbox_is_called_ready() {
    breaks(Mutation::CallsItReady, 6);
}

#[test]
fn law_7_can_fail_when_the_plan_forgets_to_wake() {
    breaks(Mutation::SleepsIn, 7);
}

#[test]
fn law_8_can_fail_when_one_pods_trouble_stops_the_others() {
    breaks(Mutation::Sulks, 8);
}

#[test]
fn law_9_can_fail_when_kill_comes_early() {
    breaks(Mutation::Hasty, 9);
}

#[test]
fn law_9_can_fail_when_kill_is_forgotten() {
    breaks(Mutation::Merciful, 9);
}

#[test]
fn law_10_can_fail_when_failures_are_forgotten() {
    breaks(Mutation::Eager, 10);
}
