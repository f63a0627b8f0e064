# SPDX-License-Identifier: GPL-2.0-or-later
"""The records and the state number in statd's own format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import nsm
from tests.unit.records import line, names

A = line("10.0.0.9", "nodea")


def test_a_line_as_statd_writes_it() -> None:
    assert nsm.parse_record(A) == {("10.0.0.9", "nodea"): A}


def test_a_file_with_two_lines() -> None:
    both = A + line("10.0.0.9", "nodeb")
    assert list(nsm.parse_record(both)) == [("10.0.0.9", "nodea"), ("10.0.0.9", "nodeb")]


@pytest.mark.parametrize("data", [
    b"", b"\n", A[:-1], A[:50], A + b"\n", A + b"x", b"x" + A, A * 1000,
    A.replace(b" 000186b5", b"_000186b5"), A.replace(b"10.0.0.9", b"../etc"),
    A.replace(b"10.0.0.9", b".hidden"), A.replace(b"a\n", b"\0\n")])
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        nsm.parse_record(data)


@pytest.mark.parametrize("name", [
    "", ".x", "a/b", "a b", "x\n", "x\0", "x" * 256, "host.new", ".host.new", "-rf", "ä"])
def test_names_that_are_no_records(name: str) -> None:
    assert not nsm.is_record_file(name)


@given(st.binary(max_size=300))
def test_parsing_never_does_anything_but_value_error(data: bytes) -> None:
    try:
        lines = nsm.parse_record(data)
    except ValueError:
        return
    assert b"".join(lines.values()) == data or len(lines) < data.count(b"\n")


@given(st.lists(st.tuples(names, names), min_size=1, max_size=5, unique=True))
def test_records_by_client_lose_no_line(keys: "list[tuple[str, str]]") -> None:
    files = [nsm.parse_record(line(*key)) for key in keys]
    clients = nsm.by_client(files)
    found = {key for client, data in clients.items() for key in nsm.parse_record(data)}
    assert found == set(keys)
    for client, data in clients.items():
        assert {mon_name for mon_name, _ in nsm.parse_record(data)} == {client}


@pytest.mark.parametrize("data", [
    b"", b"\0\0\0", b"\0\0\0\0", b"\2\0\0\0", b"\1\0\0\x80", b"\1" * 5])
def test_states_that_are_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        nsm.decode_state(data)


@given(st.lists(st.integers(-(2**31), 2**31 - 8)), st.integers(0, 2**33))
def test_the_next_state_is_odd_new_and_larger(seen: "list[int]", epoch: int) -> None:
    number = nsm.next_state(seen, epoch)
    assert number % 2 == 1
    assert 0 < number < 2**31
    assert all(number > old for old in seen if old > 0)
    assert nsm.decode_state(nsm.encode_state(number)) == number
