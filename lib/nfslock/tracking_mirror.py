# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the held NFSv4 recovery records equal to this node's: additions at once, deletions soon.

Unlike a monitor record, a stale recovery record does harm: it lets a client reclaim what it has
lost meanwhile. So a deletion is mirrored as soon as it is seen, but only while the service stands:
what goes away while it leaves are locks being released, not clients. nfsd waits for its own record,
not for our copy: a crash within the milliseconds between them is the remaining window, which
v4_records=direct closes.

One deletion is none. nfsd records an NFSv4.0 client when it confirms an open, and who has only
reclaimed is not asked to: at the end of the grace period the record goes with the old epoch, while
the client has its locks. So who goes with an epoch is held as long as nfsd gives it a lease.
"""

from __future__ import annotations

from . import holders, recovery, tracking
from .holding import Holding
from .system import System
from .tracking_directory import Directory
from .tracking_nfsdcld import SERVED, Nfsdcld

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .recovery import Clients
    from .tracking import Store

#: Where the copies stand in the holding directory.
DATABASE, DIRECTORY = "nfsdcld", "v4recovery"


class Held:
    """The recovery records in the holding directory, in nfsdcld's form and as directories.

    The database counts; the directories, for an administrator's hand, follow with catch_up().
    """

    def __init__(self, system: System, holding: Holding) -> None:
        self.holding = holding
        self.database = Nfsdcld(system, f"{holding.path}/{DATABASE}")
        self.directory = Directory(system, f"{holding.path}/{DIRECTORY}")

    def read(self) -> Clients | None:
        """Everybody who is held; None when this service has no NFSv4 history."""
        rows, names = self.database.read(), self.directory.read()
        if rows is None and not names:
            return None
        # Without a database the directories were put there by hand.
        return recovery.union(rows or {}, (names or {}) if rows is None else {})

    def replace(self, clients: Clients) -> None:
        """Hold these and nobody else. Durable; Fenced when there is a newer owner."""
        self.holding.check_owner()
        self.holding.spending(lambda: self.database.replace(clients))

    def was_served_on(self, node: str) -> bool:
        """Whether this node's own store has followed what is held, and no other's since.

        A claim does not say that: the start may have failed right after it.
        """
        return self.database.noted(f"{SERVED}{node}")

    def is_served_on(self, node: str) -> None:
        """Note that this node's store was put in place; replace() forgets it. Durable."""
        self.holding.check_owner()
        self.holding.spending(lambda: self.database.served_on(node))

    def change(self, add: Clients, drop: list[bytes]) -> None:
        """Hold these, too, and those no more. Durable; Fenced when there is a newer owner."""
        self.holding.check_owner()
        self.holding.spending(lambda: self.database.change_and_note(add, drop))

    def catch_up(self, wanted: Mapping[str, tuple[bytes, bytes]]) -> Iterator[None]:
        """Make the directories equal to what is held, in short steps."""
        there = self.directory.names()
        missing = [wanted[name][0] for name in wanted.keys() - there]
        spare = [recovery.hashed(name) for name in there - wanted.keys()]
        for portion in recovery.chunks(missing):
            self.holding.check_owner()
            self.directory.change(dict.fromkeys(portion, b""))
            yield
        for portion in recovery.chunks(spare):
            self.holding.check_owner()
            self.directory.change({}, portion)
            yield


