# SPDX-License-Identifier: GPL-2.0-or-later
"""v4_records=direct: nfsdcld works in the holding directory itself while the service is here.

nfsd grants a client its first lock only when nfsdcld has committed the client's record: with the
database on the service's own filesystem no copy can lag. A write-ahead log makes each commit
durable, which nfsdcld's rollback journal does not. nfsd is down when the place is changed, and the
daemon is stopped first: it knows the epochs of its old database by heart.
"""

from __future__ import annotations

import os

from . import processes, tracking, tracking_sqlite, units
from .errors import Error, MissingError
from .files import Like
from .system import System

_UNIT = "nfsdcld.service"
_DROP_IN = f"/run/systemd/system/{_UNIT}.d/nfslock.conf"
#: Seconds that nfsdcld may take to end.
_PATIENCE = 15.0


def place(system: System, directory: str) -> None:
    """Have nfsdcld work in that directory: its unit where systemd runs, else the daemon itself."""
    program = processes.program(system, "nfsdcld")
    if program is None:
        raise MissingError("nfsdcld is not installed: v4_records=direct needs it")
    running = tracking.daemon(system)
    if running is not None and running[1] == directory:
        return
    _end_daemon(system)
    tracking_sqlite.use_wal(system, f"{directory}/main.sqlite")
    if units.exists(system, _UNIT):
        text = ("# Written by nfslock while its service is on this node.\n[Service]\n"
                f"ExecStart=\nExecStart={program} -s {directory}\n")
        where, name = os.path.split(_DROP_IN)
        os.makedirs(system.path(where), exist_ok=True)
        system.write(where, {name: text.encode()}, Like(0o644), durable=False)
        units.reload(system)
        system.checked("systemctl", "restart", _UNIT)
        return
    system.checked(program, "-s", directory)


def take_back(system: System, directory: str) -> None:
    """Let go of that directory, so that its filesystem can be unmounted; nothing if not there."""
    if system.identity(_DROP_IN) is not None:
        system.remove(os.path.dirname(_DROP_IN), [os.path.basename(_DROP_IN)])
        units.reload(system)
        system.checked("systemctl", "restart", _UNIT)
    running = tracking.daemon(system)
    if running is not None and running[1] == directory:
        _end_daemon(system)


def _end_daemon(system: System) -> None:
    running = tracking.daemon(system)
    if running is not None and not system.end(
            running[0], system.start_time(running[0]), _PATIENCE):
        raise Error(f"nfsdcld (pid {running[0]}) does not end: is its disk hanging?")
