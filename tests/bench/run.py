# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: ours beside what users have today, in one run, in namespaces on a bare machine.

Compare the ratios, not the times: machines differ, and a loaded one slows all columns. Writes
build/bench/bench.json and one SVG a table. Exit 0 whether or not targets are met: it measures, and
marks the misses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

from tests.bench import (  # noqa: E402
    frequent,
    node,
    notification,
    records,
    recovery,
    report,
    rig,
    tickling,
)


def main() -> None:
    """Run the tables asked for, in order."""
    place: list[rig.Rig] = []
    nodes: list[node.Node] = []

    def server() -> node.Node:
        if not nodes:
            nodes.append(node.Node(place[0]))
        return nodes[0]

    tables: dict[str, tuple[str, Callable[[argparse.Namespace], list[report.Row]]]] = {
        "notification": (
            "until the last live client has its SM_NOTIFY",
            lambda args: notification.rows(place[0], args.repeat, args.patience),
        ),
        "monitor": (
            "actions that run all the time",
            lambda args: frequent.rows(server(), place[0], args.repeat),
        ),
        "propagation": (
            "keeping the copies of lock records",
            lambda args: records.propagation(server(), place[0], args.records),
        ),
        "recovery": (
            "keeping the copies of NFSv4 recovery records",
            lambda args: recovery.rows(server(), args.records),
        ),
        "tickle": (
            "until clients of a server that died without a word are connected again",
            lambda args: tickling.rows(place[0], args.repeat),
        ),
        "takeover": (
            "start, on a node that has none of the records",
            lambda args: records.takeover(
                server(), (args.records // 100, args.records // 10, args.records), args.repeat
            ),
        ),
    }
    parser = argparse.ArgumentParser(description="measure nfslock beside the tools it replaces")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables)}")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, interleaved")
    parser.add_argument("--patience", type=float, default=20, help="seconds for sm-notify")
    parser.add_argument("--records", type=int, default=100_000, help="lock records, the most")
    args = parser.parse_args()
    wanted = args.tables or list(tables)
    if not set(wanted) <= set(tables):
        parser.error(f"tables are {', '.join(tables)}")
    rig.enter()
    place.append(rig.Rig())
    done: dict[str, list[report.Row]] = {}
    for name in wanted:
        what, measure = tables[name]
        title = f"{name}: {what}"
        done[title] = measure(args)
        report.show(title, done[title])
        report.save(done, rig.OUT)
    print(f"\nIn brackets: that tool to ours. Written: {rig.OUT}/bench.json and plots.")


if __name__ == "__main__":
    main()
