# SPDX-License-Identifier: GPL-2.0-or-later
"""Propagation while the service runs, and what monitor and status say of it."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from tests.host.crash import kill_daemons
from tests.support.hosts import Node
from tests.support.service import (
    COMMAND,
    DEGRADED,
    GENERIC,
    HOLDING,
    MOUNT_POINT,
    NOT_RUNNING,
    OK,
    SM,
    Cluster,
)
from tests.support.wait import wait_until

ONE, TWO = "192.0.2.101", "192.0.2.102"


@pytest.fixture
def up(pair: Cluster) -> Cluster:
    """The whole group up on node A."""
    pair.service.bring_up(pair.a)
    return pair


def propagator(node: Node) -> psutil.Process:
    """Return the one propagator of the node."""
    return wait_until(lambda: node.find("propagate locks"), f"{node.name}: a propagator")[0]


def settled(cluster: Cluster, node: Node) -> None:
    """Wait until the service says that nothing is left to do."""
    wait_until(lambda: cluster.service.phase(node) == "settled", "settled")


def test_a_new_record_is_held_at_once(up: Cluster) -> None:
    up.a.sm_mon(ONE)
    up.service.held(up.a, ONE)
    mode = up.a.path(f"{HOLDING}/sm/{ONE}").stat().st_mode & 0o777
    assert mode == 0o600


def test_events_do_not_wait_for_the_sweep(pair: Cluster) -> None:
    """With a sweep once an hour the record comes all the same."""
    pair.service.agent.parameters["propagate_interval"] = "1h"
    pair.service.bring_up(pair.a)
    pair.a.sm_mon(ONE)
    pair.service.held(pair.a, ONE)
    assert pair.service.agent.monitor(pair.a).code == OK


def test_the_sweep_finds_what_events_missed(up: Cluster) -> None:
    """A record that appears while the propagator is stopped and its queue was drained."""
    process = propagator(up.a)
    process.suspend()
    up.a.sm_mon(ONE)
    process.kill()
    up.service.held(up.a, ONE)


def test_a_new_cookie_leaves_the_record(up: Cluster) -> None:
    """lockd asks again with another cookie: statd removes and re-creates the record."""
    up.a.sm_mon(ONE)
    up.service.held(up.a, ONE)
    before = up.service.records(up.a)
    for _ in range(20):
        up.a.sm_mon(ONE)
        assert up.service.records(up.a) == before, "never absent for an instant"


def test_a_second_name_of_the_server_is_a_second_line(up: Cluster) -> None:
    up.a.sm_mon(ONE)
    up.a.sm_mon(ONE, my_name="other")
    wait_until(lambda: up.service.records(up.a).get(ONE, "").count("\n") == 2, "both lines held")
    lines = up.service.records(up.a)[ONE].splitlines()
    assert sorted(lines) == sorted(up.a.sm_records()[ONE].splitlines())


def test_deletions_are_lazy_and_only_of_what_was_unmonitored(up: Cluster) -> None:
    """An unmonitored client's record goes after a while; a damaged file is no SM_UNMON."""
    service, a = up.service, up.a
    for client in (ONE, TWO):
        a.sm_mon(client)
    service.held(a, ONE, TWO)
    settled(up, a)
    a.path(f"{SM}/{TWO}").write_text("")
    a.sm_unmon(ONE)
    a.sm_mon("192.0.2.103")
    service.held(a, "192.0.2.103")
    assert ONE in service.records(a), "not at once"
    wait_until(lambda: ONE not in service.records(a), "removed after a while", timeout=30)
    assert TWO in service.records(a)
    assert "192.0.2.103" in service.records(a)


def test_nothing_is_deleted_while_the_service_leaves(up: Cluster) -> None:
    """Kernels from 6.4 unmonitor every client when nfsd stops: these clients still hold locks."""
    service, a, b = up.service, up.a, up.b
    for client in (ONE, TWO):
        a.sm_mon(client)
    service.held(a, ONE, TWO)
    before = service.records(a)
    settled(up, a)
    service.unaddress(a)
    service.unexport(a)
    for client in (ONE, TWO):
        a.sm_unmon(client)
    service.unserve(a)
    assert a.sm_records() == {}
    # Longer than a record of a standing service would have lasted (plan.patience: 10 s).
    absent = float(service.told(a)["last_sweep"])
    wait_until(lambda: float(service.told(a)["last_sweep"]) > absent + 11, "11 s of sweeps")
    assert service.records(a) == before
    service.stop(a)
    assert service.records(a) == before
    service.umount(a)
    service.mount(b)
    service.start(b)
    assert service.pending(b) == {ONE, TWO}


