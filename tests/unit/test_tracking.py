# SPDX-License-Identifier: GPL-2.0-or-later
"""The three forms of NFSv4 recovery records: reading, changing and following them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import birthday, kernel_tables, recovery, tracking
from nfslock.errors import ConfigError, Error, NodeError
from nfslock.holding import Holding
from nfslock.owner import Owner
from nfslock.recovery_watch import RecoveryWatch
from nfslock.runtime import Runtime
from nfslock.system import System
from nfslock.tracking import find
from nfslock.tracking_directory import Directory
from nfslock.tracking_mirror import Held, RecoveryMirror
from nfslock.tracking_nfsdcld import Nfsdcld
from nfslock.tracking_nfsdcltrack import Nfsdcltrack

A, B, C = b"Linux NFSv4.2 a", b"Linux NFSv4.1 b", b"Linux NFSv4.0 c/192.0.2.10"
HASH = hashlib.sha256(b"nfs/a@EXAMPLE.COM").digest()
LONG = bytes(range(256)) * 4  # 1024 bytes with NULs: as large as RFC 8881 lets an owner id be


def execute(path: Path, *statements: str, rows: tuple[tuple[bytes, ...], ...] = ()) -> None:
    """Run statements; the last one once for each row."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements[: len(statements) - bool(rows)]:
            connection.execute(statement)
        for row in rows:
            connection.execute(statements[-1], row)


def database(
    path: Path, version: int = 4, current: int = 1, recover: int = 0, padded: bool = True,
    clients: tuple[bytes, ...] = (), recovering: tuple[bytes, ...] = (), first_time: int = 0,
) -> None:
    """A database as nfsdcld of that schema writes it (utils/nfsdcld/sqlite.c)."""
    parameters = (
        "CREATE TABLE parameters (key TEXT PRIMARY KEY, value TEXT)",
        f"INSERT INTO parameters VALUES ('version', '{version}')")
    if version <= 2:
        execute(path, *parameters, "CREATE TABLE clients (id BLOB PRIMARY KEY, time INTEGER)",
                "INSERT INTO clients VALUES (?, 0)", rows=tuple((one,) for one in clients))
        return
    execute(path, *parameters, f"INSERT INTO parameters VALUES ('first_time', '{first_time}')",
            "CREATE TABLE grace (current INTEGER , recovery INTEGER)",
            f"INSERT INTO grace VALUES ({current}, {recover})")
    for epoch, rows in ((current, clients), (recover, recovering)):
        if epoch:
            bits = epoch & 0xFFFFFFFFFFFFFFFF
            name = f"rec-{bits:016x}" if padded else f"rec-{bits:x}"
            columns = "id BLOB PRIMARY KEY" + (", princhash BLOB" if version > 3 else "")
            execute(path, f'CREATE TABLE "{name}" ({columns})')
            if rows:
                execute(path, f'INSERT INTO "{name}" (id) VALUES (?)',
                        rows=tuple((one,) for one in rows))


def ids(path: Path, table: str) -> set[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute(f'SELECT id FROM "{table}"')}


