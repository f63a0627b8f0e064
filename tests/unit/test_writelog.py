# SPDX-License-Identifier: GPL-2.0-or-later
"""The recorder's format (drivers/md/dm-log-writes.c), and what a power cut may leave."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.support import writelog
from tests.support.writelog import DISCARD, FLUSH, FUA, MARK, Epoch, Piece

SECTOR = 512


def header(sector: int, sectors: int, flags: int, length: int = 0, more: bytes = b"") -> bytes:
    return (struct.pack("<QQQQ", sector, sectors, flags, length) + more).ljust(SECTOR, b"\0")


def superblock(count: int, magic: int = 0x6A736677736872, size: int = SECTOR) -> bytes:
    return struct.pack("<QQQI", magic, 1, count, size).ljust(size, b"\0")


def write(sector: int, data: bytes, flags: int = 0) -> bytes:
    return header(sector, len(data) // SECTOR, flags) + data


A, B, C = (letter * SECTOR for letter in (b"a", b"b", b"c"))
FLUSHED = header(0, 0, FLUSH)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def save(log: Path, *entries: bytes, count: int | None = None) -> Path:
    log.write_bytes(superblock(len(entries) if count is None else count) + b"".join(entries))
    return log


def test_every_kind_of_entry_is_read(log: Path) -> None:
    save(log, write(8, A + B), FLUSHED, header(100, 16, DISCARD),
         header(0, 0, MARK, 4, b"here"), write(9, C, FLUSH))  # fmt: skip
    found = writelog.read(log)
    assert [(e.offset, e.length, e.flags, e.data) for e in found] == [
        (8 * SECTOR, 2 * SECTOR, 0, A + B),
        (0, 0, FLUSH, b""),
        (100 * SECTOR, 16 * SECTOR, DISCARD, b""),
        (0, 0, MARK, b"here"),
        (9 * SECTOR, SECTOR, FLUSH, C),
    ]
    assert [e.end // SECTOR for e in found] == [4, 5, 6, 7, 9]


def test_positions_and_sizes_are_counted_in_the_sectors_of_the_super_block(log: Path) -> None:
    data = b"x" * 4096
    log.write_bytes(superblock(1, size=4096) + header(3, 1, 0).ljust(4096, b"\0") + data)
    (entry,) = writelog.read(log)
    assert (entry.offset, entry.length, entry.data, entry.end) == (3 * 4096, 4096, data, 3 * 4096)


@pytest.mark.parametrize("cut", [1, SECTOR - 1, SECTOR, 2 * SECTOR - 1, 2 * SECTOR])
def test_a_recording_that_ended_with_its_machine_has_its_whole_entries(log: Path, cut: int) -> None:
    save(log, write(8, A), FLUSHED, write(9, B), count=2)
    log.write_bytes(log.read_bytes()[:-cut])
    assert len(writelog.read(log)) == 2


def test_what_was_written_after_the_last_flush_is_read(log: Path) -> None:
    save(log, write(8, A), FLUSHED, write(9, B), count=2)
    assert len(writelog.read(log)) == 3


def test_a_hole_ends_the_recording(log: Path) -> None:
    save(log, write(8, A), bytes(4 * SECTOR), write(9, B), count=1)
    assert len(writelog.read(log)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        superblock(0, magic=1),
        superblock(0, size=500),
        superblock(2) + write(8, A),
        superblock(1) + header(8, 1, 1 << 5) + A,
        superblock(1) + header(8, 1 << 40, 0) + A,
    ],
)
def test_what_is_no_recording_is_refused(log: Path, content: bytes) -> None:
    log.write_bytes(content)
    with pytest.raises(ValueError):
        writelog.read(log)


def test_epochs_end_with_a_flush(log: Path) -> None:
    save(log, write(8, A), write(16, B), FLUSHED, FLUSHED, write(8, C, FLUSH))
    found = list(writelog.epochs(writelog.read(log)))
    assert [epoch.pieces for epoch in found] == [
        [Piece(8 * SECTOR, A), Piece(16 * SECTOR, B)], [], [], [Piece(8 * SECTOR, C)]
    ]  # fmt: skip
    assert [epoch.last for epoch in found] == [False, False, False, True]
    assert [epoch.end // SECTOR for epoch in found] == [5, 6, 7, 9], "before the flush was done"


def test_a_large_request_may_be_torn(log: Path) -> None:
    data = bytes(range(256)) * 48  # 12 KiB, from sector 7 on
    save(log, write(7, data))
    (epoch,) = writelog.epochs(writelog.read(log))
    assert [piece.offset for piece in epoch.pieces] == [7 * 512, 4096, 8192, 12288]
    assert b"".join(piece.data for piece in epoch.pieces) == data


def test_what_is_discarded_may_read_as_zeros(log: Path) -> None:
    save(log, header(8, 1, DISCARD))
    (epoch,) = writelog.epochs(writelog.read(log))
    assert epoch.pieces == [Piece(8 * SECTOR, bytes(SECTOR))]


def test_forced_unit_access_is_not_taken_for_a_write_that_may_be_lost(log: Path) -> None:
    save(log, write(8, A, FUA))
    with pytest.raises(ValueError):
        list(writelog.epochs(writelog.read(log)))


def epoch_of(count: int, last: bool = False) -> Epoch:
    return Epoch([Piece(n * 4096, b"%d" % n) for n in range(count)], 0, last)


@pytest.mark.parametrize("last", [False, True])
def test_all_subsets_of_a_short_epoch(last: bool) -> None:
    found = list(writelog.states(epoch_of(3, last), random.Random(1), 8))
    prefixes = [(), (0,), (0, 1), *([(0, 1, 2)] if last else [])]
    assert [s.pieces for s in found if s.prefix] == prefixes
    assert {s.pieces for s in found if not s.prefix} == {(1,), (2,), (0, 2), (1, 2)}


def test_reorderings_of_a_long_epoch_are_sampled() -> None:
    found = list(writelog.states(epoch_of(40), random.Random(1), 100))
    assert sum(s.prefix for s in found) == 40
    others = [s.pieces for s in found if not s.prefix]
    assert len(set(others)) == len(others) == 100
    assert all(list(pieces) == sorted(pieces) for pieces in others)
    assert tuple(range(40)) not in others
    again = list(writelog.states(epoch_of(40), random.Random(1), 100))
    assert found == again, "the same seed gives the same sample"


def test_pieces_are_written_in_order(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(8))
    writelog.apply(image, [Piece(0, b"ab"), Piece(6, b"yz"), Piece(1, b"c")])
    assert image.read_bytes() == b"ac\0\0\0\0yz"
