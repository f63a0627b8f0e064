# SPDX-License-Identifier: GPL-2.0-or-later
"""What NFS holds of a filesystem, as the kernel's tables say it, and what may be done (pure).

`steps` decides what a stopping service may take away. Its rules, the first before the others:

1. While an address of the service is on this node nothing is touched: kernels from 6.9 on revoke
   NFSv4 state with the locks, and clients that can still reach the server learn that they lost it.
2. Only the service's own filesystems, and those only while they are mounted as start found them.
3. Gentle first: unlock_filesystem for each filesystem, then the export caches, which are refilled.
4. A client is expired only when that left state of it here (kernels before 6.9), its recovery
   record is kept, all of its state lies on these filesystems, and no other service of ours is on
   the node.
5. lockd gets SIGKILL when asked to (always), or (auto) where it honours it, locks are left, no
   other service of ours is here, and the node holds no NFS locks of its own, which would go too.
"""

from __future__ import annotations

from collections import Counter

from .kernel_tables import mount_of
from .named_tuple import NamedTuple
from .plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .kernel_tables import Client, Lock, Mount, State


class Wanted(NamedTuple):
    """What is to be released, and how far the administrator lets us go.

    `places`: mount point -> device as start found them. `others`: other services of ours here.
    `records_kept`: whether the NFSv4 recovery records are in the holding directory.
    """

    places: tuple[tuple[str, str], ...]
    addresses: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    records_kept: bool = False
    lockd_kill: str = "auto"


class Seen(NamedTuple):
    """What this node shows of it."""

    addresses: frozenset[str] = frozenset()
    mounts: tuple[Mount, ...] = ()
    locks: tuple[Lock, ...] = ()
    clients: tuple[Client, ...] = ()
    serving: bool = False
    lockd: int = 0
    lockd_dies: bool = False
    own_locks: int = 0


def still_there(places: Iterable[tuple[str, str]], mounts: Collection[Mount]) -> dict[str, str]:
    """The places, point -> device, whose mount is the one that start found; not the others."""
    found = {}
    for point, device in places:
        mount = mount_of(mounts, point)
        if mount is not None and (mount.point, mount.device) == (point, device):
            found[point] = device
    return found


def elsewhere(mounts: Iterable[Mount], point: str, device: str) -> list[str]:
    """Other mounts of the same filesystem: with one of them it stays in use after the umount."""
    return [f"{point}: is mounted on {mount.point} too (bind mount): umount {mount.point}"
            for mount in mounts if mount.device == device and mount.point != point]


def of_nfs(locks: Iterable[Lock], devices: Collection[str]) -> tuple[Lock, ...]:
    """The locks on these devices that lockd or nfsd took for clients, and not a program here."""
    return tuple(lock for lock in locks if lock.device in devices and lock.pid > 0
                 and lock.holder in ("lockd", "nfsd", "") and lock.kind not in ("FLOCK", "OFDLCK"))


def steps(seen: Seen, wanted: Wanted, done: Collection[str]) -> list[Step]:
    """What to do next; `done` names what was done already. The rules stand in the module's text."""
    if seen.addresses & wanted.addresses:
        return []
    places = still_there(wanted.places, seen.mounts)
    if not places:
        return []
    gentle = [Step("unlock", point) for point in places] + [Step("flush")]
    if any(key(step) not in done for step in gentle):
        return [step for step in gentle if key(step) not in done]
    devices = frozenset(places.values())
    found = []
    if seen.serving and wanted.records_kept and not wanted.others:
        found += [Step("expire", client.number, client.address) for client in seen.clients
                  if client.on(devices) and len(client.on(devices)) == len(_alive(client))]
    left = [lock for lock in of_nfs(seen.locks, devices) if lock.holder == "lockd"]
    if seen.lockd and (wanted.lockd_kill == "always" or (
            wanted.lockd_kill == "auto" and left and seen.lockd_dies and not wanted.others
            and not seen.own_locks)):
        found.append(Step("kill_lockd", seen.lockd, "every NFSv3 lock on this node is dropped"
                          if seen.lockd_dies else "this kernel's lockd ignores it"))
    return [step for step in found if key(step) not in done]


def key(step: Step) -> str:
    """What `done` remembers of a step."""
    return f"{step.name} {step.what}" if step.what is not None else step.name


def _alive(client: Client) -> tuple[State, ...]:
    return tuple(state for state in client.states if not state.revoked)


def describe(
    point: str, device: str, locks: Iterable[Lock], clients: Iterable[Client]
) -> list[str]:
    """What NFS holds of the filesystem: one text for each inode with locks and for each client."""
    found = []
    openers: dict[int, set[str]] = {}
    states = []
    for client in clients:
        mine = client.on({device})
        for state in mine:
            openers.setdefault(state.inode, set()).add(client.address)
        if mine:
            files = sorted({state.file or f"inode {state.inode}" for state in mine})
            kinds = ", ".join(f"{number} {kind}" for kind, number in
                              sorted(Counter(state.kind for state in mine).items()))
            states.append(f"{point}: NFSv4 client {client.address} left {kinds} on {_some(files)}")
    by_inode = Counter((lock.inode, lock.holder) for lock in of_nfs(locks, {device}))
    for (inode, holder), number in sorted(by_inode.items()):
        kind = "NLM lock" if holder == "lockd" else "NFSv4 lock" if holder else "lock"
        who = f", open by {_some(sorted(openers[inode]))}" if inode in openers else ""
        found.append(f"{point}: {number} {kind}{'s' if number > 1 else ''} left on inode {inode} "
                     f"({holder or 'a process that is gone'}){who}")
    return found + states


def _some(names: list[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
