#!/bin/bash
# Runs each fuzz target for so many seconds, with the versions plinth ships with. Usage: run.sh SECONDS [TARGET]...
# What is new is kept below target/fuzz; an input that fails is named, and belongs into corpus/ once it is mended.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds}
shift
[ $# -gt 0 ] || set -- yaml manifest quantity spdy signature answer
cargo +nightly fuzz --version >/dev/null 2>&1 || {
  echo "run.sh: find cargo-fuzz: install a nightly Rust (rustup toolchain install nightly) and cargo install cargo-fuzz" >&2
  exit 1
}
cp Cargo.lock tests/fuzz/Cargo.lock
# No sanitizer: unsafe code is not on the way, and times and memory are those of plinth.
for target; do
  mkdir -p "target/fuzz/corpus/$target"
  cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none "$target" \
    "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=2048 \
    -dict=tests/fuzz/words.dict -print_final_stats=1
done
