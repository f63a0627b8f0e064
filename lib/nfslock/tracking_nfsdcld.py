# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsdcld's database, beside the daemon or without it: who may reclaim, who comes and goes.

The daemon reads the epochs (tracking_schema.py) at its own start only, so nobody else may change
them, or create or drop tables, while it runs; rows may come and go.

The same code keeps the copy in the holding directory, which nfsdclddb can print.
"""

from __future__ import annotations

from . import recovery, tracking_sqlite
from . import tracking_schema as schema
from .errors import Error
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping

    from .recovery import Clients

#: Our table of those who were taken out.
_REMOVED = "nfslock_removed"
#: Start of a note: the node whose own store was put in place with what is held.
SERVED = "nfslock_served_on "
#: A database that was not read: its token, its clients, the names of its parameters.
_NOTHING: tuple[object, Clients, frozenset[str]] = (None, {}, frozenset())


class Nfsdcld:
    """The database of one nfsdcld, or our copy in its form."""

    kind = "nfsdcld"

    def __init__(self, system: System, directory: str, live: bool = False) -> None:
        self.system, self.directory = system, directory
        #: Whether the daemon works on it now.
        self.live = live
        self.path = f"{directory}/main.sqlite"
        self._token: object = None
        self._rows: Clients = {}
        #: What read() found last, and the notes beside it, for as long as the file is the same.
        self._seen = _NOTHING
        self._view: object = None
        #: Whether an epoch came or went between the last two calls of follow().
        self.turned = False
        self._ends: dict[str, tuple[int, int, object]] = {}

    # -- reading ---------------------------------------------------------------------------

    def read(self) -> Clients | None:
        """All who could reclaim from an nfsd that starts now; None without a database.

        That is recovery and current together: who has come back, and who still may.
        """
        seen = tracking_sqlite.token(self.system, self.path)
        if seen is None:
            return None
        if seen != self._seen[0]:  # a start looks before and after its claim
            self._seen = (seen, *tracking_sqlite.transaction(self.system, self.path, self._read))
        return dict(self._seen[1])

    def _read(self, connection: sqlite3.Connection) -> tuple[Clients, frozenset[str]]:
        version = self._version(connection)
        if not version:
            return {}, frozenset()
        notes = connection.execute("SELECT key FROM parameters").fetchall()
        return (schema.all_rows(connection, schema.client_tables(connection, version)),
                frozenset(key for key, in notes))

    def _version(self, connection: sqlite3.Connection) -> int:
        return tracking_sqlite.version(connection, self.path, schema.NEWEST)

    # -- following -------------------------------------------------------------------------

    def follow(self) -> tuple[Clients, list[bytes]] | None:
        """(new or changed clients, ids gone) since the last call; None when nothing moved.

        The first call reports everything as new. A database that was replaced, or whose epochs went
        back, starts a new history: nothing counts as gone. With 100,000 clients one more costs a
        millisecond: rows only get larger rowids, so the tail and the count tell (all rows are read
        when they do not add up).
        """
        seen = tracking_sqlite.token(self.system, self.path)
        if seen is None or seen == self._token:
            return None
        change = tracking_sqlite.transaction(self.system, self.path, self._follow)
        self._token = seen
        return change

    def _follow(self, connection: sqlite3.Connection) -> tuple[Clients, list[bytes]]:
        version = self._version(connection)
        names = schema.client_tables(connection, version) if version else []
        status = self.system.status(self.path)
        epoch = schema.epochs(connection)[0] if version > 2 else 0
        view = (status.st_ino if status else 0, version, epoch, tuple(names))
        self.turned = self._view is not None and view != self._view
        if view == self._view:
            fresh = self._tails(connection, names)
            if fresh is not None:
                for owner in fresh:
                    # The full id has come: the hash that stood for it is no client of its own.
                    self._rows.pop(recovery.hashed(recovery.name_of(owner)), None)
                self._rows.update(fresh)
                return fresh, []
        before = self._view
        rows = schema.all_rows(connection, names)
        self._ends = {name: schema.end_of(connection, name) for name in names}
        changed, gone = recovery.difference(self._rows, rows)
        self._rows, self._view = rows, view
        if isinstance(before, tuple) and (before[0] != view[0] or before[2] > epoch):
            gone = []
        return changed, gone

    def _tails(self, connection: sqlite3.Connection, names: Iterable[str]) -> Clients | None:
        """The new rows, when nothing but new rows can have made the difference; None otherwise."""
        fresh: Clients = {}
        ends = {}
        for name in names:
            count, last, row = self._ends[name]
            ends[name] = schema.end_of(connection, name)
            # A deleted last row's number is given away again.
            if last and row != connection.execute(
                    f'SELECT * FROM "{name}" WHERE rowid = ?', (last,)).fetchone():
                return None
            tail = schema.rows_of(connection, name, last)
            new = connection.execute(
                f'SELECT count(*) FROM "{name}" WHERE rowid > ?', (last,)).fetchone()[0]
            if ends[name][0] != count + new:
                return None
            fresh.update(tail)
        self._ends = ends
        return fresh

    # -- writing ---------------------------------------------------------------------------

    def replace(self, clients: Mapping[bytes, bytes]) -> None:
        """Let these and nobody else reclaim from the nfsd that starts next. Durable."""
        def work(connection: sqlite3.Connection) -> None:
            version = self._prepared(connection)
            held: Clients = {}
            for table in schema.client_tables(connection, version):
                held.update(schema.rows_of(connection, table))
            unwanted = [o for o in (*held, recovery.PLACEHOLDER) if o not in clients]
            schema.apply(connection, version, clients, unwanted)
            self._forget_history(connection)
            if version > 2:
                # With 1, a restarted nfsdcld would empty the table to import nfsdcltrack's.
                connection.execute(
                    "INSERT OR REPLACE INTO parameters VALUES ('first_time', '0')")

        self._write(work)

    def change(self, add: Mapping[bytes, bytes], drop: Iterable[bytes] = ()) -> None:
        """Add or replace clients and take others out, in one durable transaction."""
        self._write(lambda connection: schema.apply(
            connection, self._prepared(connection), add, list(drop)))

    def change_and_note(self, add: Mapping[bytes, bytes], drop: Iterable[bytes]) -> None:
        """The same, and keep in mind who was taken out (for the copy; nfsdcld ignores it)."""
        def work(connection: sqlite3.Connection) -> None:
            gone = list(drop)
            schema.apply(connection, self._prepared(connection), add, gone)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_REMOVED} (id BLOB PRIMARY KEY)")
            connection.executemany(
                f"INSERT OR IGNORE INTO {_REMOVED} VALUES (?)", ((owner,) for owner in gone))
            connection.executemany(
                f"DELETE FROM {_REMOVED} WHERE id = ?", ((owner,) for owner in add))

        self._write(work)

    def note(self, name: str, on: bool) -> None:
        """Keep a note of ours in the database (nfsdcld looks for its own names only), or drop it.

        Without a database there is nothing to drop it from.
        """
        # To drop one is asked for again and again, to keep one once, and a start waits for that.
        if not on and not self.noted(name):
            return

        def work(connection: sqlite3.Connection) -> None:
            self._prepared(connection)
            connection.execute("DELETE FROM parameters WHERE key = ?", (name,))
            if on:
                connection.execute("INSERT INTO parameters VALUES (?, '1')", (name,))

        self._write(work)

    def noted(self, name: str) -> bool:
        """Whether there is such a note."""
        seen = tracking_sqlite.token(self.system, self.path)
        if seen is None or seen == self._seen[0]:
            return seen is not None and name in self._seen[2]
        return tracking_sqlite.transaction(self.system, self.path, lambda connection: bool(
            self._version(connection) and connection.execute(
                "SELECT 1 FROM parameters WHERE key = ?", (name,)).fetchone()))

    def served_on(self, node: str) -> None:
        """Note that this node's own store has what is held, and no other's; nobody is out by now.

        Durable. replace() takes the note back.
        """
        def work(connection: sqlite3.Connection) -> None:
            self._prepared(connection)
            self._forget_history(connection)
            connection.execute("INSERT INTO parameters VALUES (?, '1')", (f"{SERVED}{node}",))

        self._write(work)

    @staticmethod
    def _forget_history(connection: sqlite3.Connection) -> None:
        connection.execute(f"DROP TABLE IF EXISTS {_REMOVED}")
        connection.execute(
            "DELETE FROM parameters WHERE substr(key, 1, ?) = ?", (len(SERVED), SERVED))

    def removed(self) -> list[bytes]:
        """Who was taken out since the last replace() or served_on()."""
        def work(connection: sqlite3.Connection) -> list[bytes]:
            if _REMOVED not in tracking_sqlite.tables(connection):
                return []
            return [owner for owner, in connection.execute(f"SELECT id FROM {_REMOVED}")]

        if tracking_sqlite.token(self.system, self.path) is None:
            return []
        return tracking_sqlite.transaction(self.system, self.path, work)

    def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        missing = tracking_sqlite.token(self.system, self.path) is None
        if missing and self.live:
            raise Error(
                f"{self.path} is missing or empty although nfsdcld runs: restart nfsdcld")
        if missing:
            self.system.make_directory(self.directory)
        self._seen = _NOTHING
        tracking_sqlite.transaction(self.system, self.path, work, write=True, create=missing)

    def _prepared(self, connection: sqlite3.Connection) -> int:
        """The schema version, of a new database if there was none."""
        version = self._version(connection)
        if version:
            if version > 2 and not self.live:
                for epoch in filter(None, schema.epochs(connection)):
                    if schema.table_of(connection, epoch) is None:
                        schema.add_table(connection, epoch)
            return version
        schema.create(connection)
        return schema.NEWEST
