# SPDX-License-Identifier: GPL-2.0-or-later
"""Lock clients: mounting the service, and programs that hold or want its locks.

Their logs, with the host's times, are what the audits judge; nothing is judged here.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from ..wait import wait_until
from . import layout
from .control import Event
from .machine import Machine
from .service import CROWD, LOCKER


class Entry(NamedTuple):
    """One line of a lock program; `at`: the host's monotonic time at which the machine said it."""

    at: float
    what: str
    file: str
    took: float
    errno: str


class Program:
    """A lock program that runs on a machine; `log` grows while it does.

    within: what runs the program in surroundings of its own; address: that of its NFS client.
    version: as which it mounted the service; nothing: as the trial does.
    """

    def __init__(
        self, machine: Machine, role: str, kind: str, paths: list[str], interval: float,
        within: tuple[str, ...] = (), address: str = "", version: str = "",
    ) -> None:  # fmt: skip
        self.machine = machine
        self.role = role
        self.paths = paths
        self.version = version
        self.address = address or machine.role.addresses["data"]
        self.name = f"{role}-{machine.name}-{id(self):x}"
        self.log: list[Entry] = []
        self.ended = False
        #: When its machine lost its power under it (host's monotonic time), 0.0: it did not.
        self.died_at = 0.0
        self.set_clock()
        machine.listeners.append(self._heard)
        machine.spawn(self.name, *within, LOCKER, role, kind, str(interval), *paths)

    def _heard(self, event: Event) -> None:
        if event.program != self.name:
            return
        if event.rc is not None:
            self.ended = True
            return
        try:
            said: dict[str, Any] = json.loads(event.line)
        except ValueError:
            said = {"what": "error", "errno": event.line, "t": event.at - self._clock}
        self.log.append(
            Entry(
                said["t"] + self._clock, said["what"], said.get("file", ""),
                said.get("took", 0.0), said.get("errno", ""),
            )
        )  # fmt: skip

    def entries(self, *what: str, after: float = 0.0) -> list[Entry]:
        """What the log says of these kinds, from a host time on."""
        return [entry for entry in list(self.log) if entry.what in what and entry.at >= after]

    def rewind(self, clock: float) -> None:
        """Begin a new log: the machine that runs it was restored to the time of its start.

        clock: what its clock is behind the host's now (Control.clock).
        """
        self.log.clear()
        self.ended, self.died_at = False, 0.0
        if self._heard not in self.machine.listeners:
            self.machine.listeners.append(self._heard)
        self._clock = clock

    def set_clock(self) -> None:
        """Compare clocks anew: the machine's stood still for a while."""
        self._clock = self.machine.control.clock()

    def wait_for(
        self, *what: str, after: float = 0.0, timeout: float = 60, count: int = 1
    ) -> Entry:
        """The `count`-th entry of these kinds from a host time on."""
        wait_until(
            lambda: len(self.entries(*what, after=after)) >= count,
            f"{self.name}: {count} of {what}", timeout, lambda: self.log[-5:],
        )  # fmt: skip
        return self.entries(*what, after=after)[count - 1]

    def tell(self, line: str) -> None:
        """Say a line to the program: `release`, or anything else to end it."""
        self.machine.control.request("tell", name=self.name, line=line)


def mount(
    machine: Machine, version: str, options: str = "", folder: str = layout.MOUNT
) -> None:
    """Mount the service's data as version "3", "4.0", "4.1" or "4.2".

    The test is skipped where the client's kernel has 4.0 no more (Debian's 7.2); no other version
    and no other suite may lack one.
    """
    words = f"vers={version}" + (f",{options}" if options else "")
    done = machine.run(
        f"mkdir -p {folder} && mount -t nfs -o {words} {layout.VIP}:{layout.DATA} {folder}",
        timeout=90, check=False,
    )  # fmt: skip
    if version == "4.0" and machine.image.suite == "unstable" and (
            "Protocol not supported" in done.err):
        pytest.skip("the client's kernel has no NFSv4.0")
    assert done.rc == 0, f"{machine.name}: NFSv{version}: {done.err}"


def umount(machine: Machine, folder: str = layout.MOUNT) -> None:
    """Leave the service: what the server knows of an NFSv4 client goes, too."""
    machine.run(f"umount {folder}", timeout=90)


def owner(
    machine: Machine, names: list[str], kind: str = "posix", interval: float = 0.25,
    folder: str = layout.MOUNT, version: str = "",
) -> Program:  # fmt: skip
    """A program that holds the locks of these files of the mount; returns when it has them all."""
    paths = [f"{folder}/{name}" for name in names]
    program = Program(machine, "owner", kind, paths, interval, version=version)
    program.wait_for("locked", count=len(names), timeout=90)
    program.wait_for("wrote")
    return program


def crowd(
    machine: Machine, versions: tuple[str, ...], clients: int, files: int, first: int = 1
) -> list[Program]:
    """So many NFS clients on one machine, each with the locks of so many files of its own.

    They mount the service as these versions by turns. Each writes through one of its files every
    second; returns when they have all their locks.
    first: the number of the first one, for a crowd on a second machine.
    """
    programs = []
    for number in range(first, first + clients):
        name, address = f"crowd-{number}", f"10.9.0.{120 + number}"
        version = versions[number % len(versions)]
        paths = [f"{layout.MOUNT}/{name}-{file}" for file in range(files)]
        within = (CROWD, name, f"{address}/{layout.PREFIX}", version,
                  f"{layout.VIP}:{layout.DATA}", layout.MOUNT)  # fmt: skip
        programs.append(
            Program(machine, "owner", "posix", paths, float(files), within, address, version))
    for program in programs:
        program.wait_for("locked", count=files, timeout=300)
    return programs


def rival(
    machine: Machine, names: list[str], kind: str = "posix", interval: float = 0.5,
    folder: str = layout.MOUNT, version: str = "",
) -> Program:  # fmt: skip
    """A program that wants the same locks, on a client or (folder=layout.DATA) on the server."""
    paths = [f"{folder}/{name}" for name in names]
    return Program(machine, "rival", kind, paths, interval, version=version)
