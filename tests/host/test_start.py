# SPDX-License-Identifier: GPL-2.0-or-later
"""What start refuses, with which code and reason, and that no refusal costs a record.

Each test ends with the control: the same start without the fault succeeds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from nfslock import rpc
from tests.support.hosts import Node
from tests.support.service import (
    ARGS,
    CONFIGURED,
    DEGRADED,
    GENERIC,
    HOLDING,
    MOUNT_POINT,
    NOT_RUNNING,
    OK,
    Cluster,
    Outcome,
    Service,
)
from tests.support.wait import wait_until

CLIENTS = ("192.0.2.101", "192.0.2.102")


@pytest.fixture
def mounted(pair: Cluster) -> Cluster:
    """Node A with the service's filesystem mounted, and records of two clients in its statd."""
    pair.service.mount(pair.a)
    for client in CLIENTS:
        pair.a.sm_mon(client)
    return pair


def refused(service: Service, node: Node, code: int, *words: str, **changes: str | None) -> Outcome:
    """Start and expect a refusal whose one reason has all the words; nothing may be touched."""
    before = node.sm_records()
    outcome = service.agent.start(node, **changes)
    assert outcome.code == code, outcome
    for word in words:
        assert word in outcome.reason, outcome
    assert outcome.stderr.count("ocf-exit-reason:") == 1, outcome.stderr
    assert node.sm_records() == before, "a refused start leaves statd's records alone"
    assert node.statd_answers()
    assert not node.find("propagate")
    assert service.agent.probe(node, **changes).code == NOT_RUNNING
    assert service.agent.stop(node, **changes).code == OK
    return outcome


def control(service: Service, node: Node) -> None:
    """The start that was refused succeeds without its fault, and both records are held."""
    service.start(node)
    service.held(node, *CLIENTS)
    service.stop(node)


def test_a_missing_directory_is_created(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    assert not a.path(HOLDING).exists()
    service.start(a)
    assert stat.S_IMODE(a.path(HOLDING).stat().st_mode) == 0o700
    service.held(a, *CLIENTS)
    assert service.owner(a)["service"] == "locks"
    assert service.owner(a)["node"] == "nodeA"
    assert service.owner(a)["generation"] == 1


def test_starting_twice_is_one_start(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    service.start(a)
    owner, processes = service.owner(a), {p.pid for p in a.find("propagate")}
    statd = {p.pid for p in a.find("rpc.statd")}
    service.start(a)
    assert service.owner(a) == owner
    assert {p.pid for p in a.find("propagate")} == processes
    assert {p.pid for p in a.find("rpc.statd")} == statd
    assert processes


def test_an_unmounted_mount_point_is_never_filled(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    a.path(MOUNT_POINT).mkdir(parents=True)
    refused(service, a, ARGS, HOLDING, "mounted")
    assert list(a.path(MOUNT_POINT).iterdir()) == []
    service.mount(a)
    service.start(a)


def test_a_parent_that_does_not_exist(mounted: Cluster) -> None:
    deep = f"{MOUNT_POINT}/not/there"
    refused(mounted.service, mounted.a, ARGS, deep, holding_dir=deep)
    assert not mounted.a.path(f"{MOUNT_POINT}/not").exists()
    control(mounted.service, mounted.a)


def test_on_the_root_filesystem(mounted: Cluster) -> None:
    mounted.a.path("/srv/local").mkdir()
    refused(mounted.service, mounted.a, ARGS, "/srv/local", "filesystem", holding_dir="/srv/local")
    assert list(mounted.a.path("/srv/local").iterdir()) == []
    control(mounted.service, mounted.a)


def test_on_the_filesystem_of_statd(mounted: Cluster) -> None:
    place = "/var/lib/nfs/holding"
    refused(mounted.service, mounted.a, ARGS, place, "filesystem", holding_dir=place)
    assert not mounted.a.path(place).exists()
    control(mounted.service, mounted.a)


def make_file(node: Node) -> None:
    node.path(HOLDING).write_text("")


def make_symlink(node: Node) -> None:
    node.path(f"{MOUNT_POINT}/elsewhere").mkdir(mode=0o700)
    os.symlink(f"{MOUNT_POINT}/elsewhere", node.path(HOLDING))


def make_public(node: Node) -> None:
    node.path(HOLDING).mkdir()
    node.path(HOLDING).chmod(0o777)


def make_foreign(node: Node) -> None:
    node.path(HOLDING).mkdir(mode=0o700)
    node.path(f"{HOLDING}/thesis.doc").write_text("years of work")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (make_file, "not a directory"),
        (make_symlink, "symbolic link"),
        (make_public, "0777"),
        (make_foreign, "thesis.doc"),
    ],
)
def test_a_place_that_is_no_holding_directory(
    mounted: Cluster, make: Callable[[Node], None], word: str
) -> None:
    make(mounted.a)
    before = mounted.a.run("find", MOUNT_POINT, "-printf", "%p %m %s\n").stdout
    refused(mounted.service, mounted.a, CONFIGURED, HOLDING, word)
    assert mounted.a.run("find", MOUNT_POINT, "-printf", "%p %m %s\n").stdout == before
    mounted.a.run("rm", "-r", HOLDING)
    control(mounted.service, mounted.a)


def test_the_directory_of_another_service(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    service.start(a)
    service.stop(a)
    owner = service.owner(a)
    service.agent.instance = "mail"
    refused(service, a, CONFIGURED, HOLDING, "locks")
    assert service.owner(a) == owner
    service.agent.instance = "locks"
    control(service, a)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"propagate_interval": None}, ["propagate_interval", "not set"]),
        ({"propagate_interval": "soon"}, ["propagate_interval=soon"]),
        ({"propagate_interval": "-5"}, ["propagate_interval=-5"]),
        ({"propagate_interval": "0"}, ["propagate_interval=0"]),
        ({"holding_dir": None}, ["holding_dir"]),
        ({"holding_dir": "srv/nfs"}, ["holding_dir=srv/nfs", "absolute"]),
        ({"ip": None}, ["ip"]),
        ({"ip": "192.0.2.300"}, ["192.0.2.300", "address"]),
        ({"ip": "nfs.example.com"}, ["nfs.example.com", "address"]),
        ({"lock_migration": "perhaps"}, ["lock_migration=perhaps"]),
        ({"nfs_versions": "4"}, ["nfs_versions=4", "alone"]),
        ({"notify_timeout": "later"}, ["notify_timeout=later"]),
    ],
)
def test_a_wrong_parameter(
    mounted: Cluster, changes: dict[str, str | None], words: list[str]
) -> None:
    refused(mounted.service, mounted.a, CONFIGURED, *words, **changes)
    assert not mounted.a.path(HOLDING).exists()
    validated = mounted.service.agent(mounted.a, "validate-all", **changes)
    assert validated.code == CONFIGURED
    assert words[0] in validated.reason
    assert mounted.service.agent(mounted.a, "validate-all").code == OK


