# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's rows for lock records: keeping the copies, and taking them over."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from statistics import median, quantiles

from nfslock.events import Inotify

from . import rig
from .node import AGENT, HOLDING, SM, Node, cpu_of, fill, run_timed
from .report import Row

IDLE = 5.0  # seconds over which the idle propagator is watched
INTERVAL = 0.2
SAMPLES = 100


def propagation(node: Node, place: rig.Rig, number: int) -> list[Row]:
    """Measure the propagator over `number` records that stand still, and one that comes."""
    node.clear()
    fill(SM, rig.clients(number))
    node.agent("start")
    try:
        found = [idle(node, number), *one_more(number)]
        with node.serving(place, number):
            row = Row(f"the same, clients told, service standing, N={number}", "ms",
                      idle_cpu(node.propagator()), targets=[("", 1.0)])
            row.judge()
            return [found[0], row, *found[1:]]
    finally:
        node.agent("stop")


def idle_cpu(pid: int) -> float:
    """The propagator's CPU milliseconds of one interval in which nothing changes."""
    # Until directory times are old enough to be trusted, and names have been compared after that,
    # which is done each 20 intervals with 100,000 records (mirror.py).
    time.sleep(22 * INTERVAL + 3)
    before = cpu_of(pid)
    time.sleep(IDLE)
    return (cpu_of(pid) - before) * INTERVAL / IDLE * 1000


def idle(node: Node, number: int) -> Row:
    """CPU of one interval in which nothing changes, while the service waits for nfsd."""
    ours = idle_cpu(node.propagator())
    row = Row(f"CPU of an idle interval, N={number}", "ms", ours, targets=[("", 1.0)])
    copy = HOLDING.with_name("copy")
    for name, argv in (
        ("cp -rpfn", ["cp", "-rpfn", f"{SM}/.", str(copy)]),
        ("rsync", ["rsync", "-a", "--delete", f"{SM}/", str(copy)]),
    ):
        try:
            copy.mkdir(exist_ok=True)
            run_timed(argv)
            row.others[name] = run_timed(argv)[1] * 1000
        except FileNotFoundError:
            row.others[name] = None
    subprocess.run(["rm", "-rf", str(copy)], check=True)
    row.judge()
    return row


def one_more(number: int) -> list[Row]:
    """From statd's write to the renamed copy, and what the same disk needs for that write alone.

    The fsync of the directory that follows in both cannot be seen from outside, and adds the same.
    The look-out sleeps: a busy one would take the core that the disk's own threads need.
    """
    delays, disk = [], []
    watch = Inotify()
    watch.add(str(HOLDING / "sm"))
    for n in range(SAMPLES):
        client = f"10.100.{n >> 8}.{n & 255}"
        copy = HOLDING / "sm" / client
        start = time.perf_counter()
        descriptor = os.open(SM / client, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_SYNC, 0o600)
        os.write(descriptor, rig.record(client))
        os.close(descriptor)
        while not copy.exists():
            if not select.select([watch], [], [], 10)[0]:
                raise RuntimeError(f"{client} was not propagated in 10 s")
            watch.read()
        delays.append((time.perf_counter() - start) * 1000)
        disk.append(own_write(HOLDING.with_name(f"own.{n}"), rig.record(client)) * 1000)
        time.sleep(0.01)  # the directory's fsync: the next record shall not wait for it
        watch.read()
    watch.close()
    rows = []
    for name, rank, limit in (("p50", 49, 2.0), ("p99", 98, 20.0)):
        ours, own = (quantiles(values, n=100)[rank] for values in (delays, disk))
        row = Row(f"one new record among {number}, {name}", "ms", ours, {"the disk's own": own})
        row.note = "target: above the disk's own write, fsync, rename"
        row.targets = [("", own + limit)]
        row.judge()
        rows.append(row)
    return rows


def own_write(path: Path, data: bytes) -> float:
    """Return the seconds that one write takes until it is renamed, without anything else."""
    start = time.perf_counter()
    temporary = path.with_suffix(".new")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    taken = time.perf_counter() - start
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return taken


def takeover(node: Node, sizes: tuple[int, ...], repeat: int) -> list[Row]:
    """Seconds of `start` on a node without any of the records that the holding directory has.

    Whether it grows linearly is said of the CPU time, the propagator's included: the wall's share
    depends on what else the machine does.
    """
    rows: list[Row] = []
    before = 0.0
    for number in sizes:
        times, work = [], []
        shutil.rmtree(HOLDING, ignore_errors=True)  # another table's, and the smaller one's
        fill(HOLDING / "sm", rig.clients(number))
        for _ in range(repeat):
            node.clear()
            wall, cpu = run_timed([AGENT, "start"], node.environment("start"))
            times.append(wall)
            work.append(cpu + cpu_of(node.propagator()))
            found = sum(1 for _ in os.scandir(SM))
            if found < number:
                raise RuntimeError(f"start left out {number - found} of {number} records")
            node.agent("stop")
        row = Row(f"start with {number} records to take over", "s", median(times))
        row.targets = [("", 3.0)] if number <= 10_000 else []
        each = median(work) / number
        row.note = f"CPU {median(work):.2g} s"
        if rows:
            row.note += f", {each / before:.2f}x that of the row above for each record"
        before = each
        row.judge()
        rows.append(row)
    return rows
