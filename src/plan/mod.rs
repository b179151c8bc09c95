//! The decision: what to do next, as a pure function of what is wanted, what is seen and what is remembered.
//!
//! No async, no clock, no I/O, no logging in this room. Contents:
//! - `world`: the three inputs, `Wanted`, `Seen`, `Memory`
//! - `action`: what can be done, why, and what came of it

pub mod action;
pub mod world;
