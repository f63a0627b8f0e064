# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets under the SM_NOTIFY sender: one for each VIP, made to fit in a caller's poll loop.

What to send is decided in notify.py, who has been told in roster.py. This module binds, sends,
receives, and resolves the few clients known by host name, in threads, so that a dead name server
delays nobody else. It writes no file and never blocks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from itertools import repeat, starmap

from . import sockets as socket
from .notify import PARK, RTO, WINDOW, Notifier
from .notify_job import Peer, Vip
from .resolver import Resolver, canonical
from .roster import WAITING, Roster

UNRESOLVED = "host name cannot be resolved"
BUFFER = 8 << 20  # bytes; a window of 2048 answers needs about 2 MiB, kernel overhead included
ROUNDS = 16  # of at most BATCH datagrams a pump: about 10 ms, then the caller has its turn
BATCH = 64
REPLY = 448  # bytes; an answer has 24 and up to 60 of results; CPython allocates more more slowly
BLOCKED = 0.005  # seconds until a full socket or device queue is tried again
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
_MULTICAST_OR_BROADCAST = frozenset(map(str, range(224, 256)))  # 240 and up are reserved
_PORTS = range(1023, 511, -1)  # what bindresvport(3) calls reserved
_ports: list[int] = []


class NotifySockets:
    """Announce `state` from each VIP to each client, once.

    Register filenos() for reading; call pump(now) when one is readable or timeout(now) has passed;
    it returns the clients that have been told. `now` is time.monotonic().
    """

    def __init__(
        self,
        vips: Sequence[Vip],
        clients: Sequence[str],
        state: int,
        *,
        window: int = WINDOW,
        park: float = PARK,
    ) -> None:
        """clients: addresses or host names; those in front are told first.

        Raises OSError if a VIP is not on this node (EADDRNOTAVAIL) or no reserved port is free,
        ValueError if a VIP is no address or state is not odd.
        """
        salt = int.from_bytes(os.urandom(4), "big")
        plain = [vip._replace(address=_vip_address(vip.address)) for vip in vips]
        self._notifier = Notifier(plain, state, salt=salt, window=window, park=park)
        self._roster = Roster(self._notifier)
        self._resolver: Resolver | None = None
        self._names: list[str] = []  # not asked for yet
        self._names_by = float("inf")  # when they have to be
        self._blocked = False
        self._more = False
        self.errors: dict[str, int] = {}  # of sendto, by errno name: these datagrams count as lost
        self._sockets: list[socket.socket] = []
        try:
            for vip in plain:
                self._sockets.append(_reserved_socket(vip.address))
        except OSError:
            self.close()
            raise
        self._clients = clients
        self._taken = 0  # so many of them

    def _take_up(self, told: list[str]) -> int:
        """Take up the next batch of clients; return their number. told: gets those told already.

        Not all at once: the first are told meanwhile, and nobody waits for a long list.
        """
        batch = self._clients[self._taken : self._taken + BATCH]
        self._taken += len(batch)
        for key in batch:
            address = canonical(key)
            if address is None:
                self._names.append(key)
            elif not self._roster.add(key, [address] if _unicast(address) else []):
                told.append(key)
        return len(batch)

    def _look_up(self, now: float) -> None:
        """Ask for the names: once no answer is awaited, or at the first time-out.

        To load what that takes and to start threads costs as much as to tell hundreds.
        """
        self._names_by = min(self._names_by, now + RTO)
        if (self._more or self._notifier.in_flight) and now < self._names_by:
            return
        if self._resolver is None:
            self._resolver = Resolver()
        for name in self._names:
            self._resolver.ask(name)
        self._names.clear()

    def filenos(self) -> list[int]:
        """Return the descriptors to be polled for reading."""
        extra = [self._resolver.fileno()] if self._resolver else []
        return [sock.fileno() for sock in self._sockets] + extra

    def pump(self, now: float) -> list[str]:
        """Receive and send what can be at once, for some 10 ms; return the clients told by it."""
        told = []
        if self._resolver:
            for key, addresses in self._resolver.answers(now):
                if not self._roster.add(key, list(filter(_unicast, addresses))):
                    told.append(key)
        self._blocked = self._more = False
        for _ in range(ROUNDS):
            # Answers still in a buffer must not be taken for lost: read before timing out.
            drained = [self._drain(now, vip) for vip in range(len(self._sockets))]
            self._more = not all(drained)
            if not self._more:
                taken = self._take_up(told)
                sent = self._notifier.send(now, self._transmit, BATCH)
                if self._blocked or not (taken or sent):
                    break
        else:
            self._more = True
        if self._names:
            self._look_up(now)
        return told + self._roster.collect()

    def timeout(self, now: float) -> float | None:
        """Return the seconds until pump() should be called at the latest; None for no limit."""
        if self._more:
            return 0.0
        times = [self._resolver.next_event()] if self._resolver else []
        times.append(self._notifier.next_event(now))
        times += [self._names_by] if self._names else []
        due = min((time for time in times if time is not None), default=None)
        if due is None:
            return None
        return max(due - now, BLOCKED if self._blocked else 0.0)

    def _drain(self, now: float, vip: int) -> bool:
        """Take in up to a batch; return whether that was all."""
        answers: list[tuple[bytes, Peer]] = []
        empty = False
        try:
            for answer in map(self._sockets[vip].recvfrom, repeat(REPLY, BATCH)):
                answers.append(answer)
        except BlockingIOError:
            empty = True
        except OSError:  # ICMP, reported here in spite of all: the time-out deals with it
            pass
        self._notifier.receive(now, vip, answers)
        return empty

    def _transmit(self, vip: int, datagrams: list[bytes], peers: list[Peer]) -> int:
        """Send; return how many of them are on their way, all unless the socket is full."""
        todo = zip(datagrams, peers)
        taken = 0
        while taken < len(datagrams):
            try:
                for _ in starmap(self._sockets[vip].sendto, todo):
                    taken += 1
            except OSError as error:
                if error.errno in _FULL:
                    self._blocked = True
                    break
                # No route, filtered, VIP gone: lost like any other datagram, and repeated in time.
                taken += 1
                name = errno.errorcode.get(error.errno or 0, "unknown")
                self.errors[name] = self.errors.get(name, 0) + 1
        return taken

    def progress(self) -> dict[str, int]:
        """Return numbers of clients: total, done, and each reason for not being done.

        Looks at every client: for a status file now and then, not for a loop.
        """
        reasons = self.outstanding()
        numbers = {"total": len(reasons) + self._roster.done, "done": self._roster.done}
        for reason in reasons.values():
            numbers[reason] = numbers.get(reason, 0) + 1
        return numbers

    def outstanding(self) -> dict[str, str]:
        """Return {client: reason} of those not told yet; the reasons are in roster.py."""
        unresolved = self._resolver.unresolved() if self._resolver else ()
        return {
            **self._roster.outstanding(),
            **dict.fromkeys(unresolved, UNRESOLVED),
            **dict.fromkeys(self._names, WAITING),
            **dict.fromkeys(self._clients[self._taken :], WAITING),
        }

    def statistics(self) -> dict[str, int]:
        """Return datagrams sent and ignored, and errors of sendto by name."""
        return {"sent": self._notifier.sent, "ignored": self._notifier.ignored, **self.errors}

    def close(self) -> None:
        """Close the sockets. Threads still waiting for a name server end with its answer."""
        for sock in self._sockets:
            sock.close()
        if self._resolver:
            self._resolver.close()


