# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops under load: 50 clients hold open and locked files and write, one of them without a pause.

All agents of the group are the real ones, called in the group's order; what counts is whether the
filesystem is free afterwards. The stock agents (nfsserver and nfsnotify) are stopped under the same
load; how often they free it is reported and not judged. NFSLOCK_STOPS sets the number (30).
"""

from __future__ import annotations

import os

import pytest

from tests.support.vm import layout, locks, service
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import Trial, equipped, saved

STOPS = int(os.environ.get("NFSLOCK_STOPS", "30"))
#: Clients of each protocol version, and files of each client.
CLIENTS, FILES = 25, 2


def loaded(rig: Rig, stock: bool) -> Trial:
    """The whole group on node-a, under load."""

    def make() -> Trial:
        equipped(rig, setup=not stock)
        trial = Trial(rig, "3 and 4.2", service.group(True, "3,4", stock=stock))
        service.run_group(rig["node-a"], trial.resources, "start")
        trial.end_grace()
        client, rival = rig["client"], rig["rival"]
        locks.mount(client, "3")
        trial.owners = [
            *locks.crowd(client, ("3",), CLIENTS, FILES),
            *locks.crowd(rival, ("4.2",), CLIENTS, FILES, first=CLIENTS + 1),
            locks.owner(client, ["hammered"], interval=0.0),
        ]
        return trial

    return saved(rig, f"loaded-{'stock' if stock else 'ours'}", make)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.scenario(f"{STOPS} stops with 50 clients that hold locks and write", driver="agents")
@pytest.mark.parametrize("kind", ["on", "stock"])
def test_stops_under_load(
    rig: Rig, record: Record, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record.protocol = "3 and 4.2"
    failures, took = [], []
    for turn in range(STOPS):
        trial = loaded(rig, kind == "stock")
        node = trial.active
        trial.fault()
        try:
            steps = service.run_group(node, trial.resources, "stop")
            took.append(sum(step.seconds for step in steps))
        except service.AgentFailed as error:
            failures.append(f"{turn}: {error}")
        if layout.EXPORT in node.read("/proc/mounts"):
            failures.append(f"{turn}: {layout.EXPORT} is still mounted")
    freed = STOPS - len({failure.split(":")[0] for failure in failures})
    outcome = f"freed {freed} of {STOPS}, in {min(took):.0f} to {max(took):.0f} s" if took else (
        f"freed {freed} of {STOPS}")
    with capsys.disabled():
        print(f"\n{kind}: {outcome}", *failures, sep="\n  ")
    record.finish(trial, outcome)
    assert kind == "stock" or freed == STOPS, "\n".join(failures)
