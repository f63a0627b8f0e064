# SPDX-License-Identifier: GPL-2.0-or-later
"""One host to be told: what it is asked in which order, where, and how far that has come.

Its rpcbind is asked for the port of its statd (RFC 1833), then its statd is sent SM_NOTIFY (XNFS
chapter 11) for each mon_name in turn. Pure: notify.py says when. Addresses are canonical text, with
a scope as %number. A job costs about 300 bytes: 100,000 are a supported number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from . import rpc
from .named_tuple import NamedTuple

# States of a job; FLIGHT, WAITING and AGAIN may be answered.
NEW, FLIGHT, WAITING, AGAIN, PARKED, DONE = range(6)

# What a job can ask; one xid each. Behind NAMES come the mon_names.
LOOKUP, LOOKUP_V3, NAMES = range(3)

Peer = tuple[object, ...]  # a socket address as the socket module has it


class Vip(NamedTuple):
    """A source address, and the mon_names by which hosts know the server behind it."""

    address: str
    names: tuple[str, ...]


class Job:
    """One host to be told from one VIP, and how far that has come."""

    __slots__ = (
        "address", "due", "keys", "level", "lookup", "number", "others", "peer", "port", "slot",
        "state", "step", "vip", "xid",
    )  # fmt: skip

    def __init__(self, number: int, xid: int, vip: int, addresses: Sequence[str]) -> None:
        """xid: of its first question (its slot is added); it may have more than 32 bits."""
        self.number, self.xid, self.vip = number, xid, vip
        self.address = addresses[0]
        self.others = deque(addresses[1:]) if len(addresses) > 1 else None
        self.state, self.due = NEW, 0.0
        self.slot = self.lookup = LOOKUP  # what it asks; how it would ask for a port
        self.peer = peer_at(self.address, rpc.PORTMAP_PORT)  # whom it asks
        self.port = 0  # of its statd; 0: not known
        self.step = 0  # mon_names acknowledged
        self.level = 0  # time-outs since it advanced
        self.keys: tuple[str, ...] = ()  # the caller's

    @property
    def is_unregistered(self) -> bool:
        """Whether the host answered last that it has no statd."""
        return self.state == PARKED

    @property
    def is_unanswered(self) -> bool:
        """Whether the present question has timed out once or more."""
        return self.level > 0

    def awaits(self, slot: int, vip: int, peer: Peer) -> bool:
        """Return whether this is an answer to its present question.

        Or to its SM_NOTIFY, while it looks for another port: some statds take seconds to answer.
        """
        if vip != self.vip or not FLIGHT <= self.state <= AGAIN:
            return False
        asked = self.peer
        if slot != self.slot:
            if not self.port or slot != NAMES + self.step:
                return False
            asked = peer_at(self.address, self.port)
        return peer == asked or plain(peer) == plain(asked)

    def ask(self) -> None:
        """Go on to the question that is due: the port of its statd, or the next mon_name."""
        if self.port:
            self.slot, self.peer = NAMES + self.step, peer_at(self.address, self.port)
        else:
            self.slot, self.peer = self.lookup, peer_at(self.address, rpc.PORTMAP_PORT)


def calls_to(vip: Vip, state: int) -> list[bytes]:
    """Return the calls by what they ask, with an xid of 0."""
    if ":" in vip.address:
        calls = [rpc.encode_getaddr(0, rpc.STATD, 1, "udp6", rpcbvers=vers) for vers in (4, 3)]
    else:
        calls = [rpc.encode_getport(0, rpc.STATD, 1)] * 2
    for name in vip.names:
        args = rpc.notify_args(name, state)
        calls.append(rpc.encode_call(0, rpc.STATD, 1, rpc.SM_NOTIFY, args))
    return calls


def peer_at(address: str, port: int) -> Peer:
    """Return the socket address."""
    if ":" not in address:
        return (address, port)
    host, _, scope = address.partition("%")
    return (host, port, 0, int(scope or 0))


def plain(peer: Peer) -> Peer:
    """Return a socket address without the interface that recvfrom() names beside the scope."""
    return (str(peer[0]).partition("%")[0], *peer[1:])
