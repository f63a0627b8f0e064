# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's run-time files in /run: the started mark, the parameters, the propagator's status.

    RUN/SERVICE/started      written last by start, removed last by stop
    RUN/SERVICE/parameters   what start was given, for the propagator
    RUN/SERVICE/status       what the propagator says of itself
    RUN/SERVICE/statd_down   there while a start has stopped rpc.statd, which ran before
    RUN/SERVICE/leases       how fs.leases-enable stood before the service set it
    RUN/SERVICE/callout.*    where statd's callout meets the propagator (callout.py)

All but the last are NAME=VALUE lines. Monitor loads this module: it may import only os,
files and system.
"""

from __future__ import annotations

import os

from .files import Like
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATD_DOWN = "statd_down"
_PUBLIC = Like(0o644)


class Runtime:
    """The run-time directory of one service."""

    __slots__ = ("directory", "service", "system")

    def __init__(self, system: System, service: str) -> None:
        self.system, self.service = system, service
        self.directory = f"{system.run_dir}/{service}"

    def read(self, name: str) -> dict[str, str] | None:
        """The NAME=VALUE pairs of a file; None when there is no such file."""
        try:
            text = self.system.read(f"{self.directory}/{name}", 1 << 20).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def write(self, name: str, pairs: Mapping[str, object]) -> None:
        """Replace a file; not fsynced, /run does not outlive the node anyway."""
        if not os.path.isdir(self.system.path(self.directory)):
            os.makedirs(self.system.path(self.directory), 0o755, exist_ok=True)
        lines = (f"{key}={' '.join(str(value).splitlines())}\n" for key, value in pairs.items())
        self.system.write(self.directory, {name: "".join(lines).encode()}, _PUBLIC, durable=False)

    def remove(self, *names: str) -> None:
        """Remove files and, once it is empty, the directory.

        What cannot be removed stays: a stop must not fail for it, and monitor does not take a
        file for a running service.
        """
        for name in names:
            try:
                os.unlink(self.system.path(f"{self.directory}/{name}"))
            except OSError:
                continue
        try:
            os.rmdir(self.system.path(self.directory))
        except OSError:
            pass

    def missed(self) -> int:
        """How many clients statd's callout let through unconfirmed (callout.py)."""
        status = self.system.status(f"{self.directory}/callout.missed")
        return status.st_size if status is not None else 0

    def process(self, status: Mapping[str, str] | None, role: str = "pid") -> int:
        """The pid that a status names if that very process still runs, else 0."""
        try:
            pid, born = map(int, (status or {}).get(role, "").split(":"))
        except ValueError:
            return 0
        return pid if born and self.system.start_time(pid) == born else 0


def services(system: System) -> list[str]:
    """The services that have run-time files on this node."""
    return sorted(system.names(system.run_dir))
