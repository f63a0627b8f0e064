# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the holding directory equal to statd's directory: additions at once, deletions lazily.

Used by the propagator (events and sweeps) and by stop (one last sweep, additions only). It holds
both directories in memory, so that an event costs the changed files only and a quiet sweep one
stat(2).
"""

from __future__ import annotations

from . import nsm, plan, statd
from .errors import Error
from .holding import Holding
from .system import TEMPORARY, System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: A full look at every file at least each this many sweeps, whatever the directory's times say.
_FULL_EVERY = 60
#: Directory times advance in ticks on older kernels: changes this recent (s) are looked for again.
_TICK = 2.0


class Mirror:
    """statd's records and their copies in the holding directory."""

    def __init__(self, system: System, statd_dir: str, holding: Holding) -> None:
        self.system, self.statd_dir, self.holding = system, statd_dir, holding
        self.held, self.damaged = holding.records()
        self.files: dict[str, statd.Lines] = {}
        #: Names in statd's directory that are no records (yet): never followed, looked at again.
        self.skipped: set[str] = set()
        #: Since when (monotonic seconds) a record we hold has been missing in statd's directory.
        self.absent: dict[str, float] = {}
        self._where: dict[str, set[str]] = {}
        #: Clients whose records could not be written: tried again with every event and sweep.
        self._unsaved: set[str] = set()
        self._seen: tuple[int, ...] | None = None
        self._sweeps = 0

    def sweep(self, watched: bool = False) -> int:
        """Compare the directories; returns how many records were added.

        With `watched` (inotify tells of changed files) only names are compared, and not even
        these while the directory stands still; every 60th time all files are read again.
        """
        full = not watched or self._sweeps % _FULL_EVERY == 0
        self._sweeps += 1
        seen = self.system.identity(f"{self.statd_dir}/sm")
        if seen is None:
            raise Error(f"{self.statd_dir}/sm is gone: no lock record can be kept")
        if not full and seen == self._seen and not (self.skipped or self._unsaved):
            return 0
        self._seen = None
        if full:
            found = statd.scan(self.system, self.statd_dir)
            self.files, self.skipped = found.files, set(found.skipped)
            self._where = {}
            for name, lines in found.files.items():
                for mon_name, _ in lines:
                    self._where.setdefault(mon_name, set()).add(name)
            added = self._reconcile(self._where.keys() | self.held.keys())
        else:
            names = {name for name in self.system.names(f"{self.statd_dir}/sm")
                     if not name.startswith(TEMPORARY)}
            added = self.touch(names ^ self.files.keys())
        if self.system.epoch() - seen[3] / 1e9 >= _TICK:
            self._seen = seen
        return added

    def touch(self, names: Iterable[str]) -> int:
        """Look at these files of statd's directory again; returns how many records were added."""
        clients: set[str] = set()
        for name in names:
            old = self.files.get(name, {})
            self.skipped.discard(name)
            try:
                new = statd.read_one(self.system, self.statd_dir, name) or {}
            except ValueError:
                # Empty or cut short: statd may be writing it. What we hold stays.
                self.skipped.add(name)
                new = {}
            except OSError as error:
                raise Error(f"{self.statd_dir}/sm/{name}: {error.strerror}") from error
            self.files[name] = new
            if not new:
                del self.files[name]
            for mon_name, _ in old:
                self._where[mon_name].discard(name)
            for mon_name, _ in new:
                self._where.setdefault(mon_name, set()).add(name)
            clients.update(mon_name for mon_name, _ in (*old, *new))
        return self._reconcile(clients)

    def _reconcile(self, clients: Iterable[str]) -> int:
        now = self.system.monotonic()
        local: dict[str, bytes] = {}
        for client in self._unsaved.union(clients):
            names = self._where.get(client)
            if names:
                lines = nsm.by_client(self.files[name] for name in sorted(names))
                local[client] = lines[client]
                self.absent.pop(client, None)
            elif client in self.held:
                self.absent.setdefault(client, now)
        new = plan.additions(local, self.held)
        self._unsaved = set(new)
        self.holding.put(new)
        self._unsaved = set()
        self.held.update(new)
        return len(new)

    def expire(self, patience: float, settled_since: float | None) -> int:
        """Remove records whose clients have long gone; returns how many."""
        gone = plan.deletions(self.absent, self.system.monotonic(), patience, settled_since)
        if gone:
            self.holding.drop(gone)
            for client in gone:
                self.held.pop(client, None)
                self.absent.pop(client, None)
                self._where.pop(client, None)
        return len(gone)

    def forget_absences(self) -> None:
        """Start to wait anew for every absent record: what removed it was no client going away."""
        now = self.system.monotonic()
        self.absent = dict.fromkeys(self.absent, now)
