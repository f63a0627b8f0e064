# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a service moves between nodes and its clients are told to reclaim their locks.

A client counts as told when its real rpc.statd has accepted the notification and called (the
stand-in for) its lockd back, with the cookie that this lockd had given it for the VIP.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.hosts import Client, Node
from tests.support.service import OK, VIP, VIP6, Cluster, Service, ip_of
from tests.support.wait import wait_until


def accepted_by_all(cluster: Cluster, count: int = 1) -> list[int]:
    """Wait until every client has accepted `count` notifications in all; return their states."""
    for client in cluster.clients:
        wait_until(
            lambda client=client: len(client.accepted()) >= count,  # type: ignore[misc]
            f"{client.name} accepted {count}",
            otherwise=lambda client=client: told(cluster, client),  # type: ignore[misc]
        )
    states = [[one.state for one in client.accepted()] for client in cluster.clients]
    assert all(len(one) == count and one == states[0] for one in states), states
    return states[0]


def told(cluster: Cluster, client: Client) -> str:
    """Return what explains a missing notification."""
    nodes = [node for node in (cluster.a, cluster.b) if node.alive()]
    logs = [f"{node.name}:\n{cluster.service.log(node)}" for node in nodes]
    return "\n".join([f"{client.name}: {client.notified()}", client.statd_log()[-2000:], *logs])


def start_with_locks(cluster: Cluster) -> Node:
    """Bring the service up on A; every client locks; its records are safe when this returns."""
    a = cluster.a
    cluster.service.bring_up(a)
    cluster.lock(a)
    cluster.service.durable(a, *map(ip_of, cluster.clients))
    return a


def check_witnesses(cluster: Cluster, service: Service, state: int) -> None:
    """Both witnesses of both clients agree: from the VIP, this state, the cookie of the VIP."""
    for client in cluster.clients:
        assert client.accepted()[-1].mon_name == VIP
        assert client.accepted()[-1].state == state
        assert {(one.address, one.state) for one in client.notified()} == {(VIP, state)}
        assert {one.name for one in client.notified()} <= {VIP, "nfs.example.com", "nfs"}


def test_the_clients_of_a_dead_node_are_notified_by_the_other(cluster: Cluster) -> None:
    service = cluster.service
    a = start_with_locks(cluster)
    assert not any(client.notified() for client in cluster.clients), "nothing was lost so far"
    before, states = service.records(a), {service.state(a), a_state(a)}
    a.power_off()
    service.bring_up(cluster.b)
    (state,) = accepted_by_all(cluster)
    check_witnesses(cluster, service, state)
    assert state % 2 == 1
    assert state > max(states)
    assert service.state(cluster.b) == state
    wait_until(lambda: not service.pending(cluster.b), "nobody left to notify")
    assert service.records(cluster.b) == before
    assert cluster.b.sm_records().keys() >= before.keys(), "B's statd knows the clients too"


def a_state(node: Node) -> int:
    """Return the node's own NSM state number."""
    return int.from_bytes(node.path("/var/lib/nfs/state").read_bytes()[:4], "little")


