# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons of this network namespace, by name, from proc(5); and where their programs are.

For start and stop, for whose end every client waits: psutil and shutil would do, and cost more to
import than all of this.
"""

from __future__ import annotations

import os

from .system import System

_PATH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def program(system: System, name: str) -> str | None:
    """The path of an installed program."""
    places = (f"{directory}/{name}" for directory in _PATH)
    return next((path for path in places if os.access(system.path(path), os.X_OK)), None)


def named(system: System, name: str) -> list[int]:
    """The living processes whose command name (comm, at most 15 bytes) is `name`."""
    own = os.stat(f"{system.proc}/self/ns/net")
    found = []
    for entry in system.names(system.proc):
        if not entry.isdecimal():
            continue
        try:
            if system.read(f"{system.proc}/{entry}/comm") != f"{name}\n".encode():
                continue
            net = os.stat(f"{system.proc}/{entry}/ns/net")
        except OSError:  # it has ended meanwhile
            continue
        if os.path.samestat(net, own) and system.start_time(int(entry)):
            found.append(int(entry))
    return found


def arguments(system: System, pid: int) -> list[str]:
    """The command line of a process; none when it is gone."""
    try:
        words = system.read(f"{system.proc}/{pid}/cmdline", 1 << 20).split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="surrogateescape") for word in words[:-1]]
