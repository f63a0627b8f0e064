# SPDX-License-Identifier: GPL-2.0-or-later
"""The product's tickler alone, for the bench: tickler.py LIB, the connections on standard input."""

from __future__ import annotations

import os
import sys
import tempfile
import time

sys.path.insert(0, sys.argv[1])

from nfslock.holding import Holding
from nfslock.system import System
from nfslock.tickle_io import Tickler


def main() -> None:
    """Tickle, as the propagator's loop does when the service has just come to stand."""
    system = System()
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "connections"), "w", encoding="ascii") as file:
            file.write(sys.stdin.read())
        with open(file.name, encoding="ascii") as text:
            addresses = {line.split()[0] for line in text}
        tickler = Tickler(system, Holding(system, directory, "bench"), sorted(addresses))
        began = system.monotonic()
        while (pause := tickler.tick(system.monotonic(), began)) is not None:
            time.sleep(pause)


if __name__ == "__main__":
    main()
