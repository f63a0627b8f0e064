# SPDX-License-Identifier: GPL-2.0-or-later
"""The schemas 1 to 4 of nfsdcld's database: in which tables clients stand, and under which epoch.

nfs-utils utils/nfsdcld/sqlite.c. `grace` holds two epochs: `current`, whose table `rec-%016x` takes
new clients, and `recovery`, whose table says who may reclaim (0: not in grace). When nfsd starts,
current becomes recovery; when it restarts within its grace period, recovery stays and *current is
emptied*: what a restart shall find therefore goes into recovery if there is one.

All functions work within the caller's transaction, and raise sqlite3.Error as SQLite does.
"""

from __future__ import annotations

from . import recovery, tracking_sqlite
from .errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from .recovery import Clients

#: The newest schema known here (CLD_SQLITE_LATEST_SCHEMA_VERSION).
NEWEST = 4
_EPOCH = (1 << 64) - 1
_COLUMNS = ("id", "princhash")


def create(connection: sqlite3.Connection) -> None:
    """Make an empty database the newest schema's, with a first epoch."""
    connection.execute("CREATE TABLE parameters (key TEXT PRIMARY KEY, value TEXT)")
    connection.execute("CREATE TABLE grace (current INTEGER , recovery INTEGER)")
    connection.execute("INSERT INTO grace VALUES (1, 0)")
    connection.execute(
        "INSERT INTO parameters VALUES ('version', ?), ('first_time', '0')", (str(NEWEST),))
    add_table(connection, 1)


def add_table(connection: sqlite3.Connection, epoch: int) -> None:
    """Add an epoch's table."""
    connection.execute(
        f'CREATE TABLE "rec-{epoch:016x}" (id BLOB PRIMARY KEY, princhash BLOB)')


def epochs(connection: sqlite3.Connection) -> tuple[int, int]:
    """(current, recovery); SQLite stores the 64 bits as a signed number."""
    row = connection.execute("SELECT current, recovery FROM grace").fetchone()
    if row is None:
        return 0, 0
    if not all(isinstance(number, int) for number in row):
        raise connection.DatabaseError("its grace table is damaged")
    return row[0] & _EPOCH, row[1] & _EPOCH


def table_of(connection: sqlite3.Connection, epoch: int) -> str | None:
    """The epoch's table: nfs-utils 2.4.1 did not pad its name, later ones rename it at start."""
    known = tracking_sqlite.tables(connection)
    for name in (f"rec-{epoch:016x}", f"rec-{epoch:x}"):
        if name in known:
            return name
    return None


def client_tables(connection: sqlite3.Connection, version: int) -> list[str]:
    """Where clients stand; the one that the next start of nfsd reads comes first."""
    if version <= 2:
        return ["clients"]
    current, recover = epochs(connection)
    found = [table_of(connection, epoch) for epoch in (recover, current) if epoch]
    return [name for name in found if name is not None]


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    return tuple(n for n in tracking_sqlite.columns(connection, table) if n in _COLUMNS)


def rows_of(connection: sqlite3.Connection, table: str, after: int = 0) -> Clients:
    """The usable rows of one table, from a rowid on."""
    principal = "princhash" if "princhash" in _columns(connection, table) else "NULL"
    rows = connection.execute(
        f'SELECT id, {principal} FROM "{table}" WHERE rowid > ?', (after,))
    return {owner: principal or b"" for owner, principal in rows
            if recovery.usable(owner, principal or b"") and owner != recovery.PLACEHOLDER}


def all_rows(connection: sqlite3.Connection, names: Iterable[str]) -> Clients:
    """The rows of several tables; who came back last says with which principal."""
    rows: Clients = {}
    for name in names:
        rows.update(rows_of(connection, name))
    # Hashing 100,000 ids takes longer than reading them.
    return recovery.union(rows) if any(map(recovery.is_hashed, rows)) else rows


def end_of(connection: sqlite3.Connection, table: str) -> tuple[int, int, object]:
    """How many rows there are, the last one's rowid, and all of that row."""
    count = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
    row = connection.execute(
        f'SELECT rowid, * FROM "{table}" ORDER BY rowid DESC LIMIT 1').fetchone()
    return (count, row[0], row[1:]) if row else (0, 0, None)


def apply(
    connection: sqlite3.Connection, version: int, add: Mapping[bytes, bytes], drop: list[bytes]
) -> None:
    """Add or replace clients where the next start of nfsd looks, and take others out everywhere.

    Error for a database without a table for them.
    """
    names = client_tables(connection, version)
    if not names:
        raise Error("the epoch of the database has no table: run `nfsdclddb fix-table-names`")
    for name in names:
        connection.executemany(f'DELETE FROM "{name}" WHERE id = ?', ((owner,) for owner in drop))
    target = names[0]
    known = rows_of(connection, target) if len(add) > 100 else {}
    rows = [(owner, principal or None) for owner, principal in add.items()
            if recovery.usable(owner, principal) and known.get(owner) != principal]
    if "princhash" in _columns(connection, target):
        connection.executemany(
            f'INSERT OR REPLACE INTO "{target}" (id, princhash) VALUES (?, ?)', rows)
    else:
        connection.executemany(
            f'INSERT OR REPLACE INTO "{target}" (id) VALUES (?)', ((row[0],) for row in rows))