def scalar(path: Path, query: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchone()[0]


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "cld/main.sqlite"


@pytest.fixture
def cld(main: Path) -> Nfsdcld:
    return Nfsdcld(System(), str(main.parent))


def printed(path: Path) -> str:
    done = subprocess.run(["nfsdclddb", "-p", str(path), "print"], capture_output=True, text=True,
                          check=True, env={"PATH": "/usr/sbin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    return done.stdout


# -- nfsdcld -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_schema_is_read_and_written_in_its_own_form(
    cld: Nfsdcld, main: Path, version: int
) -> None:
    database(main, version, clients=(A,))
    assert cld.read() == {A: b""}
    cld.replace({A: b"", B: HASH})
    cld.change({C: b""}, [A])
    assert cld.read() == {B: HASH if version == 4 else b"", C: b""}
    assert scalar(main, "SELECT value FROM parameters WHERE key = 'version'") == str(version)


@pytest.mark.parametrize("content", [None, b""])
def test_a_virgin_node_gets_a_database_that_nfsdclddb_prints(
    cld: Nfsdcld, main: Path, content: bytes | None
) -> None:
    main.parent.mkdir()
    if content is not None:
        main.write_bytes(content)
    assert cld.read() is None
    cld.replace({A: HASH, B: b""})
    assert cld.read() == {A: HASH, B: b""}
    said = printed(main)
    assert "Schema version: 4 current epoch: 1 recovery epoch: 0" in said
    assert f"id = {A.decode()}, princhash = {HASH.hex()}" in said
    assert f"id = {B.decode()}, princhash = (null)" in said


def test_a_restart_in_grace_finds_everybody_in_the_recovery_epoch(
    cld: Nfsdcld, main: Path
) -> None:
    """nfsd empties the current epoch then: who came back during the grace period moves over."""
    database(main, current=8, recover=7, clients=(A,), recovering=(B,))
    assert cld.read() == {A: b"", B: b""}
    cld.replace({A: b"", B: b"", C: b""})
    assert ids(main, "rec-0000000000000007") == {A, B, C}
    assert scalar(main, "SELECT current FROM grace") == 8
    assert scalar(main, "SELECT recovery FROM grace") == 7


def test_who_may_not_reclaim_is_gone_from_both_epochs(cld: Nfsdcld, main: Path) -> None:
    database(main, current=8, recover=7, clients=(A,), recovering=(A, B))
    cld.replace({B: b""})
    assert ids(main, "rec-0000000000000007") == {B}
    assert ids(main, "rec-0000000000000008") == set()


def test_names_of_tables_without_padding(cld: Nfsdcld, main: Path) -> None:
    database(main, 3, current=10, padded=False, clients=(A,))
    cld.replace({A: b"", B: b""})
    assert ids(main, "rec-a") == {A, B}


def test_an_epoch_beyond_63_bits(cld: Nfsdcld, main: Path) -> None:
    database(main, current=-2, clients=(A,))
    cld.change({B: b""})
    assert ids(main, "rec-fffffffffffffffe") == {A, B}


def test_a_restarted_nfsdcld_does_not_empty_what_was_merged(cld: Nfsdcld, main: Path) -> None:
    """With first_time=1 it would import nfsdcltrack's records over the current epoch."""
    database(main, first_time=1)
    cld.replace({A: b""})
    assert scalar(main, "SELECT value FROM parameters WHERE key = 'first_time'") == "0"


def test_a_newer_schema_is_left_untouched(cld: Nfsdcld, main: Path) -> None:
    database(main, 5, clients=(A,))
    before = main.read_bytes()
    for action in (cld.read, lambda: cld.replace({B: b""}), lambda: cld.change({B: b""}),
                   cld.follow):
        with pytest.raises(NodeError, match=r"schema version 5, newer than 4.*untouched"):
            action()
    assert main.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 30, b"SQL"])
def test_damage_is_reported_with_the_file(cld: Nfsdcld, main: Path, content: bytes) -> None:
    main.parent.mkdir()
    main.write_bytes(content)
    with pytest.raises(Error, match=r"main\.sqlite"):
        cld.read()
    assert main.read_bytes() == content


def test_a_foreign_database_is_refused(cld: Nfsdcld, main: Path) -> None:
    execute(main, "CREATE TABLE rubbish (x)")
    with pytest.raises(Error, match="not a client tracking database"):
        cld.replace({A: b""})


def test_nothing_is_created_behind_a_running_daemon(main: Path) -> None:
    with pytest.raises(Error, match="restart nfsdcld"):
        Nfsdcld(System(), str(main.parent), live=True).replace({A: b""})
    assert not main.exists()


