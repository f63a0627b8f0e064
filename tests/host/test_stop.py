# SPDX-License-Identifier: GPL-2.0-or-later
"""Stop returns 0 whatever has happened, loses no record, and leaves nothing open."""

from __future__ import annotations

import pytest

from tests.host.crash import kill_daemons
from tests.support.hosts import Node
from tests.support.service import HOLDING, MOUNT_POINT, NOT_RUNNING, OK, Cluster
from tests.support.wait import wait_until

ONE, TWO = "192.0.2.101", "192.0.2.102"


@pytest.fixture
def started(pair: Cluster) -> Cluster:
    """The service started on A with one record held."""
    pair.service.mount(pair.a)
    pair.service.start(pair.a)
    pair.a.sm_mon(ONE)
    pair.service.held(pair.a, ONE)
    return pair


def stopped(cluster: Cluster, node: Node) -> None:
    """Stop, twice, and see that nothing is left but the records."""
    for _ in range(2):
        cluster.service.stop(node)
        assert not node.find("propagate")
        assert not node.find("supervise")
        assert cluster.service.agent.probe(node).code == NOT_RUNNING


def test_a_clean_stop(started: Cluster) -> None:
    service, a = started.service, started.a
    assert service.owner(a)["clean_stop"] is False
    stopped(started, a)
    assert service.owner(a)["clean_stop"] is True
    assert ONE in service.records(a)
    assert ONE in a.sm_records()
    assert a.statd_answers(), "statd is the node's, it stays"
    service.umount(a)


def test_a_process_with_an_open_file_makes_the_umount_fail(started: Cluster) -> None:
    """The control of every umount here: it does notice what is still open."""
    started.service.stop(started.a)
    holder = started.a.spawn("sh", "-c", f"exec sleep 1000 < {HOLDING}/owner.json")
    wait_until(lambda: started.a.find("sleep", "1000"), "the holder")
    with pytest.raises(AssertionError, match="busy"):
        started.service.umount(started.a)
    for process in started.a.find("sleep", "1000"):
        process.kill()
    holder.wait()
    started.service.umount(started.a)


def test_the_last_sweep_takes_what_the_propagator_has_not(started: Cluster) -> None:
    service, a = started.service, started.a
    for process in a.find("propagate locks"):
        process.suspend()
    a.sm_mon(TWO)
    assert TWO not in service.records(a)
    stopped(started, a)
    assert service.records(a).keys() == {ONE, TWO}
    service.umount(a)


def test_with_the_propagator_dead(started: Cluster) -> None:
    service, a = started.service, started.a
    kill_daemons(a)
    a.sm_mon(TWO)
    stopped(started, a)
    assert service.records(a).keys() == {ONE, TWO}
    assert service.owner(a)["clean_stop"] is True
    service.umount(a)


def test_with_the_filesystem_gone(started: Cluster) -> None:
    """Filesystem stopped first by a person: the mount point is empty, and stays empty."""
    a = started.a
    for process in a.find("propagate locks"):
        process.kill()
    a.run("umount", "--lazy", MOUNT_POINT)
    stopped(started, a)
    assert list(a.path(MOUNT_POINT).iterdir()) == []


def test_with_the_disk_dead(started: Cluster) -> None:
    """Every access gives EIO, as after the loss of the storage path."""
    a = started.a
    a.lose_disk(MOUNT_POINT)
    stopped(started, a)
    a.run("umount", MOUNT_POINT)


def test_read_only(started: Cluster) -> None:
    service, a = started.service, started.a
    a.run("mount", "-o", "remount,ro", MOUNT_POINT)
    stopped(started, a)
    assert ONE in service.records(a)
    service.umount(a)


def test_full(started: Cluster) -> None:
    service, a = started.service, started.a
    a.fill(MOUNT_POINT)
    a.sm_mon(TWO)
    stopped(started, a)
    assert ONE in service.records(a)
    service.umount(a)


def test_never_started(pair: Cluster) -> None:
    stopped(pair, pair.a)
    assert not pair.a.path(HOLDING).exists()
    pair.service.mount(pair.a)
    stopped(pair, pair.a)
    assert not pair.a.path(HOLDING).exists()
    pair.service.umount(pair.a)


def test_not_our_service(started: Cluster) -> None:
    """A stop on the other node, or of another resource, does not end what runs here."""
    service, a, b = started.service, started.a, started.b
    assert service.agent.stop(b).code == OK
    service.agent.instance = "mail"
    assert service.agent.stop(a, holding_dir=f"{MOUNT_POINT}/mail").code == OK
    service.agent.instance = "locks"
    assert a.find("propagate locks")
    assert service.agent.monitor(a).code == OK


def test_while_clients_are_still_being_notified(pair: Cluster) -> None:
    """Clients that never answered stay on the list for the next start."""
    service, a, b = pair.service, pair.a, pair.b
    service.mount(a)
    a.sm_mon("192.0.2.250")  # nobody has this address
    service.start(a)
    service.serve(a)
    service.export(a)
    service.address(a)
    wait_until(lambda: service.phase(a) == "notifying", "notifying")
    service.bring_down(a)
    service.mount(b)
    assert service.pending(b) == {"192.0.2.250"}


def test_an_agent_without_parameters(started: Cluster) -> None:
    """The configuration was damaged since: stop still ends what start has begun."""
    service, a = started.service, started.a
    none: dict[str, str | None] = {"holding_dir": None, "propagate_interval": "x", "ip": "y"}
    assert service.agent.stop(a, **none).code == OK
    assert not a.find("propagate")
    service.umount(a)
