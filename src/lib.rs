//! # plinth: static pods on containerd, decided purely and done dully
//!
//! ```text
//!  files, URL ──> Wanted ┐
//!  containerd ──> Seen   ├─> World ── plan(&World, now) ──> [(Action, Why)], wake ──> rooms do it ──> Outcome ┐
//!  clock, probes > Memory┘      ^                                                                            │
//!                               └──────────────────────────── apply(Event, now) <────────────────────────────┘
//!  status(&World, now) ──> status socket, `plinth status`, the cluster
//! ```
//!
//! `plan` is a pure function: no async, no clock, no I/O, no logging. Async lives inside a single action. A crash is
//! only amnesia: look, plan, go on. Four rules make it true:
//! 1. Level, not edge: events are hints to look again, never facts.
//! 2. Durable facts live on containerd objects as labels (and as files beside the pins); RAM holds what may be forgotten.
//! 3. One action in flight per pod; pulls are keyed by image. Nothing ever needs cancelling.
//! 4. One action is one visible effect, safe to repeat. After a timeout, look before repeating.
//!
//! The API server is not in `World`: `plan` has no argument through which an outage could reach a pod.
//!
//! ## Ten laws
//!
//! `tests/sim` checks them with random wishes, worlds, faults, and amnesia at any moment.
//!
//! | law | |
//! |---|---|
//! | 1 converges | a fault-free world reaches an empty plan in bounded steps |
//! | 2 idempotent | settled stays settled |
//! | 3 amnesia | drop `Memory` at any point: same end state, and no healthy container with a matching hash is restarted |
//! | 4 single flight | never two actions for one pod, never two tasks for one container |
//! | 5 ours only | nothing without our label is touched |
//! | 6 order | sandbox before container, init in turn, teardown reversed |
//! | 7 liveness | not settled means an action, one in flight, or a wake time |
//! | 8 independence | one pod's failures never change another's actions |
//! | 9 grace | KILL never early, never forgotten; amnesia may lengthen grace, never shorten it |
//! | 10 back-off | the delay grows until success, and is capped |
//!
//! ## Rooms
//!
//! Import rule (`tests/imports.rs` checks it): `sys`, `clock`, `pod`, `quantity`, `hex`, `dial`, `spdy` know nobody, `shim` only `sys` and `hex`, `session` only `pod`, `watch` only `sys` and
//! `clock`; `plan` may use `pod`, `clock`; `manifest`, `runtime`, `cluster`, `socket` may use those and `plan`'s types, never one another; `kubelet`, which
//! gives others the socket's answers, may use `socket`; `run`, `cli` and `main` may use everything. Unsafe code stands in `sys` alone. One thread, always: nothing here uses a blocking pool, a child's blocking wait, or the resolver of libc.
//!
//! ## Where a fact lives
//!
//! | fact | place | gone |
//! |---|---|---|
//! | what should run | the manifest layers | with the file |
//! | what a pod was made from | `<data>/pods/<uid>/pod.json` | last, with the pod |
//! | its namespaces, addresses | pins and `sandbox.json` below `<run>/pods/<uid>`; CNI's cache and address book | with the sandbox, or the boot |
//! | an attempt, its number, kind, image, exit | labels of its containerd record; of one that is lost the number is left in its log's name | with the record; the log |
//! | whose logs a directory holds, and of which plinth | its name, and an attribute `trusted.plinth` of it | with the pod |
//! | an exit not written down yet | the shim, kept over a containerd restart by a sandbox record of the same id | with the task |
//! | it was started in this boot | the mark `started` beside its FIFOs | with the boot |
//! | delays, grace deadlines, what is in flight | RAM | at any crash, without harm |
//!
//! ## Words
//!
//! manifest (a file), layer (a directory of them), wanted (what the layers ask for), seen (what is there), memory (what may be forgotten),
//! world (all three), action, outcome, plan, why (the reason of an action), status, room (a module with one outside party). Elsewhere the
//! field's own: sandbox, task, snapshot, shim, lease, attempt, probe.

pub mod cli;
pub mod clock;
pub mod cluster;
pub mod dial;
pub mod hex;
pub mod kubelet;
pub mod log;
pub mod manifest;
pub mod plan;
pub mod pod;
pub mod quantity;
pub mod run;
pub mod runtime;
pub mod session;
pub mod settings;
pub mod shim;
pub mod socket;
pub mod spdy;
pub mod sys;
pub mod watch;

#[cfg(test)]
#[path = "../tests/skip/mod.rs"]
#[allow(clippy::unwrap_used)]
mod skip;
