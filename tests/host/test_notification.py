# SPDX-License-Identifier: GPL-2.0-or-later
"""When notifications leave, and what happens when they are not answered.

"Nothing was sent" is never a matter of waiting: the client's count of notifications is compared
after an event that comes later than a wrong notification would have come.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.hosts import Node
from tests.support.service import COMMAND, DEGRADED, HOLDING, OK, VIP, Cluster, Service, ip_of
from tests.support.wait import wait_until

STEPS: dict[str, Callable[[Service, Node], None]] = {
    "nfsd": lambda _, node: void(node.stand_in("nfsd")),
    "lockd": lambda _, node: void(node.stand_in("lockd")),
    "export": lambda service, node: service.export(node),
    "address": lambda service, node: service.address(node),
}


def void(_: object) -> None:
    """Drop a result."""


@pytest.fixture
def moved(cluster: Cluster) -> Cluster:
    """A is dead, nfslock is started on B, nothing else is."""
    service, a = cluster.service, cluster.a
    service.mount(a)
    service.start(a)
    cluster.lock(a)
    service.durable(a, *map(ip_of, cluster.clients))
    a.power_off()
    service.mount(cluster.b)
    service.start(cluster.b)
    return cluster


def looked_again(cluster: Cluster) -> None:
    """Wait until B's propagator has done a few more rounds."""
    service, b = cluster.service, cluster.b
    for number in (1, 2):
        client = f"192.0.2.{230 + number}"
        b.sm_mon(client)
        service.held(b, client)
        before = service.told(b)["last_sweep"]
        wait_until(lambda: service.told(b)["last_sweep"] != before, "another sweep")  # noqa: B023


@pytest.mark.parametrize("last", STEPS)
def test_nothing_is_sent_before_the_last_condition_holds(moved: Cluster, last: str) -> None:
    service, b = moved.service, moved.b
    for name, step in STEPS.items():
        if name != last:
            step(service, b)
    looked_again(moved)
    assert service.phase(b) == "waiting"
    assert service.pending(b) >= set(map(ip_of, moved.clients))
    assert service.agent.monitor(b).code == OK
    for client in moved.clients:
        assert client.notified() == []
    STEPS[last](service, b)
    for client in moved.clients:
        wait_until(client.accepted, "accepted", otherwise=lambda: service.log(b))
        assert client.accepted()[0].state == service.state(b)


def test_status_says_where_the_time_went(moved: Cluster) -> None:
    service, b = moved.service, moved.b
    assert service.status(b)["notified_ms"] == ""
    for step in STEPS.values():
        step(service, b)
    wait_until(lambda: service.phase(b) == "settled", "settled", otherwise=lambda: service.log(b))
    found = service.status(b)
    steps = found["start_ms"]
    assert steps.keys() >= {"load the program", "read the records", "claim", "enlist", "merge",
                            "start_propagator"}
    assert steps["in all"] == sum(steps.values()) / 2 > 0
    assert any("on this node" in reason for reason in found["waited_ms"])
    assert min(found["waited_ms"].values()) >= 0
    assert isinstance(found["notified_ms"], int)
    killed = service.told(b)["pid"]
    b.find("propagate locks")[0].kill()
    wait_until(lambda: service.told(b)["pid"] != killed, "another propagator")
    again = service.status(b)["waited_ms"]  # the new one waits some moments, too
    assert all(again.get(reason, -1) >= ms for reason, ms in found["waited_ms"].items())


def test_a_registered_lockd_that_does_not_answer_is_not_there(moved: Cluster) -> None:
    service, b = moved.service, moved.b
    for step in STEPS.values():
        if step is STEPS["address"]:
            for process in b.find("standin.py", "lockd"):
                process.suspend()
        step(service, b)
    looked_again(moved)
    assert not any(client.notified() for client in moved.clients)
    for process in b.find("standin.py", "lockd"):
        process.resume()
    for client in moved.clients:
        wait_until(client.accepted, "accepted", otherwise=lambda: service.log(b))


