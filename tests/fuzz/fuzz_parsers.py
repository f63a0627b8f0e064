#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage-guided fuzzing of every parser: fuzz_parsers.py SECONDS [PARSER ...]

Each parser gets its share of the time in a process of its own (libFuzzer ends its process). Seeds
are kept in tests/fuzz/corpus/PARSER; what is found besides lives in .cache/fuzz, and an input that
breaks a parser is left in tests/fuzz/crashes. Exit code 1 if there is one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "lib")]

with atheris.instrument_imports(include=["nfslock"]):
    from tests.fuzz.parsers import PARSERS


def one(name: str, seconds: str) -> None:
    """Fuzz one parser in this process; does not return."""
    def target(data: bytes) -> None:
        try:
            PARSERS[name](data)
        except ValueError:
            return

    found, crashes = CHECKOUT / ".cache/fuzz" / name, HERE / "crashes"
    for directory in (found, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-verbosity=0",
               "-print_final_stats=1", f"-artifact_prefix={crashes}/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(found), str(HERE / "corpus" / name)], target)
    atheris.Fuzz()


def main() -> int:
    """Give every parser its share."""
    names = sys.argv[2:] or list(PARSERS)
    share = max(1, int(sys.argv[1]) // len(names))
    broken = []
    for name in names:
        argv = [sys.executable, __file__, "--one", name, str(share)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        runs = [line.split(":")[-1].strip() for line in done.stdout.splitlines()
                if "number_of_executed_units" in line]
        print(f"{name}: {runs[0] if runs else '?'} inputs in {share} s, "
              f"{'BROKEN' if done.returncode else 'fine'}", flush=True)
        if done.returncode:
            print(done.stdout[-4000:])
            broken.append(name)
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2], sys.argv[3])
    sys.exit(main())