def test_a_killed_propagator_comes_back_and_goes_on(up: Cluster) -> None:
    service, a = up.service, up.a
    settled(up, a)
    owner, state = service.owner(a), service.state(a)
    for number in range(3):
        process = propagator(a)
        process.kill()
        wait_until(lambda: propagator(a).pid != process.pid, "a new propagator")  # noqa: B023
        a.sm_mon(f"192.0.2.{120 + number}")
        service.held(a, f"192.0.2.{120 + number}")
    wait_until(lambda: service.agent.monitor(a).code == OK, "monitor content")
    assert service.owner(a) == owner, "no new claim"
    assert service.state(a) == state, "no new announcement"


def test_a_killed_supervisor_comes_back_too(up: Cluster) -> None:
    service, a = up.service, up.a
    (supervisor,) = a.find("supervise locks")
    supervisor.kill()
    wait_until(
        lambda: [p for p in a.find("supervise locks") if p.pid != supervisor.pid], "a new one"
    )
    wait_until(lambda: len(a.find("propagate locks")) == 1, "one propagator")
    first = propagator(a)
    first.kill()
    wait_until(lambda: propagator(a).pid != first.pid, "the propagator is supervised again")
    a.sm_mon(ONE)
    service.held(a, ONE)
    wait_until(lambda: service.agent.monitor(a).code == OK, "monitor content")
    service.bring_down(a)


def test_monitor_fails_when_the_propagator_stays_away(up: Cluster) -> None:
    service, a = up.service, up.a
    assert service.agent.monitor(a).code == OK
    kill_daemons(a)
    outcome = service.agent.monitor(a)
    assert outcome.code == GENERIC
    assert "propagator" in outcome.reason
    # Recovery on the spot, as Pacemaker does it.
    service.stop(a)
    service.start(a)
    assert service.agent.monitor(a).code == OK


def test_monitor_fails_when_the_propagator_hangs(up: Cluster) -> None:
    """Stopped, not dead: the last sweep grows too old (at least 10 s, so the file is aged here)."""
    service, a = up.service, up.a
    process = propagator(a)
    process.suspend()
    status = a.path("/run/nfslock/locks/status")
    lines = status.read_text().splitlines()
    aged = [f"last_sweep={float(x.split('=')[1]) - 11:.3f}" if x.startswith("last_sweep=") else x
            for x in lines]  # fmt: skip
    status.write_text("\n".join(aged) + "\n")
    outcome = service.agent.monitor(a)
    assert outcome.code == GENERIC, outcome
    silent = re.search(r"for (\d+) s \(limit 10 s\)", outcome.reason)
    assert silent and int(silent[1]) >= 11, outcome
    process.resume()
    wait_until(lambda: service.agent.monitor(a).code == OK, "monitor content again")


