# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of results: one row per scenario, printed after a run and written to doc/proof.md.

Each suite's run leaves its rows in the cache; `python3 -m tests.support.vm.report` prints the rows
of all suites together, `--proof` (make proof) writes doc/proof.md and the README's table from them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import NamedTuple

from .images import CACHE, REPOSITORY, SUITES, digest, sources
from .trial import Times, Trial

RESULTS = CACHE / "results"
#: The rows of one table must be of one library.
LIBRARY = "lib/**/*.py"
PROOF, README = REPOSITORY / "doc" / "proof.md", REPOSITORY / "README.md"
#: What encloses the table of the README.
MARKS = ("<!-- scenarios: written by `make proof` -->", "<!-- end of scenarios -->")
HEADINGS = (
    "scenario", "driven by", "protocol", "suite", "outcome", "VIP", "notified", "lock held", "I/O",
    "control: protection off", "stock agents",
)  # fmt: skip


class Row(NamedTuple):
    """One scenario's result; times in seconds from the fault, None: not seen or not applicable.

    kind: "on", "off" or another word (the control), or "stock" (the stock agents alone).
    """

    scenario: str
    driver: str
    protocol: str
    suite: str
    kind: str
    outcome: str
    address: float | None = None
    notified: float | None = None
    held: float | None = None
    io: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What the rows of one scenario have in common, whatever their kind."""
        return self[:4]

    def times(self) -> list[str]:
        times = (self.address, self.notified, self.held, self.io)
        return ["" if value is None else f"{value:.1f}" for value in times]


class Record:
    """What a scenario says for its row of the table."""

    def __init__(self, scenario: str, driver: str, protocol: str, kind: str) -> None:
        self.scenario, self.driver, self.protocol, self.kind = scenario, driver, protocol, kind
        self.outcome = ""
        self.times = Times(None, None, None, None)

    def finish(self, trial: Trial, outcome: str) -> None:
        """The scenario went as it should: its outcome in a few words, and its times."""
        self.times = trial.times()
        self.outcome = outcome


def _line(key: tuple[str, ...], kinds: dict[str, Row]) -> list[str]:
    """The cells of one scenario; of the stock agents the outcome, and VIP, lock and I/O times."""
    scenario, driver, protocol, suite = key
    ours = kinds.get("on")
    controls = [row.outcome for kind, row in kinds.items() if kind not in ("on", "stock")]
    stock = ""
    if "stock" in kinds:
        address, _, held, io = kinds["stock"].times()
        times = [f"{name} {value}" for name, value in
                 (("VIP", address), ("lock", held), ("I/O", io)) if value]  # fmt: skip
        stock = ", ".join([kinds["stock"].outcome, *times])
    return [
        scenario, driver, f"NFSv{protocol}", suite,
        *([ours.outcome, *ours.times()] if ours else [""] * 5),
        ", ".join(controls), stock,
    ]  # fmt: skip


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table that is also readable as it is, one line per scenario."""
    grouped: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault(row.key, {})[row.kind] = row
    lines = [list(HEADINGS), *(_line(key, kinds) for key, kinds in grouped.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def save(suite: str, versions: dict[str, str], rows: list[Row]) -> None:
    """Leave a suite's rows for the table of all suites.

    They take the place of earlier rows of the same scenarios; others stay as long as the product
    is the same.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path, product = RESULTS / f"{suite}.json", digest(sources(LIBRARY))
    kept: list[Row] = []
    if path.exists():
        before = json.loads(path.read_text())
        if before.get("product") == product:
            new = {(row.key, row.kind) for row in rows}
            kept = [row for row in (Row(*old) for old in before["rows"])
                    if (row.key, row.kind) not in new]  # fmt: skip
    text = json.dumps({"versions": versions, "product": product, "rows": kept + rows}, indent=1)
    path.write_text(text)


def load() -> tuple[dict[str, dict[str, str]], list[Row]]:
    """Versions and rows of every suite that was run with this library, the main suite first."""
    versions, rows, product = {}, [], digest(sources(LIBRARY))
    for suite in sorted(SUITES, key=lambda name: (name != "trixie", name)):
        path = RESULTS / f"{suite}.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        if saved.get("product") == product:
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
        "Written by `make proof` from the last runs with one and the same library: a row that is\n"
        "not there was not run; what the scenarios do and how they are judged stands in\n"
        "[tests/cluster/README.md](../tests/cluster/README.md). Seconds are counted from the\n"
        "fault, in machines that are emulated in software: compare them with each other only.\n\n"
        f"Run on {time.strftime('%Y-%m-%d', time.gmtime())}.\n\n"
        + "\n".join(lines) + "\n\n" + table(rows) + "\n"
    )  # fmt: skip


def readme(text: str) -> str:
    """The README with the main suite's table between its two marks."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"README.md: no {' ... '.join(MARKS)}")
    rows = [row for row in load()[1] if row.suite == "trixie"]
    return f"{before}{begin}\n{table(rows)}\n{end}{after}"


if __name__ == "__main__":
    if "--proof" in sys.argv:
        PROOF.write_text(proof())
        README.write_text(readme(README.read_text()))
        print(f"written: {PROOF}, and the table of {README}")
    else:
        print(table(load()[1]))
