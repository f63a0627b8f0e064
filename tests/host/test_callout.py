# SPDX-License-Identifier: GPL-2.0-or-later
"""No lock without a durable record: real rpc.statd, its callout in both forms, the propagator.

SM_MON's reply is what lockd waits for before it grants a client's first lock: whatever is true when
it has come is true when the client may hold a lock.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.hosts import Node, read_directory
from tests.support.machine import CHECKOUT
from tests.support.service import COMMAND, DEGRADED, HOLDING, MOUNT_POINT, OK, SM, Cluster
from tests.support.wait import wait_until

ONE, TWO = "192.0.2.101", "192.0.2.102"
CALLOUT = "/usr/sbin/nfslock-callout"
CLIENTS = [f"192.0.2.{number}" for number in range(120, 140)]


Up = Callable[..., Cluster]


@pytest.fixture
def bring_up(new_cluster: Callable[..., Cluster], binary: Path) -> Up:
    """Return a function that brings the group up on A, with a form of the callout or without."""

    def up(form: str = "c", megabytes: int = 16, **parameters: str) -> Cluster:
        # Sweeps are of no help within a test.
        parameters = {"propagate_interval": "1h", **parameters}
        cluster = new_cluster(clients=0, megabytes=megabytes, **parameters)
        install(cluster.a, form, binary)
        cluster.service.bring_up(cluster.a)
        return cluster

    return up


def install(node: Node, form: str, binary: Path) -> None:
    """Configure the node as `nfslock setup-node` does: python, c, or none."""
    if form == "none":
        return
    source = binary if form == "c" else CHECKOUT / "lib/nfslock/callout.py"
    shutil.copy(source, node.path(CALLOUT))
    node.path(CALLOUT).chmod(0o755)
    node.path("/etc/nfs.conf").write_text(f"[statd]\nha-callout={CALLOUT}\n")


def propagator(node: Node) -> psutil.Process:
    """Return the one propagator of the node."""
    return wait_until(lambda: node.find("propagate locks"), f"{node.name}: a propagator")[0]


def slow_disk(node: Node, milliseconds: int = 50) -> None:
    """Let each fsync of the propagator take so long, until the machine is gone."""
    pid = str(node.local_pid(propagator(node)))
    fault = f"inject=fsync:delay_enter={1000 * milliseconds}"
    node.spawn("strace", "-o", "/dev/null", "-p", pid, "-e", "trace=fsync", "-e", fault)
    status = Path(f"/proc/{propagator(node).pid}/status")
    wait_until(lambda: "TracerPid:\t0" not in status.read_text(), "strace attached")


def held(cluster: Cluster, node: Node) -> set[str]:
    """Return the clients in the holding directory at this moment."""
    return {name for name in cluster.service.records(node) if not name.startswith(".")}


@pytest.mark.parametrize("form", ["python", "c"])
def test_the_record_is_durable_before_statd_answers(bring_up: Up, form: str) -> None:
    cluster = bring_up(form)
    slow_disk(cluster.a)
    for number, client in enumerate(CLIENTS):
        cluster.a.sm_mon(client)
        assert held(cluster, cluster.a) == set(CLIENTS[: number + 1])
    assert cluster.service.status(cluster.a)["callout"]["missed"] == 0
    wait_until(
        lambda: cluster.service.status(cluster.a)["callout"]["confirmed"] == len(CLIENTS),
        "every client confirmed",
    )
    assert cluster.service.agent.monitor(cluster.a).code == OK


def test_control_without_the_callout_statd_answers_first(bring_up: Up) -> None:
    """The same with inotify alone: a power cut now, and the client would not be notified."""
    cluster = bring_up("none")
    slow_disk(cluster.a, 500)
    cluster.a.sm_mon(ONE)
    assert held(cluster, cluster.a) == set()
    cluster.service.held(cluster.a, ONE)


def test_a_power_cut_right_after_the_answer_loses_nobody(bring_up: Up) -> None:
    cluster = bring_up()
    for client in CLIENTS:
        cluster.a.sm_mon(client)
    cluster.a.power_off()
    cluster.service.mount(cluster.b)
    assert held(cluster, cluster.b) == set(CLIENTS)
    cluster.service.start(cluster.b)
    assert cluster.service.pending(cluster.b) == set(CLIENTS)


@pytest.mark.parametrize("form", ["python", "c"])
def test_a_client_that_statd_files_under_its_name(bring_up: Up, form: str) -> None:
    cluster = bring_up(form)
    a = cluster.a
    with open(a.path("/etc/hosts"), "a") as hosts:
        hosts.write(f"{ONE} desk.example.com\n")
    a.sm_mon(ONE)
    assert set(a.sm_records()) == {"desk.example.com"}
    assert cluster.service.records(a) == {ONE: a.sm_records()["desk.example.com"]}


def test_a_second_name(bring_up: Up) -> None:
    cluster = bring_up()
    a = cluster.a
    for my_name in ("nodeA", "other"):
        a.sm_mon(ONE, my_name)
        live, kept = a.sm_records()[ONE], cluster.service.records(a)[ONE]
        assert sorted(live.splitlines()) == sorted(kept.splitlines())


def test_a_client_that_reclaims_waits_for_no_disk(bring_up: Up) -> None:
    """It has a new cookie, and its record is held: nothing is written. TWO is the control."""
    cluster = bring_up(callout_timeout="300ms")
    service, a = cluster.service, cluster.a
    a.sm_mon(ONE)
    slow_disk(a, 5000)
    a.sm_mon(ONE)
    assert service.status(a)["callout"]["missed"] == 0
    a.sm_mon(TWO)
    wait_until(lambda: service.status(a)["callout"]["missed"] == 1, "TWO was let through")


@pytest.mark.parametrize("form", ["python", "c"])
def test_a_frozen_propagator_delays_the_lock_and_does_not_refuse_it(
    bring_up: Up, form: str
) -> None:
    cluster = bring_up(form, callout_timeout="300ms", propagate_interval="500ms")
    service, a = cluster.service, cluster.a
    propagator(a).suspend()
    a.sm_mon(ONE)
    assert held(cluster, a) == set()
    outcome = service.agent.monitor(a)
    assert outcome.code == DEGRADED, outcome
    assert "1 clients" in outcome.reason
    assert service.status(a)["callout"]["missed"] == 1
    propagator(a).resume()
    service.held(a, ONE)
    wait_until(lambda: service.agent.monitor(a).code == OK, "a sweep has caught up")
    assert service.status(a)["callout"]["missed"] == 1, "still told"


def test_a_killed_propagator_is_waited_for(bring_up: Up) -> None:
    cluster = bring_up(callout_timeout="30s")
    cluster.service.unaddress(cluster.a)  # it asks nobody whether the service stands
    for client in CLIENTS[:4]:  # each restart waits longer than the last
        propagator(cluster.a).kill()
        cluster.a.sm_mon(client, tcp=True)
        assert client in held(cluster, cluster.a)
    assert cluster.service.status(cluster.a)["callout"]["missed"] == 0


def test_a_full_disk_has_room_for_records(bring_up: Up) -> None:
    """Until the reserve is used up; the users' own writes do not get at it."""
    cluster = bring_up(propagate_interval="500ms")
    service, a = cluster.service, cluster.a
    wait_until(a.path(f"{HOLDING}/reserve").exists, "the reserve")
    a.fill(MOUNT_POINT)
    for client in CLIENTS:
        a.sm_mon(client)
        assert client in held(cluster, a)
        a.run("sh", "-c", f"cat /dev/zero >> {MOUNT_POINT}/ballast/big", check=False)
    wait_until(lambda: service.agent.monitor(a).code == DEGRADED, "said")
    assert service.status(a)["callout"]["missed"] == 0