def test_an_export_of_another_filesystem_does_not_count(moved: Cluster) -> None:
    service, b = moved.service, moved.b
    b.path("/srv/other").mkdir()
    b.export("/srv/other")
    service.serve(b)
    service.address(b)
    looked_again(moved)
    assert not any(client.notified() for client in moved.clients)
    service.export(b)
    for client in moved.clients:
        wait_until(client.accepted, "accepted", otherwise=lambda: service.log(b))


def serve(cluster: Cluster) -> None:
    """Let B's service stand."""
    cluster.service.complete(cluster.b)


def test_a_deaf_client_is_told_when_it_hears_again(moved: Cluster) -> None:
    """It neither delays the other client nor is it forgotten."""
    service, b = moved.service, moved.b
    deaf, well = moved.clients
    (rpcbind,) = deaf.find("rpcbind")
    rpcbind.suspend()
    serve(moved)
    wait_until(well.accepted, "the other one accepted", otherwise=lambda: service.log(b))
    wait_until(lambda: service.pending(b) == {ip_of(deaf)}, "one left")
    assert service.agent.monitor(b).code == OK, "within its time"
    rpcbind.resume()
    wait_until(deaf.accepted, "accepted", otherwise=lambda: service.log(b))
    wait_until(lambda: not service.pending(b), "nobody left")
    assert len(well.accepted()) == 1
    assert deaf.accepted()[0].state == well.accepted()[0].state


