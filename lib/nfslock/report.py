# SPDX-License-Identifier: GPL-2.0-or-later
"""What the propagator says of itself in its status file, for monitor, `nfslock status` and stop."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .propagator import Propagator


def pairs(one: Propagator, phase: str) -> dict[str, object]:
    """The pairs of the status file. Times are monotonic seconds."""
    owner = one.holding.owner
    place = one.system.status(one.holding.path)
    return {
        "pid": one.identity,
        "phase": phase,
        "generation": owner.generation if owner else 0,
        "state": one.holding.read_state() or 0,
        "holding": f"{place.st_dev}:{place.st_ino}" if place else "",
        "owner": one.system.identity(f"{one.holding.path}/owner.json"),
        "interval": one.config.propagate_interval,
        "last_sweep": f"{one.last_sweep:.3f}",
        "records": len(one.mirror.held),
        "skipped": len(one.mirror.skipped) + one.mirror.damaged,
        **one.announcement.status(),
        **(one.recovery.status() if one.recovery else {}),
        "reserve": "yes" if one.holding.reserved else "no",
        "inotify": "yes" if one.inotify else "no",
        "callout": "yes" if one.callouts else "no",
        "confirmed": one.callouts.served if one.callouts else 0,
        "slowest": f"{one.callouts.slowest:.3f}" if one.callouts else "",
        "caught_up": one.caught_up,
        "lockd": one.lockd,
        "problem": one.problem,
    }
