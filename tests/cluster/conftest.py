# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the cluster tier: the rig, a row of the table per scenario, artifacts on failure.

SUITE=bookworm|trixie|unstable chooses the machines' Debian (default trixie).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.support.vm import report
from tests.support.vm.artifacts import collect
from tests.support.vm.images import CACHE
from tests.support.vm.report import Row
from tests.support.vm.rig import Rig
from tests.support.vm.trial import NFSV4, TOGETHER

SUITE = os.environ.get("SUITE", "trixie")
#: How often each scenario is run.
ROUNDS = int(os.environ.get("NFSLOCK_ROUNDS", "1"))
#: This process's rig, if it has one. With pytest-xdist the tests run in other processes than the
#: one that prints: what it needs of them travels with their reports (user_properties).
_rigs: list[Rig] = []
_rows: list[Row] = []
_folders: list[str] = []
_versions: dict[str, str] = {}
#: Of a test: there is nothing to be said of it.
_SKIPPED = pytest.StashKey[bool]()


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
    its parameters. What stands in braces in the scenario is a parameter, too."""
    marker = request.node.get_closest_marker("scenario")
    chosen = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    kind = chosen.get("kind", marker.kwargs.get("kind", "on"))
    protocol = chosen.get("protocol", "3")
    scenario = marker.args[0].format(**chosen)
    row = report.Record(scenario, marker.kwargs.get("driver", "hand"), protocol, kind)
    yield row
    if request.node.stash.get(_SKIPPED, False):
        return
    outcome = row.outcome or "FAILED"
    full = Row(row.scenario, row.driver, row.protocol, SUITE, row.kind, outcome, *row.times)
    request.node.user_properties += [("row", list(full)), ("versions", _rigs[0].image.versions)]


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> int:
    """Which of NFSLOCK_ROUNDS runs of the same scenario this is."""
    return getattr(request, "param", 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if ROUNDS > 1:
        turns = range(1, ROUNDS + 1)
        metafunc.parametrize("turn", turns, indirect=True, ids=[f"turn{n}" for n in turns])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the machines know when a scenario fails."""
    result = yield
    item.stash[_SKIPPED] = result.skipped
    if result.when == "call" and result.failed and _rigs:
        folder = collect(_rigs[0], CACHE / "failed" / SUITE / item.name)
        (folder / "failure.txt").write_text(result.longreprtext)
        result.user_properties.append(("artifacts", str(folder)))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather the rows and folders, in whatever process they were made."""
    for name, value in report.user_properties:
        if name == "row" and report.when == "teardown":
            _rows.append(Row(*value))  # type: ignore[misc]
        elif name == "versions":
            _versions.update(value)  # type: ignore[call-overload]
        elif name == "artifacts" and value not in _folders:
            _folders.append(str(value))


def _words(nodeid: str) -> set[str]:
    """A test's parameters, without the turn and without the usual ones."""
    words = nodeid.partition("[")[2].rstrip("]").split("-")
    return {word for word in words if word and not word.startswith("turn")} - {"3", "on"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: else one process has them left when the others have ended.

    But not two that need a cluster: one would wait until the other has brought it up.
    """
    items.sort(key=lambda item: (
        bool(_words(item.nodeid)), not item.path.name.endswith("pacemaker.py")))
    for item in items:
        if item.get_closest_marker("timeout") is None:
            # A scenario may bring up a cluster first, on two cores that others use too.
            item.add_marker(pytest.mark.timeout(1800))


class ByState(LoadScopeScheduling):
    """Scenarios that start from the same saved state are run by the same process.

    To make that state takes longer than most of them. (pytest-xdist's own groups, marked
    xdist_group, have no effect with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.endswith("release.py"):
            return module
        words = _words(nodeid)
        for usual, others in (("3", {*NFSV4, TOGETHER}), ("on", {"off", "stock", "unlock"})):
            if not words & others:
                words.add(usual)
        driver = "hand" if module.endswith(("by_hand.py", "nfsv4.py", "tickle.py")) else module
        return " ".join([driver, *sorted(words)])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByState:
    return ByState(config, log)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "scenario(name, driver='hand', kind='on'): the row of the table",
        "quick: part of the quick set, which every suite runs",
        "full: only part of the full set",
    ):
        config.addinivalue_line("markers", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.section("scenarios (seconds after the fault)")
        terminalreporter.write_line(report.table(_rows))
        report.save(SUITE, _versions, _rows)
    for folder in _folders:
        terminalreporter.write_line(f"artifacts: {folder}")