def used_before(cluster: Cluster) -> dict[str, str]:
    """Have the service run once, so that there are records to lose; return them."""
    control(cluster.service, cluster.a)
    records = cluster.service.records(cluster.a)
    assert records.keys() == set(CLIENTS)
    return records


def test_a_full_disk(mounted: Cluster) -> None:
    """The reserve is enough for a takeover and a new record."""
    service, a = mounted.service, mounted.a
    used_before(mounted)
    a.sm_mon("192.0.2.103")
    a.fill(MOUNT_POINT)
    service.start(a)
    service.held(a, *CLIENTS, "192.0.2.103")
    assert service.pending(a) == {*CLIENTS, "192.0.2.103"}
    outcome = service.agent.monitor(a)
    assert outcome.code == DEGRADED, outcome
    assert "make room" in outcome.reason
    a.empty(MOUNT_POINT)
    wait_until(lambda: service.agent.monitor(a).code == OK, "the reserve is whole again")


def test_a_full_disk_without_a_reserve(mounted: Cluster) -> None:
    """The control."""
    service, a = mounted.service, mounted.a
    records = used_before(mounted)
    a.sm_mon("192.0.2.103")
    service.spoil_reserve(a)
    a.fill(MOUNT_POINT)
    outcome = service.agent.start(a)
    assert outcome.code == GENERIC, outcome
    assert "No space left" in outcome.reason
    assert HOLDING in outcome.reason
    assert service.records(a) == records
    assert set(a.sm_records()) == {*CLIENTS, "192.0.2.103"}
    assert a.statd_answers()
    assert service.agent.stop(a).code == OK
    a.empty(MOUNT_POINT)
    service.start(a)
    service.held(a, *CLIENTS, "192.0.2.103")


def taken_port(node: Node, seconds: float) -> None:
    """Give rpc.statd a fixed port that somebody has by TCP, for so many seconds."""
    node.path("/etc/nfs.conf.d").mkdir(exist_ok=True)
    node.path("/etc/nfs.conf.d/port.conf").write_text("[statd]\nport=4700\n")
    node.spawn("python3", "-c", "import socket, time; "
               f"taken = socket.create_server(('', 4700)); time.sleep({seconds})")
    wait_until(lambda: node.run("ss", "-Hltn", "sport = 4700").stdout, "the port is taken")


