# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsdcltrack's database: schemas 1 and 2, written by a program that the kernel runs per event.

nfs-utils utils/nfsdcltrack/sqlite.c. There are no epochs: a client that is asked about after a
restart of nfsd gets a new time, and the end of the grace period removes all that are older.
"""

from __future__ import annotations

from . import recovery, tracking_sqlite
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from .recovery import Clients

#: The newest schema known here (CLTRACK_SQLITE_LATEST_SCHEMA_VERSION).
SCHEMA = 2


class Nfsdcltrack:
    """The database of the usermode helper."""

    kind = "nfsdcltrack"

    def __init__(self, system: System, directory: str) -> None:
        self.system, self.directory = system, directory
        self.path = f"{directory}/main.sqlite"
        self._token: object = None
        self._inode: int | None = None
        self._rows: Clients = {}

    def read(self) -> Clients | None:
        """All who could reclaim from an nfsd that starts now; None without a database."""
        if tracking_sqlite.token(self.system, self.path) is None:
            return None
        return tracking_sqlite.transaction(self.system, self.path, self._read)

    def _read(self, connection: sqlite3.Connection) -> Clients:
        if not self._version(connection):
            return {}
        return {owner: b"" for owner, in connection.execute("SELECT id FROM clients")
                if recovery.usable(owner) and owner != recovery.PLACEHOLDER}

    def _version(self, connection: sqlite3.Connection) -> int:
        return tracking_sqlite.version(connection, self.path, SCHEMA)

    def follow(self) -> tuple[Clients, list[bytes]] | None:
        """(new clients, ids gone) since the last call; None when nothing moved."""
        seen = tracking_sqlite.token(self.system, self.path)
        if seen is None or seen == self._token:
            return None
        status = self.system.status(self.path)
        rows = tracking_sqlite.transaction(self.system, self.path, self._read)
        changed, gone = recovery.difference(self._rows, rows)
        inode = status.st_ino if status else 0
        if self._inode not in (None, inode):
            gone = []
        self._rows, self._token, self._inode = rows, seen, inode
        return changed, gone

    def replace(self, clients: Mapping[bytes, bytes]) -> None:
        """Let these and nobody else reclaim from the nfsd that starts next. Durable.

        Clients of which only the directory name is known cannot be kept in this form.
        """
        self._write(clients, None)

    def change(self, add: Mapping[bytes, bytes], drop: Iterable[bytes] = ()) -> None:
        """Add clients and take others out, in one durable transaction."""
        self._write(add, list(drop))

    def _write(self, add: Mapping[bytes, bytes], drop: list[bytes] | None) -> None:
        missing = tracking_sqlite.token(self.system, self.path) is None
        if missing:
            self.system.make_directory(self.directory)

        def work(connection: sqlite3.Connection) -> None:
            if not self._version(connection):
                connection.execute("CREATE TABLE parameters (key TEXT PRIMARY KEY, value TEXT)")
                connection.execute(
                    "CREATE TABLE clients (id BLOB PRIMARY KEY, time INTEGER, has_session INTEGER)")
                connection.execute("INSERT INTO parameters VALUES ('version', ?)", (str(SCHEMA),))
            held = self._read(connection)
            if drop is None:
                gone = [o for o in (*held, recovery.PLACEHOLDER) if o not in add]
            else:
                gone = drop
            connection.executemany("DELETE FROM clients WHERE id = ?", ((o,) for o in gone))
            # Time 0 and no session: who does not come back is removed at the end of the grace
            # period, and nobody shortens it.
            session = "has_session" in tracking_sqlite.columns(connection, "clients")
            connection.executemany(
                f"INSERT INTO clients VALUES (?, 0{', 0' if session else ''})",
                ((owner,) for owner in add
                 if owner not in held and recovery.usable(owner) and not recovery.is_hashed(owner)))

        tracking_sqlite.transaction(self.system, self.path, work, write=True, create=missing)
