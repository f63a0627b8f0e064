# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's rows for NFSv4 recovery records: keeping the copy of nfsdcld's database.

There is no nfsd here to make nfsdcld write: rows are added as nfsdcld does it, by an INSERT of its
own in a rollback-journal database, and the propagator's own mirror follows in this process.
"""

from __future__ import annotations

import select
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles

from nfslock.events import Inotify
from nfslock.holding import Holding
from nfslock.owner import Owner
from nfslock.system import System
from nfslock.tracking_mirror import Held, RecoveryMirror
from nfslock.tracking_nfsdcld import Nfsdcld

from .node import DISK, Node, run_timed
from .report import Row

STORE, COPY = DISK / "store/nfsdcld", DISK / "raw"
SAMPLES = 100
LOOKS = 200  # looks at a database that stands still
INTERVAL_CPU = 1.0  # milliseconds


def name_of(number: int) -> bytes:
    """Return a client's owner id, as long as Linux's are."""
    return b"Linux NFSv4.2 client%06d.example.com" % number


def rows(_node: Node, number: int) -> list[Row]:
    """Measure the mirror over `number` clients: nothing new, one more, one less."""
    holding = Holding(System(), str(DISK / "held"), "bench")
    for place in (STORE, Path(holding.path)):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    holding.claim(Owner("bench", "node", "boot", 1, 1))
    store = Nfsdcld(System(), str(STORE))
    store.replace({name_of(n): b"" for n in range(number)})
    store.live = True
    mirror = RecoveryMirror(store, Held(System(), holding))
    start = time.perf_counter()
    mirror.touch(settled)
    first = [Row(f"first copy of {number} NFSv4 records", "s", time.perf_counter() - start)]
    start = time.perf_counter()
    for _ in mirror.steps(settled):
        pass
    first.append(Row("the same as directories, in the background", "s",
                     time.perf_counter() - start))
    found = [idle(mirror, number), *one_more(mirror, number), one_less(mirror, number), *first]
    held = mirror.held.read() or {}
    if len(held) != number or len(mirror.clients) != number:
        raise RuntimeError(f"{len(held)} of {number} clients are held")
    return found


def settled() -> bool:
    """The service stands."""
    return True


def cpu(work: Callable[[], object], times: int) -> float:
    """Return the CPU milliseconds of one call."""
    before = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - before) * 1000 / times


def idle(mirror: RecoveryMirror, number: int) -> Row:
    """CPU of one sweep over a database that stands still."""
    row = Row(f"CPU of an idle interval, N={number} NFSv4 clients", "ms",
              cpu(lambda: [None for _ in mirror.steps(settled)], LOOKS),
              targets=[("", INTERVAL_CPU)])
    for name, argv in (
        ("cp -pf", ["cp", "-pf", str(STORE / "main.sqlite"), str(COPY)]),
        ("sqlite3 .backup", ["sqlite3", str(STORE / "main.sqlite"), f".backup {COPY}"]),
    ):
        try:
            row.others[name] = median(run_timed(argv)[1] * 1000 for _ in range(3))
        except FileNotFoundError:
            row.others[name] = None
        subprocess.run(["rm", "-f", str(COPY)], check=True)
    row.judge()
    return row


def nfsdcld(statement: str, owner: bytes) -> float:
    """Do what nfsdcld does for one client; return its milliseconds until that is durable."""
    start = time.perf_counter()
    with closing(sqlite3.connect(str(STORE / "main.sqlite"))) as connection, connection:
        connection.execute(statement, (owner,))
    return (time.perf_counter() - start) * 1000


def one_more(mirror: RecoveryMirror, number: int) -> list[Row]:
    """From nfsdcld's commit to the copy's, beside nfsdcld's own."""
    watch = Inotify()
    watch.add(str(STORE), created=True)
    own, delays = [], []
    for n in range(SAMPLES):
        own.append(nfsdcld('INSERT INTO "rec-0000000000000001" (id) VALUES (?)',
                           name_of(number + n)))
        start = time.perf_counter()
        if not select.select([watch], [], [], 10)[0]:
            raise RuntimeError("no event of nfsdcld's commit")
        while mirror.touch(settled) == 0:
            pass
        delays.append((time.perf_counter() - start) * 1000)
        watch.read()
    watch.close()
    for n in range(SAMPLES):
        nfsdcld('DELETE FROM "rec-0000000000000001" WHERE id = ?', name_of(number + n))
    mirror.touch(settled)
    found = []
    for name, rank in (("p50", 49), ("p99", 98)):
        ours, theirs = (quantiles(values, n=100)[rank] for values in (delays, own))
        found.append(Row(f"one new client among {number}, {name}", "ms", ours,
                         {"nfsdcld's own commit": theirs},
                         note="from nfsdcld's commit to the copy's: the window of mirror"))
    return found


def one_less(mirror: RecoveryMirror, number: int) -> Row:
    """From nfsdcld's deletion to the copy's, the service standing."""
    own, delays = [], []
    for n in range(10):
        own.append(nfsdcld('DELETE FROM "rec-0000000000000001" WHERE id = ?', name_of(n)))
        start = time.perf_counter()
        if mirror.touch(settled) != 1:
            raise RuntimeError("a deletion was not mirrored")
        delays.append((time.perf_counter() - start) * 1000)
    for n in range(10):
        nfsdcld('INSERT INTO "rec-0000000000000001" (id) VALUES (?)', name_of(n))
    mirror.touch(settled)
    return Row(f"one client less among {number}", "ms", median(delays),
               {"nfsdcld's own commit": median(own)}, note="all rows are read again")
