# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in for parts of the standard library that take long to load does what they do."""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import libraries, plain_json
from nfslock.named_tuple import NamedTuple

ROOT = Path(__file__).parents[2]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES, st.sampled_from([None, 1]), st.sampled_from(["", " ", "\n"]))
def test_json_is_read(value: object, indent: int | None, around: str) -> None:
    text = around + json.dumps(value, indent=indent) + around
    assert plain_json.loads(text.encode()) == value


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()),
       st.sampled_from([", ", ",\n "]))
def test_json_is_written(pairs: dict[str, str | int], separator: str) -> None:
    text = plain_json.dumps(pairs, separator)
    assert json.loads(text) == pairs
    assert text.isascii()


@pytest.mark.parametrize(
    "text", ["", "{", '{"a"', '{"a": 1} x', "{'a': 1}", '"\x01"', "nul", '"\\ud8"', "[" * 100000],
    ids=range(9))
def test_no_json_is_refused_as_json_refuses_it(text: str) -> None:
    """In a process of its own: where `json` has not been loaded, its C half knows no errors."""
    code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "from nfslock import plain_json\n"
            "try: plain_json.loads(sys.stdin.buffer.read())\n"
            "except (ValueError, RecursionError) as error: print(type(error).__name__)\n")
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(ROOT / "lib")], input=text.encode(),
        capture_output=True, check=True)
    with pytest.raises((ValueError, RecursionError)) as refused:
        json.loads(text)
    assert done.stdout.decode().strip() == type(refused.value).__name__


def test_sqlite_without_functools() -> None:
    """With more statements than it keeps, and without harm to who wants functools later."""
    code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "from nfslock import sqlite\n"
            "assert not {'functools', 'collections', 'sqlite3'} & set(sys.modules)\n"
            "one = sqlite.connect(':memory:')\n"
            "found = [one.execute(f'SELECT {n % 300}').fetchone()[0] for n in range(900)]\n"
            "assert found == [*range(300)] * 3\n"
            "try: one.execute('SELECT')\n"
            "except sqlite.Error: pass\n"
            "import functools, sqlite3\n"
            "assert functools.reduce(max, found) == 299 and sqlite3.Error is sqlite.Error\n"
            "assert sqlite3.connect(':memory:').execute('SELECT 1').fetchall() == [(1,)]\n")
    subprocess.run([sys.executable, "-IS", "-c", code, str(ROOT / "lib")], check=True)


class Ours(NamedTuple):
    """A tuple with a default and a method."""

    name: str
    number: int
    more: tuple[str, ...] = ()

    def doubled(self) -> int:
        """Twice the number."""
        return 2 * self.number


Theirs = namedtuple("Theirs", ["name", "number", "more"], defaults=[()])


@given(st.text(), st.integers(), st.tuples(st.text()))
def test_a_named_tuple(name: str, number: int, more: tuple[str, ...]) -> None:
    ours, theirs = Ours(name, number, more), Theirs(name, number, more)
    assert ours == theirs == Ours(more=more, number=number, name=name)
    assert (ours.name, ours.number, ours.more, ours.doubled()) == (name, number, more, 2 * number)
    assert ours._asdict() == theirs._asdict()
    assert ours._replace(number=7) == theirs._replace(number=7)
    assert hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert Ours(name, number) == Theirs(name, number)
    assert Ours._fields == Theirs._fields


@pytest.mark.parametrize("values, named", [
    ((), {}), (("a",), {}), (("a", 1, (), 4), {}), (("a", 1), {"name": "b"}),
    (("a", 1), {"other": 2}),
])  # fmt: skip
def test_a_named_tuple_refuses_what_does_not_fit(
    values: tuple[object, ...], named: dict[str, object]
) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)  # type: ignore[arg-type]


def test_a_named_tuple_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Ours("a", 1).name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Ours("a", 1).other = "b"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [libraries, ctypes])
def test_c_is_called(kind: Any) -> None:
    libc = kind.CDLL(None, use_errno=True)
    assert libc.getpid() == os.getpid()
    assert libc.open(b"/nowhere", os.O_RDONLY) == -1
    assert kind.get_errno() == errno.ENOENT
    place = kind.c_void_p()
    assert libc.posix_memalign(kind.byref(place), 64, 64) == 0
    assert place.value % 64 == 0
    libc.free(place)


@pytest.mark.parametrize("kind", [libraries, ctypes])
def test_what_c_lacks_is_said(kind: Any) -> None:
    with pytest.raises(OSError):
        kind.CDLL("libnowhere.so.0")
    with pytest.raises(AttributeError):
        kind.CDLL(None).no_such_function()
