# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the holding directory equal to statd's directory: additions at once, deletions lazily.

Used by the propagator (events and sweeps) and by stop (one last sweep, additions only). It holds
both directories in memory, so that an event costs the changed files only and a quiet sweep one
stat(2). A directory that does change is listed only as often as keeps its cost small: inotify has
told of the files already.
"""

from __future__ import annotations

from . import nsm, plan, statd
from .errors import Error
from .files import finished
from .holding import Holding
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: A full look at every file each this many sweeps, whatever the directory's times say, and of more
#: files less often: one sweep for each _FILES_A_SWEEP files (some 30 us each).
_FULL_EVERY, _FILES_A_SWEEP = 60, 50
#: Names are compared after a pause of one sweep for each so many names (some 0.6 us each).
_NAMES_A_SWEEP = 5000
#: Directory times advance in ticks on older kernels: changes this recent (s) are looked for again.
_TICK = 2.0
#: Files looked at in one step of a sweep, and names compared in one.
_PORTION, _NAMES = 50, 1000


def _portions(names: Sequence[str], size: int = _PORTION) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


class Mirror:
    """statd's records and their copies in the holding directory."""

    def __init__(self, system: System, statd_dir: str, holding: Holding) -> None:
        self.system, self.statd_dir, self.holding = system, statd_dir, holding
        #: What the holding directory has; complete after the first sweep only (see _old).
        self.held: dict[str, bytes] = {}
        self.damaged = 0
        self.files: dict[str, statd.Lines] = {}
        #: Names in statd's directory that are no records (yet): never followed, looked at again.
        self.skipped: set[str] = set()
        #: Since when (monotonic seconds) a record we hold has been missing in statd's directory.
        self.absent: dict[str, float] = {}
        #: Clients known from statd's callout alone: that its directory lacks them says nothing.
        self.told: set[str] = set()
        #: Records that could not be written: the next sweep tries again.
        self._owed: dict[str, bytes] = {}
        self._where: dict[str, set[str]] = {}
        self._seen: tuple[int, ...] | None = None
        #: Sweeps until all files are read again, and until names may be compared again.
        self._until_full = self._until_names = 0
        self._place: tuple[int, ...] | None = None
        self._loaded = False

    def sweep(self, watched: bool = False) -> int:
        """Compare the directories; returns how many records were added.

        With `watched` (inotify tells of changed files) only names are compared, and not even
        these while the directory stands still or, with many names, was compared a moment ago; all
        files are read again after 60 sweeps or more.
        """
        return sum(self.steps(watched))

    def steps(self, watched: bool = False) -> Iterator[int]:
        """A sweep in steps of some milliseconds, however many records there are.

        Between two steps the caller may do anything else, touch() and keep() too.
        """
        if not self._loaded:
            # A writer that was killed may have left entries that a power cut would still undo.
            self.system.fsync(f"{self.holding.path}/sm")
            for portion in _portions(self.holding.names()):
                self._load(portion)
                yield 0
            self._loaded = True
        full = not watched or self._until_full <= 0
        self._until_full -= 1
        self._until_names -= 1
        seen = self.system.identity(f"{self.statd_dir}/sm")
        if seen is None:
            raise Error(f"{self.statd_dir}/sm is gone: no lock record can be kept")
        if seen[:2] != self._place:
            full, self._place = True, seen[:2]
        if self._owed:
            yield self._reconcile(tuple(self._owed))
            # Those of which statd's directory does not tell.
            self._put({name: self._with(name, data) for name, data in self._owed.items()})
        for portion in _portions(sorted(self.skipped)):
            yield self.touch(portion)
        if full:
            self._until_full = _FULL_EVERY
        elif seen == self._seen or self._until_names >= 0:
            return
        self._seen = None
        yield from self._compare(full)
        if full:
            for portion in _portions(sorted(self.held.keys() - self._where.keys())):
                yield self._reconcile(portion)
            if self._until_full > 0:  # not distrusted meanwhile
                self._until_full = max(_FULL_EVERY, len(self.files) // _FILES_A_SWEEP)
        self._until_names = len(self.files) // _NAMES_A_SWEEP
        if self.system.epoch() - seen[3] / 1e9 >= _TICK:
            self._seen = seen

    def distrust(self) -> None:
        """Events were lost: read all files again with the next sweep."""
        self._until_full = 0

    def _compare(self, full: bool) -> Iterator[int]:
        """Look at the files whose names have come or gone, or at all of them, in steps."""
        seen: set[str] = set()
        for names in self.system.portions(f"{self.statd_dir}/sm", _PORTION if full else _NAMES):
            seen.update(names)
            yield self.touch(finished(n for n in names if full or n not in self.files))
        for portion in _portions(list(self.files), _NAMES):
            yield self.touch([name for name in portion if name not in seen])

    def _names(self) -> set[str]:
        return set(finished(self.system.names(f"{self.statd_dir}/sm")))

    def _load(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                data = self.holding.record(name)
            except ValueError:
                self.damaged += 1
                continue
            if data is not None:
                self.held.setdefault(name, data)
                if nsm.is_made(data):
                    self.told.add(name)

    def _old(self, client: str) -> bytes | None:
        """What the holding directory has of a client; read from it while it is not loaded."""
        if client not in self.held and not self._loaded:
            try:
                data = self.holding.record(client)
            except ValueError:
                data = None
            if data is not None:
                self.system.fsync(f"{self.holding.path}/sm")
                self.held[client] = data
        return self.held.get(client)

    def touch(self, names: Iterable[str]) -> int:
        """Look at these files of statd's directory again; returns how many records were added."""
        clients: set[str] = set()
        trouble: Error | None = None
        for name in names:
            old = self.files.get(name, {})
            self.skipped.discard(name)
            try:
                new = statd.read_one(self.system, self.statd_dir, name) or {}
            except ValueError:
                # Empty or cut short: statd may be writing it, or its disk was full. That is no
                # client going away: what was there stays, and a client of that name. The names of
                # statd's own temporary files are gone by the time that one looks.
                if self.system.identity(f"{self.statd_dir}/sm/{name}") is not None:
                    self.skipped.add(name)
                new = old
                clients.add(name)
            except OSError as error:
                self.skipped.add(name)
                trouble = Error(f"{self.statd_dir}/sm/{name}: {error.strerror}")
                continue
            self.files[name] = new
            if not new:
                del self.files[name]
            for mon_name, _ in old:
                self._where[mon_name].discard(name)
            for mon_name, _ in new:
                self._where.setdefault(mon_name, set()).add(name)
            clients.update(mon_name for mon_name, _ in (*old, *new))
        added = self._reconcile(clients)
        if trouble is not None:
            raise trouble
        return added

    def keep(self, mon_name: str, my_name: str) -> None:
        """Make the record of a client that statd has just taken on durable, wherever it is.

        statd names its files by reverse DNS. Where no file has the client (statd keeps its records
        elsewhere), the record is made from the names. ValueError for names that none can hold.
        """
        made = nsm.format_line(mon_name, my_name)
        self.touch((mon_name,))
        if not self._is_here(mon_name, my_name):
            self.touch(self._names() ^ self.files.keys())
        if not self._is_here(mon_name, my_name):
            self.told.add(mon_name)
            record = self._with(mon_name, made)
            if record != self._old(mon_name):
                self._put({mon_name: record})
        if mon_name in self._owed:
            self._put({mon_name: self._with(mon_name, self._owed[mon_name])})

    def _with(self, client: str, data: bytes) -> bytes:
        """What is held of a client, with the lines of `data` that it lacks."""
        old = self._old(client)
        return old + nsm.missing_lines(nsm.parse_record(old), data) if old else data

    def _is_here(self, mon_name: str, my_name: str) -> bool:
        return any((mon_name, my_name) in self.files[name]
                   for name in self._where.get(mon_name, ()))

    def _reconcile(self, clients: Iterable[str]) -> int:
        now = self.system.monotonic()
        local: dict[str, bytes] = {}
        held: dict[str, bytes] = {}
        for client in clients:
            names = self._where.get(client)
            old = self._old(client)
            if names:
                files = [self.files[name] for name in sorted(names)]
                local[client] = nsm.by_client(files)[client]
                self.absent.pop(client, None)
                self.told.discard(client)
                if old is not None:
                    held[client] = old
            elif client in self.skipped or client in self.told:
                self.absent.pop(client, None)
            elif old is not None:
                self.absent.setdefault(client, now)
        new = plan.additions(local, held)
        self._put(new)
        return len(new)

    def _put(self, records: dict[str, bytes]) -> None:
        """Write, or note who is owed a record."""
        if not records:
            return
        self._owed.update(records)
        self.holding.put(records)
        for client in records:
            self._owed.pop(client, None)
        self.held.update(records)

    def expire(self, patience: float, settled_since: float | None) -> int:
        """Remove records whose clients have long gone; returns how many."""
        if any(name not in self.files and nsm.is_record_file(name) for name in self.skipped):
            return 0  # a damaged file: nobody knows whose record it was
        gone = plan.deletions(self.absent, self.system.monotonic(), patience, settled_since)
        if gone:
            # One that has come back this very moment is not gone, whatever its file is called.
            self.touch((self._names() ^ self.files.keys()).union(gone))
            gone = [client for client in gone if client in self.absent]
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
