# SPDX-License-Identifier: GPL-2.0-or-later
"""Which client has been told: clients with several addresses, addresses with several names.

Pure, like notify.py, whose jobs it makes and collects. A client is known to the caller by a *key*
(the file name of its monitor record: an address, or a host name if lockd runs with
nsm_use_hostnames). It has been told when every VIP of each of its families has told it: nobody can
say through which VIP it holds its locks. An address is told once, however many keys lead to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .notify import Notifier
from .notify_job import DONE, Job

WAITING = "waiting"
UNANSWERED = "no answer"  # asked, and none came within the time-out
UNREGISTERED = "no rpc.statd registered"  # its rpcbind answers, with port 0
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
        self._jobs: dict[str, list[Job]] = {}  # by address; one for each VIP of the family
        self._left: dict[str, int] = {}  # jobs not yet done, of keys with several
        self._unreachable: list[str] = []

    def add(self, key: str, addresses: Sequence[str]) -> bool:
        """Take up a client with all its addresses; return False if it is told already.

        A second address of one family is asked only where the first does not answer.
        """
        if len(addresses) == 1:
            jobs = self._jobs_for(addresses)
        else:
            jobs = [job for family in _by_family(addresses) for job in self._jobs_for(family)]
        left = 0
        for job in jobs:
            if job.state != DONE:
                job.keys += (key,)
                left += 1
        if not jobs:
            self._unreachable.append(key)
        elif not left:
            self.done += 1
            return False
        elif left > 1:
            self._left[key] = left
        return True

    def _jobs_for(self, addresses: Sequence[str]) -> list[Job]:
        """Return the jobs that tell a client at these addresses of one family."""
        for address in addresses:
            if address in self._jobs:
                return self._jobs[address]
        jobs = self._jobs[addresses[0]] = []
        for vip in self._vips[_ipv6(addresses[0])]:
            jobs.append(self._notifier.add(vip, addresses))
        return jobs

    def collect(self) -> list[str]:
        """Return the keys of clients told completely since the last call."""
        told = []
        for job in self._notifier.finished:
            for key in job.keys:
                if key in self._left:
                    self._left[key] -= 1
                    if self._left[key]:
                        continue
                    del self._left[key]
                told.append(key)
            job.keys = ()
        self._notifier.finished.clear()
        self.done += len(told)
        return told

    def outstanding(self) -> dict[str, str]:
        """Return {key: reason} of all clients not told yet. Looks at every job: not for a loop."""
        reasons = dict.fromkeys(self._unreachable, UNREACHABLE)
        for job in self._notifier.jobs:
            for key in job.keys:
                known = reasons.get(key, WAITING)
                reasons[key] = min(known, _reason(job), key=_WORST_FIRST.index)
        return reasons


def _reason(job: Job) -> str:
    if job.is_unregistered:
        return UNREGISTERED
    return UNANSWERED if job.is_unanswered else WAITING


def _by_family(addresses: Sequence[str]) -> list[list[str]]:
    found: dict[bool, list[str]] = {}
    for address in addresses:
        found.setdefault(_ipv6(address), []).append(address)
    return list(found.values())


def _ipv6(address: str) -> bool:
    return ":" in address
