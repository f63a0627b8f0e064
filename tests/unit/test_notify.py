# SPDX-License-Identifier: GPL-2.0-or-later
"""The SM_NOTIFY sender on a simulated network that loses, delays, repeats, reorders and lies.

`Network` carries the datagrams and checks, at every single one, what notify.py promises.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfslock import notify, resolver, roster, rpc
from nfslock.notify import Notifier
from nfslock.notify_job import Peer, Vip

STATE = 7
NAMES = ("10.0.0.100", "nfs.example.com")
V4 = Vip("10.0.0.100", NAMES)
V6 = Vip("fd00::100", ("fd00::100",))
STATD_PORT = 662


@dataclass
class Client:
    """A host: rpcbind and statd, and what is wrong with them."""

    port: int = STATD_PORT  # 0: not registered
    alive: bool = True
    delay: float = 0.001  # seconds from question to answer
    rpcbind: tuple[int, ...] = (2, 3, 4)
    status: int = rpc.SUCCESS  # statd's answer
    heard: list[tuple[int, str]] = field(default_factory=list)  # (VIP, mon_name), acknowledged
    asked: int = 0

    def answer(self, vip: int, data: bytes, port: int) -> bytes | None:
        self.asked += 1
        xid, prog, vers, proc, args = rpc.decode_call(data)
        if not self.alive:
            return None
        if port == rpc.PORTMAP_PORT:
            assert (prog, proc) == (rpc.PORTMAP, 3)
            if vers not in self.rpcbind:
                return rpc.encode_reply(xid, rpc.xdr_uint(2, 2), rpc.PROG_MISMATCH)
            if vers == 2:
                assert args == rpc.pmap_args(rpc.STATD, 1)
                return rpc.encode_reply(xid, rpc.xdr_uint(self.port))
            assert args == rpc.rpcb_args(rpc.STATD, 1, "udp6")
            uaddr = rpc.format_uaddr("::", self.port) if self.port else ""
            return rpc.encode_reply(xid, rpc.xdr_string(uaddr))
        if port != self.port:
            return None
        assert (prog, vers, proc) == (rpc.STATD, 1, rpc.SM_NOTIFY)
        name, end = rpc.read_string(args)
        assert rpc.read_uint(args, end) == (STATE, len(args))
        if self.status == rpc.SUCCESS:
            self.heard.append((vip, name.decode()))
        return rpc.encode_reply(xid, b"", self.status)


class Network:
    """Time, datagrams under way, and the rules of the sender."""

    def __init__(self, clients: dict[str, Client], vips: tuple[Vip, ...] = (V4,), **options: int):
        self.clients = clients
        self.vips = vips
        self.notifier = Notifier(vips, STATE, salt=0xFFFFFF00, **options)
        self.roster = roster.Roster(self.notifier)
        self.told: list[str] = []
        self.now = 1000.0
        self.start = self.now
        self.random = random.Random(1)
        self.loss = self.duplicates = self.jitter = 0.0
        self.room = 10**9  # datagrams the socket takes before it is full
        self.log: list[tuple[float, str, int]] = []  # (seconds since start, address, port)
        self.mangle: Callable[[bytes, Peer], Iterator[tuple[bytes, Peer]]] | None = None
        self._mail: list[tuple[float, int, int, bytes, Peer]] = []
        self._open: dict[tuple[int, str], float] = {}
        self._xids: dict[tuple[int, str, bytes], bytes] = {}
        self._questions: dict[tuple[str, bytes], tuple[int, str, bytes]] = {}
        self._serial = 0

    def add(self, *keys: str) -> None:
        for key in keys:
            self.roster.add(key, [key])

    def transmit(self, vip: int, datagrams: list[bytes], peers: list[Peer]) -> int:
        """Take what there is room for."""
        for taken, (data, peer) in enumerate(zip(datagrams, peers)):
            if not self.carry(vip, data, peer):
                return taken
        return len(datagrams)

    def carry(self, vip: int, data: bytes, peer: Peer) -> bool:
        address, port = str(peer[0]), peer[1]
        assert isinstance(port, int)
        assert (":" in address) == (":" in self.vips[vip].address)
        if self.room == 0:
            return False
        self.room -= 1
        # One datagram on the way for each job ...
        sent = self._open.get((vip, address))
        assert sent is None or self.now >= sent + notify.RTO
        self._open[vip, address] = self.now
        # ... `window` together (counted only where there can be more) ...
        window = self.notifier.window
        assert len(self._open) <= window or window >= sum(
            self.now < sent + notify.RTO for sent in self._open.values())
        # ... and one xid for one question.
        question, xid = (vip, address, data[4:]), data[:4]
        assert self._xids.setdefault(question, xid) == xid
        assert self._questions.setdefault((address, xid), question) == question
        self.log.append((round(self.now - self.start, 3), address, port))
        client = self.clients[address]
        if self.random.random() >= self.loss:
            reply = client.answer(vip, data, port)
            if reply is not None:
                self.deliver(vip, reply, peer, client.delay)
        return True

    def deliver(self, vip: int, data: bytes, peer: Peer, delay: float) -> None:
        while self.random.random() >= self.loss:
            self._serial += 1
            arrival = self.now + delay + self.random.random() * self.jitter
            heapq.heappush(self._mail, (arrival, self._serial, vip, data, peer))
            if self.random.random() >= self.duplicates:
                break

    def receive(self, vip: int, data: bytes, peer: Peer) -> None:
        before = self.notifier.ignored
        self.notifier.receive(self.now, vip, [(data, peer)])
        if self.notifier.ignored == before:
            self._open.pop((vip, str(peer[0])), None)

    def run(self, seconds: float) -> list[str]:
        """Let time pass; return the keys told in it. Fails if the sender spins."""
        end = self.now + seconds
        idle = 0
        while self.now <= end:
            while self._mail and self._mail[0][0] <= self.now:
                _, _, vip, data, peer = heapq.heappop(self._mail)
                for datagram, source in self.mangle(data, peer) if self.mangle else [(data, peer)]:
                    self.receive(vip, datagram, source)
            sent = self.notifier.send(self.now, self.transmit)
            self.told += self.roster.collect()
            assert 0 <= self.notifier.in_flight <= self.notifier.window
            times = [self.notifier.next_event(self.now)] + [mail[0] for mail in self._mail[:1]]
            later = min((time for time in times if time is not None), default=end + 1)
            idle = idle + 1 if not sent and later <= self.now else 0
            assert idle < 3, "asked to be called again, but had nothing to do"
            self.now = max(self.now, later)
        return self.told

    def reason(self, key: str) -> str | None:
        return self.roster.outstanding().get(key)


def addresses(number: int) -> list[str]:
    return [f"10.9.{n >> 8}.{n & 255}" for n in range(1, number + 1)]


def test_each_name_once_to_each_client() -> None:
    hosts = addresses(300)
    net = Network({host: Client() for host in hosts})
    net.add(*hosts)
    assert sorted(net.run(1)) == sorted(hosts)
    assert all(c.heard == [(0, name) for name in NAMES] for c in net.clients.values())
    assert net.notifier.sent == 3 * len(hosts)
    assert net.notifier.in_flight == 0 and net.notifier.next_event(net.now) is None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    number=st.integers(1, 60),
    window=st.integers(1, 40),
    loss=st.sampled_from([0.0, 0.01, 0.3]),
    duplicates=st.sampled_from([0.0, 0.5]),
    jitter=st.sampled_from([0.0, 0.02, 1.0]),
    dead=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_any_network(
    seed: int,
    number: int,
    window: int,
    loss: float,
    duplicates: float,
    jitter: float,
    dead: float,
) -> None:
    hosts = addresses(number)
    net = Network({host: Client() for host in hosts}, window=window)
    net.random.seed(seed)
    net.loss, net.duplicates, net.jitter = loss, duplicates, jitter
    for client in net.clients.values():
        client.alive = net.random.random() >= dead
    net.add(*hosts)
    told = net.run(900)
    alive = {host for host, client in net.clients.items() if client.alive}
    assert len(told) == len(set(told)) and set(told) == alive
    for host in alive:
        assert set(net.clients[host].heard) == {(0, name) for name in NAMES}
    left = net.roster.outstanding()
    assert left == dict.fromkeys(set(hosts) - alive, roster.UNANSWERED)
    assert net.roster.done == len(alive)


def test_back_off() -> None:
    net = Network({"10.9.0.1": Client(alive=False)})
    net.add("10.9.0.1")
    net.run(125)
    times = [time for time, _, _ in net.log]
    assert times == [0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 31.75, 61.75, 91.75, 121.75]
    assert {port for _, _, port in net.log} == {rpc.PORTMAP_PORT}


def test_a_timer_of_an_answered_question_is_dead() -> None:
    net = Network({"10.9.0.1": Client(alive=False)})
    net.add("10.9.0.1")
    net.run(2)
    net.now = net.start + 2.1
    net.receive(0, rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(662)), ("10.9.0.1", 111))
    net.run(4)
    # Without that answer there would have been a repetition at 3.75.
    assert [t for t, _, port in net.log if port == 662] == [2.1, 2.35, 2.85, 3.85]


def test_an_answer_that_overtakes_the_repetition_is_one_datagram() -> None:
    client = Client(alive=False)
    net = Network({"10.9.0.1": client, "10.9.0.2": Client()}, window=1)
    net.add("10.9.0.1")
    net.notifier.send(net.now, net.transmit)
    net.now += notify.RTO
    net.add("10.9.0.2")
    assert net.notifier.send(net.now, net.transmit) == 1  # to the other: this one waits its turn
    net.receive(0, rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(662)), ("10.9.0.1", 111))
    net.notifier.window = 10
    net.now += notify.RTO
    assert net.notifier.send(net.now, net.transmit) == 2


def test_looking_up_a_port_again_is_no_progress() -> None:
    client = Client()
    net = Network({"10.9.0.1": client})
    net.add("10.9.0.1")
    net.mangle = lambda data, peer: iter([(data, peer)] if peer[1] == 111 else [])
    assert net.run(900) == []
    assert client.asked < 60
    assert net.reason("10.9.0.1") == roster.UNANSWERED


def test_no_answer_before_the_question() -> None:
    net = Network({"10.9.0.1": Client()})
    net.add("10.9.0.1")
    answer = rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(662))
    net.receive(0, answer, ("10.9.0.1", 111))
    assert net.notifier.ignored == 1
    assert net.run(1) == ["10.9.0.1"]
    for xid in range(0xFFFFFF00, 0xFFFFFF04):
        net.receive(0, rpc.encode_reply(xid), ("10.9.0.1", 662))
    assert net.notifier.ignored == 5 and net.roster.collect() == []


def test_the_dead_do_not_hold_up_the_living() -> None:
    hosts = addresses(1000)
    net = Network({host: Client(alive=n % 2 == 0) for n, host in enumerate(hosts)}, window=100)
    net.add(*hosts)
    assert len(net.run(2.6)) == 500  # 500 dead in windows of 100: five rounds of 0.25 s, twice over
    before = net.notifier.sent
    net.run(120)
    assert net.notifier.sent - before < 500 * 10


def test_window_of_one_and_a_full_socket() -> None:
    hosts = addresses(20)
    net = Network({host: Client() for host in hosts}, window=1)
    net.add(*hosts)
    net.room = 5
    assert net.notifier.send(net.now, net.transmit) == 1
    net.room = 0
    net.receive(0, rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(662)), ("10.9.0.1", 111))
    for _ in range(3):
        assert net.notifier.send(net.now, net.transmit) == 0
        assert net.notifier.next_event(net.now) == net.now
    net.room = 10**9
    assert net.run(5) == hosts


def test_dropped_when_the_socket_is_full_is_not_counted_as_sent() -> None:
    net = Network({host: Client() for host in addresses(10)})
    net.add(*net.clients)
    net.room = 3
    assert net.notifier.send(net.now, net.transmit) == 3
    assert net.notifier.in_flight == net.notifier.sent == 3


@pytest.mark.parametrize(
    "forge",
    [
        lambda data, peer: (data, ("10.9.0.99", peer[1])),
        lambda data, peer: (data, (peer[0], peer[1] + 1)),
        lambda data, peer: (bytes([data[0] ^ 1]) + data[1:], peer),
        lambda data, peer: (data[:3] + bytes([data[3] ^ 1]) + data[4:], peer),
        lambda data, peer: (data[:4] + bytes(4) + data[8:], peer),
        lambda data, peer: (data[:8] + rpc.xdr_uint(rpc.MSG_DENIED, 1, 1), peer),
        *(lambda data, peer, n=n: (data[:n], peer) for n in range(24)),
    ],
)
def test_no_forged_answer_counts(forge: Callable[[bytes, Peer], tuple[bytes, Peer]]) -> None:
    net = Network({"10.9.0.1": Client(), "10.9.0.99": Client(alive=False)})
    net.add("10.9.0.1", "10.9.0.99")
    net.mangle = lambda data, peer: iter([forge(data, peer)])
    assert net.run(10) == []
    assert net.notifier.ignored > 0
    # Control: with honest answers beside the forged ones it ends.
    net.mangle = lambda data, peer: iter([forge(data, peer), (data, peer)])
    assert net.run(60) == ["10.9.0.1"]


def test_an_answer_at_another_vip_does_not_count() -> None:
    two = (V4, Vip("10.0.0.101", NAMES))
    net = Network({"10.9.0.1": Client(alive=False)}, two)
    net.add("10.9.0.1")
    net.run(0.1)
    for xid in range(0xFFFFFF00, 0xFFFFFF08):
        answer = rpc.encode_reply(xid, rpc.xdr_uint(662))
        net.notifier.receive(net.now, xid < 0xFFFFFF04, [(answer, ("10.9.0.1", 111))])
    assert net.notifier.ignored == 8


def test_a_truncated_port_is_no_port() -> None:
    net = Network({"10.9.0.1": Client(alive=False)})
    net.add("10.9.0.1")
    net.run(0.1)
    reply = rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(662))
    for end in range(24, 28):
        net.receive(0, reply[:end], ("10.9.0.1", 111))
    net.receive(0, rpc.encode_reply(0xFFFFFF00, rpc.xdr_uint(1 << 16)), ("10.9.0.1", 111))
    assert net.notifier.ignored == 5 and {port for _, _, port in net.log} == {111}


def test_unregistered_is_asked_again_and_named() -> None:
    client = Client(port=0)
    net = Network({"10.9.0.1": client})
    net.add("10.9.0.1")
    assert net.run(59) == [] and client.asked == 1
    assert net.reason("10.9.0.1") == roster.UNREGISTERED
    net.run(60)
    assert client.asked == 2
    client.port = STATD_PORT
    assert net.run(60) == ["10.9.0.1"]


@pytest.mark.parametrize("status", [rpc.PROG_UNAVAIL, rpc.PROC_UNAVAIL, rpc.SYSTEM_ERR])
def test_a_refusal_is_no_acknowledgement(status: int) -> None:
    client = Client(status=status)
    net = Network({"10.9.0.1": client})
    net.add("10.9.0.1")
    assert net.run(50) == [] and client.asked == 2
    assert net.reason("10.9.0.1") == roster.UNREGISTERED
    client.status = rpc.SUCCESS
    assert net.run(20) == ["10.9.0.1"]


def test_a_statd_that_moved_is_looked_up_again() -> None:
    client = Client()
    net = Network({"10.9.0.1": client})
    net.add("10.9.0.1")
    client.delay = 0.1
    net.run(0.15)
    client.port = 1001
    client.heard.clear()
    assert net.run(10) == ["10.9.0.1"]
    assert net.log[-1][2] == 1001 and (111 in {port for time, _, port in net.log if time > 1})


def test_a_statd_that_takes_seconds_is_heard() -> None:
    """It may be held up by a name server: its answer comes while its port is asked for again."""
    client = Client(delay=4.2)
    net = Network({"10.9.0.1": client})
    net.add("10.9.0.1")
    assert net.run(15) == ["10.9.0.1"]


def test_ipv6_and_an_rpcbind_without_version_4() -> None:
    clients = {"fd00::1": Client(), "fd00::2": Client(rpcbind=(3,)), "fd00::3": Client(rpcbind=())}
    net = Network(clients, (V4, V6))
    net.add(*clients)
    assert sorted(net.run(10)) == ["fd00::1", "fd00::2"]
    assert clients["fd00::2"].heard == [(1, "fd00::100")]
    assert net.reason("fd00::3") == roster.UNREGISTERED


def test_scopes() -> None:
    sent: list[Peer] = []

    def transmit(_vip: int, datagrams: list[bytes], peers: list[Peer]) -> int:
        sent.extend(peers)
        return len(peers)

    notifier = Notifier([V6], STATE, salt=0)
    notifier.add(0, ["fe80::1%3"])
    assert notifier.send(0, transmit) == 1
    assert sent == [("fe80::1", 111, 0, 3)]
    answer = rpc.encode_reply(0, rpc.xdr_string("::.2.150"))
    notifier.receive(0, 0, [(answer, ("fe80::1%eth1", 111, 0, 4))])
    assert notifier.ignored == 1
    notifier.receive(0, 0, [(answer, ("fe80::1%eth0", 111, 0, 3))])
    notifier.send(0, transmit)
    assert sent[1:] == [("fe80::1", 662, 0, 3)]


def test_two_vips_of_a_family_both_tell() -> None:
    other = Vip("10.0.0.101", ("10.0.0.101",))
    client = Client()
    net = Network({"10.9.0.1": client}, (V4, other, V6))
    net.add("10.9.0.1")
    assert net.run(5) == ["10.9.0.1"]
    assert set(client.heard) == {(0, NAMES[0]), (0, NAMES[1]), (1, "10.0.0.101")}


def test_a_client_of_two_names_is_told_once() -> None:
    client = Client()
    net = Network({"10.9.0.1": client, "fd00::1": Client()}, (V4, V6))
    assert net.roster.add("10.9.0.1", ["10.9.0.1"])
    assert net.roster.add("c1.example.com", ["10.9.0.7", "10.9.0.1", "fd00::1"])
    net.clients["fd00::1"].alive = False
    assert net.run(1) == ["10.9.0.1"]
    assert net.reason("c1.example.com") == roster.UNANSWERED  # its other family was not told
    net.clients["fd00::1"].alive = True
    net.run(30)
    assert net.told == ["10.9.0.1", "c1.example.com"]
    assert not net.roster.add("c1", ["10.9.0.1"])
    assert len(client.heard) == len(NAMES) and net.roster.done == 3


def test_a_second_address_stands_in() -> None:
    net = Network({"10.9.0.1": Client(alive=False), "10.9.0.2": Client()})
    net.roster.add("c1", ["10.9.0.1", "10.9.0.2"])
    assert net.run(10) == ["c1"]
    assert net.notifier.in_flight == 0


def test_unreachable_families_are_named() -> None:
    net = Network({}, (V6,))
    net.add("10.9.0.1")
    net.roster.add("nobody", [])
    assert net.run(10) == []
    assert net.roster.outstanding() == dict.fromkeys(["10.9.0.1", "nobody"], roster.UNREACHABLE)


def test_waiting_is_a_reason_too() -> None:
    net = Network({})
    net.add("10.9.0.1")
    assert net.roster.outstanding() == {"10.9.0.1": roster.WAITING}


@pytest.mark.parametrize("state", [0, 2, -1, 2**31 + 1])
def test_no_state_that_clients_would_misread(state: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        Notifier([V4], state, salt=0)


def test_no_vip_without_a_name() -> None:
    with pytest.raises(ValueError, match="mon_name"):
        Notifier([Vip("10.0.0.1", ())], STATE, salt=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.9.0.1", "10.9.0.1"),
        ("FD00:0::0:1", "fd00::1"),
        ("::ffff:10.9.0.1", "10.9.0.1"),
        ("fe80::1%1", "fe80::1%1"),
        ("fe80::1%lo", "fe80::1%1"),
        ("fe80::1%nosuch0", None),
        ("10.9.1", None),
        ("client.example.com", None),
        ("a\0b", None),
        ("", None),
    ],
)
def test_canonical_addresses(text: str, expected: str | None) -> None:
    assert resolver.canonical(text) == expected
