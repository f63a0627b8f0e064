# SPDX-License-Identifier: GPL-2.0-or-later
"""This node as an NFS client, which an NFS server with lock migration should not be.

An NFSv2/3 mount keeps lockd running when nfsd stops: the locks of the service then stay in the
kernel, and lockd does not enter grace when nfsd comes back. SIGKILL to lockd would drop this node's
own locks. A mount of the service's own address hangs when the address leaves. Only questions here.
"""

from __future__ import annotations

from . import holders
from .values import address_family, canonical_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .kernel_tables import Mount
    from .system import System


def mounts(system: System) -> list[Mount]:
    """The NFS mounts of this node."""
    return [mount for mount in holders.mounts(system, " - nfs") if mount.kind in ("nfs", "nfs4")]


def uses_lockd(mount: Mount) -> bool:
    """Whether the mount keeps lockd running, for locks that go to the server by NLM.

    Not with nolock, which mountinfo shows as local_lock=all. With local_lock=posix or flock the
    other kind of locks still goes there (nfs(5); fs/nfs/client.c, nfs_start_lockd).
    """
    return mount.option("vers")[:1] in ("2", "3") and not (
        {"nolock", "local_lock=all"} & set(mount.options))


def through_lockd(system: System) -> list[Mount]:
    """The mounts of this node that keep lockd running."""
    return [mount for mount in mounts(system) if uses_lockd(mount)]


def own_locks(system: System) -> int:
    """How many locks this node holds, or waits for, on other NFS servers through lockd."""
    return len(holders.locks(system, {m.device for m in through_lockd(system)}))


def complaints(system: System, addresses: Collection[str]) -> list[str]:
    """What is wrong with this node's own NFS mounts beside a service with these addresses."""
    found = []
    for mount in mounts(system):
        server = mount.option("addr")
        if address_family(server) and canonical_address(server) in addresses:
            found.append(f"{mount.point} is mounted from the service's own address {server}: it "
                         "hangs when the address leaves; use the filesystem itself")
        elif uses_lockd(mount):
            held = len(holders.locks(system, {mount.device}))
            found.append(
                f"{mount.point} is an NFSv{mount.option('vers')} mount of {mount.source} ({held} "
                "locks): it keeps lockd from entering grace at a takeover; use vers=4 or nolock")
    return found
