# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts at every write of a recording: what each may leave is mounted and taken over from.

The judgement is that of the crash matrix (`crash.Before`): no record lost that was promised before
the cut, none invented, everybody to be notified, numbers that only grow. Every image is mounted and
its holding directory looked at; the service takes over from each holding directory that no image
before had in that form, for a takeover sees nothing else of the disk.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nfslock import nsm
from nfslock.owner import Owner, decode_owner
from tests.host import crash
from tests.host.crash import Before
from tests.support import writelog
from tests.support.hosts import Node
from tests.support.machine import Image
from tests.support.recorded_disk import Recording
from tests.support.service import HOLDING, MOUNT_POINT, OK, Cluster
from tests.support.writelog import Epoch, State

EVER = sys.maxsize
#: fsync and its like succeed and do nothing: the library's durable write is no longer durable.
_NO_SYNC = """
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
"""
NO_SYNC, PRELOAD = "/usr/local/lib/no-sync.so", "/etc/ld.so.preload"
_LOOK = "/var/tmp/look"


class Promise(NamedTuple):
    """A client's record must be there when the cut is between these two positions of the log."""

    client: str
    since: int
    until: int = EVER


class Numbers(NamedTuple):
    """From this position on the service has shown these to somebody."""

    since: int
    generation: int
    state: int


@dataclass
class Promised:
    """What was promised while a recording was made, and who might have a record at all."""

    recording: Recording
    clients: list[Promise] = field(default_factory=list)
    numbers: list[Numbers] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def next(self, recording: Recording) -> Promised:
        """For the recording that follows: what holds at the end of this one goes on holding."""
        return Promised(
            recording,
            [Promise(p.client, 0) for p in self.clients if p.until == EVER],
            [number._replace(since=0) for number in self.numbers],
            set(self.known),
        )

    def keep(self, client: str, since: int) -> None:
        """From this position of the log on the client may hold a lock."""
        self.clients.append(Promise(client, since))

    def release(self, client: str, until: int) -> None:
        """From this position of the log on the client's record may go."""
        self.clients = [
            p._replace(until=min(p.until, until)) if p.client == client else p
            for p in self.clients
        ]

    def show(self, since: int, generation: int, state: int) -> None:
        """From this position of the log on others have seen these numbers."""
        self.numbers.append(Numbers(since, generation, state))

    def at(self, position: int) -> Required:
        """What a cut must leave when the log was this long."""
        shown = [n for n in self.numbers if n.since <= position]
        return Required(
            frozenset(p.client for p in self.clients if p.since <= position <= p.until),
            frozenset(self.known),
            max((n.generation for n in shown), default=0),
            max((n.state for n in shown), default=0),
        )


class Required(NamedTuple):
    """The least that must be on the disk, and the most."""

    clients: frozenset[str]
    known: frozenset[str]
    generation: int
    state: int


@dataclass
class Tally:
    """What was tried, and what was wrong."""

    title: str
    writes: int = 0
    epochs: int = 0
    prefixes: int = 0
    reorderings: int = 0
    takeovers: int = 0
    promises: int = 0
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"\n{self.title}: {self.writes} writes in {self.epochs} flush epochs, "
            f"{self.promises} promises; {self.prefixes} prefixes and {self.reorderings} "
            f"reorderings mounted, {self.takeovers} takeovers, {len(self.complaints)} complaints"
        )


Found = dict[str, bytes]


def look(node: Node, image: Image) -> Found:
    """Mount an image as after a power cut and return its holding directory's files, by path."""
    shell = (
        'mkdir -p "$1"; mount -o loop,noatime "$2" "$1"; rm -f "$1.tar"; '
        'if test -d "$1/$3"; then tar -C "$1/$3" -cf "$1.tar" .; fi; umount "$1"'
    )
    node.run("sh", "-ec", shell, "look", _LOOK, image.path, os.path.relpath(HOLDING, MOUNT_POINT))
    found: Found = {}
    if not node.path(f"{_LOOK}.tar").exists():
        return found
    with tarfile.open(node.path(f"{_LOOK}.tar")) as archive:
        for member in archive:
            if member.isfile() or member.islnk():
                content = archive.extractfile(member)
                assert content is not None
                found[os.path.normpath(member.name)] = content.read()
            else:
                assert member.isdir(), f"{member.name} in the holding directory"
                found[os.path.normpath(member.name) + "/"] = b""
    return found


