# SPDX-License-Identifier: GPL-2.0-or-later
"""NFSv4 delegations: kept off where the service's locks must survive, because they do not mix.

A client that has a write delegation grants locks on that file to itself. When a client reclaims an
open, nfsd (6.12, nfs4_open_delegation) gives it one whether it had one or not, as long as nobody
else has the file open, and in a grace period nobody has until he has reclaimed, too. A client that
is back first can then take a lock that its owner has not reclaimed yet: two owners. Recordings of
power cuts with NFSv4.1 show it: the reply to the rival's OPEN (CLAIM_PREVIOUS) brings a write
delegation; the owner's own gets NFS4ERR_DELAY; the rival is recalled, says NFS4_OK and returns
nothing before the grace period is over; then the owner gets NFS4ERR_NO_GRACE and has lost the lock.
A delegation is also what makes the times of `grace.py` dangerous, and no times make it safe. So no
parameter lets nfsd give them out.

But a client that *holds* delegations has its locks nowhere else, and loses them without a word when
the adoptive node does not give the delegations back. So they are off from a service's first start
on, or from the moment at which none is left, which is noted beside the records; until then a
takeover leaves them on.
"""

from __future__ import annotations

from . import grace
from ._vendor import ocf
from .errors import Degraded, NodeError
from .runtime import Runtime
from .system import System
from .tracking_nfsdcld import Nfsdcld

_LEASES = "/proc/sys/fs/leases-enable"
#: The note in the held database: its clients were never given a delegation that they still have.
NOTE = "nfslock_no_delegations"
#: The run-time file that says how the node's switch stood before this service set it.
_MARK = "leases"


def enabled(system: System) -> bool:
    """Whether nfsd may give out delegations (proc_sys_fs(5)); the setting is the whole node's."""
    try:
        return system.read(_LEASES).strip() != b"0"
    except (OSError, ValueError):
        return True


def _write(system: System, on: bool) -> None:
    try:
        with open(system.path(_LEASES), "w", encoding="ascii") as file:
            file.write("1\n" if on else "0\n")
    except OSError as error:
        raise NodeError(f"cannot set fs.leases-enable: {error.strerror}") from error


def switch(runtime: Runtime, on: bool) -> None:
    """Let nfsd give out delegations from now on, or not; those that clients have stay."""
    was = enabled(runtime.system)
    if was == on:
        return
    if runtime.read(_MARK) is None:
        runtime.write(_MARK, {"enabled": int(was)})
    _write(runtime.system, on)


def restore(runtime: Runtime) -> None:
    """Set the node's switch as it was before the service came; nothing if it was not touched."""
    mark = runtime.read(_MARK)
    if mark is not None:
        _write(runtime.system, mark.get("enabled") != "0")
        runtime.remove(_MARK)


def outstanding(system: System) -> int:
    """How many delegations clients of this node have (proc(5), locks)."""
    try:
        lines = system.read(f"{system.proc}/locks", 1 << 26).splitlines()
    except (OSError, ValueError):
        return 0
    return sum(b" DELEG " in line for line in lines)


def prepare(runtime: Runtime, held: Nfsdcld, clients: int) -> None:
    """Before nfsd starts: off, unless clients that may reclaim may have some from before."""
    known = held.noted(NOTE)
    if clients and not known:
        ocf.logger.warning(
            "%d NFSv4 clients may hold delegations: these stay on for this takeover, with the risk "
            "that comes with them, and are switched off when the grace period is over", clients)
        switch(runtime, True)
        return
    if not known:
        held.note(NOTE, True)
    switch(runtime, False)


def follow(runtime: Runtime, held: Nfsdcld, none_left: bool) -> bool:
    """While the service stands: off as soon as no client reclaims, noted once none is left.

    Returns whether none is left, which the caller keeps for the next time.
    """
    on = enabled(runtime.system)
    if on:
        held.note(NOTE, False)
    elif none_left or held.noted(NOTE):
        return True
    if grace.remaining(runtime.system):
        return False
    if on:
        switch(runtime, False)
    elif not outstanding(runtime.system):
        held.note(NOTE, True)
        ocf.logger.info("no NFSv4 client has a delegation any more")
        return True
    return False


def check(system: System) -> None:
    """Degraded while somebody has switched delegations on again."""
    if enabled(system):
        raise Degraded("fs.leases-enable is 1: NFSv4 delegations are given out, and two clients "
                       "with the same files open can lose locks at a takeover")
