# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's notification rows: from a sender's start to the last client's first SM_NOTIFY."""

from __future__ import annotations

from statistics import median

from .report import Row
from .rig import VIP, VIP6, Rig, Run, alive, clients, notify


def rows(rig: Rig, repeat: int, patience: float) -> list[Row]:
    """Run all. repeat: runs of each sender, interleaved; patience: seconds for sm-notify."""
    return [
        compare(rig, "N=1000, all alive", 1000, repeat, patience, limit=0.1, twice=True),
        compare(rig, "N=10000, all alive", 10000, repeat, patience, limit=0.5, twice=True),
        compare(rig, "N=10000, 50 % dead", 10000, repeat, patience, limit=0.8, dead=50),
        compare(
            rig, "N=10000, 10 ms RTT, 1 % loss each way", 10000, repeat, patience,
            limit=1.5, rtt=10, loss=1,
        ),
        unreachable_dns(rig, repeat, patience),
        two_vips(rig, repeat),
        memory(rig),
    ]  # fmt: skip


def compare(
    rig: Rig,
    work: str,
    number: int,
    repeat: int,
    patience: float,
    *,
    limit: float,
    twice: bool = False,
    dead: int = 0,
    loss: float = 0,
    rtt: float = 0,
) -> Row:
    """Time ours, the floor loop and sm-notify (once) over the same clients."""
    hosts, expect = clients(number), alive(number, dead)
    ours, floor = [], []
    for _ in range(repeat):
        run = notify(rig, rig.ours(hosts, VIP, expect, 30), expect, dead=dead, loss=loss, rtt=rtt)
        ours.append(last(run, expect))
        argv = rig.floor(number, expect)
        if argv:
            run_floor = notify(rig, argv, expect, dead=dead, loss=loss, rtt=rtt)
            floor.append(last(run_floor))
    stock = notify(
        rig, rig.stock(hosts), expect, dead=dead, loss=loss, rtt=rtt, limit=patience
    )  # fmt: skip
    sent = run.sender.get("sent", 0)
    row = Row(work, "s", median(ours), {"floor": median(floor) if floor else None})
    row.others["sm-notify"] = last(stock)
    row.targets = [*([("floor", 2.0)] if twice else []), ("", limit)]
    row.note = f"{sent / expect:.2f} datagrams a live client, CPU {run.sender.get('cpu', 0):.2f} s"
    if not stock.complete:
        row.note += f"; sm-notify {stock.notified} of {expect} in {patience:g} s"
    row.judge()
    return row


def last(run: Run, told: int | None = None) -> float:
    """Return when the last was notified; never, if one was not or the sender missed it."""
    known = told is None or run.sender.get("told") == told
    return run.last if run.complete and known else float("inf")


def unreachable_dns(rig: Rig, repeat: int, patience: float) -> Row:
    """Three records with names among 1000 with addresses, and no name server answers."""
    hosts = clients(1000)
    names = [f"client{n}.example.com" for n in range(3)]
    mixed = [*names, *hosts]
    with_names, without = [], []
    for _ in range(repeat):
        run = notify(rig, rig.ours(mixed, VIP, 1000, 30), 1000)
        with_names.append(last(run, 1000))
        without.append(last(notify(rig, rig.ours(hosts, VIP, 1000, 30), 1000), 1000))
    stock = notify(rig, rig.stock(mixed), 1000, limit=patience)
    row = Row("1000 and 3 names, DNS unreachable", "s", median(with_names))
    row.others = {"without the names": median(without), "sm-notify": last(stock)}
    row.targets = [("without the names", 1.5)]
    if not stock.complete:
        row.note = f"sm-notify {stock.notified} of 1000 in {patience:g} s"
    row.judge()
    return row


def two_vips(rig: Rig, repeat: int) -> Row:
    """An IPv4 and an IPv6 VIP with 1000 clients each; the answering side looks at the sources."""
    hosts = clients(1000) + [f"fd08::{n:x}" for n in range(1, 1001)]
    times, wrong = [], ""
    for _ in range(repeat):
        run = notify(rig, rig.ours(hosts, f"{VIP},{VIP6}", 2000, 30), 2000)
        times.append(last(run, 2000))
        if run.answering["sources"] != [1, 1] or run.answering["states"] != [7, 7]:
            wrong = f"sources {run.answering['sources']}, states {run.answering['states']}"
    row = Row("two VIPs (IPv4 and IPv6), 1000 clients each", "s", median(times))
    row.targets = [("", 1.0)]
    row.note = wrong or "each from its own VIP, one state number"
    row.judge()
    row.misses += [wrong] if wrong else []
    return row


def memory(rig: Rig) -> Row:
    """Peak resident memory with 100,000 clients, half of them dead."""
    hosts, expect = clients(100_000), alive(100_000, 50)
    run = notify(rig, rig.ours(hosts, VIP, expect, 60), expect, dead=50, limit=60)
    size = run.sender["rss_kib"] / 1024 if run.complete and run.sender else None
    row = Row("memory at N=100000, 50 % dead", "MiB", size, targets=[("", 150.0)])
    row.note = f"all live told in {run.last:.1f} s, CPU {run.sender.get('cpu', 0):.1f} s"
    row.judge()
    return row
