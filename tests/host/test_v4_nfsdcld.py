# SPDX-License-Identifier: GPL-2.0-or-later
"""Our view of nfsdcld's database beside the real daemon: what it writes, what it reads of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from nfslock import recovery
from tests.support.hosts import Node
from tests.support.machine import World
from tests.support.upcalls import DATABASE, Nfsdcld, Store, printed

A, B, C = b"Linux NFSv4.2 a", b"Linux NFSv4.1 b", b"Linux NFSv4.0 c/192.0.2.10"
LONG = bytes(range(256)) * 4
HASH = hashlib.sha256(b"nfs/a@EXAMPLE.COM").digest()


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    node = Node(world, "nodeA", ["192.0.2.1/24"])
    yield node
    node.power_off()


@pytest.fixture
def store(node: Node) -> Iterator[Store]:
    """Our view of the node's database; the daemon may be there or not."""
    store = Store(node)
    yield store
    store.close()


def test_the_stand_in_drives_the_real_daemon(node: Node) -> None:
    daemon = Nfsdcld(node)
    assert daemon.grace_start() == []
    daemon.create(A, HASH)
    daemon.grace_done()
    assert f"id = {A.decode()}, princhash = {HASH.hex()}" in (printed(node, DATABASE))


def test_we_read_what_it_writes_in_every_phase(node: Node, store: Store) -> None:
    daemon = Nfsdcld(node)
    daemon.grace_start()
    for owner in (A, LONG):
        daemon.create(owner, HASH)
    daemon.create(C)
    daemon.grace_done()
    assert store("read") == {A: HASH, LONG: HASH, C: b""}
    assert store("follow") == ({A: HASH, LONG: HASH, C: b""}, [])
    daemon.create(B)
    assert store("follow") == ({B: b""}, [])
    daemon.remove(C)
    assert store("follow") == ({}, [C])
    assert sorted(daemon.grace_start()) == sorted([A, B, LONG])
    assert store("read") == {A: HASH, B: b"", LONG: HASH}
    assert store("follow") == ({}, [])
    daemon.create(A, HASH)
    daemon.grace_done()
    added, gone = store("follow") or ({}, [])
    assert added == {} and sorted(gone) == sorted([B, LONG])


@pytest.mark.parametrize("virgin", [True, False])
def test_it_lets_those_reclaim_whom_we_have_merged(node: Node, store: Store, virgin: bool) -> None:
    """Before it starts, on a node that never had a database, and on one that knows others."""
    if not virgin:
        daemon = Nfsdcld(node)
        daemon.grace_start()
        daemon.create(B)
        daemon.grace_done()
        daemon.stop()
    store("replace", {A: HASH, LONG: b"", recovery.PLACEHOLDER: b""})
    daemon = Nfsdcld(node)
    assert sorted(daemon.grace_start()) == sorted([A, LONG, recovery.PLACEHOLDER])
    daemon.create(A, HASH)
    daemon.grace_done()
    assert store("read") == {A: HASH}
    assert sorted(daemon.grace_start()) == [A]


def test_it_takes_rows_that_come_while_it_runs(node: Node, store: Store) -> None:
    daemon = Nfsdcld(node)
    store("replace", {A: b"", B: HASH})
    assert sorted(daemon.grace_start()) == sorted([A, B])
    daemon.create(A)
    # nfsd dies within its grace period and comes back: the epoch stays, current is emptied.
    store("replace", {A: b"", B: HASH, C: b""})
    assert sorted(daemon.grace_start()) == sorted([A, B, C])


def test_without_us_a_restart_in_grace_forgets_who_came_new(node: Node) -> None:
    """The control of the test above: what nfsdcld does by itself."""
    daemon = Nfsdcld(node)
    daemon.grace_start()
    daemon.create(A)
    daemon.grace_done()
    daemon.grace_start()
    daemon.create(B)
    assert daemon.grace_start() == [A]


def test_a_restart_of_a_virgin_daemon_keeps_what_we_merged(node: Node, store: Store) -> None:
    """It would import nfsdcltrack's records over ours as long as first_time is 1."""
    node.path("/var/lib/nfs/nfsdcltrack").mkdir(mode=0o700)
    node.run("nfsdcltrack", "-s", "/var/lib/nfs/nfsdcltrack", "init")
    daemon = Nfsdcld(node)
    store("replace", {A: b""})
    daemon.stop()
    assert Nfsdcld(node).grace_start() == [A]


def test_control_first_time_eats_the_rows(node: Node, store: Store) -> None:
    node.path("/var/lib/nfs/nfsdcltrack").mkdir(mode=0o700)
    node.run("nfsdcltrack", "-s", "/var/lib/nfs/nfsdcltrack", "init")
    daemon = Nfsdcld(node)
    store("change", {A: b""})
    daemon.stop()
    assert Nfsdcld(node).grace_start() == []
