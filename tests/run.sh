#!/bin/bash
# Every test: unit, golden, vectors, simulation, real containerd, and the image booted in QEMU (tests/boot; BOOT="day fails": the boots with
# one of these words in their names). Says at the end what was skipped and why; with CI set a skip is a failure. Tests name a skip by a line in the file PLINTH_SKIPPED points to.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/packages.sh test
export PLINTH_CACHE=$PWD/.cache PLINTH_SKIPPED=$PWD/target/skipped
mkdir -p target && rm -f "$PLINTH_SKIPPED"
# The same worlds every time: a new seed is for `make sim`, not for judging a change.
export SIM_FIRST=${SIM_FIRST:-1}

# Tests with real processes meet a loaded machine: up to three that failed are run once more, alone. Those that pass then are named at the end,
# as a thing to mend; one that fails again fails the run.
flaky=()
if ! cargo test --locked --no-fail-fast -- --test-threads=4 2>&1 | tee target/tests.log; then
  # libtest says "failures:" twice, the second time with the names alone.
  mapfile -t flaky < <(awk '/^failures:$/ { names = "" } /^    [^ ]+$/ { names = names $1 "\n" } /^test result: FAILED/ { printf "%s", names }' target/tests.log | sort -u)
  [ ${#flaky[@]} -gt 0 ] && [ ${#flaky[@]} -le 3 ] || exit 1
  echo "run.sh: once more, alone: ${flaky[*]}"
  cargo test --locked --no-fail-fast -- --test-threads=1 --exact "${flaky[@]}" || exit 1
  printf 'failed once, then passed alone:\n'
  printf '  %s\n' "${flaky[@]}"
fi
# shellcheck disable=SC2086
tests/boot/run.sh ${BOOT:-}
if [ -s "$PLINTH_SKIPPED" ]; then
  echo "skipped:"
  sort -u "$PLINTH_SKIPPED" | sed 's/^/  /'
  [ -z "${CI:-}" ] || { echo "run.sh: in CI a skip is a failure"; exit 1; }
else
  echo "skipped: nothing"
fi
