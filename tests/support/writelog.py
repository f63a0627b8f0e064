# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of a disk's writes and flushes, and what a power cut could have left of them (pure).

The format is that of the kernel's dm-log-writes target (Documentation/admin-guide/device-mapper/
log-writes.rst, drivers/md/dm-log-writes.c), which QEMU's blklogwrites filter writes, too: a super
block, then for each request a header in a sector of its own and the data behind it; all numbers
little-endian, all of it counted in the super block's sector size. QEMU enters a request when it is
done and before the machine that made it learns so.

A disk keeps what was written before a flush that it has answered; of the writes after that, any
may be there and any may be missing. Nothing here knows about filesystems.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK, METADATA = (1 << bit for bit in range(5))
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
#: Bytes. Larger requests may be torn: a disk writes no more than this in one go.
PIECE = 4096
_MOST_SECTORS = 1 << 20  # in one request; a larger number is no header


class Entry(NamedTuple):
    """One request, in bytes: where, how much, what, and the position in the log behind it."""

    offset: int
    length: int
    flags: int
    data: bytes
    end: int


class Piece(NamedTuple):
    """What a disk writes in one go."""

    offset: int
    data: bytes


class Epoch(NamedTuple):
    """The writes between two flushes, and the log's position just before the second one."""

    pieces: list[Piece]
    end: int
    last: bool


class State(NamedTuple):
    """What a power cut may leave of an epoch: these pieces. A prefix is one without reordering."""

    pieces: tuple[int, ...]
    prefix: bool


def read(path: Path) -> list[Entry]:
    """The whole entries of a recording, also of one that ended with its machine.

    The count in the super block is that of the last flush, so it is not relied upon. ValueError for
    what is no recording or is damaged.
    """
    log = path.read_bytes()
    if len(log) < _SUPER.size:
        raise ValueError(f"{path} has no super block: nothing was flushed")
    magic, version, count, size = _SUPER.unpack_from(log)
    if (magic, version) != (MAGIC, VERSION) or size < 512 or size & (size - 1):
        raise ValueError(f"{path} is no recording of writes")
    found: list[Entry] = []
    position = size
    while position + size <= len(log):
        sector, sectors, flags, marked = _ENTRY.unpack_from(log, position)
        if not (sector or sectors or flags):  # nothing was written here any more
            break
        if flags >= METADATA << 1 or (sectors > _MOST_SECTORS and not flags & DISCARD):
            raise ValueError(f"{path}: no entry at {position}: flags {flags}, {sectors} sectors")
        start = position + size
        stored = 0 if flags & (DISCARD | MARK) else sectors * size
        if start + stored > len(log):
            break
        data = log[start : start + stored]
        if flags & MARK:
            data = log[position + _ENTRY.size : position + _ENTRY.size + marked]
        position = start + stored
        found.append(Entry(sector * size, sectors * size, flags, data, position))
    if len(found) < count:
        raise ValueError(f"{path}: {len(found)} entries, the super block says {count}")
    return found


def epochs(entries: list[Entry]) -> Iterator[Epoch]:
    """The recording from flush to flush; the last epoch is what no flush came after."""
    pieces: list[Piece] = []
    end = entries[0].end - len(entries[0].data) if entries else 0
    for entry in entries:
        if entry.flags & FUA:
            raise ValueError("forced unit access: neither virtio-blk nor FUSE ever asks for it")
        if entry.flags & FLUSH:
            yield Epoch(pieces, end, False)
            pieces = []
        if not entry.flags & MARK:
            pieces += _pieces(entry)
        end = entry.end
    yield Epoch(pieces, end, True)


def _pieces(entry: Entry) -> Iterator[Piece]:
    """The request, torn at the multiples of PIECE; what is discarded reads as zeros."""
    data = bytes(entry.length) if entry.flags & DISCARD else entry.data
    start = 0
    while start < len(data):
        stop = start + PIECE - (entry.offset + start) % PIECE
        yield Piece(entry.offset + start, data[start:stop])
        start = stop


def states(epoch: Epoch, dice: random.Random, reorderings: int) -> Iterator[State]:
    """What a power cut in this epoch may leave: every prefix, and so many reorderings at most.

    All subsets where they are few; else each piece missing, each one alone, and random ones. That
    all of the epoch is there is left to the next one, which asks for more.
    """
    count = len(epoch.pieces)
    everything = tuple(range(count))
    prefixes = [everything[:n] for n in range(count + epoch.last)]
    for prefix in prefixes:
        yield State(prefix, True)
    subsets: dict[tuple[int, ...], None] = {}
    if 1 << count <= reorderings:
        for bits in range(1 << count):
            subsets[tuple(n for n in everything if bits >> n & 1)] = None
    else:
        for n in everything:
            subsets[everything[:n] + everything[n + 1 :]] = None
            subsets[(n,)] = None
        for _ in range(reorderings):
            share = dice.random()
            subsets[tuple(n for n in everything if dice.random() < share)] = None
    for known in (*prefixes, everything):
        subsets.pop(known, None)
    chosen = list(subsets)
    if len(chosen) > reorderings:
        chosen = dice.sample(chosen, reorderings)
    for subset in chosen:
        yield State(subset, False)


def apply(image: Path, pieces: Iterator[Piece] | list[Piece]) -> None:
    """Write pieces to a disk image, in this order."""
    with open(image, "r+b") as file:
        for piece in pieces:
            file.seek(piece.offset)
            file.write(piece.data)
