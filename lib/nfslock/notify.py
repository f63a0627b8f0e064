# SPDX-License-Identifier: GPL-2.0-or-later
"""SM_NOTIFY to many hosts at once, as a state machine: what to send when, and who has answered.

Pure: no socket, no clock, no file, no name look-up (notify_io.py has these; roster.py knows which
client stands behind a job). Time is a float, seconds on the caller's monotonic clock; addresses
are canonical text, with a scope as %number.

A *job* is one host to be told from one VIP. It asks the host's rpcbind for the port of its statd
(RFC 1833), then sends SM_NOTIFY (XNFS chapter 11) for each mon_name in turn, one datagram at a
time, each repeated until answered. The invariants, which the tests hold:

* a job is done only when every mon_name was acknowledged with success, from the address and port
  asked, with the xid asked, on the socket asked from;
* a job has one datagram on the way at most, all together `window` at most. A datagram is on the
  way until it is answered or for the first time-out (RTO), whichever is sooner;
* the same question of the same job always has the same xid: repetitions can be told;
* the dead do not hold up the living: jobs that advance go first, then those never asked, then
  repetitions, which back off from 0.25 s by doubling to 30 s.

A job costs about a hundred bytes: 100,000 are a supported number.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import rpc

RTO = 0.25
RTO_MAX = 30.0
WINDOW = 2048
PARK = 60.0  # seconds until a host without a registered statd is asked again
RELOOKUP = 4  # time-outs after which statd's port, and the address, are in doubt

# States of a job. NEW and AGAIN may be sent; FLIGHT, WAITING and AGAIN may be answered.
_NEW, _FLIGHT, _WAITING, _AGAIN, _PARKED, _DONE = range(6)

# What a job can ask; one xid each. Behind _NAMES come the mon_names.
_LOOKUP, _LOOKUP_V3, _NAMES = range(3)

Peer = tuple[object, ...]  # a socket address as the socket module has it
Transmit = Callable[[int, bytes, Peer], bool]


class Vip(NamedTuple):
    """A source address, and the mon_names by which hosts know the server behind it."""

    address: str
    names: tuple[str, ...]


class Notifier:
    """The jobs, their timers and their answers."""

    def __init__(
        self,
        vips: Sequence[Vip],
        state: int,
        *,
        salt: int,
        window: int = WINDOW,
        rto: float = RTO,
        rto_max: float = RTO_MAX,
        park: float = PARK,
    ) -> None:
        """Announce `state`: odd, and durable already. salt: 32 random bits, for the xids.

        Raises ValueError for a state, window or VIP with which nobody could be told.
        """
        if state % 2 == 0 or not 0 < state < 1 << 31:
            raise ValueError(f"NSM state number {state} must be odd and fit 31 bits")
        if window < 1 or not all(vip.names for vip in vips):
            raise ValueError("a window of at least 1 and a mon_name for each VIP are needed")
        self.vips = tuple(vips)
        self.window = window
        self.in_flight = 0
        self.sent = 0
        self.ignored = 0  # datagrams that answered nothing we asked
        self.finished: list[int] = []  # jobs done, for the caller to collect and clear
        self._salt = salt
        self._stride = _NAMES + max((len(vip.names) for vip in vips), default=0)
        self._rto, self._rto_max, self._park_for = rto, rto_max, park
        # Everything behind the xid, by VIP and question.
        self._tails = [[call[4:] for call in _calls(vip, state)] for vip in vips]
        # By job:
        self._address: list[str] = []
        self._vip = bytearray()
        self._state = bytearray()
        self._port = array("H")  # of its statd; 0: not known
        self._step = bytearray()  # mon_names acknowledged
        self._level = array("H")  # time-outs since it advanced
        self._due = array("d")
        # By the few jobs that need them:
        self._others: dict[int, deque[str]] = {}  # further addresses
        self._relookup: set[int] = set()  # asks for a port although one is known
        self._rpcbind3: set[int] = set()  # its rpcbind has no version 4
        # Queues. A job's entry is stale once its state or its due time has moved on.
        self._urgent: deque[int] = deque()
        self._fresh = 0  # this job and all behind it were never asked
        self._retry: deque[int] = deque()
        self._flights: deque[tuple[float, list[int]]] = deque()
        self._sleeping: list[tuple[float, int]] = []  # a heap

    def add(self, vip: int, addresses: Sequence[str]) -> int:
        """Take up a host, of the VIP's family; return its job: 0, 1, 2 and so on.

        Addresses behind the first stand in for it when it does not answer.
        """
        job = len(self._state)
        if len(addresses) > 1:
            self._others[job] = deque(addresses[1:])
        self._address.append(addresses[0])
        self._vip.append(vip)
        self._state.append(_NEW)
        self._port.append(0)
        self._step.append(0)
        self._level.append(0)
        self._due.append(0.0)
        return job

    def is_done(self, job: int) -> bool:
        """Return whether all mon_names were acknowledged."""
        return self._state[job] == _DONE

    def is_unregistered(self, job: int) -> bool:
        """Return whether the host answered last that it has no statd."""
        return self._state[job] == _PARKED

    def is_unanswered(self, job: int) -> bool:
        """Return whether the present question has timed out once or more."""
        return self._level[job] > 0

    # Sending

    def send(self, now: float, transmit: Transmit, limit: int = 64) -> int:
        """Hand out at most `limit` datagrams that are due; return how many were taken.

        transmit(index of the VIP, datagram, destination) returns False when it could take no more;
        that datagram comes first the next time.
        """
        self._expire(now)
        limit = min(limit, self.window - self.in_flight)
        due = now + self._rto
        batch: list[int] = []
        while len(batch) < limit:
            job = self._next()
            if job is None:
                break
            vip, slot = self._vip[job], self._slot(job)
            xid = (self._salt + job * self._stride + slot) & 0xFFFFFFFF
            datagram = xid.to_bytes(4, "big") + self._tails[vip][slot]
            port = self._port[job] if slot >= _NAMES else rpc.PORTMAP_PORT
            if not transmit(vip, datagram, _peer(self._address[job], port)):
                self._state[job] = _AGAIN if self._level[job] else _NEW
                self._urgent.appendleft(job)
                break
            self._state[job] = _FLIGHT
            self._due[job] = due
            batch.append(job)
        if batch:
            self._flights.append((due, batch))
            self.in_flight += len(batch)
            self.sent += len(batch)
        return len(batch)

    def next_event(self, now: float) -> float | None:
        """Return when send() may have something to do: now at the earliest, None for never."""
        ready = self._urgent or self._retry or self._fresh < len(self._state)
        if ready and self.in_flight < self.window:
            return now
        times = [self._flights[0][0]] if self.in_flight else []
        times += [self._sleeping[0][0]] if self._sleeping else []
        return max(now, min(times)) if times else None

    def _next(self) -> int | None:
        while self._urgent:
            job = self._urgent.popleft()
            if self._state[job] in (_NEW, _AGAIN):
                return job
        if self._fresh < len(self._state):
            self._fresh += 1
            return self._fresh - 1
        while self._retry:
            job = self._retry.popleft()
            if self._state[job] in (_NEW, _AGAIN):
                return job
        return None

    def _slot(self, job: int) -> int:
        if self._port[job] and job not in self._relookup:
            return _NAMES + self._step[job]
        return _LOOKUP_V3 if job in self._rpcbind3 else _LOOKUP

    def _expire(self, now: float) -> None:
        """End what has lasted long enough: flights, pauses between repetitions, parking."""
        while self._flights and self._flights[0][0] <= now:
            due, batch = self._flights.popleft()
            for job in batch:
                if self._state[job] == _FLIGHT and self._due[job] == due:
                    self.in_flight -= 1
                    # At most 2**20 first time-outs: the cap comes long before.
                    pause = min(self._rto * (1 << min(self._level[job], 20)), self._rto_max)
                    self._sleep(job, _WAITING, max(due, due - self._rto + pause))
        while self._sleeping and self._sleeping[0][0] <= now:
            due, job = heapq.heappop(self._sleeping)
            if self._due[job] != due:
                continue
            if self._state[job] == _WAITING:
                self._timed_out(job)
            elif self._state[job] == _PARKED:
                self._state[job] = _NEW
                self._retry.append(job)

    def _timed_out(self, job: int) -> None:
        self._state[job] = _AGAIN
        self._retry.append(job)
        self._level[job] = min(self._level[job] + 1, 0xFFFF)
        if self._level[job] % RELOOKUP:
            return
        if self._port[job]:
            self._relookup.add(job)
        others = self._others.get(job)
        if others:
            others.append(self._address[job])
            self._address[job] = others.popleft()
            self._port[job] = 0
            self._state[job] = _NEW

    def _sleep(self, job: int, state: int, until: float) -> None:
        self._state[job] = state
        self._due[job] = until
        heapq.heappush(self._sleeping, (until, job))

    # Answers

    def receive(self, now: float, vip: int, data: bytes, peer: Peer) -> None:
        """Take in a datagram that came from `peer` to the socket of that VIP."""
        try:
            xid, status, body = rpc.decode_reply(data)
            job, slot = divmod((xid - self._salt) & 0xFFFFFFFF, self._stride)
            if not self._awaited(job, slot, vip, peer):
                self.ignored += 1
            elif status != rpc.SUCCESS:
                self._refused(now, job, slot, status)
            elif slot >= _NAMES:
                self._acknowledged(job)
            elif ":" in self._address[job]:
                self._found(now, job, rpc.read_getaddr(body))
            else:
                self._found(now, job, rpc.read_getport(body))
        except rpc.RpcError:
            self.ignored += 1

    def _awaited(self, job: int, slot: int, vip: int, peer: Peer) -> bool:
        """Return whether this answers what the job asks now.

        Or its SM_NOTIFY, while it looks for another port: some statds take seconds to answer.
        """
        if job >= len(self._state) or not _FLIGHT <= self._state[job] <= _AGAIN:
            return False
        port = self._port[job] if slot >= _NAMES else rpc.PORTMAP_PORT
        late = port and slot == _NAMES + self._step[job]
        return bool(
            (late or slot == self._slot(job))
            and vip == self._vip[job]
            and peer[1] == port
            and _host_of(peer) == self._address[job]
        )

    def _refused(self, now: float, job: int, slot: int, status: int) -> None:
        """The program or the procedure is not there: an older rpcbind, or no statd behind it."""
        if slot == _LOOKUP and status == rpc.PROG_MISMATCH and ":" in self._address[job]:
            self._rpcbind3.add(job)
            self._advance(job)
        else:
            self._found(now, job, 0)

    def _found(self, now: float, job: int, port: int) -> None:
        """Go on with the port, or leave a host that has no statd alone for a while."""
        self._relookup.discard(job)
        self._port[job] = port
        if port == 0:
            self._level[job] = 0
            self._landed(job)
            self._sleep(job, _PARKED, now + self._park_for)
            return
        # A port looked up again is no progress: go on backing off.
        if self._level[job] < RELOOKUP:
            self._level[job] = 0
        self._advance(job)

    def _acknowledged(self, job: int) -> None:
        self._relookup.discard(job)
        self._step[job] += 1
        self._level[job] = 0
        if self._step[job] < len(self.vips[self._vip[job]].names):
            self._advance(job)
            return
        self._landed(job)
        self._state[job] = _DONE
        self.finished.append(job)

    def _advance(self, job: int) -> None:
        self._landed(job)
        self._state[job] = _NEW
        self._urgent.append(job)

    def _landed(self, job: int) -> None:
        if self._state[job] == _FLIGHT:
            self.in_flight -= 1


def _calls(vip: Vip, state: int) -> list[bytes]:
    """Return the calls by slot, with an xid of 0."""
    if ":" in vip.address:
        calls = [rpc.encode_getaddr(0, rpc.STATD, 1, "udp6", rpcbvers=vers) for vers in (4, 3)]
    else:
        calls = [rpc.encode_getport(0, rpc.STATD, 1)] * 2
    for name in vip.names:
        args = rpc.notify_args(name, state)
        calls.append(rpc.encode_call(0, rpc.STATD, 1, rpc.SM_NOTIFY, args))
    return calls


def _peer(address: str, port: int) -> Peer:
    host, _, scope = address.partition("%")
    return (host, port, 0, int(scope)) if scope else (host, port)


def _host_of(peer: Peer) -> str:
    """Return the address in our text form: the scope in peer[0] may be an interface's name."""
    host = str(peer[0])
    return f"{host.partition('%')[0]}%{peer[3]}" if "%" in host else host
