# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's old TCP connection ends when the new server tickles it, and not before its time."""

from __future__ import annotations

import socket
from typing import Callable

import pytest

from tests.support.hosts import Node
from tests.support.service import HOLDING, VIP, Cluster, ip_of
from tests.support.wait import wait_until


def recorded(node: Node, connection: socket.socket) -> bool:
    """Whether this connection of a client is on the node's list."""
    address, port = connection.getsockname()
    return f"{VIP} 2049 {address} {port}\n" in node.read(f"{HOLDING}/connections")


def taken_over(cluster: Cluster, **there: str) -> tuple[socket.socket, Node]:
    """A client connected to A's nfsd; A died without a word on the wire; B has taken over.

    `there`: parameters that are other ones on B.
    """
    service, a, b = cluster.service, cluster.a, cluster.b
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
    service.agent.parameters.update(there)
    service.bring_up(b)
    for client in cluster.clients:
        wait_until(client.accepted, f"{client.name} is told")
    return connection, b


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
