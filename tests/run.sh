#!/bin/bash
# Every test but the image booted in QEMU, which is `make boottest` until it has been green often enough to judge a change: unit, golden,
# vectors, simulation, real containerd. Says at the end what was skipped and why; with CI set a skip is a failure. Tests name a skip by a line in the file PLINTH_SKIPPED points to.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/packages.sh test
export PLINTH_CACHE=$PWD/.cache PLINTH_SKIPPED=$PWD/target/skipped
mkdir -p target && rm -f "$PLINTH_SKIPPED"
# The same worlds every time: a new seed is for `make sim`, not for judging a change.
export SIM_FIRST=${SIM_FIRST:-1}
cargo test --locked --no-fail-fast -- --test-threads=2
if [ -s "$PLINTH_SKIPPED" ]; then
  echo "skipped:"
  sort -u "$PLINTH_SKIPPED" | sed 's/^/  /'
  [ -z "${CI:-}" ] || { echo "run.sh: in CI a skip is a failure"; exit 1; }
else
  echo "skipped: nothing"
fi
