# SPDX-License-Identifier: GPL-2.0-or-later
"""start and stop, struck at their durable system calls: SIGKILL, EIO, ENOSPC.

Then the service is started again, on the same node or on the other, after a power cut or a stop:
no record lost, none invented, nobody left out of the notification, the numbers only grow.
"""

from __future__ import annotations

import pytest

from tests.host import crash
from tests.host.crash import KILL, Before, Point, Snapshot
from tests.support.hosts import Node
from tests.support.service import GENERIC, HOLDING, MOUNT_POINT, NOT_RUNNING, OK, Cluster

HELD = ("192.0.2.101", "192.0.2.102")
LOCAL = "192.0.2.110"  # a client that the adoptive node has monitored for itself
LATE = "192.0.2.111"  # a client whose record only the last copy of a stop can bring to safety
RESTARTS = ("same", "other")
WHERE = {"same": "again", "other": "a power cut", "stopped": "stopped"}


@pytest.fixture
def disk(pair: Cluster) -> Snapshot:
    """The disk of a service whose node lost power with two clients' locks on it."""
    service, a = pair.service, pair.a
    service.mount(a)
    service.start(a)
    for client in HELD:
        a.sm_mon(client)
    service.held(a, *HELD)
    a.run("sync", "-f", MOUNT_POINT)  # to be seen is not yet to be durable
    crash.lose_power(a)
    return Snapshot(service.image)


def clear(cluster: Cluster) -> None:
    """Leave no trace of the last point on either node, whatever state it left them in."""
    for node in (cluster.a, cluster.b):
        if node.path(MOUNT_POINT).is_mount():
            crash.lose_power(node)
        node.run("rm", "-rf", "/run/nfslock", "/run/sm-notify.pid")


def prepare(cluster: Cluster, disk: Snapshot) -> Before:
    """The shared disk as it was, mounted on B; B's statd with one client of its own."""
    clear(cluster)
    disk.restore()
    crash.set_local(cluster.a, *HELD)
    crash.set_local(cluster.b, LOCAL)
    cluster.service.mount(cluster.b)
    return Before.of(cluster.service, cluster.b, LOCAL)


def start_again(cluster: Cluster, where: str, before: Before) -> None:
    """Start once more, as Pacemaker would after the fault, and look at everything."""
    service, node = cluster.service, cluster.b
    if where != "other":
        before = crash.reached(service, node, before)
    if where == "stopped":
        service.stop(node)
        assert node.statd_answers(), "statd is the node's, others may need it"
        assert service.agent.probe(node).code == NOT_RUNNING
        service.umount(node)
    elif where == "other":
        crash.lose_power(node)
    if where != "same":
        node = cluster.a
        service.mount(node)
    service.start(node)
    before.check(service, node)
    if where == "same":
        assert LOCAL in service.records(node), "what statd knew itself counts, too"


