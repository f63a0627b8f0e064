# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients do around a takeover: they are dead, they reboot, they are many. Driven by hand."""

from __future__ import annotations

import pytest

from tests.support.vm import locks
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import steady

pytestmark = pytest.mark.parametrize("protocol", ["3"])
guarded = pytest.mark.parametrize("kind", ["on", pytest.param("off", marks=pytest.mark.full)])


@pytest.mark.scenario("one of two clients is dead at takeover")
@guarded
def test_dead_client(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    trial.client_dies(rig["rival"])
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("a client reboots around the takeover")
@guarded
def test_rebooting_client(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """Its old lock must not outlive it; the other client's locks are kept from its new life."""
    trial = steady(rig, protocol, kind == "on")
    reborn = rig["rival"]
    trial.owners.append(locks.owner(reborn, ["reborn"]))
    trial.power_cut()
    trial.client_dies(reborn, reboot=True)
    trial.start(trial.other())
    outcome = trial.verdict()
    reborn.wait_booted()
    locks.mount(reborn, protocol)
    trial.owners.append(locks.owner(reborn, ["reborn"]))
    if trial.protected:
        trial.rivals.append(locks.rival(reborn, ["byte-range", "whole-file"]))
        trial.wait_rivals("denied")
        trial.judge()
    record.finish(trial, outcome)
