# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios under Pacemaker, with its stock agents around ours and fencing that is real.

`stock` rows run the same fault with the stock agents alone (nfsserver and nfsnotify): they are
reported beside ours, and never judged.
"""

from __future__ import annotations

import pytest

from tests.support.vm import audits, layout
from tests.support.vm.cluster import ClusterTrial, steady, wait_online
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig

pytestmark = pytest.mark.parametrize("protocol", ["3"])


def recover(trial: ClusterTrial) -> None:
    """The group was just started by Pacemaker: every lock comes back, nobody else gets one."""
    trial.wait_held()
    trial.wait_io()
    trial.local_rival()
    trial.end_grace()
    trial.wait_rivals("denied")
    trial.judge()


@pytest.mark.scenario("power cut under steady locks", driver="Pacemaker")
def test_power_cut(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.power_cut()
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "the dead node was not fenced"
    recover(trial)
    record.finish(trial, "kept")


@pytest.mark.scenario("control: power cut, lock_migration=no", driver="Pacemaker")
def test_power_cut_control(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, "off")
    trial.power_cut()
    trial.take_over("node-b")
    trial.end_grace()
    assert audits.not_held(trial) == trial.held_files()
    for program in trial.local_rival():
        program.wait_for("granted")
    assert audits.exclusion(trial)
    record.finish(trial, "lost, as it must be")


@pytest.mark.scenario("power cut, stock agents", driver="Pacemaker")
def test_power_cut_stock(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, "stock")
    trial.power_cut()
    trial.take_over("node-b")
    trial.wait_io()
    trial.end_grace()
    lost = audits.not_held(trial)
    record.finish(trial, f"lost {len(lost)} of {len(trial.held_files())}" if lost else "kept")


@pytest.mark.scenario("planned move and failback", driver="Pacemaker")
def test_planned_move(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    for node in ("node-b", "node-a"):
        trial.move(node)
        trial.take_over(node)
        recover(trial)
        assert not rig.fenced, f"{rig.fenced} fenced in a planned move"
        trial.dismiss_local_rivals()
        wait_online(trial.active, 2)
    record.finish(trial, "kept, nobody fenced")


@pytest.mark.scenario("active node frozen", driver="Pacemaker")
def test_frozen(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    trial.active.freeze()
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "the frozen node was not fenced"
    recover(trial)
    record.finish(trial, "fenced, kept")


@pytest.mark.scenario("active node frozen for 1.5 s and thawed", driver="Pacemaker")
def test_frozen_briefly(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    trial.active.freeze()
    rig["client"].run("sleep 1.5")
    trial.active.thaw()
    trial.wait_io()
    wait_online(trial.active, 2)
    trial.wait_held()
    trial.judge()
    assert not rig.fenced
    record.finish(trial, "kept where it was")


@pytest.mark.scenario("cluster network cut", driver="Pacemaker")
def test_cluster_network_cut(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    rig["node-a"].cut("cluster")
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "exactly the active node should have been fenced"
    recover(trial)
    record.finish(trial, "fenced, kept")


@pytest.mark.scenario("power cut, fencing impossible", driver="Pacemaker")
def test_unfenceable(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    rig.unfenceable.add("node-a")
    trial.power_cut()
    survivor = rig["node-b"]
    survivor.wait_until("journalctl -b -q | grep -q 'fence_rig.*refused'", 120)
    survivor.run("sleep 20")
    assert f" {layout.VIP}/" not in survivor.out("ip -o -4 addr show")
    assert layout.EXPORT not in survivor.read("/proc/mounts")
    rig.unfenceable.clear()
    trial.take_over("node-b")
    recover(trial)
    record.finish(trial, "down until fenced, then kept")


@pytest.mark.full
@pytest.mark.scenario("propagator killed under Pacemaker", driver="Pacemaker")
def test_propagator_killed(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    trial.active.run("systemctl kill -s KILL nfslock-locks.service")
    trial.active.wait_until("systemctl is-active nfslock-locks.service", 30)
    trial.active.run("sleep 15")
    wait_online(trial.active, 2)
    trial.wait_held()
    trial.judge()
    assert not rig.fenced
    record.finish(trial, "kept where it was")