@pytest.mark.parametrize("where", [*RESTARTS, "stopped"])
@pytest.mark.parametrize("fault", crash.FAULTS)
def test_start(
    pair: Cluster, disk: Snapshot, fault: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service, b = pair.service, pair.b
    prepare(pair, disk)
    # Its own calls only: the daemons that it starts would be followed for ever.
    every = crash.points(b, lambda wrap: service.agent(b, "start", wrapper=wrap))
    struck = []
    for point in crash.sample(every, 2 * crash.FAULTS.index(fault) + len(where)):
        before = prepare(pair, disk)
        outcome = service.agent(b, "start", wrapper=point.strace(fault))
        try:
            if not crash.struck(b):  # a log line fewer than in the run that was looked at
                assert outcome.code == OK
                continue
            struck.append(point)
            if fault == KILL:
                assert outcome.code == -9, outcome
            elif outcome.code == OK:  # it could do without that call
                before.check(service, b)
                continue
            else:
                crash.failed_clearly(outcome)
                service.stop(b)
            start_again(pair, where, before)
        except AssertionError as error:
            raise AssertionError(f"start, {fault} at {point}, {where}: {outcome}") from error
    with capsys.disabled():
        print(crash.report(f"start, then {WHERE[where]}", fault, struck, every), end=" ")


def test_statd_comes_back_after_a_start_that_was_killed_without_it(
    pair: Cluster, disk: Snapshot
) -> None:
    """Killed while it merges: the next stop, which a failed probe asks for, brings statd back."""
    service, b = pair.service, pair.b
    prepare(pair, disk)
    merging = Point("fchown", 1)  # only what statd shall read is given to another user
    assert service.agent(b, "start", wrapper=merging.strace(KILL)).code == -9
    assert crash.struck(b)
    assert not b.find("rpc.statd"), "the control: it is down"
    probe = service.agent.probe(b)
    assert probe.code == GENERIC
    assert "rpc.statd" in probe.reason
    service.stop(b)
    b.sm_mon(LATE)
    assert b.sm_records().keys() >= {LOCAL, LATE}
    assert service.agent.probe(b).code == NOT_RUNNING
    service.stop(b)
    assert len(b.find("rpc.statd")) == 1


def prepare_stop(cluster: Cluster, disk: Snapshot) -> Before:
    """The service running on B, its propagator dead, and a record that it has not seen."""
    prepare(cluster, disk)
    service, b = cluster.service, cluster.b
    service.start(b)
    before = Before.of(service, b, LATE)
    crash.kill_daemons(b)
    b.sm_mon(LATE)
    return before


@pytest.mark.parametrize("where", RESTARTS)
@pytest.mark.parametrize("fault", crash.FAULTS)
def test_stop(
    pair: Cluster, disk: Snapshot, fault: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service, b = pair.service, pair.b
    prepare_stop(pair, disk)
    every = crash.points(b, lambda wrap: service.agent(b, "stop", wrapper=wrap), "-f")
    struck = []
    for point in crash.sample(every, 2 * crash.FAULTS.index(fault) + len(where)):
        before = prepare_stop(pair, disk)
        outcome = service.agent(b, "stop", wrapper=point.strace(fault, "-f"))
        try:
            if not crash.struck(b):
                assert outcome.code == OK
                continue
            struck.append(point)
            crash.failed_clearly(outcome)
            if fault == KILL:
                assert outcome.code in (-9, OK)
                service.stop(b)  # Pacemaker's next attempt; the fault is over
                assert LATE in service.records(b), "the second stop copies what the first has not"
            else:
                assert outcome.code == OK, "a stop never fails"
                assert not crash.daemons(b)
            start_again(pair, where, before)
            assert where == "other" or LATE in service.records(b)
        except AssertionError as error:
            raise AssertionError(f"stop, {fault} at {point}, {where}: {outcome}") from error
    with capsys.disabled():
        print(crash.report(f"stop, then {WHERE[where]}", fault, struck, every), end=" ")


def test_control_a_start_that_forgets_is_noticed(pair: Cluster, disk: Snapshot) -> None:
    """The invariants do see a lost record, an invented one, and a number that did not grow."""
    service, b = pair.service, pair.b
    before = prepare(pair, disk)
    service.start(b)
    before.check(service, b)
    _expect_failure(before, pair, b, "rm", f"{HOLDING}/sm/{HELD[0]}")
    _expect_failure(before, pair, b, "cp", f"{HOLDING}/sm/{HELD[1]}", f"{HOLDING}/sm/192.0.2.9")
    grown = Before(before.records, service.state(b), before.generation, before.allowed)
    with pytest.raises(AssertionError):
        grown.check(service, b)


def _expect_failure(before: Before, cluster: Cluster, node: Node, *command: str) -> None:
    node.run("cp", "-rp", HOLDING, "/tmp/kept")
    node.run(*command)
    with pytest.raises(AssertionError):
        before.check(cluster.service, node)
    node.run("sh", "-c", f"rm -rf {HOLDING}/sm; cp -rp /tmp/kept/sm {HOLDING}/; rm -rf /tmp/kept")
