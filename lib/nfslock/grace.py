# SPDX-License-Identifier: GPL-2.0-or-later
"""Grace periods, the lease, and nlm_timeout: whether they fit together, and how long is left.

There are two grace periods: nfsd's, for NFSv4, and lockd's, whose length the kernel rounds up to a
multiple of nlm_timeout (fs/lockd/svc.c, get_lockd_grace_period). New locks wait for *both*, in
either protocol (fs/nfs_common/grace.c), but NFSv4 opens wait for nfsd's only.

Here lies the one way to two owners of a lock. A client with a write delegation keeps its lock to
itself; a conflicting open recalls the delegation, and the client then sends its LOCK. While lockd's
grace period lasts beyond nfsd's, that LOCK is refused, and a lease after the recall nfsd revokes
the delegation: the lock goes to the rival while the owner writes on. So lockd's must not outlast
nfsd's, and the lease must not be shorter than the grace period.

That is needed, and not enough: nfsd prolongs its own, up to twice the lease, while a client on
record has not come back (fs/nfsd/nfs4state.c, clients_still_reclaiming), and the run of its
laundromat that ends it revokes what was recalled a lease ago. Only without delegations no lock is
at stake.
"""

from __future__ import annotations

import os

from . import nfsconf, processes
from .errors import Error, NodeError
from .named_tuple import NamedTuple
from .system import System

_SYSCTLS = "/proc/sys/fs/nfs"
#: nfsd's own defaults (s): fs/nfsd/netns.h, nfsd_net_init().
GRACE, LEASE = 90, 90
#: lockd's defaults and limits (s): fs/lockd/svc.c.
TIMEOUT, TIMEOUT_MIN, TIMEOUT_MAX = 10, 3, 20


class Timing(NamedTuple):
    """What nfsd will use (s); `lockd_grace` before rounding, 0 for lockd's default."""

    grace: int = GRACE
    lease: int = LEASE
    lockd_grace: int = 0
    nlm_timeout: int = TIMEOUT
    #: Where grace and lease come from, for messages.
    origin: str = "the kernel's defaults"


