//! The only room with unsafe: system calls that rustix and nix do not wrap safely.