def test_rows_that_would_hurt_nfsdcld_are_not_passed_on(cld: Nfsdcld, main: Path) -> None:
    cld.replace({A: b"", LONG: HASH, b"": b"", LONG + b"x": b"", B: b"short"})
    assert ids(main, "rec-0000000000000001") == {A, LONG}
    assert cld.read() == {A: b"", LONG: HASH}
    execute(main, 'INSERT INTO "rec-0000000000000001" (id) VALUES (?)', rows=((b"",),))
    assert cld.read() == {A: b"", LONG: HASH}


def test_a_placeholder_is_written_but_is_no_client(cld: Nfsdcld, main: Path) -> None:
    cld.replace({A: b"", recovery.PLACEHOLDER: b""})
    assert recovery.PLACEHOLDER in ids(main, "rec-0000000000000001")
    assert cld.read() == {A: b""}
    cld.replace({A: b""})
    assert ids(main, "rec-0000000000000001") == {A}


def test_a_failed_start_does_not_make_its_node_the_last_that_served(tmp_path: Path) -> None:
    holding = Holding(System(), str(tmp_path), "svc")
    holding.claim(Owner("svc", "a", "boot", 1, 3))
    held = Held(System(), holding)
    held.replace({A: b""})
    held.is_served_on("a")
    assert held.was_served_on("a") and not held.was_served_on("b")
    held.replace({A: b""})  # b's start, up to here
    assert not held.was_served_on("b") and not held.was_served_on("a")


def test_who_serves_now_is_the_only_one_whose_store_counts(tmp_path: Path) -> None:
    holding = Holding(System(), str(tmp_path), "svc")
    holding.claim(Owner("svc", "b", "boot", 1, 3))
    held = Held(System(), holding)
    held.replace({A: b"", B: b""})
    held.is_served_on("a")
    held.change({}, [A])
    held.is_served_on("b")
    assert held.was_served_on("b") and not held.was_served_on("a")
    assert held.database.removed() == [] and held.read() == {B: b""}


def test_what_others_write_between_two_looks_is_seen(cld: Nfsdcld, main: Path) -> None:
    cld.replace({A: b""})
    assert cld.read() == {A: b""} and not cld.noted("mine")
    Nfsdcld(System(), str(main.parent)).change({B: b""})
    assert cld.read() == {A: b"", B: b""}
    Nfsdcld(System(), str(main.parent)).note("mine", True)
    assert cld.noted("mine") and cld.read() == {A: b"", B: b""}
    (cld.read() or {}).clear()
    assert cld.noted("mine") and cld.read() == {A: b"", B: b""}


def test_the_copy_remembers_who_was_taken_out(cld: Nfsdcld, main: Path) -> None:
    assert cld.removed() == []
    cld.replace({A: b"", B: b""})
    cld.change_and_note({}, [A, B])
    cld.change_and_note({B: b""}, [])
    assert cld.removed() == [A] and cld.read() == {B: b""}
    assert "Schema version: 4" in printed(main)
    cld.replace({B: b""})
    assert cld.removed() == []


def test_a_write_ahead_log_is_followed(cld: Nfsdcld, main: Path) -> None:
    from nfslock.tracking_sqlite import use_wal

    cld.replace({A: b""})
    use_wal(System(), str(main))
    with closing(sqlite3.connect(main, isolation_level=None)) as daemon:
        assert cld.follow() == ({A: b""}, [])
        daemon.execute('INSERT INTO "rec-0000000000000001" (id) VALUES (?)', (B,))
        assert cld.follow() == ({B: b""}, [])
        assert not any(cld.follow() or ())


