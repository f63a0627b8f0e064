# SPDX-License-Identifier: GPL-2.0-or-later
"""SQLite as nfsdcld and nfsdcltrack use it: short transactions beside a live daemon.

Never a raw copy of a database (it may be torn), never SQLite's own busy handler (it starves beside
a writer that does not pause): a lock that is taken is asked for again after 0.3 ms.

SQLite is loaded when it is needed: what serves NFSv3 alone does without.
"""

from __future__ import annotations

import os
import time

from .errors import Error, NodeError
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_PAUSE = 0.0003
#: Seconds after which a lock held by somebody else is an error.
PATIENCE = 5.0
#: Where the file change counter stands in the header (sqlite.org/fileformat2, 1.3.7).
_COUNTER = 24


def _open(system: System, path: str, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection, by SQLite's URI (https://sqlite.org/uri.html, section 3.1); or Error."""
    from . import sqlite

    place = system.path(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        return sqlite.connect(
            f"file:{place}?mode={mode}", timeout=timeout, isolation_level=None, uri=True)
    except sqlite.Error as error:
        raise Error(f"{path}: {error}") from error


def token(system: System, path: str) -> tuple[object, ...] | None:
    """Something that differs whenever the database does; None when there is none, or it is empty.

    Costs an open, a read of 4 bytes and three stat(2). The daemon's locks are its own: closing a
    descriptor drops those of the same process only, so call this outside of transactions.
    """
    identity = system.identity(path)
    if identity is None or not identity[2]:
        return None
    fd = os.open(system.path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        counter = os.pread(fd, 4, _COUNTER)
    finally:
        os.close(fd)
    return (*identity, counter, system.identity(f"{path}-wal"))


def use_wal(system: System, path: str) -> None:
    """Switch the database to write-ahead logging, which stays on for whoever opens it next.

    With a rollback journal a transaction counts once the journal is *removed*, and at the default
    synchronous=FULL nobody syncs the directory then: a power cut within seconds brings the journal
    back, and the next to open the database takes the transaction back. A log is synced by each
    commit (sqlite.org/pragma.html#pragma_synchronous).
    """
    connection = _open(system, path, "rw", PATIENCE)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    except connection.Error as error:
        raise Error(f"{path}: {error}") from error
    finally:
        connection.close()
    if mode != "wal":
        raise Error(f"{path}: this filesystem cannot hold a write-ahead log; use v4_records=mirror")


def _is_busy(connection: sqlite3.Connection, error: sqlite3.Error) -> bool:
    return isinstance(error, connection.OperationalError) and "locked" in str(error)


def transaction(
    system: System, path: str, work: Callable[[sqlite3.Connection], T], *,
    write: bool = False, create: bool = False, patience: float = PATIENCE,
) -> T:
    """Run `work` in one transaction, all of it or nothing; durable when this returns.

    A reader takes the shared lock first, a writer the reserved one. A hot journal that a power cut
    left is rolled back by the first to come, which is why readers open for writing, too. Raises
    errors.Error with the file's name for anything that SQLite reports, and whatever `work` raises.
    """
    deadline = time.monotonic() + patience
    connection = _open(system, path, "rwc" if create else "rw", 0.0)
    try:
        _insist(connection, "PRAGMA synchronous=EXTRA", deadline)
        if write:
            _insist(connection, "BEGIN IMMEDIATE", deadline)
        else:
            connection.execute("BEGIN")
            _insist(connection, "SELECT 1 FROM sqlite_master LIMIT 1", deadline)
        result = work(connection)
        _insist(connection, "COMMIT", deadline)
        return result
    except connection.Error as error:
        why = "is locked by another process" if _is_busy(connection, error) else str(error)
        raise Error(f"{path}: {why}") from error
    except MemoryError as error:  # SQLITE_NOMEM: a damaged file asks for absurd sizes
        raise Error(f"{path}: the database is damaged") from error
    finally:
        connection.close()  # rolls back what was not committed


def _insist(connection: sqlite3.Connection, statement: str, deadline: float) -> None:
    while True:
        try:
            connection.execute(statement).fetchall()
            return
        except connection.Error as error:
            if not _is_busy(connection, error) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def tables(connection: sqlite3.Connection) -> frozenset[str]:
    """The names of all tables."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return frozenset(name for name, in rows)


def columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    """The names of a table's columns, none when there is no such table."""
    return tuple(row[1] for row in connection.execute(f'PRAGMA table_info("{table}")'))


def version(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """The schema version in `parameters`; 0 for an empty database.

    Error for a foreign database, NodeError for a schema newer than `newest`.
    """
    known = tables(connection)
    if not known:
        return 0
    found, why = 0, "is not a client tracking database"
    if "parameters" in known:
        why = "has no schema version"
        row = connection.execute("SELECT value FROM parameters WHERE key = 'version'").fetchone()
        try:
            found = int(row[0])
        except (TypeError, ValueError):
            pass
    if found < 1:
        raise Error(f"{path} {why}: move it away if nothing else uses it")
    if found > newest:
        raise NodeError(
            f"{path} has schema version {found}, newer than {newest}, the newest that this release "
            "of nfslock knows: it is left untouched; update nfslock")
    return found
