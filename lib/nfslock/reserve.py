# SPDX-License-Identifier: GPL-2.0-or-later
"""Space kept back in the holding directory: a full disk costs neither a lock record nor a takeover.

The users of the service fill its filesystem sooner or later, and it is full on every node then. So
the propagator keeps a file of SIZE bytes there while there is room; a write that finds the disk
full takes STEP bytes of it and tries again, and leaves the rest out of the users' reach. Nothing
here writes a record.
"""

from __future__ import annotations

import errno

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .system import System

NAME = "reserve"
#: Bytes: a takeover needs some blocks, each new client one (4 KiB, as a rule).
SIZE, STEP = 256 << 10, 32 << 10
_FULL = (errno.ENOSPC, errno.EDQUOT)


def keep(system: System, directory: str) -> bool:
    """Make the reserve, or make it whole again; whether there is all of it now."""
    if _left(system, directory) >= SIZE:
        return True
    try:
        system.allocate(directory, NAME, SIZE)
    except errors.Error as error:
        if not is_full(error):
            raise
        return False
    return True


def spending(system: System, directory: str, write: Callable[[], None]) -> None:
    """Write; as long as the disk is full, give up some of the reserve and write again.

    `write` may be repeated. Raises its errors.Error when nothing of the reserve is left.
    """
    while True:
        try:
            write()
            return
        except errors.Error as error:
            left = _left(system, directory)
            if not is_full(error) or not left:
                raise
        system.shrink(f"{directory}/{NAME}", max(0, left - STEP))


def _left(system: System, directory: str) -> int:
    status = system.status(f"{directory}/{NAME}")
    return 0 if status is None else status.st_size


def is_full(error: errors.Error) -> bool:
    """Whether the error comes from a full disk or an exceeded quota."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in _FULL
    return "disk is full" in str(cause)  # sqlite3's SQLITE_FULL, without loading sqlite3
