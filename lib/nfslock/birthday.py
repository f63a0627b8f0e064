# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a takeover's nfsd from starting in the very second in which the last owner's did.

An NFSv4.0 client id begins with that second (RFC 7530 9.1.1; fs/nfsd/nfs4state.c, gen_clid). A
client whose id has the new nfsd's own is not told that the server has restarted, but that its lease
has expired (STALE_CLIENTID()), and reclaims nothing. Nodes whose clocks agree never get there.
"""

from __future__ import annotations

import time

from . import kernel_tables
from ._vendor import ocf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .holding import Holding
    from .system import System

#: A file in the holding directory: the second, in decimal.
NAME = "nfsd_started"
#: Seconds within which nfsd is started after this resource, in a usual group.
_SOON = 15


def of_clients(system: System) -> int | None:
    """When this node's nfsd was started, from the id of one of its clients; None without one."""
    place = f"{system.proc}/fs/nfsd/clients"
    try:
        name = next(filter(None, system.portions(place, 1)))[0]
        info = system.read(f"{place}/{name}/info").decode(errors="replace")
        return kernel_tables.parse_birthday(info)
    except (StopIteration, OSError, ValueError):  # none, or gone meanwhile
        return None


def note(system: System, holding: Holding) -> None:
    """Write down when nfsd was started here, for the next owner. Error when it cannot be."""
    second = of_clients(system)
    if second is not None and second != read(system, holding):
        holding.check_owner()
        holding.spending(lambda: system.write(holding.path, {NAME: b"%d\n" % second}))


def read(system: System, holding: Holding) -> int | None:
    """When the last owner's nfsd was started, by its clock; None when that is not known."""
    try:
        return int(system.read(f"{holding.path}/{NAME}", 32))
    except (OSError, ValueError):
        return None


def pause(second: int | None, now: int) -> int:
    """Seconds to wait at `now`, lest nfsd be started soon in that second."""
    return second + 1 - now if second is not None and second - _SOON <= now <= second else 0


def avoid(system: System, holding: Holding) -> None:
    """Wait, if this node's clock is just about to pass the second in question."""
    seconds = pause(read(system, holding), system.epoch())
    if seconds:
        ocf.logger.warning(
            "this node's clock is about to pass the second in which the last owner's nfsd was "
            "started, by which NFSv4.0 clients know it: waiting for %d s; synchronise the clocks",
            seconds)
        time.sleep(seconds)
