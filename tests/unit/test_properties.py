# SPDX-License-Identifier: GPL-2.0-or-later
"""Any input at all: parsers accept or refuse (ValueError), and what they accept means one thing.

The checks are the fuzzer's (tests/fuzz); hypothesis gives them random bytes and damaged seeds.
"""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.parsers import PARSERS

CORPUS = Path(__file__).parents[1] / "fuzz/corpus"


def seeds(name: str) -> "list[bytes]":
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def refuses(name: str, data: bytes) -> bool:
    """Whether the parser refuses the data; whatever else it raises is a defect."""
    try:
        PARSERS[name](data)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("name", PARSERS)
@given(st.data())
def test_random_bytes(name: str, data: st.DataObject) -> None:
    refuses(name, data.draw(st.binary(max_size=300)))


@pytest.mark.parametrize("name", PARSERS)
@given(st.data())
def test_damaged_seeds(name: str, data: st.DataObject) -> None:
    """Cut, doubled, spliced and with single bytes replaced: what disks and hostile peers do."""
    seed = data.draw(st.sampled_from(seeds(name)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(seed)))
        seed = data.draw(st.sampled_from([
            seed[:at], seed[at:], seed + seed[at:],
            seed[:at] + data.draw(st.binary(min_size=1, max_size=4)) + seed[at + 1 :]]))
    refuses(name, seed)


@pytest.mark.parametrize("name", PARSERS)
def test_some_seed_is_accepted(name: str) -> None:
    """The control: a check that refuses everything would see no defect."""
    assert not all(refuses(name, seed) for seed in seeds(name))
