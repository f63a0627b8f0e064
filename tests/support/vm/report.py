# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of results: one row per scenario, printed after a run and written to doc/proof.md.

Each suite's run leaves its rows in the cache; `python3 -m tests.support.vm.report` prints the rows
of all suites together, `--proof` writes doc/proof.md from them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from .images import CACHE, REPOSITORY, SUITES
from .trial import Times, Trial

RESULTS = CACHE / "results"
PROOF = REPOSITORY / "doc" / "proof.md"
HEADINGS = (
    "scenario", "driven by", "protocol", "suite", "outcome", "VIP", "notified", "lock held", "I/O",
)  # fmt: skip


class Row(NamedTuple):
    """One scenario's result; times in seconds from the fault, None: not seen or not applicable."""

    scenario: str
    driver: str
    protocol: str
    suite: str
    outcome: str
    address: float | None = None
    notified: float | None = None
    held: float | None = None
    io: float | None = None

    def cells(self) -> list[str]:
        times = (self.address, self.notified, self.held, self.io)
        return [
            self.scenario, self.driver, f"NFSv{self.protocol}", self.suite, self.outcome,
            *("" if value is None else f"{value:.1f}" for value in times),
        ]  # fmt: skip


class Record:
    """What a scenario says for its row of the table."""

    def __init__(self, scenario: str, driver: str, protocol: str) -> None:
        self.scenario, self.driver, self.protocol = scenario, driver, protocol
        self.outcome = ""
        self.times = Times(None, None, None, None)

    def finish(self, trial: Trial, outcome: str) -> None:
        """The scenario went as it should: its outcome in a few words, and its times."""
        self.times = trial.times()
        self.outcome = outcome


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table that is also readable as it is."""
    lines = [list(HEADINGS), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def save(suite: str, versions: dict[str, str], rows: list[Row]) -> None:
    """Leave a suite's rows for the table of all suites."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"versions": versions, "rows": rows}, indent=1)
    (RESULTS / f"{suite}.json").write_text(text)


def load() -> tuple[dict[str, dict[str, str]], list[Row]]:
    """Versions and rows of every suite that was run, the main suite first."""
    versions, rows = {}, []
    for suite in sorted(SUITES, key=lambda name: (name != "trixie", name)):
        path = RESULTS / f"{suite}.json"
        if path.exists():
            saved = json.loads(path.read_text())
            versions[suite] = saved["versions"]
            rows += [Row(*row) for row in saved["rows"]]
    return versions, rows


def proof() -> str:
    """The text of doc/proof.md."""
    versions, rows = load()
    names = ["kernel", "nfs-kernel-server", "pacemaker", "corosync", "resource-agents", "systemd"]
    lines = ["| suite | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {suite} | " + " | ".join(found.get(name, "") for name in names) + " |"
        for suite, found in versions.items()
    ]
    return (
        "# Proof on real kernels\n\n"
        "Written by `make cluster-full`; what the scenarios do and how they are judged stands in\n"
        "[tests/cluster/README.md](../tests/cluster/README.md). Seconds are counted from the\n"
        "fault, in machines that are emulated in software: compare them with each other only.\n\n"
        f"Run on {time.strftime('%Y-%m-%d', time.gmtime())}.\n\n"
        + "\n".join(lines) + "\n\n" + table(rows) + "\n"
    )  # fmt: skip


if __name__ == "__main__":
    if "--proof" in sys.argv:
        Path(PROOF).parent.mkdir(exist_ok=True)
        Path(PROOF).write_text(proof())
        print(f"written: {PROOF}")
    else:
        print(table(load()[1]))
