//! The only room with unsafe: system calls that rustix and nix do not wrap safely, and what is one step above them.

pub mod cgroup;
pub mod mounts;
pub mod namespaces;
pub mod signal;
pub mod spawn;