def test_a_full_disk_is_said_and_made_good(bring_up: Up) -> None:
    """The control."""
    cluster = bring_up(propagate_interval="500ms")
    service, a = cluster.service, cluster.a
    service.spoil_reserve(a)
    a.fill(MOUNT_POINT)
    a.sm_mon(ONE)
    outcome = wait_until(
        lambda: next((o for o in [service.agent.monitor(a)] if o.code != OK), None), "not content"
    )
    assert outcome.code == DEGRADED, outcome
    a.empty(MOUNT_POINT)
    service.held(a, ONE)
    wait_until(lambda: service.agent.monitor(a).code == OK, "content again")


def test_statd_with_another_directory(bring_up: Up) -> None:
    """Somebody restarted statd with -P: its records cannot be seen, its callouts can be heard."""
    cluster = bring_up(propagate_interval="250ms")
    service, a = cluster.service, cluster.a
    for process in a.find("rpc.statd"):
        process.kill()
    a.run("cp", "-rp", "/var/lib/nfs", "/var/lib/other")
    a.run("sh", "-c", "rm -f /var/lib/other/sm/*")
    wait_until(lambda: not a.find("rpc.statd"), "statd gone")
    a.run("rpc.statd", "--no-notify", "-P", "/var/lib/other")
    wait_until(a.statd_answers, "statd answers")
    a.sm_mon(ONE)
    assert set(read_directory(a, "/var/lib/other/sm")) == {ONE}
    assert held(cluster, a) == {ONE}
    assert service.records(a)[ONE].split()[5:] == [ONE, "nodeA"]
    before = service.told(a)["last_sweep"]
    wait_until(lambda: service.told(a)["last_sweep"] != before, "a sweep")
    a.power_off()
    service.mount(cluster.b)
    service.start(cluster.b)
    assert service.pending(cluster.b) == {ONE}