def test_clients_that_never_answer_are_counted(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(clients=0, notify_timeout="1s")
    service, a = cluster.service, cluster.a
    for number in (240, 241, 242):
        a.sm_mon(f"192.0.2.{number}")
    service.bring_up(a)
    outcome = wait_until(
        lambda: next((o for o in [service.agent.monitor(a)] if o.code != OK), None), "not content"
    )
    assert outcome.code == DEGRADED, outcome
    assert "3" in outcome.reason
    assert service.pending(a) == {f"192.0.2.{number}" for number in (240, 241, 242)}
    wait_until(  # monitor knows the deadline, and may see it pass before the propagator does
        lambda: "192.0.2.240 (no answer), 192.0.2.241 (no answer), 192.0.2.242 (no answer)"
        in a.run(COMMAND, "status").stdout, "named", otherwise=lambda: service.log(a))


def test_a_client_without_statd_is_named(moved: Cluster) -> None:
    """Its rpcbind answers with port 0: it is asked again, and told once statd is back."""
    service, b = moved.service, moved.b
    bare, well = moved.clients
    bare.run("rpcinfo", "-d", "100024", "1")
    serve(moved)
    wait_until(well.accepted, "the other one accepted", otherwise=lambda: service.log(b))
    wait_until(
        lambda: service.status(b)["silent"] == {ip_of(bare): "no rpc.statd registered"},
        "named in status", otherwise=lambda: service.status(b))
    for statd in bare.find("rpc.statd"):
        statd.kill()
    wait_until(lambda: not bare.find("rpc.statd"), "gone")
    bare.start_statd()
    wait_until(lambda: not service.pending(b), "told", 60, otherwise=lambda: service.log(b))
    wait_until(lambda: service.status(b)["silent"] == "", "nobody named")


def test_a_killed_propagator_goes_on_notifying(moved: Cluster) -> None:
    service, b = moved.service, moved.b
    deaf, well = moved.clients
    (rpcbind,) = deaf.find("rpcbind")
    rpcbind.suspend()
    state = service.state(b)
    serve(moved)
    wait_until(lambda: service.pending(b) == {ip_of(deaf)}, "one left")
    (process,) = b.find("propagate locks")
    process.kill()
    rpcbind.resume()
    wait_until(deaf.accepted, "accepted", otherwise=lambda: service.log(b))
    assert deaf.accepted()[0].state == state == service.state(b)
    assert len(well.accepted()) == 1, "who has answered is not asked again"
    assert {one.state for one in well.notified()} == {state}


@pytest.mark.parametrize("deaf", [False, True])
def test_who_is_known_by_a_host_name_only_is_told(cluster: Cluster, deaf: bool) -> None:
    """Records from elsewhere may have no address. Names wait for others' answers, not for long."""
    service, b = cluster.service, cluster.b
    named, other = cluster.clients
    service.bring_up(cluster.a)
    cluster.lock(cluster.a)
    service.durable(cluster.a, *map(ip_of, cluster.clients))
    cluster.a.power_off()
    service.mount(b)
    record, name = b.path(f"{HOLDING}/sm/{ip_of(named)}"), "desk.example.com"
    text = record.read_text().replace(f" {ip_of(named)} ", f" {name} ")
    record.write_text(text)
    record.rename(record.with_name(name))
    with open(b.path("/etc/hosts"), "a") as hosts:
        hosts.write(f"{ip_of(named)} {name}\n")
    if deaf:
        for process in other.find("rpcbind"):
            process.suspend()
    service.start(b)
    serve(cluster)
    wait_until(named.accepted, "accepted", otherwise=lambda: service.log(b))
    wait_until(
        lambda: service.pending(b) == ({ip_of(other)} if deaf else set()), "all who can are told")


def test_the_names_announced(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(clients=1, notify_names="locks.example.org,old-server")
    service, (client,) = cluster.service, cluster.clients
    cluster.lock(cluster.a)
    service.bring_up(cluster.a)
    wait_until(
        lambda: {"locks.example.org", "old-server"} <= {one.name for one in client.notified()},
        "both names",
        otherwise=lambda: service.log(cluster.a),
    )
    assert {(one.address, one.state) for one in client.notified()} == {
        (VIP, service.state(cluster.a))
    }
    assert len(client.accepted()) == 1, "one state is news once"


def test_a_client_that_knows_the_number_is_told_a_new_one(cluster: Cluster) -> None:
    """Two nodes with independent counters would collide here; the service's own number does not."""
    service = cluster.service
    for node in (cluster.a, cluster.b):
        node.path("/var/lib/nfs/state").write_bytes((5).to_bytes(4, "little"))
    cluster.lock(cluster.a)
    for node in (cluster.a, cluster.b, cluster.a):
        service.bring_up(node)
        service.held(node, *map(ip_of, cluster.clients))
        wait_until(lambda: not service.pending(node), "all told")  # noqa: B023
        service.bring_down(node)
    for client in cluster.clients:
        wait_until(lambda: len(client.accepted()) == 3, "three accepted")  # noqa: B023
        states = [one.state for one in client.accepted()]
        assert states == sorted(set(states))


def test_the_number_is_durable_before_it_is_announced(cluster: Cluster) -> None:
    """Power cut at the very moment at which the first client hears of the number."""
    service, b = cluster.service, cluster.b
    cluster.lock(b)
    service.bring_up(b)
    (client, *_) = cluster.clients
    wait_until(client.notified, "heard")
    heard = client.notified()[0].state
    b.power_off()
    service.mount(cluster.a)
    assert service.state(cluster.a) == heard
    service.start(cluster.a)
    assert service.state(cluster.a) > heard


# Beside the stock tools


def test_stock_sm_notify_does_not_use_the_records_up(moved: Cluster) -> None:
    """rpc-statd-notify.service starts with nfs-server; it must find nothing to do."""
    service, b = moved.service, moved.b
    before = b.sm_records()
    assert before.keys() >= set(map(ip_of, moved.clients))
    b.run("sm-notify", check=False)
    assert b.sm_records() == before
    assert not b.find("sm-notify")
    assert not any(client.notified() for client in moved.clients)
    serve(moved)
    for client in moved.clients:
        wait_until(client.accepted, "accepted", otherwise=lambda: service.log(b))
        assert {one.address for one in client.notified()} == {VIP}


def test_stock_sm_notify_alone_would(pair: Cluster) -> None:
    """The control: without nfslock the same command uses the records up."""
    pair.a.sm_mon("192.0.2.240")
    pair.a.run("sm-notify")
    assert pair.a.sm_records() == {}
    for process in pair.a.find("sm-notify"):
        process.kill()
