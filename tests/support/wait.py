# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting in tests: the one place that sleeps.

A test waits for something that it can see, and never for a time. Nothing here knows about nodes.
"""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")

PATIENCE = 15.0  # seconds; long enough for a loaded machine, so that running out means a defect
_POLL = 0.01  # seconds


def wait_until(
    seen: Callable[[], T],
    what: str,
    timeout: float = PATIENCE,
    otherwise: Callable[[], object] | None = None,
    pause: float = _POLL,
) -> T:
    """Return the first true value of seen(). Raises AssertionError after timeout seconds.

    what: said in the error; otherwise: called for the error, its result is printed with it.
    pause: seconds between two looks; longer where a look keeps busy what is looked at.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = seen()
        if value:
            return value
        if time.monotonic() > deadline:
            detail = f"; last seen: {value!r}" if otherwise is None else f"\n{otherwise()}"
            raise AssertionError(f"not within {timeout:g} s: {what}{detail}")
        time.sleep(pause)
