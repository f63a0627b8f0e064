# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the cluster tier: the rig, a row of the table per scenario, artifacts on failure.

SUITE=bookworm|trixie|unstable chooses the machines' Debian (default trixie).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.vm import report
from tests.support.vm.artifacts import collect
from tests.support.vm.images import CACHE
from tests.support.vm.rig import Rig

SUITE = os.environ.get("SUITE", "trixie")
ROWS: list[report.Row] = []
FOLDERS: list[Path] = []
_rigs: list[Rig] = []


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """The machines of the suite; scenarios restore the state that they start from."""
    made = Rig(SUITE)
    _rigs.append(made)
    yield made
    made.close()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[report.Record]:
    """The row of this test: scenario and driver from its `scenario` marker, kind and protocol from
    its parameters."""
    marker = request.node.get_closest_marker("scenario")
    chosen = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    kind = chosen.get("kind", marker.kwargs.get("kind", "on"))
    protocol = chosen.get("protocol", "3")
    row = report.Record(marker.args[0], marker.kwargs.get("driver", "hand"), protocol, kind)
    yield row
    outcome = row.outcome or "FAILED"
    if request.node.get_closest_marker("xfail") and not row.outcome:
        outcome = "not supported yet"
    ROWS.append(
        report.Row(row.scenario, row.driver, row.protocol, SUITE, row.kind, outcome, *row.times)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the machines know when a scenario fails."""
    result = yield
    if result.when == "call" and result.failed and _rigs:
        FOLDERS.append(collect(_rigs[0], CACHE / "failed" / SUITE / item.name))
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A scenario may bring up a cluster first, on two cores that others use too."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "scenario(name, driver='hand', kind='on'): the row of the table",
        "quick: part of the quick set, which every suite runs",
        "full: only part of the full set",
    ):
        config.addinivalue_line("markers", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.section("scenarios (seconds after the fault)")
        terminalreporter.write_line(report.table(ROWS))
        report.save(SUITE, _rigs[0].image.versions if _rigs else {}, ROWS)
    for folder in FOLDERS:
        terminalreporter.write_line(f"artifacts: {folder}")
