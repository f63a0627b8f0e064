# SPDX-License-Identifier: GPL-2.0-or-later
"""The test machines themselves: what the host tests rest on is shown without the product."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from nfslock import rpc
from tests.support.machine import CHECKOUT, World
from tests.support.service import MOUNT_POINT, VIP, Cluster, ip_of
from tests.support.wait import wait_until

ORPHAN = """
import sys
sys.path[:0] = [{checkout!r}, {checkout!r} + "/lib"]
from tests.support.machine import World
from tests.support.hosts import Node
world = World()
image = world.image()
node = Node(world, "orphan", ["192.0.2.1/24"])
node.mount(image, "/srv/nfs")
node.spawn("sleep", "1000")
print(world.pid, node.pid, image.loop, flush=True)
sys.stdin.read()
"""


def runs(process: psutil.Process) -> bool:
    """Return whether the process has not ended; a zombie has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_survives_a_killed_runner() -> None:
    code = ORPHAN.format(checkout=str(CHECKOUT))
    argv = [sys.executable, "-c", code]
    runner = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert runner.stdout
    world, node, loop = runner.stdout.readline().split()
    inside = psutil.Process(runner.pid).children(recursive=True)
    assert {int(world), int(node)} < {process.pid for process in inside}
    assert os.path.exists(f"/sys/block/{loop}/loop/backing_file")
    runner.kill()
    runner.communicate()
    wait_until(lambda: not any(runs(process) for process in inside), "every process ended")
    wait_until(lambda: not os.path.exists(f"/sys/block/{loop}/loop/backing_file"), "loop free")


def test_a_power_cut_keeps_what_was_synced_and_nothing_else(pair: Cluster) -> None:
    a, b, service = pair.a, pair.b, pair.service
    service.mount(a)
    with open(a.path(f"{MOUNT_POINT}/synced"), "w") as file:
        file.write("kept")
        file.flush()
        os.fsync(file.fileno())
    a.path(f"{MOUNT_POINT}/written").write_text("lost")
    a.power_off()
    service.mount(b)
    assert b.read(f"{MOUNT_POINT}/synced") == "kept"
    assert b.read(f"{MOUNT_POINT}/written") == ""


def test_an_image_is_never_mounted_twice(pair: Cluster) -> None:
    service = pair.service
    service.mount(pair.a)
    with pytest.raises(AssertionError, match="free for nodeB"):
        pair.b.mount(service.image, MOUNT_POINT, patience=0.2)


def test_a_machine_writes_nothing_to_the_host(pair: Cluster) -> None:
    pair.a.run("sh", "-c", "echo x > /etc/nfslock-test; echo x > /var/lib/nfs-test")
    assert pair.a.read("/etc/nfslock-test") == "x\n"
    assert not os.path.exists("/etc/nfslock-test")
    assert not os.path.exists("/var/lib/nfs-test")
    assert pair.a.run("touch", str(CHECKOUT / "x"), check=False).returncode != 0


def test_orphans_are_reaped(pair: Cluster) -> None:
    pair.a.run("sh", "-c", "(sleep 0.05 & sleep 0.05 &) ; true")
    wait_until(lambda: not pair.a.find("sleep"), "orphans ended")
    init = psutil.Process(pair.a.pid)
    wait_until(
        lambda: all(child.status() != psutil.STATUS_ZOMBIE for child in init.children()),
        "no zombies",
    )


def test_stand_ins_answer_from_the_address_that_was_asked(cluster: Cluster) -> None:
    a, client = cluster.a, cluster.clients[0]
    a.add_ip(f"{VIP}/24")
    cluster.service.serve(a)
    for transport, program, version in (
        ("udp", rpc.NFS, 3), ("tcp", rpc.NFS, 3), ("udp", rpc.NLM, 4), ("tcp", rpc.NLM, 1),
    ):  # fmt: skip
        client.run("rpcinfo", "-T", transport, VIP, str(program), str(version))
    client.run("rpcinfo", "-T", "udp6", "2001:db8::1", str(rpc.NFS), "3")
    cluster.service.unserve(a)
    assert not a.registered(rpc.NFS, 3)
    assert not a.registered(rpc.NLM, 4)


def notify(cluster: Cluster, source: str, name: str, state: int) -> None:
    """Send one SM_NOTIFY to the first client from an address of node A, and await the reply."""
    client = cluster.clients[0]
    with cluster.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((source, 0))
        query = rpc.encode_getport(1, rpc.STATD, 1)
        sock.sendto(query, (ip_of(client), rpc.PORTMAP_PORT))
        port = rpc.read_getport(rpc.decode_reply(sock.recv(1000))[2])
        call = rpc.encode_call(2, rpc.STATD, 1, rpc.SM_NOTIFY, rpc.notify_args(name, state))
        sock.sendto(call, (ip_of(client), port))
        sock.recv(1000)


def test_a_real_statd_accepts_from_the_vip_and_only_what_is_new(cluster: Cluster) -> None:
    client = cluster.clients[0]
    cookie = client.watch(VIP)
    cluster.a.add_ip(f"{VIP}/24")
    # Neither the source nor the name is the server's: received, not accepted.
    notify(cluster, ip_of(cluster.a), "nodeA", 11)
    # From the VIP the name does not matter; the same state again is nothing new.
    for state in (11, 11, 13):
        notify(cluster, VIP, "anything", state)
    wait_until(lambda: len(client.accepted()) == 2, "two accepted", otherwise=client.statd_log)
    wait_until(lambda: len(client.notified()) == 4, "four received")
    assert [one.state for one in client.accepted()] == [11, 13]
    assert {one.priv for one in client.accepted()} == {cookie}
    assert [(one.address, one.state) for one in client.notified()] == [
        (ip_of(cluster.a), 11), (VIP, 11), (VIP, 11), (VIP, 13),
    ]  # fmt: skip


def test_records_moved_by_hand_reach_the_clients(cluster: Cluster) -> None:
    """The story that the product automates, with cp and sm-notify."""
    a, b, service = cluster.a, cluster.b, cluster.service
    service.mount(a)
    cluster.lock(a)
    a.run("cp", "-rp", "/var/lib/nfs/sm", "/var/lib/nfs/sm.bak", f"{MOUNT_POINT}/")
    a.run("sync", "-f", MOUNT_POINT)
    a.power_off()
    service.mount(b)
    b.add_ip(f"{VIP}/24")
    b.path(f"{MOUNT_POINT}/state").write_bytes((41).to_bytes(4, sys.byteorder))
    b.run("chown", "-R", "statd", MOUNT_POINT)
    b.run("sm-notify", "-P", MOUNT_POINT, "-f", "-v", "nfs.example.com")
    for client in cluster.clients:
        (accepted,) = wait_until(client.accepted, "accepted", otherwise=client.statd_log)
        assert (accepted.mon_name, accepted.state) == (VIP, 43)
        assert client.notified()[0][1:] == ("nfs.example.com", VIP, 43)


def test_the_world_ends(world: World) -> None:
    """A second world beside the first one can be made and ended."""
    second = World()
    assert second.pid != world.pid
    second.end()
    assert not psutil.pid_exists(second.pid)
