# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons of this network namespace and kernel threads, by name, from proc(5); and programs.

For start and stop, for whose end every client waits: psutil and shutil would do, and cost more to
import than all of this.
"""

from __future__ import annotations

import os

from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PATH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def program(system: System, name: str) -> str | None:
    """The path of an installed program."""
    places = (f"{directory}/{name}" for directory in _PATH)
    return next((path for path in places if os.access(system.path(path), os.X_OK)), None)


def _by_name(system: System, name: str) -> Iterator[int]:
    """The processes with this command name (comm, at most 15 bytes), whatever they are.

    A start looks at every process of the node three times, so this takes no more calls than it has
    to.
    """
    place, wanted = system.path(system.proc), f"{name}\n".encode()
    for entry in system.names(system.proc):
        if not entry.isdecimal():
            continue
        try:
            fd = os.open(f"{place}/{entry}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended meanwhile
            continue
        try:
            if os.read(fd, 64) == wanted:
                yield int(entry)
        except OSError:
            pass
        finally:
            os.close(fd)


def named(system: System, name: str) -> list[int]:
    """The living processes of that name that are in this network namespace."""
    own = os.stat(f"{system.proc}/self/ns/net")
    found = []
    for pid in _by_name(system, name):
        try:
            net = os.stat(f"{system.proc}/{pid}/ns/net")
        except OSError:
            continue
        if os.path.samestat(net, own) and system.start_time(pid):
            found.append(pid)
    return found


def kernel_threads(system: System, name: str) -> list[int]:
    """The kernel threads of that name: a program that calls itself so has a command line."""
    found = []
    for pid in _by_name(system, name):
        try:
            if not system.read(f"{system.proc}/{pid}/cmdline"):
                found.append(pid)
        except (OSError, ValueError):
            continue
    return found


def arguments(system: System, pid: int) -> list[str]:
    """The command line of a process; none when it is gone."""
    try:
        words = system.read(f"{system.proc}/{pid}/cmdline", 1 << 20).split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="surrogateescape") for word in words[:-1]]
