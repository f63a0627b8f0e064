# SPDX-License-Identifier: GPL-2.0-or-later
"""The thorough look of monitor level 10: do the records agree, does statd answer?"""

from __future__ import annotations

from . import clients, errors, kernel, plan, statd
from .holding import Holding
from .system import System


def check(system: System, holding_dir: str, statd_dir: str) -> None:
    """Error unless every record of this node is in the holding directory and statd is alive."""
    lacking = _lacking(system, holding_dir, statd_dir)
    if lacking:
        # A record may be seconds old: only one that the propagator has had its chance to copy
        # counts, so look again at those alone.
        lacking = sorted(set(lacking) & set(_lacking(system, holding_dir, statd_dir)))
    if lacking:
        raise errors.Error(
            f"{holding_dir}: the records of {len(lacking)} clients are missing ({lacking[0]}"
            f"{', ...' if lacking[1:] else ''}): is the propagator writing?")
    if not kernel.statd_answers():
        raise errors.Error(
            "rpc.statd does not answer on 127.0.0.1: no new client can lock over NFSv3")


def check_clients(system: System, addresses: tuple[str, ...]) -> None:
    """Degraded when this node's own NFS mounts stand in the way of a takeover or a stop."""
    found = clients.complaints(system, addresses)
    if found:
        raise errors.Degraded("; ".join(found))


def _lacking(system: System, holding_dir: str, statd_dir: str) -> list[str]:
    found = statd.scan(system, statd_dir)
    held, _ = Holding(system, holding_dir, "").records()
    return plan.not_in([key for lines in found.files.values() for key in lines], held)