def lockd_period(lockd_grace: int, nlm_timeout: int) -> int:
    """How long lockd's grace period lasts (s): rounded up, or five timeouts when unset."""
    if not lockd_grace:
        return 5 * nlm_timeout
    return -(-lockd_grace // nlm_timeout) * nlm_timeout


def problem(timing: Timing) -> str:
    """Why these times could give one lock to two owners; "" when they cannot."""
    if timing.lease < timing.grace:
        return (f"the NFSv4 lease ({timing.lease} s) is shorter than the grace period "
                f"({timing.grace} s; {timing.origin}): a delegation could be revoked before its "
                "owner may turn it into a lock; set lease-time to at least grace-time")
    period = lockd_period(timing.lockd_grace, timing.nlm_timeout)
    if period > timing.grace:
        return (f"lockd's grace period ({period} s: {timing.lockd_grace or 'unset'} rounded up to "
                f"a multiple of nlm_timeout, {timing.nlm_timeout} s) outlasts NFSv4's "
                f"({timing.grace} s; {timing.origin}): a lock under a write delegation could go "
                "to a second owner; set grace-time to a multiple of fs.nfs.nlm_timeout")
    return ""


def repaired(timing: Timing) -> Timing | None:
    """Times that are safe and change as little as can be; None when there are none.

    nfsd's own times are the administrator's. lockd's are ours to fit in: the grace period that
    `rpc.nfsd -G` sets for both, and the largest timeout not above today's that divides it.
    """
    if timing.lease < timing.grace:
        return None
    wanted = min(timing.lockd_grace or 5 * timing.nlm_timeout, timing.grace)
    for timeout in range(min(timing.nlm_timeout, TIMEOUT_MAX), TIMEOUT_MIN - 1, -1):
        if lockd_period(wanted, timeout) <= timing.grace:
            keep = timing.lockd_grace if lockd_period(
                timing.lockd_grace, timeout) <= timing.grace else wanted
            return Timing(timing.grace, timing.lease, keep, timeout, timing.origin)
    return None


# -- this node -----------------------------------------------------------------------------


def _number(system: System, path: str) -> int | None:
    try:
        return int(system.read(path).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def expected(system: System) -> Timing:
    """What nfsd will use when it starts on this node: nfs.conf, else the kernel's present values.

    rpc.nfsd gives grace-time to lockd, too (nfs-utils utils/nfsd/nfsd.c). Options on its command
    line are not known here; monitor looks at what came of it.
    """
    conf = nfsconf.settings(system)
    grace = nfsconf.seconds(conf.get(("nfsd", "grace-time")))
    lease = nfsconf.seconds(conf.get(("nfsd", "lease-time")))
    nfsd = f"{system.proc}/fs/nfsd"
    return Timing(
        grace=grace or _number(system, f"{nfsd}/nfsv4gracetime") or GRACE,
        lease=lease or _number(system, f"{nfsd}/nfsv4leasetime") or LEASE,
        lockd_grace=grace or _number(system, f"{_SYSCTLS}/nlm_grace_period") or 0,
        nlm_timeout=_number(system, f"{_SYSCTLS}/nlm_timeout") or TIMEOUT,
        origin="nfs.conf" if grace or lease else "the kernel's present values")


def running(system: System) -> Timing | None:
    """What the running nfsd and lockd use; None when nfsd's filesystem is not mounted here."""
    nfsd = f"{system.proc}/fs/nfsd"
    grace = _number(system, f"{nfsd}/nfsv4gracetime")
    if grace is None:
        return None
    return Timing(
        grace=grace, lease=_number(system, f"{nfsd}/nfsv4leasetime") or LEASE,
        lockd_grace=_number(system, f"{_SYSCTLS}/nlm_grace_period") or 0,
        nlm_timeout=_number(system, f"{_SYSCTLS}/nlm_timeout") or TIMEOUT,
        origin="the running nfsd")


def repairable(system: System) -> Timing:
    """The times that the next nfsd will use once repaired; NodeError when none are safe."""
    timing = expected(system)
    better = repaired(timing)
    if better is None:
        raise NodeError(problem(timing))
    return better


def prepare(system: System) -> str:
    """Make the times safe before nfsd starts; returns what was changed ("" for nothing).

    NodeError when they cannot be made safe. Call it only while nfsd has no threads: lockd takes its
    times when it starts.
    """
    timing = expected(system)
    if not problem(timing):
        return ""
    better = repairable(system)
    changed = []
    for name, old, new in (("nlm_timeout", timing.nlm_timeout, better.nlm_timeout),
                           ("nlm_grace_period", timing.lockd_grace, better.lockd_grace)):
        if old != new:
            _set(system, name, new, problem(timing))
            changed.append(f"fs.nfs.{name} {old} -> {new}")
    return f"{', '.join(changed)}, because {problem(timing)}"


def _set(system: System, name: str, value: int, why: str) -> None:
    path = system.path(f"{_SYSCTLS}/{name}")
    if not os.path.exists(path):
        # lockd's sysctls come with its module, which nfsd needs anyway.
        system.run("modprobe", "lockd")
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{value}\n")
    except OSError as error:
        raise NodeError(
            f"{why}; cannot set fs.nfs.{name} to {value}: {error.strerror}") from error


def check(system: System) -> None:
    """Error when the running servers' times could give one lock to two owners."""
    timing = running(system)
    if timing is not None and problem(timing):
        raise Error(problem(timing))


# -- what is left --------------------------------------------------------------------------


def remaining(system: System) -> dict[str, int]:
    """Seconds that grace lasts yet at most, by server (`nfsd`, `lockd`); those in grace only.

    The kernel tells whether, not for how long: the length counts from the kernel thread's start.
    nfsd may extend its own up to twice while clients reclaim, and end it as soon as all have.
    """
    timing = running(system)
    if timing is None:
        return {}
    lengths = {"nfsd": (timing.grace, f"{system.proc}/fs/nfsd/v4_end_grace"),
               "lockd": (lockd_period(timing.lockd_grace, timing.nlm_timeout),
                         f"{system.proc}/fs/lockd/nlm_end_grace")}
    left = {}
    for name, (length, path) in lengths.items():
        born = _thread_born(system, name)
        if _ended(system, path) is False and born is not None:
            left[name] = max(0, round(born + length - system.monotonic()))
    return left


def missed(system: System, since: float) -> bool:
    """Whether a lockd that has started after `since` (monotonic s) is out of grace already."""
    if not _ended(system, f"{system.proc}/fs/lockd/nlm_end_grace"):
        return False
    born = _thread_born(system, "lockd")
    return born is not None and born > since


def _ended(system: System, path: str) -> bool | None:
    """Whether a server is out of grace; None where the kernel does not say.

    lockd's file ends with a NUL after the line (Linux fs/lockd/procfs.c, nlm_end_grace_read).
    """
    try:
        return system.read(path).startswith(b"Y")
    except (OSError, ValueError):
        return None


def _thread_born(system: System, name: str) -> float | None:
    """When the first kernel thread of that name started (monotonic s); None when there is none."""
    ticks = os.sysconf("SC_CLK_TCK")
    born = [system.start_time(pid) / ticks for pid in processes.kernel_threads(system, name)]
    return min(born, default=None)
