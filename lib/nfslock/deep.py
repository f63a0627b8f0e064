# SPDX-License-Identifier: GPL-2.0-or-later
"""The thorough look of monitor level 10: do the records agree, does statd answer?"""

from __future__ import annotations

import time

from . import clients, delegations, errors, grace, kernel, plan, recovery, scope, statd, tracking
from .holding import Holding
from .system import System
from .tracking_mirror import Held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .params import Config

#: How long (s) a record that is lacking is looked for again, and the pause before each look.
_PATIENCE, _PAUSE = 5.0, 0.5


def check(system: System, holding_dir: str, statd_dir: str) -> list[str]:
    """Error unless every record of this node is in the holding directory and statd is alive.

    Returns what statd lacks nevertheless, for check_statd: an Error found later is heard first.
    """
    lacking = sorted(_lasting(lambda: set(_lacking(system, holding_dir, statd_dir))))
    if lacking:
        raise errors.Error(
            f"{holding_dir}: the records of {len(lacking)} clients are missing ({lacking[0]}"
            f"{', ...' if lacking[1:] else ''}): is the propagator writing?")
    lacks = kernel.statd_lacks()
    if "TCP" in lacks:
        raise errors.Error(
            "rpc.statd does not answer on 127.0.0.1 by TCP, as lockd asks it: no new client can "
            "lock over NFSv3; was its port taken when it started?")
    return lacks


def _lasting(look: Callable[[], set[str]]) -> set[str]:
    """What is lacking at every look: a record may be new, and the disk slow to make it durable."""
    deadline = time.monotonic() + _PATIENCE
    lacking = look()
    while lacking and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        lacking &= look()
    return lacking


def check_statd(lacks: list[str]) -> None:
    """Degraded when statd lacks a way that lockd does not need."""
    if lacks:
        raise errors.Degraded(
            "rpc.statd does not answer by UDP: locks of clients that reboot are not released; was "
            "its port taken when it started?")


def check_v4(system: System, config: Config, store: str) -> None:
    """Error unless NFSv4 clients could reclaim elsewhere: records, tracking, times and scope."""
    kind, _, directory = store.partition(" ")
    taken = tracking.taken(system, tracking.at(system, kind, directory, live=True))
    if taken is None:
        raise errors.Error(
            "nfsd did not find nfsdcld ready within a second of its start, and this kernel has no "
            "other way to keep NFSv4 recovery records: NFSv4 clients cannot reclaim after a "
            "failover; restart the service here")
    lacking = _lasting(lambda: _lacking_v4(system, config.holding_dir, taken))
    if lacking:
        raise errors.Error(
            f"{config.holding_dir}: the NFSv4 recovery records of {len(lacking)} clients are "
            f"missing ({min(lacking)}{', ...' if len(lacking) > 1 else ''}): is the propagator "
            "writing?")
    if kernel.serving(system):
        grace.check(system)
        if not grace.remaining(system):
            delegations.check(system)
        scope.check(
            system, config.ip[0], scope.wanted(system, config.server_scope, config.ip[0]))


def _lacking_v4(system: System, path: str, store: tracking.Store) -> set[str]:
    """The names of clients whose records the holding directory lacks."""
    local = store.read() or {}
    held = Held(system, Holding(system, path, "")).read() or {}
    return {*recovery.by_name(local)} - {*recovery.by_name(held)}


def check_clients(system: System, addresses: tuple[str, ...]) -> None:
    """Degraded when this node's own NFS mounts stand in the way of a takeover or a stop."""
    found = clients.complaints(system, addresses)
    if found:
        raise errors.Degraded("; ".join(found))


def _lacking(system: System, holding_dir: str, statd_dir: str) -> list[str]:
    found = statd.scan(system, statd_dir)
    held, _ = Holding(system, holding_dir, "").records()
    return plan.not_in([key for lines in found.files.values() for key in lines], held)
