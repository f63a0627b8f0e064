# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults at every durable system call, and what must be true of the service afterwards.

By default a sample of the calls is tried; NFSLOCK_CRASH=all (`make crash`) tries each one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from nfslock import nsm
from tests.support.hosts import SM, Node
from tests.support.machine import Image
from tests.support.service import HOLDING, MOUNT_POINT, OK, Outcome, Service
from tests.support.wait import wait_until

#: What changes or settles the content of a filesystem.
CALLS = (
    "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,fchmod,fchown,ftruncate,symlink,symlinkat,setxattr,fsetxattr"
)
KILL, EIO, ENOSPC = "signal=KILL", "error=EIO", "error=ENOSPC"
FAULTS = (KILL, EIO, ENOSPC)
ALL = os.environ.get("NFSLOCK_CRASH") == "all"
#: How many points of each run a sample takes.
SAMPLE = 2
_LOG = "/var/log/crash.strikes"
TRACE = "/var/log/crash.trace"


class Point(NamedTuple):
    """The number-th call of this kind that a process makes; strace counts each kind for itself."""

    call: str
    number: int

    def strace(self, fault: str, *options: str) -> list[str]:
        """Return a command line prefix that injects the fault here."""
        inject = f"inject={self.call}:{fault}:when={self.number}"
        return ["strace", "-qq", "-o", _LOG, *options, "-e", f"trace={self.call}", "-e", inject]

    def __str__(self) -> str:
        return f"{self.call} number {self.number}"


def struck(node: Node) -> bool:
    """Return whether the last injection happened; strace has ended."""
    log = node.read(_LOG)
    return "(INJECTED)" in log or "killed by SIGKILL" in log


def sample(every: list[Point], salt: int) -> list[Point]:
    """Return all points, or a sample spread over them; different for each salt."""
    if ALL:
        return every
    stride = max(1, len(every) // SAMPLE)
    return every[salt % stride :: stride]


def points(node: Node, run: Callable[[list[str]], object], *options: str) -> list[Point]:
    """Return the durable calls that a run without a fault makes, in order.

    options: "-f" to follow children; each process is counted for itself, as strace does.
    """
    run(["strace", "-qq", "-o", TRACE, *options, "-e", f"trace={CALLS}"])
    return traced(node, "-f" in options)


def traced(node: Node, followed: bool) -> list[Point]:
    """Return the points in the trace that strace has left."""
    made: dict[tuple[str, str], int] = {}
    found: dict[Point, None] = {}
    for line in node.read(TRACE).splitlines():
        pid, _, rest = line.partition(" ") if followed else ("", "", line)
        call, bracket, _ = rest.strip().partition("(")
        if bracket and call in CALLS.split(","):
            made[pid, call] = made.get((pid, call), 0) + 1
            found[Point(call, made[pid, call])] = None
    return list(found)


class Snapshot:
    """The shared disk as it was, to be put back for the next point."""

    def __init__(self, image: Image) -> None:
        self.shown = f"/proc/{image.world.pid}/root{image.path}"
        self.copy = f"{self.shown}.copy"
        shutil.copyfile(self.shown, self.copy)

    def restore(self) -> None:
        """Put the content back; the image must not be mounted."""
        shutil.copyfile(self.copy, self.shown)


def daemons(node: Node) -> list[psutil.Process]:
    """Return the service's processes on the node."""
    return [*node.find("supervise locks"), *node.find("propagate locks")]


def kill_daemons(node: Node) -> None:
    """Kill them, and whoever a supervisor has started meanwhile."""
    def gone() -> bool:
        alive = daemons(node)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not alive

    wait_until(gone, f"{node.name}: the daemons gone", otherwise=lambda: daemons(node))


def lose_power(node: Node) -> None:
    """What a power cut does to the service, without the seconds that a new machine takes.

    Unwritten data of the shared disk and /run are lost; statd's directory is on another disk.
    """
    node.lose_disk(MOUNT_POINT)
    kill_daemons(node)
    node.umount(MOUNT_POINT)
    node.run("rm", "-rf", "/run/nfslock")


def set_local(node: Node, *clients: str) -> None:
    """Let statd's directory have just these clients, monitored for a lockd of an earlier life."""
    node.run("sh", "-c", f"rm -f {SM}/* {SM}/.nfslock*")
    for client in clients:
        node.path(f"{SM}/{client}").write_bytes(nsm.format_line(client, node.name))
    node.run("chown", "-R", "statd:nogroup", SM)


@dataclass
class Before:
    """What the disk held before a fault: the least that must be there afterwards."""

    records: dict[str, str]
    state: int
    generation: int
    #: Clients that may have been added meanwhile.
    allowed: frozenset[str] = field(default_factory=frozenset)

    @staticmethod
    def of(service: Service, node: Node, *allowed: str) -> Before:
        """Look at a mounted disk."""
        owner = service.owner(node)
        return Before(
            service.records(node), max(service.state(node), owner["state"]), owner["generation"],
            frozenset(allowed),
        )

    def check(self, service: Service, node: Node) -> None:
        """Assert the invariants on a node where the service was started again."""
        records = service.records(node)
        lines = {key for text in records.values() for key in nsm.parse_record(text.encode())}
        for text in self.records.values():
            assert lines.issuperset(nsm.parse_record(text.encode()))
        added = records.keys() - self.records.keys()
        assert added <= self.allowed, f"records invented: {added - self.allowed}"
        for client, text in records.items():
            assert {mon for mon, _ in nsm.parse_record(text.encode())} == {client}
        assert service.pending(node) == records.keys(), "everybody is to be notified"
        assert set(node.sm_records()) >= records.keys()
        owner, state = service.owner(node), service.state(node)
        assert owner["state"] == state
        assert state % 2 == 1
        assert state > self.state
        assert owner["generation"] > self.generation
        assert owner["node"] == node.name
        left = [name for name in os.listdir(node.path(f"{HOLDING}/sm")) if name.startswith(".")]
        assert not left, "temporary files are cleared away"
        assert service.agent.monitor(node, level=10).code == OK


def reached(service: Service, node: Node, before: Before) -> Before:
    """Return `before` with the numbers that the interrupted run had already made visible."""
    state, generation = before.state, before.generation
    if node.path(f"{HOLDING}/owner.json").exists():
        owner = service.owner(node)
        generation = max(generation, owner["generation"])
    return Before(before.records, state, generation, before.allowed)


def failed_clearly(outcome: Outcome) -> None:
    """Assert that an action that failed said so in one readable line."""
    assert "Traceback" not in outcome.stderr, outcome.stderr
    if outcome.code not in (OK, -9):
        assert outcome.reason, outcome


def report(title: str, fault: str, chosen: list[Point], every: list[Point]) -> str:
    """Return the line that tells how many points were tried."""
    assert chosen
    return (f"\n{title}: {fault.partition('=')[2]} at {len(chosen)} of {len(every)} "
            "durable calls")
