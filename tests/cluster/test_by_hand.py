# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios in which the group is started and stopped by hand, in the order of the cluster's group.

They hold what does not need a cluster manager: protocols, instants, kernels. Each fault has a
control with lock_migration=no (kind "off"), in which the lock must be lost: else it proves nothing.
"""

from __future__ import annotations

import random

import pytest

from tests.support.vm import audits, layout, locks, service
from tests.support.vm.control import Event
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import BYTES, KINDS, NFSV4, TOGETHER, Trial, crowd, steady
from tests.support.wait import wait_until

QUICK = ("3-on", "3-off")
#: One version of NFSv4 shows most of what all three do.
FULL = ("4.0-on", "4.2-on", f"{TOGETHER}-on")


def rows(
    *protocols: str, quick: tuple[str, ...] = (), full: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """Each protocol with the locks protected, and its control ("PROTOCOL-KIND").

    Those in `quick` are part of the quick set; those in `full` and other controls belong to the
    full set only.
    """
    found = []
    for protocol in protocols:
        for kind in ("on", "off"):
            row = f"{protocol}-{kind}"
            marks = [pytest.mark.full] if kind == "off" or row in full else []
            if row in quick:
                marks = [pytest.mark.quick]
            found.append(pytest.param(protocol, kind, marks=marks, id=row))
    return pytest.mark.parametrize(("protocol", "kind"), found)


@pytest.mark.scenario("power cut under steady locks")
@rows("3", *NFSV4, quick=(*QUICK, "4.2-on"))
def test_power_cut(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


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
@rows("3", "4.1", "4.2", quick=QUICK, full=("4.2-on",))
def test_first_lock_then_power_cut(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """An NFSv4.0 client is recorded at its first open, and nothing waits for the copy of that: the
    window that remains there is test_v4_window's."""
    gap = 1.0
    for _ in range(5):  # a cut that came later, on a busy machine, is not the scenario
        trial = steady(rig, protocol, kind == "on", fresh=True)
        gap = lock_and_cut(trial)
        if gap < 0.1:
            break
    assert gap < 0.1, "this machine is too busy"
    trial.start(trial.other())
    record.finish(trial, f"{trial.verdict()}, cut after {1000 * gap:.0f} ms")


