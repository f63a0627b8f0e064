# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's old TCP connection ends when the new server tickles it, and not before its time."""

from __future__ import annotations

import socket
from typing import Callable

import pytest

from tests.support.hosts import Node
from tests.support.machine import Machine
from tests.support.service import HOLDING, VIP, Cluster, ip_of
from tests.support.wait import wait_until


def recorded(node: Node, connection: socket.socket) -> bool:
    """Whether this connection of a client is on the node's list."""
    address, port = connection.getsockname()
    return f"{VIP} 2049 {address} {port}\n" in node.read(f"{HOLDING}/connections")


def left_alone(cluster: Cluster) -> socket.socket:
    """A client's connection to A's nfsd; A died without a word on the wire."""
    service, a = cluster.service, cluster.a
    service.bring_up(a)
    cluster.lock(a)
    service.durable(a, *map(ip_of, cluster.clients))  # no callout here: statd waits for nobody
    connection = cluster.clients[0].socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect((VIP, 2049))
    connection.setblocking(False)
    if service.agent.parameters["tickle"] == "yes":
        wait_until(lambda: recorded(a, connection), "the connection is recorded")
    a.run("ip", "link", "set", "dev", "eth0", "down")
    a.power_off()
    return connection


def taken_over(cluster: Cluster, **there: str) -> tuple[socket.socket, Node]:
    """A client's connection to A's nfsd, which has died; B has taken over.

    `there`: parameters that are other ones on B.
    """
    connection = left_alone(cluster)
    cluster.service.agent.parameters.update(there)
    cluster.service.bring_up(cluster.b)
    for client in cluster.clients:
        wait_until(client.accepted, f"{client.name} is told")
    return connection, cluster.b


def alive(connection: socket.socket) -> bool:
    """Whether the client's end has heard nothing of the change yet."""
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_a_tickled_connection_is_reset(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(tickle="yes")
    connection, _ = taken_over(cluster)
    with connection:
        wait_until(lambda: not alive(connection), "the client's connection is reset")


def test_without_tickling_it_hangs_on(new_cluster: Callable[..., Cluster]) -> None:
    """The control: the client knows nothing until it sends by itself."""
    cluster = new_cluster(tickle="no")
    connection, _ = taken_over(cluster)
    with connection:
        assert alive(connection)
        connection.send(b"\x80\0\0\x04ping")
        wait_until(lambda: not alive(connection), "the client's own segment is answered by a reset")


@pytest.mark.parametrize("tickle", ["yes", "no"])
def test_the_first_answer_finds_the_new_node(
    new_cluster: Callable[..., Cluster], tickle: str
) -> None:
    """An address that comes without a word, and clients that have just heard of it at A.

    The control: they answer to the dead node, however often they are asked.
    """
    cluster = new_cluster(tickle="yes")
    service, b, dead = cluster.service, cluster.b, cluster.a.mac()
    left_alone(cluster).close()
    for client in cluster.clients:
        know(client, VIP, dead, "reachable")
        know(b, ip_of(client), client.mac(), "permanent")  # to ask for it would tell
    service.agent.parameters["tickle"] = tickle
    service.mount(b)
    service.start(b)
    service.serve(b)
    service.export(b)
    client = cluster.clients[0]
    questions: list[bytes] = []

    def told_or_asked_again() -> bool:
        told = bool(client.accepted())
        questions.extend(asked_for_ports(tap))
        return told or len(questions) > 2

    with client.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as tap:
        tap.bind(("eth0", 0x0800))
        tap.setblocking(False)
        b.run("ip", "address", "add", f"{VIP}/24", "dev", "eth0")
        wait_until(told_or_asked_again, "the client is told, or asked in vain")
    assert bool(client.accepted()) == (len(questions) == 1) == (tickle == "yes")


def know(machine: Machine, address: str, hardware: str, state: str) -> None:
    """Give the machine a neighbour entry (ip-neighbour(8))."""
    machine.run("ip", "neigh", "replace", address, "lladdr", hardware, "dev", "eth0", "nud", state)


def asked_for_ports(tap: socket.socket) -> list[bytes]:
    """The datagrams from the service's address to the client's rpcbind so far."""
    found = []
    while True:
        try:
            packet = tap.recv(2048)
        except BlockingIOError:
            return found
        udp = 4 * (packet[0] & 15)
        if packet[9] == socket.IPPROTO_UDP and packet[12:16] == socket.inet_aton(VIP) and (
                packet[udp + 2 : udp + 4] == (111).to_bytes(2, "big")):
            found.append(packet)


def test_who_comes_back_is_on_record_before_the_next_sweep(
    new_cluster: Callable[..., Cluster]
) -> None:
    """A second power cut may follow a takeover at once."""
    cluster = new_cluster(tickle="yes")
    connection, b = taken_over(cluster, propagate_interval="300")
    with connection:
        wait_until(lambda: not alive(connection), "the client's connection is reset")
        with cluster.clients[0].socket(socket.AF_INET, socket.SOCK_STREAM) as again:
            again.settimeout(10)
            again.connect((VIP, 2049))
            wait_until(lambda: recorded(b, again), "the new connection is recorded")


@pytest.mark.parametrize("line", ["203.0.113.9 2049 192.0.2.101 700\n", "rubbish\n\n", ""])
def test_what_is_recorded_of_others_is_not_touched(
    new_cluster: Callable[..., Cluster], line: str
) -> None:
    """A damaged or foreign list of connections neither sends anything nor stops anything."""
    cluster = new_cluster(tickle="yes", clients=1)
    service, a = cluster.service, cluster.a
    service.bring_up(a)
    cluster.lock(a)
    service.bring_down(a)
    service.mount(a)
    a.path(f"{HOLDING}/connections").write_text(line)
    service.umount(a)
    service.bring_up(cluster.b)
    wait_until(cluster.clients[0].accepted, "the client is told")