def test_a_lock_held_by_another_is_waited_for(cld: Nfsdcld, main: Path) -> None:
    """And an error with the file's name when it stays."""
    database(main, clients=(A,))
    with closing(sqlite3.connect(main, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Error, match=r"main\.sqlite: is locked"):
            _impatient(cld)
        other.execute("ROLLBACK")
    cld.change({B: b""})
    assert cld.read() == {A: b"", B: b""}


def _impatient(store: Nfsdcld) -> None:
    from nfslock import tracking_sqlite

    tracking_sqlite.transaction(store.system, store.path, lambda _: None, patience=0.01)


# -- following -----------------------------------------------------------------------------


def test_following_tells_news_once(cld: Nfsdcld, main: Path) -> None:
    assert cld.follow() is None
    database(main, clients=(A, B))
    assert cld.follow() == ({A: b"", B: b""}, [])
    assert cld.follow() is None
    execute(main, 'INSERT INTO "rec-0000000000000001" VALUES (?, ?)', rows=((C, HASH),))
    assert cld.follow() == ({C: HASH}, [])
    execute(main, 'DELETE FROM "rec-0000000000000001" WHERE id = ?', rows=((A,),))
    assert cld.follow() == ({}, [A])


def test_the_end_of_grace_takes_those_out_who_did_not_come_back(cld: Nfsdcld, main: Path) -> None:
    database(main, current=2, recover=1, clients=(A,), recovering=(A, B))
    assert cld.follow() == ({A: b"", B: b""}, [])
    execute(main, "UPDATE grace SET recovery = 0", 'DROP TABLE "rec-0000000000000001"')
    assert cld.follow() == ({}, [B])


def test_a_replaced_database_deletes_nothing(cld: Nfsdcld, main: Path) -> None:
    database(main, clients=(A, B))
    cld.follow()
    fresh = main.with_name("fresh.sqlite")
    database(fresh, clients=(C,))
    os.replace(fresh, main)
    assert cld.follow() == ({C: b""}, [])
    main.unlink()
    assert cld.follow() is None


ROW = 'INSERT OR REPLACE INTO "rec-{:016x}" VALUES (?, ?)'
moves = st.lists(st.tuples(st.sampled_from(["create", "remove", "start", "done"]),
                           st.integers(0, 5), st.sampled_from([b"", HASH])), max_size=12)


@given(moves)
def test_following_any_history_gives_what_reading_gives(
    history: list[tuple[str, int, bytes]]
) -> None:
    """What nfsdcld does to its tables, in any order, with a look now and then."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        main = Path(place) / "main.sqlite"
        database(main)
        store, known = Nfsdcld(System(), place), dict[bytes, bytes]()
        current, recover = 1, 0
        with closing(sqlite3.connect(main, isolation_level=None)) as daemon:
            for number, (what, client, principal) in enumerate(history):
                owner = b"client %d" % client
                if what == "create":
                    daemon.execute(ROW.format(current), (owner, principal or None))
                elif what == "remove":
                    daemon.execute(f'DELETE FROM "rec-{current:016x}" WHERE id = ?', (owner,))
                elif what == "start" and not recover:
                    daemon.execute("BEGIN")
                    recover, current = current, current + 1
                    daemon.execute("UPDATE grace SET current = ?, recovery = ?", (current, recover))
                    daemon.execute(
                        f'CREATE TABLE "rec-{current:016x}" (id BLOB PRIMARY KEY, princhash BLOB)')
                    daemon.execute("COMMIT")
                elif what == "start":
                    daemon.execute(f'DELETE FROM "rec-{current:016x}"')
                elif recover:
                    daemon.execute("BEGIN")
                    daemon.execute("UPDATE grace SET recovery = 0")
                    daemon.execute(f'DROP TABLE "rec-{recover:016x}"')
                    daemon.execute("COMMIT")
                    recover = 0
                if number % 3 == 0:
                    _take(store, known)
        _take(store, known)
        assert known == (store.read() or {})


def _take(store: Nfsdcld, known: dict[bytes, bytes]) -> None:
    added, gone = store.follow() or ({}, [])
    known.update(added)
    for owner in gone:
        del known[owner]


# -- nfsdcltrack ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_nfsdcltrack(tmp_path: Path, version: int) -> None:
    main = tmp_path / "track/main.sqlite"
    execute(main, "CREATE TABLE parameters (key TEXT PRIMARY KEY, value TEXT)",
            f"INSERT INTO parameters VALUES ('version', '{version}')",
            "CREATE TABLE clients (id BLOB PRIMARY KEY, time INTEGER"
            + (", has_session INTEGER)" if version == 2 else ")"))
    store = Nfsdcltrack(System(), str(main.parent))
    assert store.follow() == ({}, [])
    store.replace({A: HASH, B: b""})
    assert store.follow() == ({A: b"", B: b""}, [])
    # nfsd's end of grace removes who has not come back: those whose time is before its start.
    assert scalar(main, "SELECT max(time) FROM clients") == 0
    store.replace({B: b"", C: b""})
    assert store.read() == {B: b"", C: b""}
    assert store.follow() == ({C: b""}, [A])
    store.change({A: b""}, [C])
    assert store.read() == {A: b"", B: b""}


def test_nfsdcltrack_on_a_virgin_node_and_with_a_newer_schema(tmp_path: Path) -> None:
    store = Nfsdcltrack(System(), str(tmp_path / "track"))
    assert store.read() is None
    store.replace({A: b"", recovery.hashed("0" * 32): b""})
    assert store.read() == {A: b""}
    execute(tmp_path / "track/main.sqlite", "UPDATE parameters SET value = '3'")
    with pytest.raises(NodeError, match="untouched"):
        store.read()


# -- the directory -------------------------------------------------------------------------


def test_the_directory_form(tmp_path: Path) -> None:
    store = Directory(System(), str(tmp_path / "v4recovery"))
    assert store.read() is None and store.follow() is None
    store.replace({A: HASH, LONG: b""})
    names = {hashlib.md5(A).hexdigest(), hashlib.md5(LONG).hexdigest()}
    assert set(os.listdir(store.directory)) == names
    assert {(tmp_path / "v4recovery" / n).stat().st_mode & 0o777 for n in names} == {0o700}
    added, gone = store.follow() or ({}, [])
    assert set(added) == {recovery.hashed(name) for name in names} and gone == []
    (tmp_path / "v4recovery" / hashlib.md5(A).hexdigest()).rmdir()
    assert store.follow() == ({}, [recovery.hashed(hashlib.md5(A).hexdigest())])
    store.change({B: b""}, [LONG])
    assert set(os.listdir(store.directory)) == {hashlib.md5(B).hexdigest()}


def test_other_names_in_the_directory_are_nobodys(tmp_path: Path) -> None:
    place = tmp_path / "v4recovery"
    (place / "README").mkdir(parents=True)
    (place / ("F" * 32)).mkdir()
    store = Directory(System(), str(place))
    assert store.read() == {}
    store.replace({})
    assert {*os.listdir(place)} == {"README", "F" * 32}


def test_a_directory_gets_the_clients_of_a_database(tmp_path: Path, cld: Nfsdcld) -> None:
    """And back: only the hash is known then, in nfsdcld's own spelling of it."""
    cld.replace({A: HASH, C: b""})
    directory = Directory(System(), str(tmp_path / "v4recovery"))
    directory.replace(cld.read() or {})
    again = Nfsdcld(System(), str(tmp_path / "again"))
    again.replace(directory.read() or {})
    assert again.read() == {b"hash:%s\0" % hashlib.md5(one).hexdigest().encode(): b""
                            for one in (A, C)}
    assert recovery.union(again.read() or {}, cld.read() or {}) == {A: HASH, C: b""}


# -- nfsd does not find nfsdcld ready ------------------------------------------------------


def test_the_records_of_an_nfsd_without_nfsdcld_are_followed(tmp_path: Path) -> None:
    """Where it keeps them then, and nfsdcld's again once it has found it."""
    nfsd, pipes = tmp_path / "proc/fs/nfsd", tmp_path / "run/rpc_pipefs/nfsd"
    elsewhere, holding = tmp_path / "var/lib/nfs/v4recovery", tmp_path / "holding"
    for place in (tmp_path / "proc/self", nfsd, pipes, elsewhere, holding):
        place.mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 20 0:40 / /run/rpc_pipefs rw - rpc_pipefs sunrpc rw\n")
    (nfsd / "threads").write_text("8\n")
    (nfsd / "nfsv4recoverydir").write_text("/var/lib/nfs/v4recovery\n")
    (pipes / "cld").touch()
    system = System(str(tmp_path))
    Nfsdcld(system, "/var/lib/nfs/nfsdcld").replace({A: HASH, B: b""})
    keeper = Holding(system, "/holding", "service")
    keeper.claim(Owner("service", "a", "boot", 1, 1))
    mirror = RecoveryMirror(Nfsdcld(system, "/var/lib/nfs/nfsdcld"), Held(system, keeper))
    mirror.touch(lambda: True)
    assert not mirror.find_nfsd() and not mirror.fallen_back

    (pipes / "cld").unlink()
    (elsewhere / hashlib.md5(A).hexdigest()).mkdir()
    (elsewhere / hashlib.md5(C).hexdigest()).mkdir()
    assert mirror.find_nfsd() and not mirror.find_nfsd()
    assert (str(mirror), mirror.fallen_back) == ("v4recovery /var/lib/nfs/v4recovery", "v4recovery")
    mirror.touch(lambda: True)
    hashed = recovery.hashed(hashlib.md5(C).hexdigest())
    assert mirror.held.read() == {A: HASH, hashed: b""}

    (pipes / "cld").touch()
    assert mirror.find_nfsd() and not mirror.fallen_back
    assert mirror.store.kind == "nfsdcld"


def test_a_kernel_without_the_older_forms_keeps_nothing(tmp_path: Path) -> None:
    nfsd = tmp_path / "proc/fs/nfsd"
    for place in (nfsd, tmp_path / "var/lib/nfs/v4recovery"):
        place.mkdir(parents=True)
    (nfsd / "threads").write_text("8\n")
    assert tracking.fallback(System(str(tmp_path))) is None
    (nfsd / "nfsv4recoverydir").write_text("/var/lib/nfs/v4recovery\n")
    found = tracking.fallback(System(str(tmp_path)))
    assert found is not None and found.path == "/var/lib/nfs/v4recovery"


# -- the propagator's part -----------------------------------------------------------------


@pytest.fixture
def watch(tmp_path: Path) -> RecoveryWatch:
    """The watch of a start that has put A in place; nfsd does not run."""
    (tmp_path / "proc/fs/nfsd").mkdir(parents=True)
    (tmp_path / "proc/fs/nfsd/threads").write_text("0\n")
    system = System(str(tmp_path))
    (tmp_path / "holding").mkdir()
    holding = Holding(system, "/holding", "service")
    holding.claim(Owner("service", "a", "boot", 1, 1))
    Held(system, holding).replace({A: b""})
    Nfsdcld(system, "/nfsdcld").replace({A: b""})
    return make_watch(system, holding)


def make_watch(system: System, holding: Holding) -> RecoveryWatch:
    directories: list[str] = []
    watch = RecoveryWatch(Runtime(system, "service"), holding, "nfsdcld /nfsdcld", lambda: False,
                          directories.append)
    assert directories == [watch.directory] == ["/nfsdcld"]
    return watch


def test_a_start_does_not_wait_for_what_cannot_have_changed(watch: RecoveryWatch) -> None:
    watch.touch()  # nfsdcld has come up beside it
    assert list(watch.sweep()) == [] and watch.is_waiting
    assert watch.status() == {"v4_records": "", "v4_store": "nfsdcld /nfsdcld", "v4_fallback": ""}
    list(watch.sweep())
    assert not watch.is_waiting and watch.status()["v4_records"] == 1


@pytest.mark.parametrize("event", ["sweep", "touch"])
def test_an_nfsd_that_runs_is_looked_at_at_once(
    watch: RecoveryWatch, tmp_path: Path, event: str
) -> None:
    (tmp_path / "proc/fs/nfsd/threads").write_text("8\n")
    Nfsdcld(watch.runtime.system, "/nfsdcld").change({B: b""})
    if event == "sweep":  # of a propagator that was started again
        watch = make_watch(watch.runtime.system, watch.holding)
        list(watch.sweep())
    else:
        watch.touch()
    assert Held(watch.runtime.system, watch.holding).read() == {A: b"", B: b""}


def test_a_service_that_stands_is_looked_at_with_the_next_sweep(watch: RecoveryWatch) -> None:
    Nfsdcld(watch.runtime.system, "/nfsdcld").change({B: b""})
    watch.stands()
    list(watch.sweep())
    assert Held(watch.runtime.system, watch.holding).read() == {A: b"", B: b""}


# -- which one -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "path"), [
    ("nfsdcld", "/var/lib/nfs/nfsdcld/main.sqlite"),
    ("nfsdcltrack", "/var/lib/nfs/nfsdcltrack/main.sqlite"),
    ("v4recovery", "/var/lib/nfs/v4recovery")])
