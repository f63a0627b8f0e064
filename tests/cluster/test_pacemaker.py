# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios under Pacemaker, with its stock agents around ours and fencing that is real.

Each fault is done three times: with the locks protected; as a control with lock_migration=no, which
must lose them; and with the stock agents alone (nfsserver and nfsnotify), which is reported beside
ours and never judged.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import Future
from typing import Any

import pytest

from tests.support.vm import audits, layout
from tests.support.vm.cluster import ClusterTrial, steady, wait_idle, wait_online
from tests.support.vm.control import Gone
from tests.support.vm.machine import Machine
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import NFSV4, TOGETHER
from tests.support.wait import wait_until

KILLS = int(os.environ.get("NFSLOCK_KILLS", "50"))


def rows(*usual: str, full: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Rows "PROTOCOL-KIND"; those in `full` belong to the full set only."""
    found = [pytest.param(*row.split("-"), id=row) for row in usual]
    found += [pytest.param(*row.split("-"), id=row, marks=pytest.mark.full) for row in full]
    return pytest.mark.parametrize(("protocol", "kind"), found)


#: nfsserver, started anew, has an rpc.statd of its own, and systemd starts another for nfsd.
STATD_TWICE = r"systemd: Failed to start rpc-statd\.service"
OTHERS = ("3-off", "3-stock")
EVERY = ("3", *NFSV4, TOGETHER)
NFSV4_ROWS = tuple(f"{protocol}-{kind}" for protocol in EVERY[1:] for kind in ("on", "off"))
TOGETHER_ON = f"{TOGETHER}-on"
every_version = pytest.mark.parametrize("protocol", EVERY)


@pytest.mark.scenario("power cut under steady locks", driver="Pacemaker")
@rows("3-on", "3-off", TOGETHER_ON,
      full=("3-stock", *(row for row in NFSV4_ROWS if row != TOGETHER_ON)))
def test_power_cut(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind)
    trial.power_cut()
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "the dead node was not fenced"
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("planned move and failback", driver="Pacemaker")
@rows("3-on", full=(*OTHERS, *NFSV4_ROWS))
def test_planned_move(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind)
    trial.move("node-b")
    trial.take_over("node-b")
    outcome = trial.verdict()
    if trial.protected:
        trial.dismiss_local_rivals()
        wait_online(trial.active, 2)
        trial.move("node-a")
        trial.take_over("node-a")
        outcome = trial.verdict()
    assert not rig.fenced, f"{rig.fenced} fenced in a planned move"
    record.finish(trial, outcome)


@pytest.mark.scenario("active node frozen", driver="Pacemaker")
@rows(full=("3-on", *OTHERS, *NFSV4_ROWS))
def test_frozen(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind)
    trial.fault()
    trial.active.freeze()
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "the frozen node was not fenced"
    record.finish(trial, trial.verdict())


def gave_up(node: Machine) -> bool:
    """It is dead, or does not have the service's address."""
    try:
        return layout.VIP not in node.out("ip -4 -o address show")
    except Gone:
        return not node.alive


@pytest.mark.scenario("active node frozen, cut off, thawed", driver="Pacemaker")
@rows("3-on", full=("3-off", *NFSV4_ROWS))
def test_thawed_after_the_takeover(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """Fencing that leaves the power on: the old owner comes back to life and has the address.

    Cut off from the disk alone it answered dozens of waiting ARP requests before it noticed.
    """
    trial = steady(rig, protocol, kind)
    old = trial.active
    rig.fabric_fencing = True
    trial.allowed = [f"{old.name}: ", "might be active on 2 nodes",
                     r"Calculated transition \d+ \(with errors\)", STATD_TWICE]
    trial.fault()
    old.freeze()
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "the frozen node was not fenced"
    if not trial.protected:
        # Lost by now. What the old node does next starts the group anew, and muddles the question.
        record.finish(trial, trial.verdict())
        return
    trial.wait_held()
    wait_online(trial.active, 1)
    old.thaw()
    # Two roads, by which comes first: nfslock's monitor fails, which has the node fenced once more
    # and panic; or Pacemaker, which sees the group active on both nodes, stops it on both.
    wait_until(lambda: gave_up(old), "the old node panics or gives the address up", 120, pause=1)
    # Either way the group starts anew, and finds no disk on the old node.
    wait_idle(trial.active)
    assert gave_up(old)
    assert '"node-b"' in trial.active.out(f"grep node.: {layout.HOLDING}/owner.json")
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("export restarted in place", driver="Pacemaker")
@rows(full=tuple(f"{protocol}-{kind}" for protocol in EVERY for kind in ("on", "unlock")))
def test_export_restarted(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """nfslock, before it in the group, goes on; exportfs by default drops all locks as it stops."""
    trial = steady(rig, protocol, kind)
    trial.fault()
    trial.active.run("crm_resource --restart -r export", timeout=300)
    if kind == "on":
        stayed(trial)
        record.finish(trial, "kept where it was")
    else:
        assert audits.not_held(trial) == trial.held_files()
        record.finish(trial, "lost, as it must be")


@pytest.mark.scenario("nfsserver restarted in place", driver="Pacemaker")
@rows(full=("3-on", "3-off", TOGETHER_ON))
def test_server_restarted(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """The kernel's locks go and nfslock, before it in the group, stays: it tells the clients."""
    trial = steady(rig, protocol, kind)
    trial.allowed = [STATD_TWICE]
    trial.fault()
    trial.active.run("crm_resource --restart -r server", timeout=300)
    trial.take_over("node-a")
    assert not rig.fenced
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("active node frozen for 1.5 s and thawed", driver="Pacemaker")
@every_version
def test_frozen_briefly(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    trial.active.freeze()
    rig["client"].run("sleep 1.5")
    trial.active.thaw()
    stayed(trial)
    record.finish(trial, "kept where it was")


@pytest.mark.scenario("cluster network cut", driver="Pacemaker")
@rows("3-on", full=(*OTHERS, *NFSV4_ROWS))
def test_cluster_network_cut(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind)
    trial.fault()
    rig["node-a"].cut("cluster")
    trial.take_over("node-b")
    assert rig.fenced == ["node-a"], "exactly the active node should have been fenced"
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("power cut, fencing impossible for a while", driver="Pacemaker")
@rows(full=("3-on", "3-off", *NFSV4_ROWS))
def test_unfenceable(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind)
    trial.allowed = ["Operation 'reboot'.* targeting node-a", "Too many failures"]
    rig.unfenceable.add("node-a")
    trial.power_cut()
    survivor = rig["node-b"]
    survivor.wait_until("journalctl -b -q | grep -q 'fence_rig.*refused'", 120)
    survivor.run("sleep 20")
    assert f" {layout.VIP}/" not in survivor.out("ip -o -4 addr show")
    assert layout.EXPORT not in survivor.read("/proc/mounts")
    rig.unfenceable.clear()
    # Pacemaker gives up after ten attempts, until something in its configuration changes.
    survivor.run("crm_attribute -n stonith-max-attempts -v 20")
    trial.take_over("node-b")
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("propagator killed", driver="Pacemaker")
@every_version
def test_propagator_killed(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.fault()
    assert trial.active.kill9("nfslock propagate locks") == 1
    trial.active.wait_until("pgrep -f 'nfslock propagate locks'", 30)
    trial.active.run("sleep 15")
    stayed(trial)
    record.finish(trial, "kept where it was")


#: Seconds that an action of nfslock takes here, about: it is killed within them.
LASTS = {"start": 3.0, "stop": 1.5}


@pytest.mark.full
@pytest.mark.timeout(3 * 3600)
@pytest.mark.scenario(
    "planned move, agent killed in stop and in start (part {part})", driver="Pacemaker"
)
@pytest.mark.parametrize("protocol", ["3"])
@pytest.mark.parametrize("part", [1, 2])
def test_agent_killed(
    rig: Rig, record: Record, protocol: str, part: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stop that is killed has its node fenced; a start that is killed is tried again.

    NFSLOCK_KILLS sets how often in all (50); the two parts can run side by side.
    """
    hits = dict.fromkeys(LASTS, 0)
    chance = random.Random(part)

    def killer(node: Machine, action: str) -> Future[dict[str, Any]]:
        """Kill the agent once, at a random instant of its next such action on the node."""
        agent = f"-f 'flm/nfsloc[k] {action}'"  # which this shell's own line does not match
        return node.begin(
            f"until pgrep {agent}; do sleep 0.2; done; "
            f"sleep {chance.uniform(0, LASTS[action]):.2f}; pkill -9 {agent}", timeout=300,
        )  # fmt: skip

    for turn in range(part, KILLS // 2 + 1, 2):
        trial = steady(rig, protocol)
        trial.allowed = ["interrupted by Killed signal"]
        trial.active.run("crm_attribute -n start-failure-is-fatal -v false")
        killer(rig["node-a"], "stop")
        in_start = killer(rig["node-b"], "start")
        trial.move("node-b")
        trial.take_over("node-b")
        killed = {"start": in_start.result(60).get("rc") == 0, "stop": bool(rig.fenced)}
        # The kill may have come after the address's: wait for the group to be at rest.
        wait_online(rig["node-b"], 1 if rig.fenced else 2)
        outcome = trial.verdict()
        for action, hit in killed.items():
            hits[action] += hit
        with capsys.disabled():
            print(f"\nturn {turn}: {outcome}, killed in {[a for a in killed if killed[a]]}")
    assert all(hits.values()), f"never killed: {hits}"
    record.finish(trial, f"kept; killed in {hits['stop']} stops and {hits['start']} starts")


def stayed(trial: ClusterTrial) -> None:
    """The service went on where it was, and nobody was fenced."""
    trial.wait_io()
    wait_online(trial.active, 2)
    trial.wait_held()
    trial.judge()
    assert not trial.rig.fenced
