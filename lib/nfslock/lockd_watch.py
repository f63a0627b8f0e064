# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices that lockd was restarted under the service, and has every client told to reclaim.

The lockd that was there when the service stood first is remembered while the service does not
stand, too: a restart of nfsserver in the group takes the address away before, and brings it back
after, the server that had the locks.
"""

from __future__ import annotations

from . import kernel, nsm
from ._vendor import ocf
from .announce import Announcement
from .holding import Holding
from .mirror import Mirror
from .system import System


class LockdWatch:
    """The lockd that has the locks of the service's NFSv3 clients."""

    def __init__(self, system: System, holding: Holding, mirror: Mirror,
                 announcement: Announcement, known: str) -> None:
        """`known`: what str() gave of the watch of a propagator before this one, or ""."""
        self.system, self.holding, self.mirror = system, holding, mirror
        self.announcement = announcement
        pid, _, born = known.partition(":")
        self._instance = (int(pid), int(born)) if pid.isdigit() and born.isdigit() else None
        #: When (monotonic seconds) it was last seen to be the same.
        self._seen = system.monotonic()

    def __str__(self) -> str:
        return ":".join(map(str, self._instance or ()))

    def check(self) -> None:
        """Look, and tell every client when their locks are gone; Error: it is tried again.

        Call it after the records were compared: the list of clients is made of them.
        """
        if self.announcement.ready_since is None:
            return
        if self._instance is None:
            self._instance = kernel.lockd_instance(self.system)
        stopped = kernel.serving(self.system) is False
        if self._instance is None or (not stopped and (
                self.system.start_time(self._instance[0]) == self._instance[1])):
            self._seen = self.system.monotonic()
            return
        # Kernels from 6.4 on unmonitor every client when nfsd stops: nobody went away.
        self.mirror.forget_absences()
        if stopped:
            return
        # A new lockd has no locks and is in grace. Announcing again to one that still has them
        # would make clients reclaim outside of grace, and lose what they hold.
        ocf.logger.warning("lockd was restarted and has lost the locks: every client is told again")
        self.holding.write_state(nsm.next_state([self.holding.read_state() or 0], 0))
        self.holding.enlist(self.mirror.held)
        self.announcement.restart(self._seen)
        self._instance = kernel.lockd_instance(self.system)
