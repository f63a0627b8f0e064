# SPDX-License-Identifier: GPL-2.0-or-later
"""A neighbour that knows an address at a dead node learns from one packet where it is now."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from nfslock.advertise import advertise
from nfslock.events import Addresses
from tests.support.machine import Machine, World
from tests.support.wait import wait_until

VIPS = ["192.0.2.10", "2001:db8::10"]


@pytest.fixture
def three(world: World) -> Iterator[list[Machine]]:
    """Two nodes and a client on one link."""
    machines = [Machine(world, name, [f"192.0.2.{number}/24", f"2001:db8::{number}/64"])
                for number, name in enumerate(("nodeA", "nodeB", "client"), 1)]
    yield machines
    for machine in machines:
        if machine.alive():
            machine.power_off()


def known(client: Machine, address: str) -> str:
    """The client's neighbour entry for an address."""
    return client.run("ip", "neigh", "show", address).stdout


def asked(client: Machine, address: str) -> None:
    """Let the client send something to the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", (address, 9))


@pytest.mark.parametrize("vip", VIPS)
def test_a_neighbour_learns_where_the_address_is(three: list[Machine], vip: str) -> None:
    a, b, client = three
    prefix = f"{vip}/{64 if ':' in vip else 24}"
    plain = ["ip", "address", "add", prefix, "dev", "eth0", *(["nodad"] if ":" in vip else [])]
    a.run(*plain)
    asked(client, vip)
    wait_until(lambda: a.mac() in known(client, vip), "the client knows A")
    first = a.mac()
    a.power_off()
    # The control: an address that comes without a word is looked for at the dead node.
    b.run(*plain)
    asked(client, vip)
    assert first in known(client, vip)
    with b.network():  # type: ignore[attr-defined]
        assert advertise(vip, Addresses.interfaces()[vip])
    wait_until(lambda: b.mac() in known(client, vip), "the client knows B")


def test_only_ethernet_has_neighbours(three: list[Machine]) -> None:
    with three[0].network():  # type: ignore[attr-defined]
        assert not advertise("127.0.0.1", Addresses.interfaces()["127.0.0.1"])
        with pytest.raises(OSError, match="device"):
            advertise(VIPS[0], 4711)
