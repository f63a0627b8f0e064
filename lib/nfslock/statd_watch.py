# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the rpc.statd that a start has asked for came up, and another one where it did not.

A start does not wait for it: systemd needs several times as long as all that the start itself does,
and nobody needs statd before clients come. The announcement does, since lockd refuses a client that
it cannot have monitored; a client whose reclaim is refused has lost its lock.
"""

from __future__ import annotations

from . import kernel, statd
from ._vendor import ocf
from .system import System

#: Starts of statd until it has its ports, and seconds that a running one has for it each time.
_STARTS, _READY = 3, 1.5
#: Seconds until statd is started again when there is no process.
_PATIENCE = 15.0


class StatdWatch:
    """rpc.statd of this node, from a start of the service on."""

    def __init__(self, system: System, directory: str, name: str) -> None:
        self.system, self.directory, self.name = system, directory, name
        self._starts = 1
        self._pids: list[int] = []
        self._since = system.monotonic()

    def missing(self) -> str:
        """What a reclaiming client would lack, "" when nothing. Waits for statd's answers.

        One that does not get its ports, since somebody's outgoing connection has one of them for
        the moment, is started again; so is one that systemd started with other arguments than ours
        (a start was killed before systemd knew of them). By UDP only rebooted clients ask: it is
        not waited for when that does not help. Error when statd cannot be started.
        """
        lacks = kernel.statd_lacks()
        foreign = not statd.is_as_asked(self.system, self.directory, self.name)
        if not lacks and not foreign:
            return ""
        what = f"rpc.statd does not answer by {' and '.join(lacks)}" if lacks else (
            "rpc.statd has other arguments than it was to be started with")
        if not self._had_its_time():
            return what
        if self._starts < _STARTS:
            ocf.logger.warning("%s: it is started again", what)
            self._starts += 1
            statd.stop(self.system, statd.pids(self.system))
            statd.start(self.system, self.directory, self.name, afresh=foreign)
            self._since = self.system.monotonic()
            return what
        if self._starts == _STARTS:
            self._starts += 1
            ocf.logger.error("%s: is its port taken, is rpcbind running?", what)
        return what if "TCP" in lacks else ""

    def _had_its_time(self) -> bool:
        now, pids = self.system.monotonic(), statd.pids(self.system)
        if pids != self._pids:
            self._pids, self._since = pids, now
        return now - self._since >= (_READY if pids else _PATIENCE)
