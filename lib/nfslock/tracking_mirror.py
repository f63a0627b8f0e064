# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the held NFSv4 recovery records equal to this node's: additions at once, deletions soon.

Unlike a monitor record, a stale recovery record does harm: it lets a client reclaim what it has
lost meanwhile. So a deletion is mirrored as soon as it is seen, but only while the service stands:
what goes away while it leaves are locks being released, not clients. nfsd waits for its own record
to be durable, not for our copy: a crash within the milliseconds between them is the remaining
window, which v4_records=direct closes.
"""

from __future__ import annotations

from . import recovery
from .holding import Holding
from .system import System
from .tracking_directory import Directory
from .tracking_nfsdcld import Nfsdcld

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .recovery import Clients
    from .tracking import Store

#: Where the copies stand in the holding directory.
DATABASE, DIRECTORY = "nfsdcld", "v4recovery"


class Held:
    """The recovery records in the holding directory, in nfsdcld's form and as directories."""

    def __init__(self, system: System, holding: Holding) -> None:
        self.holding = holding
        self.database = Nfsdcld(system, f"{holding.path}/{DATABASE}")
        self.directory = Directory(system, f"{holding.path}/{DIRECTORY}")

    def read(self) -> Clients | None:
        """Everybody who is held; None when this service has no NFSv4 history."""
        rows, names = self.database.read(), self.directory.read()
        if rows is None and not names:
            return None
        # A client that only the directories know was put there by hand.
        return recovery.union(rows or {}, (names or {}) if rows is None else {})

    def replace(self, clients: Clients) -> None:
        """Hold these and nobody else. Durable; Fenced when there is a newer owner."""
        self.holding.check_owner()
        self.database.replace(clients)
        self.directory.replace(clients)

    def change(self, add: Clients, drop: list[bytes]) -> None:
        """Hold these, too, and those no more. Durable; Fenced when there is a newer owner.

        The directories follow with catch_up(): nothing here waits for them.
        """
        self.holding.check_owner()
        self.database.change(add, drop)

    def catch_up(self, clients: Clients) -> None:
        """Make the directories equal to what is held."""
        wanted = {recovery.name_of(owner) for owner in clients}
        if wanted != self.directory.names():
            self.holding.check_owner()
            self.directory.replace(clients)


class RecoveryMirror:
    """This node's recovery records and their copies."""

    def __init__(self, store: Store, held: Held) -> None:
        self.store, self.held = store, held
        #: nfsdcld itself works in the holding directory: there is nothing to copy.
        self.direct = store.path == held.database.path
        self.clients: dict[str, tuple[bytes, bytes]] = recovery.by_name(held.read() or {})
        #: Additions that are not durable yet, and names that this node has no more.
        self._new: dict[str, tuple[bytes, bytes]] = {}
        self._gone: set[str] = set()
        self._lag = True

    def touch(self, settled: Callable[[], bool]) -> int:
        """Take in what has changed on the node; returns how many records were written or removed.

        `settled`: whether deletions count now; asked after the look, so that a service that left
        before the record did is noticed.
        """
        change = self.store.follow()
        if change is not None:
            self._note(*change)
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

    def _note(self, added: Clients, gone: list[bytes]) -> None:
        for owner in gone:
            name = recovery.name_of(owner)
            self._new.pop(name, None)
            self._gone.add(name)
        for owner, principal in added.items():
            name = recovery.name_of(owner)
            self._gone.discard(name)
            known = self.clients.get(name)
            better = known is None or (
                not recovery.is_hashed(owner) and (
                    recovery.is_hashed(known[0]) or (principal or known[1]) != known[1]))
            if better:
                self._new[name] = (owner, principal)

    def sweep(self, settled: Callable[[], bool]) -> int:
        """touch(), and bring the directories up to date."""
        count = self.touch(settled)
        if self._lag:
            self.held.catch_up(dict(self.clients.values()))
            self._lag = False
        return count
