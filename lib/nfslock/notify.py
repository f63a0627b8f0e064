# SPDX-License-Identifier: GPL-2.0-or-later
"""SM_NOTIFY to many hosts at once, as a state machine: what to send when, and who has answered.

Pure: no socket, no clock, no file, no name look-up (notify_io.py has these; roster.py knows which
clients stand behind a job). Time is a float, seconds on the caller's monotonic clock; addresses
are canonical text, with a scope as %number.

A job (notify_job.py) is one host to be told from one VIP, one datagram at a time, each repeated
until answered. The invariants, which the tests hold:

* a job is done only when every mon_name was acknowledged with success, from the address and port
  asked, with the xid asked, on the socket asked from;
* a job has one datagram on the way at most, all together `window` at most. A datagram is on the
  way until it is answered or for the first time-out (RTO), whichever is sooner;
* the same question of the same job always has the same xid: repetitions can be told;
* the dead do not hold up the living: jobs that advance go first, then those never asked, then
  repetitions, which back off from 0.25 s by doubling to 30 s.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from . import rpc
from .notify_job import (
    AGAIN,
    DONE,
    FLIGHT,
    LOOKUP,
    LOOKUP_V3,
    NAMES,
    NEW,
    PARKED,
    WAITING,
    Job,
    Peer,
    Vip,
    calls_to,
    peer_at,
)

RTO = 0.25
RTO_MAX = 30.0
WINDOW = 2048
PARK = 60.0  # seconds until a host without a registered statd is asked again
RELOOKUP = 4  # time-outs after which statd's port, and the address, are in doubt

_MAY_BE_SENT = (NEW, AGAIN)

Transmit = Callable[[int, list[bytes], list[Peer]], int]


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
        self.jobs: list[Job] = []
        self.finished: list[Job] = []  # for the caller to collect and clear
        self._salt = salt
        self._names = [len(vip.names) for vip in vips]
        self._stride = NAMES + max(self._names, default=0)
        self._rto, self._rto_max, self._park_for = rto, rto_max, park
        # Everything behind the xid, by VIP and question.
        self._tails = [[call[4:] for call in calls_to(vip, state)] for vip in vips]
        # Queues. A job's entry is stale once its state or its due time has moved on.
        self._urgent: deque[Job] = deque()
        self._fresh = 0  # this job and all behind it were never asked
        self._retry: deque[Job] = deque()
        self._flights: deque[tuple[float, list[Job]]] = deque()
        self._sleeping: list[tuple[float, int]] = []  # a heap of due times and job numbers

    def add(self, vip: int, addresses: Sequence[str]) -> Job:
        """Take up a host, of the VIP's family.

        Addresses behind the first stand in for it when it does not answer.
        """
        number = len(self.jobs)
        job = Job(number, self._salt + number * self._stride, vip, addresses)
        self.jobs.append(job)
        return job

    # Sending

    def send(self, now: float, transmit: Transmit, limit: int = 64) -> int:
        """Hand out at most `limit` datagrams that are due; return how many were taken.

        transmit(index of the VIP, datagrams, destinations) returns how many it took, 0 when it is
        full; the others come first the next time. Many at once: a system call in between leaves
        cold caches behind, and the interpreter pays for that.
        """
        self._expire(now)
        limit = min(limit, self.window - self.in_flight)
        due = now + self._rto
        ready = self._ready(limit)
        taken: list[Job] = []
        left: list[Job] = []
        for vip, tails in enumerate(self._tails) if ready else ():
            jobs = [job for job in ready if job.vip == vip]
            datagrams = [
                (job.xid + job.slot & 0xFFFFFFFF).to_bytes(4, "big") + tails[job.slot]
                for job in jobs
            ]
            count = transmit(vip, datagrams, [job.peer for job in jobs]) if jobs else 0
            taken += jobs[:count]
            left += jobs[count:]
        for job in taken:
            job.due = due
        for job in reversed(left):
            job.state = AGAIN if job.level else NEW
            self._urgent.appendleft(job)
        if taken:
            self._flights.append((due, taken))
            self.in_flight += len(taken)
            self.sent += len(taken)
        return len(taken)

    def next_event(self, now: float) -> float | None:
        """Return when send() may have something to do: now at the earliest, None for never."""
        ready = self._urgent or self._retry or self._fresh < len(self.jobs)
        if ready and self.in_flight < self.window:
            return now
        times = [self._flights[0][0]] if self.in_flight else []
        times += [self._sleeping[0][0]] if self._sleeping else []
        return max(now, min(times)) if times else None

    def _ready(self, limit: int) -> list[Job]:
        """Take at most `limit` jobs from the queues, each once: from here on they are in flight."""
        jobs: list[Job] = []
        self._pick(self._urgent, jobs, limit)
        fresh = self.jobs[self._fresh : self._fresh + limit - len(jobs)]
        self._fresh += len(fresh)
        for job in fresh:
            job.state = FLIGHT
        jobs += fresh
        self._pick(self._retry, jobs, limit)
        return jobs

    @staticmethod
    def _pick(queue: deque[Job], jobs: list[Job], limit: int) -> None:
        while queue and len(jobs) < limit:
            job = queue.popleft()
            if job.state in _MAY_BE_SENT:
                job.state = FLIGHT
                jobs.append(job)

    def _expire(self, now: float) -> None:
        """End what has lasted long enough: flights, pauses between repetitions, parking."""
        while self._flights and self._flights[0][0] <= now:
            due, batch = self._flights.popleft()
            for job in batch:
                if job.state == FLIGHT and job.due == due:
                    self.in_flight -= 1
                    # At most 2**20 first time-outs: the cap comes long before.
                    pause = min(self._rto * (1 << min(job.level, 20)), self._rto_max)
                    self._sleep(job, WAITING, max(due, due - self._rto + pause))
        while self._sleeping and self._sleeping[0][0] <= now:
            due, number = heapq.heappop(self._sleeping)
            job = self.jobs[number]
            if job.due != due:
                continue
            if job.state == WAITING:
                self._timed_out(job)
            elif job.state == PARKED:
                job.state = NEW
                self._retry.append(job)

    def _timed_out(self, job: Job) -> None:
        job.state = AGAIN
        self._retry.append(job)
        job.level += 1
        if job.level % RELOOKUP:
            return
        if job.others:
            job.others.append(job.address)
            job.address = job.others.popleft()
            job.port = 0
            job.state = NEW
        # The port stays known: the answer to an SM_NOTIFY may still come from there.
        job.slot, job.peer = job.lookup, peer_at(job.address, rpc.PORTMAP_PORT)

    def _sleep(self, job: Job, state: int, until: float) -> None:
        job.state = state
        job.due = until
        heapq.heappush(self._sleeping, (until, job.number))

    # Answers

    def receive(self, now: float, vip: int, answers: Iterable[tuple[bytes, Peer]]) -> None:
        """Take in datagrams that came to the socket of that VIP, each with whom it came from."""
        jobs, salt, stride = self.jobs, self._salt, self._stride
        for data, peer in answers:
            try:
                xid, status, body = rpc.decode_reply(data)
                number, slot = divmod(xid - salt & 0xFFFFFFFF, stride)
                job = jobs[number] if number < len(jobs) else None
                if job is None or not job.awaits(slot, vip, peer):
                    self.ignored += 1
                elif status != rpc.SUCCESS:
                    self._refused(now, job, slot, status)
                elif slot >= NAMES:
                    self._acknowledged(job)
                elif ":" in job.address:
                    self._found(now, job, rpc.read_getaddr(body))
                else:
                    self._found(now, job, rpc.read_getport(body))
            except rpc.RpcError:
                self.ignored += 1

    def _refused(self, now: float, job: Job, slot: int, status: int) -> None:
        """The program or the procedure is not there: an older rpcbind, or no statd behind it."""
        if slot == LOOKUP and status == rpc.PROG_MISMATCH and ":" in job.address:
            job.lookup = job.slot = LOOKUP_V3
            self._advance(job)
        else:
            self._found(now, job, 0)

    def _found(self, now: float, job: Job, port: int) -> None:
        """Go on with the port, or leave a host that has no statd alone for a while."""
        # A port looked up again is no progress: go on backing off.
        if job.level < RELOOKUP or port == 0:
            job.level = 0
        job.port = port
        job.ask()
        if port:
            self._advance(job)
        else:
            self._landed(job)
            self._sleep(job, PARKED, now + self._park_for)

    def _acknowledged(self, job: Job) -> None:
        job.level = 0
        job.step += 1
        if job.step < self._names[job.vip]:
            job.ask()
            self._advance(job)
        else:
            self._landed(job)
            job.state = DONE
            self.finished.append(job)

    def _advance(self, job: Job) -> None:
        self._landed(job)
        job.state = NEW
        self._urgent.append(job)

    def _landed(self, job: Job) -> None:
        if job.state == FLIGHT:
            self.in_flight -= 1