def test_probe_and_monitor_through_a_life(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    probe = service.agent.probe(a)
    assert (probe.code, probe.reason) == (NOT_RUNNING, ""), "no storage: quiet"
    assert probe.stderr == ""
    assert not a.path("/run/nfslock").exists()
    service.mount(a)
    assert service.agent.probe(a).code == NOT_RUNNING
    service.start(a)
    assert service.agent.probe(a).code == OK
    assert service.agent.monitor(a).code == OK
    assert service.agent.monitor(a, level=10).code == OK
    service.stop(a)
    assert service.agent.probe(a).code == NOT_RUNNING
    assert service.agent.monitor(a).code == NOT_RUNNING
    assert service.agent.probe(pair.b).code == NOT_RUNNING


def test_a_node_without_the_service_is_not_running_after_a_crash(up: Cluster) -> None:
    """What a power cut leaves on the disk does not look like a running service."""
    service, a = up.service, up.a
    a.power_off()
    a = up.reboot(a)
    service.mount(a)
    assert service.agent.probe(a).code == NOT_RUNNING
    service.umount(a)


def test_monitor_sees_a_disk_that_went_away(up: Cluster) -> None:
    service, a = up.service, up.a
    a.run("umount", "--lazy", MOUNT_POINT)
    outcome = service.agent.monitor(a)
    assert outcome.code == GENERIC, outcome
    assert HOLDING in outcome.reason
    assert service.agent.stop(a).code == OK


def test_monitor_sees_a_read_only_disk(up: Cluster) -> None:
    service, a = up.service, up.a
    a.run("mount", "-o", "remount,ro", MOUNT_POINT)
    outcome = wait_until(
        lambda: next((o for o in [service.agent.monitor(a)] if o.code != OK), None), "not content"
    )
    assert outcome.code == GENERIC, outcome
    assert HOLDING in outcome.reason
    a.run("mount", "-o", "remount,rw", MOUNT_POINT)
    wait_until(lambda: service.agent.monitor(a).code == OK, "content again")


def test_a_disk_that_fills_up_is_said_and_costs_nothing(up: Cluster) -> None:
    service, a = up.service, up.a
    a.sm_mon(ONE)
    service.held(a, ONE)
    before = service.records(a)
    service.spoil_reserve(a)
    a.fill(MOUNT_POINT)
    a.sm_mon(TWO)
    outcome = wait_until(
        lambda: next((o for o in [service.agent.monitor(a)] if o.code != OK), None), "not content"
    )
    assert "No space left" in outcome.reason, outcome
    assert service.records(a) == before
    a.empty(MOUNT_POINT)
    service.held(a, ONE, TWO)
    wait_until(lambda: service.agent.monitor(a).code == OK, "content again")


def test_level_10_compares_and_asks_statd(up: Cluster) -> None:
    service, a = up.service, up.a
    a.sm_mon(ONE)
    service.held(a, ONE)
    assert service.agent.monitor(a, level=10).code == OK
    (statd,) = a.find("rpc.statd")
    statd.suspend()
    outcome = service.agent.monitor(a, level=10)
    assert outcome.code in (GENERIC, DEGRADED)
    assert "statd" in outcome.reason
    statd.resume()
    wait_until(lambda: service.agent.monitor(a, level=10).code == OK, "content again")
    process = propagator(a)
    process.suspend()
    a.sm_mon(TWO)
    outcome = service.agent.monitor(a, level=10)
    assert outcome.code != OK
    assert "1 " in outcome.reason, outcome
    process.resume()
    service.held(a, TWO)
    wait_until(lambda: service.agent.monitor(a, level=10).code == OK, "content again")


def test_status_tells_the_state_of_the_service(up: Cluster) -> None:
    service, a = up.service, up.a
    settled(up, a)
    a.sm_mon(ONE)
    service.held(a, ONE)
    wait_until(lambda: service.status(a)["records"] == 1, "one record counted")
    status = service.status(a)
    assert status["nsm_state"] == service.state(a)
    assert status["generation"] == service.owner(a)["generation"]
    text = a.run(COMMAND, "status").stdout
    assert "locks" in text
    assert "1" in text


def test_reload_takes_a_new_interval(up: Cluster) -> None:
    service, a = up.service, up.a
    owner = service.owner(a)
    pid = propagator(a).pid
    outcome = service.agent(a, "reload-agent", propagate_interval="250ms")
    assert outcome.code == OK, outcome
    wait_until(lambda: service.told(a)["interval"] == "0.25", "new interval")
    assert propagator(a).pid == pid
    assert service.owner(a) == owner


def test_kills_all_over_cost_no_record(up: Cluster) -> None:
    """Records arrive while the propagator is killed again and again: all are held in the end."""
    service, a = up.service, up.a
    clients = [f"192.0.2.{number}" for number in range(130, 160)]
    for number, client in enumerate(clients):
        a.sm_mon(client)
        if number % 10 == 5:
            for process in a.find("propagate locks"):
                os.kill(process.pid, signal.SIGKILL)
    service.held(a, *clients)


def test_a_full_run_directory_ends_no_propagation(pair: Cluster) -> None:
    """Only the status stands there: it grows old, which monitor says, and nothing else happens."""
    service, a = pair.service, pair.a
    a.run("mkdir", "-p", "/run/nfslock")
    a.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", "/run/nfslock")
    service.agent.parameters.update(propagate_interval="250ms")
    service.bring_up(a)
    before = propagator(a)
    a.fill("/run/nfslock")
    a.sm_mon(ONE)
    service.held(a, ONE)
    outcome = wait_until(
        lambda: next((o for o in [service.agent.monitor(a)] if o.code != OK), None), "not content"
    )
    assert outcome.code == GENERIC, outcome
    assert "compared" in outcome.reason, outcome
    assert "No space left" in service.log(a)
    a.empty("/run/nfslock")
    wait_until(lambda: service.agent.monitor(a).code == OK, "content again")
    assert propagator(a) == before
    a.sm_mon(TWO)
    service.held(a, ONE, TWO)