def test_a_configured_form_is_taken(tmp_path: Path, kind: str, path: str) -> None:
    found = find(System(str(tmp_path)), kind) if kind == "v4recovery" else find(System(), kind)
    assert (found.kind, found.path) == (kind, path)


def test_an_unknown_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="v4_tracking=sqlite"):
        find(System(str(tmp_path)), "sqlite")


def test_nfs_conf_says_where(tmp_path: Path) -> None:
    conf: Callable[[str], Path] = lambda name: tmp_path / "etc" / name  # noqa: E731
    (tmp_path / "etc/nfs.conf.d").mkdir(parents=True)
    conf("nfs.conf").write_text("[nfsdcltrack]\n storagedir = /a\n")
    assert find(System(str(tmp_path)), "nfsdcltrack").directory == "/a"
    conf("nfs.conf.d/x.conf").write_text("[nfsdcltrack]\nstoragedir=/b\n")
    assert find(System(str(tmp_path)), "nfsdcltrack").directory == "/b"


@pytest.mark.parametrize(("info", "owner"), [
    ('status: confirmed\nname: "Linux NFSv4.0 a/192.0.2.1"\nminor version: 0\n',
     b"Linux NFSv4.0 a/192.0.2.1"),
    ('status: confirmed\nname: "a\\x00b\\x22\\x5c\\xff: c"\n', b'a\0b"\\\xff: c'),
    ('status: courtesy\nname: "a"\n', b""),
    ('status: unconfirmed\nname: "a"\n', b""),
    ("", b""),
])
def test_who_has_a_lease(info: str, owner: bytes) -> None:
    assert kernel_tables.parse_leased(info) == owner


@pytest.mark.skipif(sys.byteorder == "big", reason="the number is a little-endian machine's")
def test_when_nfsd_was_started() -> None:
    info = 'clientid: 0x1b6925ff3c\naddress: "192.0.2.10:999"\nname: "a\\x0aclientid: 0x5"\n'
    assert kernel_tables.parse_birthday(info) == 0x6925FF3C
    with pytest.raises(ValueError):
        kernel_tables.parse_birthday("")


@pytest.mark.parametrize(("second", "now", "seconds"), [
    (None, 1000, 0), (1000, 1001, 0), (1000, 1000, 1), (1000, 995, 6), (1000, 900, 0),
])
def test_how_long_nfsds_start_is_put_off(second: int | None, now: int, seconds: int) -> None:
    assert birthday.pause(second, now) == seconds
