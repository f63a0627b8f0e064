# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may reclaim: ids, names, unions and the choice at a takeover."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import recovery

owners = st.binary(min_size=1, max_size=40)
principals = st.sampled_from([b"", bytes(32), bytes(range(32))])
clients = st.dictionaries(owners, principals, max_size=6)
OLD, NEW, LATE = b"still here", b"came before the crash", b"came just before the crash"
GONE = b"lost its lease"


@given(owners)
def test_a_name_is_the_kernels(owner: bytes) -> None:
    name = hashlib.md5(owner).hexdigest()
    assert recovery.name_of(owner) == name
    assert recovery.is_name(name)
    assert recovery.is_hashed(recovery.hashed(name))
    assert recovery.name_of(recovery.hashed(name)) == name


@pytest.mark.parametrize("owner", [b"hash:", b"hash:xyz\0", b"hash:" + b"A" * 32 + b"\0",
                                   b"hash:" + b"a" * 32, b"\xff\xfe"])
def test_ids_that_only_look_hashed(owner: bytes) -> None:
    assert not recovery.is_hashed(owner)


@given(clients, clients)
def test_a_union_loses_nobody(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    both = recovery.union(one, other)
    assert {recovery.name_of(o) for o in both} == {recovery.name_of(o) for o in (*one, *other)}
    hashes = {recovery.hashed(recovery.name_of(owner)): b"" for owner in one}
    assert recovery.union(hashes, one) == recovery.union(one, hashes) == recovery.union(one)
    for owner, principal in one.items():
        assert not principal or both[owner]


@given(clients, clients)
def test_a_difference_leads_from_one_to_the_other(
    before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> None:
    changed, gone = recovery.difference(before, after)
    result = {**before, **changed}
    for owner in gone:
        del result[owner]
    assert result == after


def test_a_first_start_takes_what_the_node_has() -> None:
    assert recovery.heirs(None, {OLD: b""}, was_here=False) == {OLD: b""}
    assert recovery.heirs(None, None, was_here=False) == {}


def test_what_this_node_kept_from_an_earlier_stay_does_not_count() -> None:
    """Its lock went to somebody else meanwhile: reclaiming would make two owners."""
    held, local = {OLD: b""}, {OLD: b"", GONE: b""}
    assert recovery.heirs(held, local, was_here=False) == held
    assert recovery.heirs({}, local, was_here=False) == {}


def test_after_a_crash_or_a_stop_here_nobody_is_lost() -> None:
    """The copy may lag by milliseconds, nfsdcld's database by seconds; a stop expires clients."""
    held, local = {OLD: b"", NEW: b""}, {OLD: b"", LATE: b""}
    assert recovery.heirs(held, local, was_here=True) == {OLD: b"", NEW: b"", LATE: b""}


def test_who_was_taken_out_does_not_come_back_with_an_old_store() -> None:
    """A power cut may undo the removal in the node's database."""
    held, local = {OLD: b""}, {OLD: b"", GONE: b""}
    assert recovery.heirs(held, local, [GONE], was_here=True) == held
    hashed = {recovery.hashed(recovery.name_of(GONE)): b""}
    assert recovery.heirs(held, {**hashed}, [GONE], was_here=True) == held
    # The control: without that note it does.
    assert GONE in recovery.heirs(held, local, was_here=True)


def test_a_node_that_lost_its_store_gets_the_held_one() -> None:
    assert recovery.heirs({OLD: b""}, None, was_here=True) == {OLD: b""}
