//! argv, settings, runtime, exit code, error chain.

fn main() {}
