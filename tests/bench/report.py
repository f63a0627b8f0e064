# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bench shows: tables with targets and misses, bench.json, and a plot for each table."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One piece of work. Values are medians in `unit`; None: not run, inf: not done in time."""

    work: str
    unit: str
    ours: float | None
    others: dict[str, float | None] = field(default_factory=dict)
    targets: list[tuple[str, float]] = field(default_factory=list)  # what, not to be exceeded
    misses: list[str] = field(default_factory=list)
    note: str = ""

    def judge(self) -> None:
        """Fill in the misses. A target names a column and a factor, or nothing and a limit."""
        if self.ours is None:
            self.misses.append("not run")
            return
        for what, limit in self.targets:
            reference = self.others.get(what, 1.0)
            if reference is not None and self.ours > limit * reference:
                self.misses.append(self.target(what, limit))

    def target(self, what: str, limit: float) -> str:
        """Return a target as text."""
        return f"<= {limit:g}x {what}" if what in self.others else f"< {number(limit)} {self.unit}"


def number(value: float | None) -> str:
    """Return three digits."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "never"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def show(title: str, rows: list[Row]) -> None:
    """Print a table; each other tool's column has its ratio to ours in brackets."""
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    lines = [["work", "unit", "ours", *others, "target", "", "note"]]
    for row in rows:
        cells = []
        for name in others:
            value = row.others.get(name)
            ratio = f" ({value / row.ours:.2g}x)" if value and row.ours else ""
            cells.append(number(value) + (ratio if math.isfinite(value or 0) else ""))
        target = ", ".join(row.target(*target) for target in row.targets)
        verdict = f"MISSED {', '.join(row.misses)}" if row.misses else "ok" if row.targets else ""
        lines.append([row.work, row.unit, number(row.ours), *cells, target, verdict, row.note])
    widths = [max(map(len, column)) for column in zip(*lines)]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(map(str.ljust, line, widths)).rstrip())
        if line is lines[0]:
            print("  " + "-" * (sum(widths) + 2 * len(widths) - 2))


def save(tables: dict[str, list[Row]], directory: Path) -> None:
    """Write bench.json and one SVG a table. Infinite values become null."""
    directory.mkdir(parents=True, exist_ok=True)

    def plain(value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    out = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "tables": {
            title: [{key: plain(value) for key, value in asdict(row).items()} for row in rows]
            for title, rows in tables.items()
        },
    }
    (directory / "bench.json").write_text(json.dumps(out, indent=1) + "\n")
    try:
        import matplotlib
    except ImportError:
        print("\nNo plots: matplotlib is not installed (pip install '.[bench]').")
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    for title, rows in tables.items():
        _plot(plt, title, rows, directory / f"{title.split(':')[0].replace(' ', '-')}.svg")


def _plot(plt: object, title: str, rows: list[Row], path: Path) -> None:
    labels = ["ours", *dict.fromkeys(name for row in rows for name in row.others)]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.7 * len(rows)))  # type: ignore[attr-defined]
    height = 0.8 / len(labels)
    for shift, label in enumerate(labels):
        values = [row.ours if label == "ours" else row.others.get(label) for row in rows]
        shown = [value if value and math.isfinite(value) else 0 for value in values]
        axes.barh([n + shift * height for n in range(len(rows))], shown, height, label=label)
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(rows))])
    axes.set_yticklabels([f"{row.work} ({row.unit})" for row in rows])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_title(title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)  # type: ignore[attr-defined]
