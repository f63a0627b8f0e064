# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios in which the group is started and stopped by hand, in the order of the cluster's group.

They hold what does not need a cluster manager: protocols, instants, kernels. Each fault has a
control with `lock_migration=no`, in which the lock must be lost: else the fault proves nothing.
"""

from __future__ import annotations

import random

import pytest

from tests.support.vm import layout, locks, service
from tests.support.vm.control import Event
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import BYTES, Trial, steady

every_protocol = pytest.mark.parametrize(
    "protocol", [pytest.param("3", marks=pytest.mark.quick), "4.0", "4.1", "4.2"]
)


@pytest.mark.scenario("power cut under steady locks")
@every_protocol
def test_power_cut(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("control: power cut, lock_migration=no")
@every_protocol
def test_power_cut_control(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, lock_migration=False)
    trial.power_cut()
    trial.start(trial.other())
    trial.lose()
    record.finish(trial, "lost, as it must be")


def lock_and_cut(trial: Trial) -> float:
    """A client's first lock, and a power cut as soon as the application has it.

    Returns the seconds between the two.
    """
    client = trial.rig["client"]
    cut: list[float] = []

    def cut_at_once(event: Event) -> None:
        if '"locked"' in event.line and not cut:
            cut.append(event.at)
            trial.power_cut()

    client.listeners.append(cut_at_once)
    path = f"{layout.MOUNT}/{BYTES}"
    program = locks.Program(client, "owner", "posix", [path], 0.25)
    trial.owners.append(program)
    locked = program.wait_for("locked", timeout=60)
    return trial.fault_at - locked.at


@pytest.mark.scenario("power cut within 0.1 s of a client's first lock")
@every_protocol
def test_first_lock_then_power_cut(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, fresh=True)
    gap = lock_and_cut(trial)
    assert gap < 0.1
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, f"kept, cut {1000 * gap:.0f} ms after the lock")


@pytest.mark.scenario("control: power cut after the first lock, lock_migration=no")
@every_protocol
def test_first_lock_then_power_cut_control(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, lock_migration=False, fresh=True)
    lock_and_cut(trial)
    trial.start(trial.other())
    trial.lose()
    record.finish(trial, "lost, as it must be")


@pytest.mark.scenario("planned move and failback, locks held while the group stops")
@every_protocol
def test_planned_move(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    for _ in range(2):
        trial.fault()
        trial.stop()
        trial.start(trial.other())
        trial.recover()
        trial.dismiss_local_rivals()
    record.finish(trial, "kept")


@pytest.mark.scenario("control: planned move, lock_migration=no")
@every_protocol
def test_planned_move_control(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, lock_migration=False)
    trial.fault()
    trial.stop()
    trial.start(trial.other())
    trial.lose()
    record.finish(trial, "lost, as it must be")


@pytest.mark.scenario("second failover within the grace period")
@every_protocol
def test_two_failovers_within_grace(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.stop()
    trial.start(trial.other())
    trial.wait_held()
    assert trial.in_grace()
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("rpc.statd killed, then power cut")
@pytest.mark.parametrize("protocol", ["3"])
def test_statd_killed(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    assert trial.active.kill9("rpc.statd") == 1
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("propagator killed, a new client locks, then power cut")
@pytest.mark.parametrize("protocol", ["3"])
def test_propagator_killed(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, fresh=True)
    trial.active.run("systemctl kill -s KILL nfslock-locks.service")
    trial.owners.append(locks.owner(rig["client"], [BYTES]))
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("filesystem full while a new client locks; space again; power cut")
@pytest.mark.parametrize("protocol", ["3"])
def test_holding_directory_full(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, fresh=True)
    nfslock = next(r for r in trial.resources if r.name == "locks")
    trial.owners.append(locks.owner(rig["client"], [BYTES]))
    trial.active.fill_disk(layout.EXPORT)
    trial.active.wait_until("nfslock status", 30)
    newcomer = locks.Program(rig["rival"], "rival", "posix", [f"{layout.MOUNT}/{BYTES}"], 0.5)
    trial.rivals.append(newcomer)
    newcomer.wait_for("denied", "refused")
    during = service.call(trial.active, nfslock, "monitor").rc
    assert during in (190, 1), "monitor has nothing to say about a full disk"
    trial.active.run(f"rm {layout.EXPORT}/.filler")
    trial.active.wait_until(f"test -s {layout.HOLDING}/sm/10.9.0.22", 30)
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, f"kept; monitor said {during} while it was full")


@pytest.mark.scenario("filesystem full at the power cut")
@pytest.mark.parametrize("protocol", ["3"])
def test_power_cut_with_full_disk(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.active.fill_disk(layout.EXPORT)
    trial.power_cut()
    trial.start(trial.other())
    trial.active.run(f"rm {layout.EXPORT}/.filler")
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("holding directory read-only while a new client locks, then power cut")
@pytest.mark.parametrize("protocol", ["3"])
def test_read_only(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, fresh=True)
    nfslock = next(r for r in trial.resources if r.name == "locks")
    trial.owners.append(locks.owner(rig["client"], [BYTES]))
    here = layout.HOLDING
    trial.active.run(f"mount --bind {here} {here} && mount -o remount,bind,ro {here}")
    newcomer = locks.Program(rig["rival"], "rival", "posix", [f"{layout.MOUNT}/{BYTES}"], 0.5)
    trial.rivals.append(newcomer)
    newcomer.wait_for("denied", "refused")
    assert service.call(trial.active, nfslock, "monitor").rc == 1
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "monitor failed, kept")


@pytest.mark.scenario("one of two clients is dead at takeover")
@pytest.mark.parametrize("protocol", ["3"])
def test_dead_client(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.client_dies(rig["rival"])
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "kept")


@pytest.mark.scenario("agent killed at a random point of start, {n} times")
@pytest.mark.parametrize("seed", range(4))
def test_agent_killed_in_start(rig: Rig, record: Record, seed: int) -> None:
    trial = steady(rig, "3")
    record.scenario = f"agent killed at a random point of start (seed {seed})"
    chance = random.Random(seed)
    node = trial.other()
    nfslock = next(r for r in trial.resources if r.name == "locks")
    trial.power_cut()
    node.run(service.COMMANDS["fs"][0])
    for _ in range(2):
        delay = chance.uniform(0.2, 6.0)
        killer = f"sleep {delay:.2f}; pkill -9 -f resource.d/flm/nfslock"
        node.begin(killer, timeout=30)
        service.call(node, nfslock, "start")
        assert service.call(node, nfslock, "stop").rc == 0
    node.run(service.COMMANDS["fs"][1])
    trial.start(node)
    trial.recover()
    record.finish(trial, "kept")