def judge(found: Found, required: Required) -> list[str]:
    """What is wrong with a holding directory that a cut has left: nothing, or one line each."""
    wrong: list[str] = []
    records: set[str] = set()
    for path, data in found.items():
        place, _, name = path.rpartition("/")
        if place not in ("sm", "notify") or not name or name.startswith("."):
            continue
        try:
            names = {mon_name for mon_name, _ in nsm.parse_record(data)}
        except ValueError as error:
            wrong.append(f"{path}: {error}")
            continue
        if names != {name}:
            wrong.append(f"{path} is the record of {names}")
        if place == "sm":
            records.add(name)
    wrong += [f"lost: {client}" for client in sorted(required.clients - records)]
    wrong += [f"invented: {client}" for client in sorted(records - required.known)]
    owner: Owner | None = None
    state = 0
    try:
        if "owner.json" in found:
            owner = decode_owner(found["owner.json"])
        if "state" in found:
            state = nsm.decode_state(found["state"])
    except ValueError as error:
        wrong.append(f"owner.json or state: {error}")
    generation, state = (owner.generation, max(state, owner.state)) if owner else (0, state)
    if generation < required.generation:
        wrong.append(f"generation {generation}, {required.generation} was shown")
    if state < required.state:
        wrong.append(f"state {state}, {required.state} was shown")
    return wrong


def take_over(cluster: Cluster, image: Image, required: Required) -> None:
    """Start the service from an image as the other node would, and judge what it makes of it."""
    service, node = cluster.service, cluster.b
    service.image = image
    crash.set_local(node)
    service.mount(node)
    try:
        # What was being written has a name of its own, and was promised to nobody.
        records = {k: v for k, v in service.records(node).items() if not k.startswith(".")}
        before = Before(records, required.state, required.generation)
        if node.path(f"{HOLDING}/owner.json").exists():
            found = Before.of(service, node)
            before.state = max(found.state, before.state)
            before.generation = max(found.generation, before.generation)
        outcome = service.agent(node, "start", timeout=60)  # s; how fast is not the question
        crash.failed_clearly(outcome)
        assert outcome.code == OK, outcome
        before.check(service, node)
        assert service.records(node).keys() >= required.clients
    finally:
        crash.lose_power(node)
        node.run("rm", "-f", "/run/sm-notify.pid")


@dataclass
class Replay:
    """Replays recordings on node B of a cluster whose service is down.

    reorderings: how many at most for each epoch; every: take one of so many prefixes and
    reorderings (1: all); takeovers: how many at most.
    """

    cluster: Cluster
    reorderings: int = 200
    every: int = 1
    takeovers: int = EVER
    _seen: set[bytes] = field(default_factory=set)

    def run(self, title: str, promised: Promised) -> Tally:
        """Judge what a power cut at any time of the recording may have left."""
        world, node = self.cluster.world, self.cluster.b
        dice = random.Random(title)
        entries = writelog.read(promised.recording.log)
        tally = Tally(title, promises=len(promised.clients) + len(promised.numbers))
        durable = world.seen(world.place().path)
        copy(promised.recording.base, durable)
        turn = 0
        for number, epoch in enumerate(writelog.epochs(entries)):
            required = promised.at(epoch.end)
            tally.epochs += 1
            tally.writes += len(epoch.pieces)
            for state in writelog.states(epoch, dice, self.reorderings):
                turn += 1
                # The first prefix of an epoch is what its flush has left: never skipped.
                if turn % self.every and state.pieces:
                    continue
                tally.prefixes += state.prefix
                tally.reorderings += not state.prefix
                image = self._image(durable, epoch, state)
                where = f"{title}, epoch {number}, pieces {list(state.pieces)}"
                try:
                    found = look(node, image)
                    wrong = judge(found, required)
                    if not wrong and self._is_new(found) and tally.takeovers < self.takeovers:
                        tally.takeovers += 1
                        take_over(self.cluster, image, required)
                except AssertionError as error:
                    wrong = [str(error) or traceback.format_exc(limit=-1)]
                tally.complaints += [f"{where}: {line}" for line in wrong]
                world.seen(image.path).unlink()
            writelog.apply(durable, epoch.pieces)
        durable.unlink()
        return tally

    def _image(self, durable: Path, epoch: Epoch, state: State) -> Image:
        image = self.cluster.world.place()
        shown = self.cluster.world.seen(image.path)
        copy(durable, shown)
        writelog.apply(shown, [epoch.pieces[number] for number in state.pieces])
        return image

    def _is_new(self, found: Found) -> bool:
        digest = hashlib.sha256(repr(sorted(found.items())).encode()).digest()
        new = digest not in self._seen
        self._seen.add(digest)
        return new


def no_sync() -> bytes:
    """A library that takes fsync away from every program when PRELOAD names it (ld.so(8))."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "no-sync.so")
        command = ["cc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=_NO_SYNC, text=True, check=True)
        return library.read_bytes()


def copy(source: Path, target: Path) -> None:
    """Copy a disk image and keep its holes."""
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
