# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom a service shares its node with: other services of ours, and the node's own NFS mounts.

One lockd, one rpc.statd and one nfsd serve a whole node: a release or a grace period of one service
is one of all. So a second service with lock migration is refused here.
"""

from __future__ import annotations

import fcntl
import os

from . import clients, errors
from ._vendor import ocf
from .runtime import Runtime, services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .params import Config
    from .system import System


def others(system: System, service: str) -> list[str]:
    """The other services with lock migration that run, or are being started, on this node."""
    return [name for name in services(system) if name != service and _lives(system, name)]


def _lives(system: System, service: str) -> bool:
    runtime = Runtime(system, service)
    mark = runtime.read("started")
    if mark is not None:
        return mark.get("lock_migration") == "yes"
    return any(runtime.process(runtime.read(name)) for name in ("starting", "status"))


def enter(system: System, service: str) -> None:
    """Take the node for this service; NodeError names the one that has it.

    Of two that start at the same moment one gets it: look and mark are one step, under a lock.
    """
    os.makedirs(system.path(system.run_dir), 0o755, exist_ok=True)
    fd = os.open(system.path(system.run_dir), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        found = others(system, service)
        if found:
            raise errors.NodeError(
                f"{', '.join(found)} with lock migration is on this node already, and one lockd "
                f"and one rpc.statd serve both: keep them apart (pcs constraint colocation add "
                f"{service} with {found[0]} score=-INFINITY), or set lock_migration=no")
        Runtime(system, service).write(
            "starting", {"pid": f"{os.getpid()}:{system.start_time(os.getpid())}"})
    finally:
        os.close(fd)


def check_clients(system: System, config: Config) -> None:
    """Say what is wrong with this node's own NFS mounts; NodeError with nfs_client=refuse."""
    found = clients.complaints(system, config.ip)
    if found and config.nfs_client == "refuse":
        raise errors.NodeError("; ".join(found) + " (nfs_client=refuse)")
    for text in found:
        ocf.logger.warning("%s", text)
