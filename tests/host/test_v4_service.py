# SPDX-License-Identifier: GPL-2.0-or-later
"""NFSv4 recovery records of a service: kept while it runs, in place where it starts next.

nfsdcld is real on every node; what nfsd would tell it is told by the stand-in for its pipe. Whether
real clients then reclaim is seen in the cluster tier.
"""

from __future__ import annotations

import hashlib
import time
from typing import Callable

import pytest

from tests.support.hosts import Node
from tests.support.service import (
    ARGS,
    DEGRADED,
    GENERIC,
    HOLDING,
    MOUNT_POINT,
    OK,
    Cluster,
    Service,
)
from tests.support.upcalls import DATABASE, Nfsdcld, printed
from tests.support.wait import wait_until

A, B, C = b"Linux NFSv4.2 a", b"Linux NFSv4.1 b", b"Linux NFSv4.0 c/192.0.2.10"
LEASES = "/proc/sys/fs/leases-enable"
HELD = f"{HOLDING}/nfsdcld/main.sqlite"


@pytest.fixture
def both(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes and a service that keeps the locks of versions 3 and 4."""
    return new_cluster(clients=0, nfs_versions="3,4")


def held(node: Node) -> set[bytes]:
    """Who is held, as nfsdclddb prints it."""
    lines = printed(node, HELD) if node.path(HELD).exists() else []
    return {line.split(",")[0].removeprefix("id = ").encode() for line in lines
            if line.startswith("id = ")}


def names(*owners: bytes) -> set[str]:
    return {hashlib.md5(owner).hexdigest() for owner in owners}


def is_held(node: Node, service: Service, *owners: bytes) -> None:
    wait_until(lambda: held(node) == set(owners), f"{owners} held",
               otherwise=lambda: f"{held(node)}\n{service.log(node)}")


def served(node: Node, *owners: bytes) -> Nfsdcld:
    """nfsdcld and a started nfsd whose grace period is over, with these clients."""
    daemon = Nfsdcld(node)
    daemon.grace_start()
    for owner in owners:
        daemon.create(owner)
    daemon.grace_done()
    return daemon


def test_a_client_is_held_before_the_next_sweep(both: Cluster) -> None:
    service, a = both.service, both.a
    service.agent.parameters["propagate_interval"] = "1h"
    daemon = served(a, A)
    service.mount(a)
    service.start(a)
    is_held(a, service, A)
    daemon.create(B, hashlib.sha256(b"b@EXAMPLE.COM").digest())
    is_held(a, service, A, B)
    assert any("princhash = " + hashlib.sha256(b"b@EXAMPLE.COM").hexdigest() in line
               for line in printed(a, HELD))
    status = service.status(a)
    assert (status["v4_records"], status["v4_tracking"]) == (2, "nfsdcld")


def test_the_directory_form_follows_with_the_sweep(both: Cluster) -> None:
    service, a = both.service, both.a
    service.mount(a)
    service.start(a)
    served(a, A, C)
    wait_until(lambda: {p.name for p in a.path(f"{HOLDING}/v4recovery").iterdir()} == names(A, C)
               if a.path(f"{HOLDING}/v4recovery").exists() else False, "directories")


@pytest.mark.parametrize("virgin", [True, False])
def test_the_adoptive_nodes_nfsd_lets_them_reclaim(both: Cluster, virgin: bool) -> None:
    service, a, b = both.service, both.a, both.b
    if not virgin:
        served(b).stop()
    service.mount(a)
    service.start(a)
    served(a, A, C)
    is_held(a, service, A, C)
    a.power_off()
    service.mount(b)
    service.start(b)
    assert service.agent.monitor(b, 10).code == OK
    assert sorted(Nfsdcld(b).grace_start()) == sorted([A, C])


def test_control_without_lock_migration_nobody_may_reclaim(both: Cluster) -> None:
    service, a, b = both.service, both.a, both.b
    service.agent.parameters["lock_migration"] = "no"
    service.mount(a)
    service.start(a)
    served(a, A)
    a.power_off()
    service.mount(b)
    service.start(b)
    assert Nfsdcld(b).grace_start() == []


def test_a_record_from_an_earlier_stay_gives_nothing_back(both: Cluster) -> None:
    """C lost its lease on the other node, and its locks went to somebody else."""
    service, a, b = both.service, both.a, both.b
    service.mount(a)
    service.start(a)
    daemon = served(a, A, C)
    is_held(a, service, A, C)
    daemon.stop()
    service.stop(a)
    service.umount(a)
    service.mount(b)
    service.start(b)
    daemon = Nfsdcld(b)
    assert sorted(daemon.grace_start()) == sorted([A, C])
    daemon.create(A)
    daemon.grace_done()
    service.complete(b)
    is_held(b, service, A)
    b.power_off()
    service.mount(a)
    service.start(a)
    assert Nfsdcld(a).grace_start() == [A]


def test_a_removal_is_mirrored_while_the_service_stands(both: Cluster) -> None:
    service, a = both.service, both.a
    service.bring_up(a)
    wait_until(lambda: service.phase(a) == "settled", "settled", otherwise=lambda: service.log(a))
    daemon = served(a, A, B)
    is_held(a, service, A, B)
    daemon.remove(A)
    is_held(a, service, B)
    assert service.agent.monitor(a, 10).code == OK


def test_nothing_is_removed_while_the_service_leaves(both: Cluster) -> None:
    """Older kernels release locks by expiring clients, which removes their records on the node."""
    service, a, b = both.service, both.a, both.b
    service.bring_up(a)
    wait_until(lambda: service.phase(a) == "settled", "settled")
    daemon = served(a, A, B)
    is_held(a, service, A, B)
    service.unaddress(a)
    daemon.remove(A)
    daemon.create(C)
    is_held(a, service, A, B, C)
    service.unexport(a)
    service.unserve(a)
    service.stop(a)
    assert held(a) == {A, B, C}
    daemon.stop()
    service.umount(a)
    service.mount(b)
    service.start(b)
    assert sorted(Nfsdcld(b).grace_start()) == sorted([A, B, C])


def test_a_crash_in_grace_loses_neither_those_back_nor_those_to_come(both: Cluster) -> None:
    service, a, b = both.service, both.a, both.b
    service.mount(a)
    service.start(a)
    served(a, A, B).stop()
    is_held(a, service, A, B)
    daemon = Nfsdcld(a)
    daemon.grace_start()
    daemon.create(A)
    daemon.create(C)
    is_held(a, service, A, B, C)
    a.power_off()
    service.mount(b)
    service.start(b)
    assert sorted(Nfsdcld(b).grace_start()) == sorted([A, B, C])


def test_a_newer_schema_is_refused_untouched(both: Cluster) -> None:
    service, a = both.service, both.a
    served(a, A).stop()
    a.run("sqlite3", DATABASE, "UPDATE parameters SET value = '5' WHERE key = 'version'")
    before = a.path(DATABASE).read_bytes()
    service.mount(a)
    outcome = service.agent.start(a)
    assert outcome.code == ARGS and "schema version 5, newer than 4" in outcome.reason, outcome
    assert a.path(DATABASE).read_bytes() == before
    assert not a.path(f"{HOLDING}/owner.json").exists()
    a.run("sqlite3", DATABASE, "UPDATE parameters SET value = '4' WHERE key = 'version'")
    service.start(a)
    is_held(a, service, A)


@pytest.mark.parametrize("kind", ["nfsdcltrack", "v4recovery"])
def test_the_older_forms(both: Cluster, kind: str) -> None:
    """Kept from the real nfsdcltrack, or from directories as nfsd makes them, and put back."""
    service, a, b = both.service, both.a, both.b
    service.agent.parameters["v4_tracking"] = kind
    for node in (a, b):
        node.path(f"/var/lib/nfs/{kind}").mkdir(mode=0o700)
    service.mount(a)
    service.start(a)
    if kind == "nfsdcltrack":
        a.run("nfsdcltrack", "create", A.hex())
        is_held(a, service, A)
    else:
        a.path(f"/var/lib/nfs/{kind}/{next(iter(names(A)))}").mkdir(mode=0o700)
        wait_until(lambda: service.status(a)["v4_records"] == 1, "the directory is seen")
    a.power_off()
    service.mount(b)
    service.start(b)
    if kind == "nfsdcltrack":
        assert b.run("nfsdcltrack", "check", A.hex(), check=False).returncode == 0
        assert b.run("nfsdcltrack", "check", B.hex(), check=False).returncode != 0
    else:
        assert {p.name for p in b.path(f"/var/lib/nfs/{kind}").iterdir()} == names(A)


def test_direct_records_are_durable_before_nfsd_goes_on(both: Cluster) -> None:
    """No copy, no window: the power goes at once, with no look at whether something was copied."""
    service, a, b = both.service, both.a, both.b
    service.agent.parameters["v4_records"] = "direct"
    daemon = served(a, A)
    service.mount(a)
    service.start(a)
    daemon.greet()
    daemon.create(B)
    a.power_off()
    b.path("/var/lib/nfs/rpc_pipefs/nfsd").mkdir(parents=True)
    service.mount(b)
    service.start(b)
    assert held(b) == {A, B}
    (process,) = b.find("nfsdcld", HOLDING)
    service.stop(b)
    assert not process.is_running()
    service.umount(b)


def running_nfsd(node: Node, **files: str) -> None:
    """Make this kernel look as if nfsd ran: it has none, so its files are made."""
    node.run("mount", "-t", "tmpfs", "tmpfs", "/proc/fs")
    node.path("/proc/fs/nfsd").mkdir()
    for name, text in {"threads": "8\n", **files}.items():
        node.path(f"/proc/fs/nfsd/{name}").write_text(text)


def leased(node: Node, number: int, owner: bytes, started: int = 1) -> None:
    """Let nfsd, started in that second, have this client, whose lease stands (client_info_show)."""
    place = node.path(f"/proc/fs/nfsd/clients/{number}")
    place.mkdir(parents=True)
    (place / "info").write_text(
        f'clientid: {number << 32 | started:#x}\naddress: "192.0.2.10:999"\nstatus: confirmed\n'
        f'seconds from last renew: 3\nname: "{owner.decode()}"\nminor version: 0\n')


@pytest.mark.parametrize("records", ["mirror", "direct"])
def test_who_only_reclaimed_stays_held_while_it_has_a_lease(both: Cluster, records: str) -> None:
    """nfsd does not record such an NFSv4.0 client again; B has not come back at all."""
    service, a, b = both.service, both.a, both.b
    service.agent.parameters["v4_records"] = records
    served(a, B, C)
    service.mount(a)
    service.start(a)
    is_held(a, service, B, C)
    a.power_off()
    daemon = Nfsdcld(b)
    service.mount(b)
    service.start(b)
    daemon.greet()
    service.complete(b)
    wait_until(lambda: service.phase(b) == "settled", "settled", otherwise=lambda: service.log(b))
    assert sorted(daemon.grace_start()) == sorted([B, C])
    running_nfsd(b)
    leased(b, 3, C)
    daemon.grace_done()
    is_held(b, service, C)
    b.run("rm", "-r", "/proc/fs/nfsd/clients/3")
    is_held(b, service)
    service.stop(b)
    service.umount(b)


def test_nfsd_does_not_start_in_the_second_of_the_last_owners(both: Cluster) -> None:
    """As it could if the clocks are apart. Here they are one, and A's nfsd is of the future."""
    service, a, b = both.service, both.a, both.b
    served(a, C)
    service.mount(a)
    service.start(a)
    service.complete(a)
    running_nfsd(a)
    second = int(time.time()) + 12
    leased(a, 3, C, second)
    wait_until(lambda: a.path(f"{HOLDING}/nfsd_started").exists(), "the second is on record")
    assert a.read(f"{HOLDING}/nfsd_started") == f"{second}\n"
    a.power_off()
    Nfsdcld(b)
    service.mount(b)
    assert time.time() < second, "this machine is too busy"
    service.start(b)
    assert time.time() > second
    assert "waiting for" in service.log(b)


@pytest.mark.parametrize("versions", ["3,4", "3"])
def test_a_running_nfsd_is_refused(both: Cluster, versions: str) -> None:
    service, a = both.service, both.a
    service.agent.parameters["nfs_versions"] = versions
    served(a, A)
    running_nfsd(a)
    service.mount(a)
    outcome = service.agent.start(a)
    assert outcome.code == ARGS and "nfsd already runs" in outcome.reason, outcome
    assert "takeover_running_nfsd=restart" in outcome.reason
    a.path("/proc/fs/nfsd/threads").write_text("0\n")
    service.start(a)


def test_the_services_own_nfsd_may_go_on(both: Cluster) -> None:
    """nfslock is started again after a failed monitor: nothing of its clients has been lost."""
    service, a = both.service, both.a
    service.mount(a)
    service.start(a)
    served(a, A)
    is_held(a, service, A)
    running_nfsd(a)
    for process in a.find("__main__.py"):
        process.kill()
    a.run("rm", "-rf", "/run/nfslock")
    service.start(a)
    assert held(a) == {A}


def test_delegations_are_off_while_the_service_is_here(both: Cluster) -> None:
    service, a, b = both.service, both.a, both.b
    service.mount(a)
    service.start(a)
    assert (a.read(LEASES), b.read(LEASES)) == ("0\n", "1\n")
    served(a, A).stop()
    is_held(a, service, A)
    service.stop(a)
    assert a.read(LEASES) == "1\n"
    service.umount(a)
    service.mount(b)
    service.start(b)
    assert b.read(LEASES) == "0\n", "this service's clients never had one"


def test_clients_from_before_get_their_delegations_back_once(both: Cluster) -> None:
    """A has been served without this resource: its locks may stand under a delegation."""
    service, a, b = both.service, both.a, both.b
    served(a, A).stop()
    service.mount(a)
    service.start(a)
    assert a.read(LEASES) == "1\n"
    service.complete(a)
    wait_until(lambda: a.read(LEASES) == "0\n", "off", otherwise=lambda: service.log(a))
    wait_until(lambda: "no NFSv4 client has a delegation" in service.log(a), "noted",
               otherwise=lambda: service.log(a))
    a.power_off()
    service.mount(b)
    service.start(b)
    assert b.read(LEASES) == "0\n"


def test_a_stop_after_a_killed_start_sets_the_switch_back(both: Cluster) -> None:
    service, a = both.service, both.a
    service.mount(a)
    service.start(a)
    a.run("rm", "-f", "/run/nfslock/locks/started", "/run/nfslock/locks/parameters")
    service.stop(a)
    assert a.read(LEASES) == "1\n"


def test_unsafe_times_are_refused(both: Cluster) -> None:
    service, a = both.service, both.a
    a.path("/etc/nfs.conf").write_text("[nfsd]\ngrace-time=90\nlease-time=45\n")
    service.mount(a)
    outcome = service.agent.start(a)
    assert outcome.code == ARGS and "lease (45 s) is shorter" in outcome.reason, outcome
    assert service.agent(a, "validate-all", level=10).code == ARGS
    a.path("/etc/nfs.conf").write_text("[nfsd]\ngrace-time=90\nlease-time=90\n")
    service.start(a)
    assert service.agent(a, "validate-all", level=10).code == OK


def test_two_scopes_are_refused(both: Cluster) -> None:
    service, a = both.service, both.a
    a.path("/etc/nfs.conf").write_text("[nfsd]\nscope=elsewhere\n")
    service.mount(a)
    outcome = service.agent.start(a)
    assert outcome.code == ARGS and "server_scope=elsewhere" in outcome.reason, outcome
    assert service.agent.start(a, server_scope="elsewhere").code == OK


def test_a_lagging_copy_fails_the_thorough_monitor(both: Cluster) -> None:
    service, a = both.service, both.a
    service.agent.parameters["propagate_interval"] = "1h"
    service.mount(a)
    service.start(a)
    served(a, A)
    is_held(a, service, A)
    # What is merely degraded does not hide it.
    a.run("rpcinfo", "-T", "udp", "-d", "100024", "1")
    outcome = service.agent.monitor(a, 10)
    assert outcome.code == DEGRADED and "by UDP" in outcome.reason, outcome
    a.run("sqlite3", HELD, 'DELETE FROM "rec-0000000000000001"')
    outcome = service.agent.monitor(a, 10)
    assert outcome.code == GENERIC and "recovery records of 1 clients" in outcome.reason, outcome
    assert MOUNT_POINT in outcome.reason
