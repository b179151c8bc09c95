//! # plinth: static pods on containerd, decided purely and done dully
//!
//! ```text
//!  files, URL ──> Wanted ┐
//!  containerd ──> Seen   ├─> World ── plan(&World, now) ──> [(Action, Why)], wake ──> rooms do it ──> Outcome ┐
//!  clock, probes > Memory┘      ^                                                                            │
//!                               └──────────────────────────── apply(Event, now) <────────────────────────────┘
//!  status(&World, now) ──> status socket, `plinth status`
//! ```
//!
//! `plan` is a pure function: no async, no clock, no I/O, no logging. Async lives inside a single action. A crash is
//! only amnesia: look, plan, go on. Four rules make it true:
//! 1. Level, not edge: events are hints to look again, never facts.
//! 2. Durable facts live on containerd objects as labels (and as files beside the pins); RAM holds what may be forgotten.
//! 3. One action in flight per pod; pulls are keyed by image. Nothing ever needs cancelling.
//! 4. One action is one visible effect, safe to repeat. After a timeout, look before repeating.
//!
//! Import rule (a test checks it): `sys`, `clock`, `pod` know nobody; `plan` may use `pod`, `clock`; `manifest`,
//! `runtime`, `socket` may use those and `plan`'s types, never one another; `run`, `cli` and `main` may use everything.
//!
//! One word per idea: manifest, layer, wanted, seen, memory, world, action, outcome, plan, why, status, room.

pub mod cli;
pub mod clock;
pub mod log;
pub mod manifest;
pub mod plan;
pub mod pod;
pub mod quantity;
pub mod run;
pub mod runtime;
pub mod settings;
pub mod socket;
pub mod sys;