class RecoveryMirror:
    """This node's recovery records and their copies."""

    def __init__(self, store: Store, held: Held) -> None:
        self.store, self.held = store, held
        self._own = store
        #: nfsdcld itself works in the holding directory: there is nothing to copy.
        self.direct = store.path == held.database.path
        #: Where nfsd keeps its records instead ("nothing": nowhere), "" while it uses nfsdcld.
        self.fallen_back = ""
        self.clients: dict[str, tuple[bytes, bytes]] = recovery.by_name(held.read() or {})
        #: Additions that are not durable yet, and names that this node has no more.
        self._new: dict[str, tuple[bytes, bytes]] = {}
        self._gone: set[str] = set()
        #: Names that went with an epoch, and whose clients have a lease.
        self._spared: set[str] = set()
        self._first = self._lag = True

    def __str__(self) -> str:
        """The store that is followed, as from_text() reads it."""
        return f"{self.store.kind} {self.store.directory}"

    def touch(self, settled: Callable[[], bool]) -> int:
        """Take in what has changed on the node; returns how many records were written or removed.

        `settled`: whether deletions count now; asked after the look, so that a service that left
        before the record did is noticed.
        """
        change = self.store.follow()
        if change is not None:
            self._note(*change)
            if self._first:
                # What went away while nobody looked.
                here = {recovery.name_of(owner) for owner in change[0]}
                self._gone.update(self.clients.keys() - here)
            if self._first or getattr(self.store, "turned", False):
                self._spare()
            self._first = False
        drop = [name for name in self._gone if name in self.clients]
        if drop and not settled():
            drop = []
        if not self._new and not drop:
            return 0
        owners = [self.clients[name][0] for name in drop]
        # The full id takes the place of a hash: both are never held.
        owners += [self.clients[name][0] for name, (owner, _) in self._new.items()
                   if name in self.clients and self.clients[name][0] != owner]
        if not self.direct:
            self.held.change(dict(self._new.values()), owners)
        for name in drop:
            del self.clients[name]
        self._gone.difference_update(drop)
        count = len(self._new) + len(drop)
        self.clients.update(self._new)
        self._new.clear()
        self._lag = True
        return count

    def find_nfsd(self) -> bool:
        """Follow the store that nfsd, which runs by now, has taken; whether it is a new one."""
        other = tracking.taken(self.held.holding.system, self._own)
        self.fallen_back = "" if other is self._own else other.kind if other else "nothing"
        if other is None or other.path == self.store.path:
            return False
        self.store, self._first = other, True
        self.direct = other.path == self.held.database.path
        return True

    def prepare(self) -> None:
        """Do once what the next client needs, without a client: OpenSSL alone takes its time."""
        recovery.name_of(b"")
        if not self.direct:
            self.held.change({}, [])

    def _spare(self) -> None:
        """Tell who went with an epoch but has a lease from who is gone."""
        candidates = (self._gone | self._spared) & self.clients.keys()
        if not candidates:
            return
        there = {recovery.name_of(o) for o in holders.leased(self.held.holding.system)}
        before, self._spared = self._spared & candidates, candidates & there
        self._gone = candidates - there
        if self.direct:
            # nfsdcld has taken them out of the held database itself.
            back = dict(self.clients[name] for name in self._spared - before)
            lapsed = [self.clients[name][0] for name in before - self._spared]
            if back or lapsed:
                self.held.change(back, lapsed)

    def _note(self, added: Clients, gone: list[bytes]) -> None:
        for owner in gone:
            name = recovery.name_of(owner)
            self._new.pop(name, None)
            self._gone.add(name)
        for owner, principal in added.items():
            name = recovery.name_of(owner)
            self._gone.discard(name)
            if not self.direct:
                self._spared.discard(name)
            known = self.clients.get(name)
            # The older forms do not know principals: what is held stays.
            keep = known is not None and self.store.kind != "nfsdcld"
            record = (owner, known[1] if keep and known else principal)
            if known is None or (not recovery.is_hashed(owner) and known != record):
                self._new[name] = record

    def steps(self, settled: Callable[[], bool]) -> Iterator[None]:
        """A sweep in short steps: touch(), and the directories."""
        if self._spared:
            self._spare()
        self.touch(settled)
        if self._lag:
            yield from self.held.catch_up(dict(self.clients))
            self._lag = False


def from_text(system: System, text: str, holding: Holding) -> RecoveryMirror:
    """The mirror for the store that a start has found: "KIND DIRECTORY"."""
    kind, _, directory = text.partition(" ")
    return RecoveryMirror(tracking.at(system, kind, directory, live=True), Held(system, holding))
