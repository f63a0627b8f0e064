# SPDX-License-Identifier: GPL-2.0-or-later
"""Who holds a filesystem, so that a person can be told: NFS, processes, mounts, loop devices.

Only questions, no changes. What asks the filesystem itself may hang with its disk: callers run
these in a process that they can leave behind.
"""

from __future__ import annotations

import errno
import os
import sys

from . import kernel_tables, libraries
from .kernel_tables import Client, Lock, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .system import System

_BIG = 1 << 26
_MNT_EXPIRE, _UMOUNT_NOFOLLOW = 4, 8
#: What to do about the daemons that are usually found to hold a service's filesystem.
_ADVICE = {
    "sm-notify": "end it, or give it a directory elsewhere (-P)",
    "nfsdcld": "stop nfsdcld before the filesystem, or keep its database elsewhere",
}


def _text(system: System, path: str) -> str:
    """A file's content, "" when it cannot be read (gone, or not in this kernel)."""
    try:
        return system.read(path, _BIG).decode(errors="surrogateescape")
    except (OSError, ValueError):
        return ""


def mounts(system: System, having: str = "") -> tuple[Mount, ...]:
    """The mounts of this mount namespace; `having`: as for kernel_tables.parse_mounts()."""
    return kernel_tables.parse_mounts(_text(system, f"{system.proc}/self/mountinfo"), having)


def locks(system: System, devices: Collection[str]) -> tuple[Lock, ...]:
    """The locks on these devices in /proc/locks, with the command names of their holders."""
    found = [lock for lock in kernel_tables.parse_locks(_text(system, f"{system.proc}/locks"))
             if lock.device in devices]
    names = {pid: _text(system, f"{system.proc}/{pid}/comm").strip()
             for pid in {lock.pid for lock in found}}
    return tuple(Lock(lock.kind, lock.pid, lock.device, lock.inode, names[lock.pid])
                 for lock in found)


def clients(system: System) -> tuple[Client, ...]:
    """The NFSv4 clients of this node's nfsd and their state; none where nfsd does not show them."""
    place = f"{system.proc}/fs/nfsd/clients"
    found = []
    for name in sorted(name for name in system.names(place) if name.isdigit()):
        states = kernel_tables.parse_states(_text(system, f"{place}/{name}/states"))
        address = kernel_tables.parse_address(_text(system, f"{place}/{name}/info"))
        found.append(Client(int(name), address, states))
    return tuple(found)


def leased(system: System) -> set[bytes]:
    """The owner ids of the NFSv4 clients whose lease stands (not courtesy clients)."""
    place = f"{system.proc}/fs/nfsd/clients"
    found = {kernel_tables.parse_leased(_text(system, f"{place}/{name}/info"))
             for name in system.names(place) if name.isdigit()}
    return found - {b""}


def is_free(system: System, point: str) -> bool | None:
    """Whether umount would find the mount unused now; None when the kernel does not say.

    umount2(2) with MNT_EXPIRE answers EBUSY for a mount in use, and only marks one that is not
    (EAGAIN). A second call would unmount a marked one, so the mark, which every access clears, is
    cleared before and after.
    """
    path = os.fsencode(system.path(point))
    libc = libraries.CDLL(None, use_errno=True)
    try:
        _touch(path)
        code = libraries.get_errno() if libc.umount2(path, _MNT_EXPIRE | _UMOUNT_NOFOLLOW) else 0
        _touch(path)
    except OSError:
        return None
    return {0: True, errno.EAGAIN: True, errno.EBUSY: False}.get(code)


def _touch(path: bytes) -> None:
    os.close(os.open(path, os.O_PATH | os.O_CLOEXEC))


def named(system: System, point: str) -> list[str]:
    """What besides NFS keeps the mount from being unmounted, each in a line."""
    every = mounts(system)
    return [f"{point}: {text}" for text in (
        *kernel_tables.on_top(every, point),
        *_loop_devices(system, every, point),
        *processes(system, point),
    )]


def _loop_devices(system: System, every: Iterable[Mount], point: str) -> list[str]:
    found = []
    for name in sorted(system.names("/sys/block")):
        if name.startswith("loop"):
            file = _text(system, f"/sys/block/{name}/loop/backing_file").rstrip("\n")
            mount = kernel_tables.mount_of(every, file) if file else None
            if mount is not None and mount.point == point:
                found.append(f"/dev/{name} is a loop device over {file}: losetup -d /dev/{name}")
    return found


def exports(system: System, point: str) -> list[str]:
    """The directories of the filesystem that are still in the export table (exportfs(8))."""
    every = mounts(system)
    paths = {kernel_tables.unescape(line.partition("\t")[0])
             for line in _text(system, system.etab).splitlines() if "\t" in line}
    return [f"{point}: {path} is still exported" for path in sorted(paths)
            if (mount := kernel_tables.mount_of(every, path)) is not None and mount.point == point]


def processes(system: System, point: str) -> list[str]:
    """The processes that use the mount, and how, as fuser(1) finds them.

    Paths are compared first: files of other filesystems, which may hang, are not touched.
    """
    if sys.flags.no_site:  # the agent starts without the distribution's packages
        import site

        site.main()
    import psutil

    try:
        device = os.stat(system.path(point)).st_dev
    except OSError:
        return []
    found = []
    for process in psutil.process_iter(["name"]):
        use = "" if process.pid == os.getpid() else _use(system, process.pid, point, device)
        if use:
            name = str(process.info["name"])
            advice = f": {_ADVICE[name]}" if name in _ADVICE else ""
            found.append(f"{name} (pid {process.pid}) {use}{advice}")
    return found


def _use(system: System, pid: int, point: str, device: int) -> str:
    """How the process uses the mount: "has FILE open", "works in DIR"; "" if it does not."""
    place = f"{system.proc}/{pid}"
    try:
        descriptors = [f"fd/{name}" for name in system.names(f"{place}/fd")]
    except OSError:  # gone, or not ours to see
        return ""
    for link, verb in (("cwd", "works in"), ("root", "has its root in"), ("exe", "runs"),
                       *((name, "has open") for name in descriptors)):
        path = system.path(f"{place}/{link}")
        try:
            target = os.readlink(path)
            if _below(target, point) and os.stat(path).st_dev == device:
                return f"{verb} {target}"
        except OSError:
            continue
    for line in _text(system, f"{place}/maps").splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and _below(kernel_tables.unescape(fields[5]), point):
            return f"has mapped {fields[5]}"
    return ""


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(f"{point}/")
