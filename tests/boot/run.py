#!/usr/bin/env python3
"""Boots the image and looks. Few boots, shared by many tests; each test is a sentence.

Usage: run.py OUT [PART-OF-A-NAME]…   OUT is an image built with tests/boot/pods as its pods (see run.sh)
  CUTS=N   of the 20 power cuts                                          [6]
  LANES=N  machines at a time                                            [one a processor, by KVM one for two]"""

import concurrent.futures, os, pathlib, shutil, subprocess, sys, tempfile, time

import cuts, everyday, faults, limits, nfs, state
from machine import Failed, Machine

# That many that fail are tried once more.
AGAIN = 2
# The longest first: the last ones to end are short.
TESTS = [*cuts.TESTS, *faults.TESTS, *everyday.TESTS, *limits.TESTS, *nfs.TESTS, *state.TESTS]


def run(test, out):
    """Whether it holds."""
    work, start = pathlib.Path(tempfile.mkdtemp(prefix="plinth-boot.")), time.monotonic()
    said = lambda how: print(f"{how} {test.__name__.replace('_', ' ')} ({time.monotonic() - start:.0f} s)", flush=True)
    try:
        test(Machine(out, work))
    except (Failed, AssertionError, OSError, KeyError, ValueError, subprocess.SubprocessError) as why:
        said(f"FAILED: {type(why).__name__}: {str(why)[-6000:]}\nFAILED")
        return False
    finally:
        shutil.rmtree(work, ignore_errors=True)
    said("  =")
    return True


def main(out, *parts):
    Machine.prove(out)
    tests = [t for t in TESTS if not parts or any(p in t.__name__ for p in parts)]
    if not tests:
        sys.exit(f"run.py: no test has {' or '.join(parts)} in its name: {' '.join(t.__name__ for t in TESTS)}")
    lanes, began = int(os.environ.get("LANES") or max(1, (os.cpu_count() or 1) // Machine.processors())), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        failed = [t for t, held in zip(tests, pool.map(lambda t: run(t, out), tests)) if not held]
    # As `make test` has it for the others: one that met a loaded machine holds alone, and is named as a thing to mend.
    once = [t for t in failed if len(failed) <= AGAIN and run(t, out)]
    failed = [t for t in failed if t not in once]
    names = lambda some: " ".join(t.__name__ for t in some)
    print(f"boot: {len(tests) - len(failed)} of {len(tests)} hold, {time.monotonic() - began:.0f} s, {lanes} machines at a time {names(failed)}")
    if once:
        print(f"boot: failed once, then held alone: {names(once)}")
    sys.exit(bool(failed))


main(*sys.argv[1:])
