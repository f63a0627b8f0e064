# SPDX-License-Identifier: GPL-2.0-or-later
"""Which client has been told: clients with several addresses, addresses with several names.

Pure, like notify.py, whose jobs it makes and collects. A client is known to the caller by a *key*
(the file name of its monitor record: an address, or a host name if lockd runs with
nsm_use_hostnames). It has been told when every VIP of each of its families has told it: nobody can
say through which VIP it holds its locks. An address is told once, however many keys lead to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .notify import Notifier

WAITING = "waiting"
UNANSWERED = "unanswered"  # asked, and no answer within the time-out
UNREGISTERED = "unregistered"  # answers, but has no statd registered
UNREACHABLE = "no address that a VIP can reach"
_WORST_FIRST = (UNREGISTERED, UNANSWERED, WAITING)


class Roster:
    """Keys, and the jobs each still waits for."""

    def __init__(self, notifier: Notifier) -> None:
        """Make jobs in `notifier`, to which nobody else adds any."""
        self.done = 0
        self._notifier = notifier
        self._vips: dict[bool, list[int]] = {False: [], True: []}
        for number, vip in enumerate(notifier.vips):
            self._vips[_ipv6(vip.address)].append(number)
        self._first_job: dict[str, int] = {}  # by address; one job for each VIP of the family
        self._keys: list[list[str]] = []  # by job
        self._left: dict[str, int] = {}  # by key, jobs not yet done; 0 where none can be made

    def add(self, key: str, addresses: Iterable[str]) -> bool:
        """Take up a client with all its addresses; return False if it is told already.

        A second address of one family is asked only where the first does not answer.
        """
        mine = list(addresses)
        jobs: list[int] = []
        for ipv6, vips in self._vips.items():
            family = [address for address in mine if _ipv6(address) == ipv6]
            if vips and family:
                first = self._job_for(family, vips)
                jobs += range(first, first + len(vips))
        waits = [job for job in jobs if not self._notifier.is_done(job)]
        if jobs and not waits:
            self.done += 1
            return False
        self._left[key] = len(waits)
        for job in waits:
            self._keys[job].append(key)
        return True

    def _job_for(self, addresses: Sequence[str], vips: Iterable[int]) -> int:
        for address in addresses:
            if address in self._first_job:
                return self._first_job[address]
        first = self._first_job[addresses[0]] = len(self._keys)
        for vip in vips:
            self._notifier.add(vip, addresses)
            self._keys.append([])
        return first

    def collect(self) -> list[str]:
        """Return the keys of clients told completely since the last call."""
        told = []
        for job in self._notifier.finished:
            for key in self._keys[job]:
                self._left[key] -= 1
                if not self._left[key]:
                    del self._left[key]
                    told.append(key)
            self._keys[job] = []
        self._notifier.finished.clear()
        self.done += len(told)
        return told

    def outstanding(self) -> dict[str, str]:
        """Return {key: reason} of all clients not told yet. Looks at every job: not for a loop."""
        reasons = {key: WAITING if left else UNREACHABLE for key, left in self._left.items()}
        for job, keys in enumerate(self._keys):
            for key in keys:
                reasons[key] = min(reasons[key], self._reason(job), key=_WORST_FIRST.index)
        return reasons

    def _reason(self, job: int) -> str:
        if self._notifier.is_unregistered(job):
            return UNREGISTERED
        return UNANSWERED if self._notifier.is_unanswered(job) else WAITING


def _ipv6(address: str) -> bool:
    return ":" in address