def test_without_lock_migration_nobody_is_notified(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(lock_migration="no")
    service, a, b = cluster.service, cluster.a, cluster.b
    service.bring_up(a)
    cluster.lock(a)
    a.power_off()
    service.bring_up(b)
    assert service.agent.monitor(b).code == OK
    # The same nodes, disk and clients with the protection on: the next start does notify, and
    # what it sends is the first thing that any client hears.
    service.bring_down(b)
    cluster.lock(b)
    service.agent.parameters["lock_migration"] = "yes"
    service.bring_up(b)
    (state,) = accepted_by_all(cluster)
    check_witnesses(cluster, service, state)


def test_failback_and_a_second_failover(cluster: Cluster) -> None:
    service = cluster.service
    here = start_with_locks(cluster)
    records = service.records(here).keys()
    seen: list[int] = []
    generations = [service.owner(here)["generation"]]
    for count in (1, 2, 3):
        there = cluster.b if here is cluster.a else cluster.a
        here.power_off()
        cluster.reboot(here)
        service.bring_up(there)
        seen = accepted_by_all(cluster, count)
        # The records came back although no client has locked anew: they are the disk's.
        assert service.records(there).keys() == records
        generations.append(service.owner(there)["generation"])
        here = there
    assert seen == sorted(set(seen))
    assert generations == sorted(set(generations))


def test_a_planned_move(cluster: Cluster) -> None:
    service = cluster.service
    a = start_with_locks(cluster)
    records = service.records(a).keys()
    service.bring_down(a)
    service.bring_up(cluster.b)
    accepted_by_all(cluster)
    assert service.records(cluster.b).keys() == records


def test_a_restart_on_the_same_node(cluster: Cluster) -> None:
    service = cluster.service
    a = start_with_locks(cluster)
    service.bring_down(a)
    service.bring_up(a)
    first = accepted_by_all(cluster)
    service.bring_down(a)
    service.bring_up(a)
    assert accepted_by_all(cluster, 2)[0] == first[0]


def test_a_lock_taken_after_the_takeover_counts_too(cluster: Cluster) -> None:
    service, (old, new) = cluster.service, cluster.clients
    a, b = cluster.a, cluster.b
    service.bring_up(a)
    cluster.lock(a, old)
    service.durable(a, ip_of(old))
    a.power_off()
    a = cluster.reboot(a)
    service.bring_up(b)
    wait_until(old.accepted, "the first client accepted")
    cluster.lock(b, new)
    service.durable(b, ip_of(new))
    b.power_off()
    service.bring_up(a)
    wait_until(new.accepted, "the second client accepted", otherwise=lambda: told(cluster, new))
    wait_until(lambda: len(old.accepted()) == 2, "the first client accepted again")
    assert len(new.accepted()) == 1
    assert old.accepted()[1].state == new.accepted()[0].state > old.accepted()[0].state


def test_two_addresses_of_both_families(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(ip=f"{VIP},{VIP6}", clients=1)
    service, (client,) = cluster.service, cluster.clients
    ipv4, ipv6 = (address.partition("/")[0] for address in client.addresses)
    service.bring_up(cluster.a)
    for name in (ipv4, ipv6):
        cluster.a.sm_mon(name)
    service.durable(cluster.a, ipv4, ipv6)
    cluster.a.power_off()
    service.bring_up(cluster.b)
    wait_until(
        lambda: {one.mon_name for one in client.accepted()} == {VIP, VIP6},
        "accepted from both addresses",
        otherwise=lambda: told(cluster, client),
    )
    assert {one.address for one in client.notified()} == {VIP, VIP6}


def test_a_record_under_a_host_name_needs_no_resolver(new_cluster: Callable[..., Cluster]) -> None:
    """A's statd names the file by reverse lookup; B cannot resolve the name, and need not."""
    cluster = new_cluster(clients=1)
    service, (client,) = cluster.service, cluster.clients
    with open(cluster.a.path("/etc/hosts"), "a") as hosts:
        hosts.write(f"{ip_of(client)} desk.example.com\n")
    service.bring_up(cluster.a)
    cluster.lock(cluster.a)
    assert set(cluster.a.sm_records()) == {"desk.example.com"}
    wait_until(lambda: service.told(cluster.a).get("records") == "1", "held")
    assert set(service.records(cluster.a)) == {ip_of(client)}, "by address"
    line = cluster.a.sm_records()["desk.example.com"]
    assert service.records(cluster.a)[ip_of(client)] == line
    cluster.a.power_off()
    service.bring_up(cluster.b)
    accepted_by_all(cluster)


@pytest.mark.parametrize("calls", ["rename,renameat,renameat2", "fsync,fdatasync,syncfs", "link"])
def test_a_takeover_that_is_killed_again_and_again(cluster: Cluster, calls: str) -> None:
    """SIGKILL at the first, second, third ... durable step of start: the next start goes on."""
    service, b = cluster.service, cluster.b
    a = start_with_locks(cluster)
    records = service.records(a)
    a.power_off()
    service.mount(b)
    killed = 0
    for number in range(1, 60):
        fault = f"inject={calls}:signal=KILL:when={number}"
        wrapper = ["strace", "-o", "/dev/null", "-e", f"trace={calls}", "-e", fault]
        outcome = service.agent(b, "start", wrapper=wrapper)
        if outcome.code == OK:
            break
        assert outcome.code == -9, outcome
        killed += 1
        assert service.records(b) == records
    else:
        pytest.fail(f"start never succeeded: {outcome}")
    assert killed, f"start never came by {calls}"
    service.start(b)
    service.serve(b)
    service.export(b)
    service.address(b)
    accepted_by_all(cluster)
    assert service.records(b).keys() == records.keys()