def test_del_client_changes_nothing(bring_up: Up) -> None:
    """The storm when nfsd stops: kernels from 6.4 on unmonitor every client then."""
    cluster = bring_up()
    service, a = cluster.service, cluster.a
    for client in CLIENTS:
        a.sm_mon(client)
    service.unaddress(a)
    for client in CLIENTS:
        a.sm_unmon(client)
    assert a.sm_records() == {}
    assert held(cluster, a) == set(CLIENTS)
    service.unexport(a)
    service.unserve(a)
    service.stop(a)
    assert held(cluster, a) == set(CLIENTS)


def test_nobody_waits_for_a_stopped_service(bring_up: Up) -> None:
    cluster = bring_up(callout_timeout="30s")
    cluster.service.bring_down(cluster.a)
    cluster.a.sm_mon(ONE)  # would outlast the call's own limit
    assert not cluster.a.path("/run/nfslock/locks").exists()


@pytest.mark.parametrize("before", ["", "[statd]\nha-callout=/bin/true\n"])
def test_statd_reads_what_setup_node_writes(pair: Cluster, binary: Path, before: str) -> None:
    """The drop-in is read by the real statd, and wins over another callout in nfs.conf."""
    service, a = pair.service, pair.a
    install(a, "c", binary)
    a.path("/etc/nfs.conf").write_text(before)
    assert a.run(COMMAND, "setup-node", "--check", check=False).returncode == 1
    a.run(COMMAND, "setup-node", "--apply")
    assert a.run(COMMAND, "setup-node", "--check").stdout.startswith("this node has what")
    service.bring_up(a)
    for client in CLIENTS:
        a.sm_mon(client)
        assert client in held(pair, a)
    all_confirmed = {"confirmed": len(CLIENTS), "missed": 0}
    wait_until(lambda: service.status(a)["callout"] == all_confirmed, "all confirmed")


CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.connect("/run/nfslock/locks/callout.sock")
peer.send(b"add-client\\x00192.0.2.66\\x00nodeA")
print(peer.recv(100).decode())
"""


def test_only_statd_and_root_reach_the_propagator(bring_up: Up) -> None:
    cluster = bring_up()
    a = cluster.a
    (statd,) = a.find("rpc.statd")
    assert statd.uids().real != 0

    def connect(user: str) -> subprocess.CompletedProcess[str]:
        who = ["setpriv", "--reuid", user, "--clear-groups", "--bounding-set", "-all"]
        return a.run(*who, "/usr/bin/python3", "-I", "-c", CONNECT, check=False)

    assert "PermissionError" in connect("nobody").stderr
    a.path("/run/nfslock/locks/callout.sock").chmod(0o666)
    assert connect("nobody").stdout == "failed\n"
    assert held(cluster, a) == set()
    assert connect("statd").stdout == "durable\n"
    assert held(cluster, a) == {"192.0.2.66"}


def test_statd_can_be_restarted_while_a_callout_waits(bring_up: Up) -> None:
    """A callout that kept statd's sockets would leave the new statd deaf on TCP, without a word."""
    cluster = bring_up(callout_timeout="30s")
    a = cluster.a
    for process in a.find("rpc.statd"):
        process.kill()
    wait_until(lambda: not a.find("rpc.statd"), "statd gone")
    argv = ["rpc.statd", "--no-notify", "--port", "32765"]
    a.run(*argv)
    wait_until(a.statd_answers, "statd answers")
    propagator(a).suspend()
    with a.socket(socket.AF_INET, socket.SOCK_STREAM):
        asking = a.spawn(
            "/usr/bin/python3", "-c", ASK.format(path=f"{CHECKOUT}/lib", client=ONE),
            log="/var/log/asking",
        )
        callouts = wait_until(lambda: a.find("add-client", ONE), "the callout waits")
    for process in a.find("rpc.statd"):
        process.kill()
    wait_until(lambda: not a.find("rpc.statd"), "statd gone")
    assert callouts[0].is_running()
    a.run(*argv)
    wait_until(a.statd_answers, "the new statd answers")
    propagator(a).resume()
    a.sm_mon(TWO, tcp=True)
    assert TWO in held(cluster, a)
    asking.kill()
    asking.wait()


ASK = """
import sys; sys.path.insert(0, {path!r})
import socket
from nfslock import rpc
with socket.create_connection(("127.0.0.1", 32765)) as peer:
    args = rpc.mon_args({client!r}, "nodeA", bytes(16))
    peer.sendall(rpc.mark_record(rpc.encode_call(1, rpc.STATD, 1, rpc.SM_MON, args)))
    peer.recv(1000)
"""


def test_callouts_are_answered_while_many_records_are_compared(bring_up: Up) -> None:
    """A sweep of 5,000 records takes longer than a callout may: it is done in steps."""
    cluster = bring_up(callout_timeout="30s", megabytes=64)
    service, a = cluster.service, cluster.a
    make = (
        "import sys\n"
        "for n in range(5000):\n"
        "    ip = f'10.0.{n >> 8}.{n & 255}'\n"
        "    with open(f'/var/lib/nfs/sm/{ip}', 'w') as file:\n"
        "        file.write(f'0100007f 000186b5 00000003 00000010 {n:032x} {ip} nodeA\\n')\n"
    )
    service.stop(a)
    a.run("/usr/bin/python3", "-c", make)
    a.run("chown", "-R", "statd:nogroup", SM)
    service.unexport(a)
    outcome = service.agent(a, "start", timeout=60)
    assert outcome.code == OK, outcome
    old = propagator(a)
    old.kill()
    wait_until(lambda: a.find("propagate locks") and propagator(a).pid != old.pid, "a new one")
    phases = set()
    for client in CLIENTS:
        a.sm_mon(client, tcp=True)
        assert a.path(f"{HOLDING}/sm/{client}").exists()
        phases.add(service.phase(a) if a.find("propagate locks") else "")
    assert service.status(a)["callout"]["missed"] == 0
    sys.stdout.write(f"answered while: {phases}; {service.told(a)['slowest']} s at most\n")