def test_statd_whose_port_is_taken_for_a_moment(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    taken_port(a, 1)
    service.start(a)
    service.complete(a)
    wait_until(lambda: "started again" in service.log(a), "started again")
    wait_until(lambda: service.phase(a) == "notifying", "clients are told",
               otherwise=lambda: service.told(a))
    a.call(rpc.STATD, 1, 0, tcp=True)
    assert service.agent.monitor(a, level=10).code == OK


def test_statd_whose_port_is_taken(mounted: Cluster) -> None:
    """The control: lockd could not ask this statd, so nobody is told, and monitor says so."""
    service, a = mounted.service, mounted.a
    taken_port(a, 60)
    service.start(a)
    service.complete(a)
    wait_until(lambda: "is its port taken" in service.log(a), "given up")
    assert "rpc.statd" in service.status(a)["waiting_for"]
    with pytest.raises(ConnectionRefusedError):
        a.call(rpc.STATD, 1, 0, tcp=True)
    outcome = service.agent.monitor(a, level=10)
    assert outcome.code == GENERIC, outcome
    assert "by TCP" in outcome.reason


def test_a_read_only_disk(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    records = used_before(mounted)
    a.run("mount", "-o", "remount,ro", MOUNT_POINT)
    refused(service, a, GENERIC, HOLDING, "Read-only")
    assert service.records(a) == records
    a.run("mount", "-o", "remount,rw", MOUNT_POINT)
    control(service, a)


@pytest.mark.parametrize("calls", ["fsync,fdatasync,syncfs", "rename,renameat,renameat2", "write"])
def test_a_disk_with_errors(mounted: Cluster, calls: str) -> None:
    """EIO at each place in turn; start fails with a reason until the fault lies behind its end."""
    service, a = mounted.service, mounted.a
    records = used_before(mounted)
    paths = ["-P", HOLDING, "-P", f"{HOLDING}/sm"] if calls == "write" else []
    failures = 0
    for number in range(1, 40):
        fault = f"inject={calls}:error=EIO:when={number}"
        wrapper = ["strace", "-o", "/dev/null", "-e", f"trace={calls}", *paths, "-e", fault]
        outcome = service.agent(a, "start", wrapper=wrapper)
        assert service.records(a).keys() == records.keys(), outcome
        assert set(a.sm_records()) >= set(CLIENTS), outcome
        if outcome.code == OK:
            break
        failures += 1
        assert outcome.code == GENERIC, outcome
        assert outcome.reason, outcome
        assert service.agent.stop(a).code == OK
    else:
        pytest.fail(f"start never succeeded: {outcome}")
    assert failures or calls == "write"
    assert a.statd_answers()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"generation": "two"}', "\x00" * 100],
    ids=["empty", "cut short", "list", "nothing in it", "wrong type", "zeros"],
)
def test_a_corrupt_owner(mounted: Cluster, content: str) -> None:
    service, a = mounted.service, mounted.a
    records = used_before(mounted)
    good = a.read(f"{HOLDING}/owner.json")
    a.path(f"{HOLDING}/owner.json").write_text(content)
    refused(service, a, GENERIC, f"{HOLDING}/owner.json")
    assert service.records(a) == records
    assert a.read(f"{HOLDING}/owner.json") == content
    a.path(f"{HOLDING}/owner.json").write_text(good)
    control(service, a)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"\x00" * 4, b"\xff" * 4, b"\x02\0\0\0", b"x" * 99],
    ids=["empty", "cut short", "zero", "negative", "even", "long"],
)
def test_a_corrupt_state_number(mounted: Cluster, content: bytes) -> None:
    """It is not a reason to refuse: the number is known from owner.json too, and only grows."""
    service, a = mounted.service, mounted.a
    used_before(mounted)
    before = service.state(a)
    a.path(f"{HOLDING}/state").write_bytes(content)
    service.start(a)
    assert service.state(a) > before
    assert service.state(a) % 2 == 1


def test_a_newer_generation_stops_the_older_owner(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    service.start(a)
    a.sm_mon("192.0.2.103")
    service.held(a, "192.0.2.103")
    before = service.records(a)
    owner = a.read(f"{HOLDING}/owner.json")
    generation = service.owner(a)["generation"]
    newer = owner.replace(f'"generation": {generation}', f'"generation": {generation + 1}')
    newer = newer.replace("nodeA", "nodeB")
    assert newer != owner
    fresh = a.path(f"{HOLDING}/.nfslock.test")
    fresh.write_text(newer)
    fresh.rename(a.path(f"{HOLDING}/owner.json"))
    a.sm_mon("192.0.2.104")
    outcome = service.agent.monitor(a)
    assert outcome.code == GENERIC, outcome
    assert "newer generation" in outcome.reason
    assert str(generation + 1) in outcome.reason
    service.stop(a)
    assert service.records(a) == before
    assert a.read(f"{HOLDING}/owner.json") == newer


def test_lock_migration_off_touches_nothing(mounted: Cluster) -> None:
    service, a = mounted.service, mounted.a
    statd = [p.pid for p in a.find("rpc.statd")]
    off: dict[str, str | None] = {"lock_migration": "no"}
    bare: dict[str, str | None] = {**off, "propagate_interval": None, "ip": None}
    for changes in (off, bare):
        assert service.agent.probe(a, **changes).code == NOT_RUNNING
        assert service.agent.start(a, **changes).code == OK
        assert service.agent.monitor(a, **changes).code == OK
        assert service.agent.probe(a, **changes).code == OK
        assert not a.path(HOLDING).exists()
        assert not a.find("propagate")
        assert [p.pid for p in a.find("rpc.statd")] == statd
        assert service.agent.stop(a, **changes).code == OK
        assert service.agent.monitor(a, **changes).code == NOT_RUNNING
    service.umount(a)
