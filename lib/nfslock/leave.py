# SPDX-License-Identifier: GPL-2.0-or-later
"""A stopping service gives its filesystems free, those that its start noted.

Never fails a stop: what is left is said in the log and in the exit reason, and the umount that
follows is the judge.
"""

from __future__ import annotations

from . import errors, neighbours, release, release_plan, signals
from ._vendor import ocf
from .bounded import bounded
from .mark import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .system import System

#: Seconds for the release when nobody has set a limit, and what is kept of a limit for the rest.
_USUAL, _MARGIN = 20.0, 2.0
#: How much of the time is for waiting; the rest is for naming what is left.
_WAITING = 0.7


def wanted(
    system: System, service: str, mark: Mapping[str, str], copied: bool
) -> release_plan.Wanted:
    """What is to be released, by the mark of the start; `copied`: the last copy is complete."""
    return release_plan.Wanted(
        places(mark), frozenset(mark.get("ip", "").split(",")) - {""},
        tuple(neighbours.others(system, service)), copied and bool(mark.get("v4_store")),
        mark.get("lockd_kill", "auto"))


def free(system: System, service: str, mark: Mapping[str, str], copied: bool) -> None:
    """Release the service's filesystems; what still holds them goes to log and exit reason."""
    found: list[str] = []
    try:
        aim = wanted(system, service, mark, copied)
        if not aim.places:
            return
        limit = time_left()
        deadline = system.monotonic() + limit * _WAITING
        found = bounded(lambda: "\n".join(release.release(system, aim, deadline)), limit,
                        "the release of locks").splitlines()
        # On its own: what a process of a stuck disk uses may be a question that hangs as well.
        named = bool(found)
        found += bounded(lambda: "\n".join(release.bystanders(system, aim, named)), time_left(),
                         "the search for who else uses it").splitlines()
    except (errors.Error, OSError, ValueError) as error:
        found.append(f"{mark.get('holding_dir')}: {error}")
    for line in found:
        ocf.logger.warning("%s", line)
    if found:
        ocf.ocf_exit_reason("; ".join(found[:5]))


def time_left() -> float:
    """Seconds until the action's own alarm, less a margin for the rest of the stop."""
    left = signals.getitimer(signals.ITIMER_REAL)[0]
    return max(left - _MARGIN, 0.5) if left else _USUAL
