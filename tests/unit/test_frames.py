# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cluster tier reads out of a recording: NFSv4 opens and reclaims (RFC 8881, XDR)."""

from __future__ import annotations

import struct

import pytest

from tests.support.vm.frames import NFS, Call, Opened, granted, held_off, opens, reclaims

OWNER = b"open id:owner"


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def opaque(data: bytes) -> bytes:
    return words(len(data)) + data + b"\0" * (-len(data) % 4)


SEQUENCE, PUTFH = words(53) + bytes(32), words(22) + opaque(b"handle")
SEQUENCE_DONE, PUTFH_DONE = words(53, 0) + bytes(36), words(22, 0)


def called(operation: bytes, answer: bytes, status: int = 0, minor: int = 1) -> Call:
    """A COMPOUND with one operation behind those that every client puts before it."""
    before, done = (SEQUENCE + PUTFH, SEQUENCE_DONE + PUTFH_DONE) if minor else (PUTFH, PUTFH_DONE)
    count = 3 if minor else 2
    body = opaque(b"") + words(minor, count) + before + operation
    result = words(status) + opaque(b"") + words(count) + done + answer
    ends = "10.9.0.21:900", "10.9.0.100:2049"
    return Call(1.0, "client/data", *ends, 77, NFS, 4, 1, body, 2.0, result)


def open_call(claim: bytes) -> bytes:
    return words(18, 0, 3, 0, 7, 7) + opaque(OWNER) + words(0) + claim


def open_done(delegation: int) -> bytes:
    return words(18, 0) + bytes(16) + bytes(20) + words(0, 1, 5, delegation)


PREVIOUS, FH = words(1, 0), words(4)


@pytest.mark.parametrize("minor", [0, 1, 2])
@pytest.mark.parametrize(("kind", "name"), [(0, "none"), (1, "read"), (2, "write"), (3, "none")])
def test_the_delegation_that_came_with_a_reclaimed_open(minor: int, kind: int, name: str) -> None:
    call = called(open_call(PREVIOUS), open_done(kind), minor=minor)
    assert opens([call]) == [Opened(2.0, "10.9.0.21", "previous", name)]
    assert [(r.what, r.granted_at) for r in reclaims([call])] == [("OPEN", 2.0)]


def test_a_reclaim_counts_once_however_often_it_was_sent() -> None:
    call = called(open_call(PREVIOUS), open_done(0))
    again = call._replace(at=9.0, source="10.9.0.21:901", replied_at=9.5)
    same_instant = call._replace(xid=78)
    refused = called(open_call(PREVIOUS), words(18, 10013), status=10013)._replace(xid=79)
    found = granted([call, again, same_instant, refused])
    assert [(r.xid, r.granted_at) for r in found] == [(77, 2.0), (78, 2.0)]


def test_an_open_that_reclaims_nothing() -> None:
    call = called(open_call(FH), open_done(0))
    assert [o.claim for o in opens([call])] == ["fh"]
    assert reclaims([call]) == []


def test_an_open_that_was_refused() -> None:
    refused = called(open_call(PREVIOUS), words(18, 10013), status=10013)
    assert opens([refused]) == []
    assert [(r.what, r.granted_at) for r in reclaims([refused])] == [("OPEN", 0.0)]


@pytest.mark.parametrize(("reclaim", "status", "found"), [
    (0, 10013, [2.0]), (1, 10013, []), (0, 0, []), (0, 10025, [])])
def test_a_lock_that_was_put_off_until_grace_is_over(
    reclaim: int, status: int, found: list[float]
) -> None:
    lock = words(12, 2, reclaim)
    call = called(lock, words(12, status), status=status)
    assert held_off([call, called(open_call(FH), words(18, 10013), status=10013)]) == found


def test_reclaim_complete() -> None:
    body = opaque(b"") + words(1, 2) + SEQUENCE + words(58, 0)
    result = words(0) + opaque(b"") + words(2) + SEQUENCE_DONE + words(58, 0)
    call = called(b"", b"")._replace(body=body, result=result)
    assert [(r.what, r.granted_at) for r in reclaims([call])] == [("RECLAIM_COMPLETE", 2.0)]
    assert opens([call]) == []


def test_what_is_cut_off_is_skipped() -> None:
    whole = called(open_call(PREVIOUS), open_done(2))
    for length in range(len(whole.body)):
        reclaims([whole._replace(body=whole.body[:length])])
        opens([whole._replace(body=whole.body[:length])])
    for length in range(1, len(whole.result)):
        opens([whole._replace(result=whole.result[:length])])