@pytest.mark.scenario("planned move and failback, locks held while the group stops")
@rows("3", *NFSV4, quick=QUICK, full=("4.2-on",))
def test_planned_move(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    outcome = ""
    for _ in range(2 if trial.protected else 1):
        trial.move_by_hand()
        outcome = trial.verdict()
        trial.dismiss_local_rivals()
    record.finish(trial, outcome)


@pytest.mark.scenario("second failover within the grace period")
@rows("3", *NFSV4, quick=QUICK, full=("4.2-on",))
def test_two_failovers_within_grace(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    trial.move_by_hand()
    if trial.protected:
        trial.wait_held()
        assert trial.in_grace()
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("nfsserver restarted in place")
@pytest.mark.parametrize(("protocol", "kind"), [
    ("3", "on"), *(pytest.param(*row, marks=pytest.mark.full)
                   for row in (("3", "off"), (TOGETHER, "on")))])
def test_server_restarted(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """nfslock goes on, the kernel's locks go. NFSv4 clients recover without it on the same node."""
    trial = steady(rig, protocol, kind == "on")
    trial.restart_server()
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("propagator and supervisor killed, nfslock started again under the server")
@pytest.mark.parametrize("kind", ["on", "off"])
def test_started_again_under_the_server(rig: Rig, record: Record, kind: str) -> None:
    """Clients that are told now reclaim outside of grace in vain, and forget their locks. The
    control: nothing says that the server still has them."""
    trial = steady(rig, "3")
    node = trial.active
    node.wait_until("grep -q ^lockd=[0-9] /run/nfslock/locks/status", 30)
    trial.fault()
    assert node.kill9("nfslock supervise locks") == node.kill9("nfslock propagate locks") == 1
    if kind == "off":
        node.run("sed -i /^lockd=/d /run/nfslock/locks/status")
    assert service.call(node, service.nfslock(trial.resources), "start").rc == 0
    node.wait_until("nfslock status locks | grep -q settled", 30)
    trial.wait_io()
    lost = "dmesg | grep -q 'failed to reclaim lock'"
    if kind == "on":
        trial.judge()
        assert not audits.told(trial)
        assert rig["client"].run(lost, check=False).rc == 1
        record.finish(trial, "kept where it was")
    else:
        rig["client"].wait_until(lost, 60)
        record.finish(trial, "lost, as it must be")


@pytest.mark.scenario("the grace period ends before the address comes")
@pytest.mark.parametrize("protocol", ["3"])
def test_told_too_late(rig: Rig, record: Record, protocol: str) -> None:
    """The locks are lost then, and somebody has to say so."""
    trial = steady(rig, protocol)
    trial.power_cut()
    trial.start(trial.other(), before_address=trial.end_grace)
    trial.active.wait_until("nfslock status locks | grep -q settled", 60)
    said = service.call(trial.active, service.nfslock(trial.resources), "monitor")
    assert said.rc == 190 and "grace period was over" in said.output, said
    record.finish(trial, "monitor says that they are lost")


@pytest.mark.scenario("rpc.statd killed, then power cut")
@rows("3")
def test_statd_killed(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    assert trial.active.kill9("rpc.statd") == 1
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("propagator killed, a new client locks, then power cut")
@rows("3", *NFSV4, TOGETHER, full=FULL)
def test_propagator_killed(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on", fresh=True)
    trial.umount(rig["client"])
    if trial.protected:
        assert trial.active.kill9("nfslock propagate locks") == 1
    trial.mount(rig["client"])
    trial.own(rig["client"], BYTES)
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


def newcomer(trial: Trial) -> None:
    """Another client comes, and asks for the lock that is held."""
    rival = trial.rig["rival"]
    trial.mount(rival)
    trial.want(rival, BYTES)
    trial.wait_rivals("denied", "refused")


@pytest.mark.scenario("filesystem full while a new client locks; space again; power cut")
@rows("3", *NFSV4, TOGETHER, full=FULL)
def test_holding_directory_full(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on", fresh=True)
    trial.umount(rig["rival"])
    trial.own(rig["client"], BYTES)
    trial.active.fill_disk(layout.EXPORT)
    newcomer(trial)
    if trial.protected:
        if "3" in trial.versions:
            address = layout.RIVAL.addresses["data"]
            trial.active.run(f"test -s {layout.HOLDING}/sm/{address}")
        if protocol != "3":
            assert service.v4_records(trial.active) == 2 * len(set(NFSV4) & set(trial.versions))
        nfslock = service.nfslock(trial.resources)
        wait_until(
            lambda: service.call(trial.active, nfslock, "monitor").rc == 190,
            "monitor tells of a full disk", 30, pause=1,
        )  # fmt: skip
    trial.active.run(f"rm {layout.EXPORT}/.filler")
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("filesystem full at the power cut")
@rows("3", *NFSV4, TOGETHER, full=FULL)
def test_power_cut_with_full_disk(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    trial.active.fill_disk(layout.EXPORT)
    trial.power_cut()
    trial.start(trial.other())
    trial.active.run(f"rm {layout.EXPORT}/.filler")
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("holding directory read-only while a new client locks, then power cut")
@rows("3", *NFSV4, TOGETHER, full=FULL)
def test_read_only(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on", fresh=True)
    trial.umount(rig["rival"])
    trial.own(rig["client"], BYTES)
    here = layout.HOLDING
    trial.active.run(
        f"mkdir -p {here} && mount --bind {here} {here} && mount -o remount,bind,ro {here}")
    newcomer(trial)
    if trial.protected:
        assert service.call(trial.active, service.nfslock(trial.resources), "monitor").rc == 1
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("one of two clients is dead at takeover")
@rows("3", *NFSV4, TOGETHER, full=FULL)
def test_dead_client(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = steady(rig, protocol, kind == "on")
    trial.client_dies(rig["rival"])
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("power cut, 20 clients with 200 locks")
@rows("3", *NFSV4, TOGETHER, full=("4.1-on", *FULL))
def test_many_clients(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    trial = crowd(rig, protocol, kind == "on")
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("the clients' network is cut for 15 s, and heals")
@pytest.mark.parametrize("protocol", ["3", *NFSV4])
def test_network_heals(rig: Rig, record: Record, protocol: str) -> None:
    """No takeover, so nobody is told anything, and with lock_migration=no it is the same."""
    trial = steady(rig, protocol)
    trial.fault()
    trial.active.cut()
    rig["client"].run("sleep 15")
    trial.active.heal()
    trial.recover()
    assert not audits.told(trial)
    record.finish(trial, "kept where it was")


@pytest.mark.scenario("a client reboots around the takeover")
@rows("3", *NFSV4, full=("4.1-on", *FULL))
def test_rebooting_client(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """Its old lock must not outlive it; the other client's locks are kept from its new life."""
    trial = steady(rig, protocol, kind == "on")
    reborn = rig["rival"]
    trial.own(reborn, "reborn")
    trial.power_cut()
    trial.client_dies(reborn, reboot=True)
    trial.start(trial.other())
    outcome = trial.verdict()
    reborn.wait_booted()
    trial.mount(reborn)
    trial.own(reborn, "reborn")
    if trial.protected:
        for file in KINDS:
            trial.want(reborn, file)
        trial.wait_rivals("denied")
        trial.judge()
    record.finish(trial, outcome)


@pytest.mark.full
@pytest.mark.scenario("agent killed at a random point of start (seed {seed})")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("protocol", ["3", "4.1"])
def test_agent_killed_in_start(rig: Rig, record: Record, protocol: str, seed: int) -> None:
    trial = steady(rig, protocol)
    chance = random.Random(seed)
    node = trial.other()
    trial.power_cut()
    node.run(service.COMMANDS["fs"][0])
    agent = "-f 'flm/nfsloc[k] start'"  # which the killer's own line does not match
    for _ in range(2):
        killer = node.begin(
            f"until pgrep {agent}; do sleep 0.05; done; "
            f"sleep {chance.uniform(0, 2):.2f}; pkill -9 {agent}", timeout=60)
        service.call(node, service.nfslock(trial.resources), "start")
        killer.result(60)
        assert service.call(node, service.nfslock(trial.resources), "stop").rc == 0
    node.run(service.COMMANDS["fs"][1])
    trial.start(node)
    record.finish(trial, trial.verdict())
