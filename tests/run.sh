#!/bin/bash
# Every test there is: unit, golden, vectors, simulation, real containerd, and the image booted in QEMU. Says at the end what was skipped and
# why; with CI set a skip is a failure. Tests name a skip by a line in the file PLINTH_SKIPPED points to.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/packages.sh test
export PLINTH_CACHE=$PWD/.cache PLINTH_SKIPPED=$PWD/target/skipped
mkdir -p target && rm -f "$PLINTH_SKIPPED"
# The same worlds every time: a new seed is for `make sim`, not for judging a change.
export SIM_FIRST=${SIM_FIRST:-1}
# One half's failure keeps nothing of the other from being seen.
failed=0
cargo test --locked --no-fail-fast -- --test-threads=2 || failed=1
tests/boot/run.sh || failed=1
if [ -s "$PLINTH_SKIPPED" ]; then
  echo "skipped:"
  sort -u "$PLINTH_SKIPPED" | sed 's/^/  /'
  [ -z "${CI:-}" ] || { echo "run.sh: in CI a skip is a failure"; exit 1; }
else
  echo "skipped: nothing"
fi
exit $failed