def _unicast(address: str) -> bool:
    """Return False for what reaches more than one host."""
    if ":" in address:
        return not address.startswith("ff")
    return address[0] != "2" or address.partition(".")[0] not in _MULTICAST_OR_BROADCAST


def _vip_address(text: str) -> str:
    address = canonical(text)
    if address is None:
        raise ValueError(f"VIP {text!r} is no IP address")
    return address


def _reserved_socket(address: str) -> socket.socket:
    """Return a UDP socket on the address and a reserved port, with large buffers, not blocking.

    statds ignore or refuse notifications from other ports on some systems; ports that /etc/services
    gives to somebody (631, 873, 993 ...) are left to him. No SO_BROADCAST: the kernel refuses it.
    """
    host, _, scope = address.partition("%")
    ipv6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for force, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):
            try:  # SO_RCVBUFFORCE, SO_SNDBUFFORCE: beyond net.core.?mem_max, with CAP_NET_ADMIN
                sock.setsockopt(socket.SOL_SOCKET, force, BUFFER)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
        ports = reserved_ports()
        first = int.from_bytes(os.urandom(2), "big") % len(ports)
        for port in ports[first:] + ports[:first]:
            try:
                sock.bind((host, port, 0, int(scope or 0)) if ipv6 else (host, port))
                return sock
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no reserved port is free on {address}")
    except OSError:
        sock.close()
        raise


def reserved_ports() -> list[int]:
    """Return the reserved ports that are nobody's; to find out takes longer than to tell many."""
    if not _ports:
        taken = _known_ports()
        _ports.extend(port for port in _PORTS if port not in taken)
    return _ports


def _known_ports(path: str = "/etc/services") -> set[int]:
    """Return the UDP and TCP ports to which services(5) gives a name."""
    try:
        with open(path, encoding="utf-8", errors="replace") as services:
            fields = [line.partition("#")[0].split() for line in services]
    except OSError:
        return {631, 636, 664, 749, 750, 873, 892, 989, 990, 992, 993, 995}
    ports = [field[1].partition("/")[0] for field in fields if len(field) > 1]
    return {int(port) for port in ports if port.isdecimal()}
