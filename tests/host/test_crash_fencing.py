# SPDX-License-Identifier: GPL-2.0-or-later
"""The fencing token: an owner that was frozen, superseded and thawed writes nothing more.

Both nodes have the disk mounted at once here, which fencing prevents in a cluster: the token is
what remains if it does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host import crash
from tests.host.crash import Point
from tests.host.test_crash_propagator import Attached, propagator
from tests.support.hosts import Node, read_directory
from tests.support.service import GENERIC, HOLDING, MOUNT_POINT, OK, Cluster
from tests.support.wait import wait_until

OLD, NEW, LATE = "192.0.2.101", "192.0.2.102", "192.0.2.103"


@pytest.fixture
def frozen(pair: Cluster) -> Iterator[Cluster]:
    """The service on A with one client, its processes frozen; the disk mounted on B, too."""
    service, a, b = pair.service, pair.a, pair.b
    service.agent.parameters["propagate_interval"] = "250ms"
    service.mount(a)
    service.start(a)
    a.sm_mon(OLD)
    service.held(a, OLD)
    for process in crash.daemons(a):
        process.suspend()
    b.run("mkdir", "-p", MOUNT_POINT)
    b.run("mount", "-o", "noatime", f"/dev/{service.image.loop}", MOUNT_POINT)
    yield pair
    for node in (b, a):
        for process in crash.daemons(node):
            process.kill()
    b.run("umount", MOUNT_POINT)


def thaw(node: Node) -> None:
    for process in crash.daemons(node):
        process.resume()


def holding(node: Node) -> dict[str, dict[str, str]]:
    """Return all that the holding directory has."""
    return {place: read_directory(node, f"{HOLDING}/{place}") for place in (".", "sm", "notify")}


def test_a_thawed_owner_writes_nothing_more(frozen: Cluster) -> None:
    service, a, b = frozen.service, frozen.a, frozen.b
    a.sm_mon(NEW)  # its event waits for the frozen propagator
    a.sm_unmon(OLD)
    service.start(b)
    before = holding(b)
    old = propagator(a)
    thaw(a)
    wait_until(lambda: service.phase(a) == "fenced", "A knows", otherwise=lambda: service.log(a))
    wait_until(lambda: not old.is_running(), "A's propagator has stopped")
    outcome = service.agent.monitor(a)
    assert outcome.code == GENERIC, outcome
    assert "generation 2 on node nodeB" in outcome.reason.replace("generation: 2", "generation 2")
    a.sm_mon(LATE)
    assert holding(b) == before
    assert service.stop(a).code == OK
    assert holding(b) == before, "its stop leaves no mark either"
    assert service.agent.monitor(b).code == OK


def test_control_without_a_newer_owner_it_goes_on(frozen: Cluster) -> None:
    service, a, b = frozen.service, frozen.a, frozen.b
    a.sm_mon(NEW)
    thaw(a)
    service.held(a, NEW)
    assert NEW in service.records(b), "both nodes do see the same disk"
    wait_until(lambda: service.agent.monitor(a).code == OK, "monitor content")


def test_frozen_in_the_middle_of_a_write(frozen: Cluster) -> None:
    """Between the look at the token and the rename one addition can slip through, and only that."""
    service, a, b = frozen.service, frozen.a, frozen.b
    thaw(a)
    wait_until(lambda: service.agent.monitor(a).code == OK, "monitor content")
    # The temporary file's fsync takes 5 s: the token was looked at before.
    slow = Attached(a, propagator(a), *Point("fsync", 1).strace("delay_enter=5000000"))
    a.sm_mon(NEW)
    wait_until(
        lambda: any(name.startswith(".nfslock") for name in read_directory(a, f"{HOLDING}/sm")),
        "the write has begun",
    )
    service.start(b)
    owner = service.owner(b)
    wait_until(lambda: service.phase(a) == "fenced", "A knows", otherwise=lambda: service.log(a))
    slow.detach()
    a.sm_mon(LATE)
    assert service.owner(b) == owner
    assert set(service.records(b)) <= {OLD, NEW}
    assert OLD in service.records(b)
    assert service.agent.monitor(b).code == OK
