# SPDX-License-Identifier: GPL-2.0-or-later
"""Which form this node's nfsd keeps its NFSv4 recovery records in, and one way to all three.

At each start nfsd takes the first that works (fs/nfsd/nfs4recover.c): nfsdcld if it has the pipe
open within a second, the usermode helper nfsdcltrack, its own directory. The last two are compiled
out of newer kernels. Our resource starts before nfsd, so what counts is what *will* be there.
"""

from __future__ import annotations

import os

from . import holders, nfsconf, processes, units
from .errors import ConfigError, MissingError
from .system import System
from .tracking_directory import Directory
from .tracking_nfsdcld import Nfsdcld
from .tracking_nfsdcltrack import Nfsdcltrack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Protocol

    from .recovery import Clients

    class Store(Protocol):
        """Recovery records in one place. `directory` is what to watch for changes."""

        kind: str
        directory: str
        path: str

        def read(self) -> Clients | None:
            """All who could reclaim from an nfsd that starts now; None without a store."""

        def follow(self) -> tuple[Clients, list[bytes]] | None:
            """(new or changed, gone) since the last call; None when nothing moved."""

        def replace(self, clients: Mapping[bytes, bytes]) -> None:
            """Let these and nobody else reclaim from the nfsd that starts next. Durable."""

        def change(self, add: Mapping[bytes, bytes], drop: Iterable[bytes] = ()) -> None:
            """Add clients and take others out. Durable."""


KINDS = ("nfsdcld", "nfsdcltrack", "v4recovery")
_HELPER = "/sys/module/nfsd/parameters/cltrack_prog"
_UNIT = "nfsdcld.service"
_STATE = "/var/lib/nfs"
#: nfsd's own directory, unless it was told another one.
_DIRECTORY = f"{_STATE}/v4recovery"


def find(system: System, wanted: str = "auto") -> Store:
    """The store that nfsd uses, or will use, on this node. MissingError when there is none."""
    running = daemon(system) if wanted in ("auto", "nfsdcld") else None
    kind = wanted if wanted != "auto" else "nfsdcld" if running else _detect(system)
    if kind not in KINDS:
        raise ConfigError(f"v4_tracking={wanted}: use auto or one of {', '.join(KINDS)}")
    if kind == "v4recovery":
        return Directory(system, _kernel_directory(system) or _DIRECTORY)
    place = nfsconf.setting(system, kind, "storagedir") or f"{_STATE}/{kind}"
    return at(system, kind, running[1] if running else place, live=running is not None)


def at(system: System, kind: str, directory: str, live: bool = False) -> Store:
    """The store of that form in that directory; `live`: nfsdcld works on it now."""
    if kind == "nfsdcld":
        return Nfsdcld(system, directory, live)
    return (Nfsdcltrack if kind == "nfsdcltrack" else Directory)(system, directory)


def _detect(system: System) -> str:
    """What nfsd will use where nfsdcld does not run yet."""
    kind = "nfsdcld" if _will_start(system) else _older(system)
    if kind is not None:
        return kind
    raise MissingError(
        "nothing keeps NFSv4 recovery records on this node: nfsdcld is not installed or masked"
        + ("" if _has_legacy(system) else " and this kernel has no other way")
        + "; install it (nfs-kernel-server, nfs-utils) and unmask nfsdcld.service, or set "
        "nfs_versions=3 if this server does not offer NFSv4")


def _older(system: System) -> str | None:
    """Which of the older forms nfsd takes when it does not find nfsdcld, if any."""
    if not _has_legacy(system):
        return None
    if _helper(system):
        return "nfsdcltrack"
    directory = _kernel_directory(system) or _DIRECTORY
    return "v4recovery" if os.path.isdir(system.path(directory)) else None


def fallback(system: System) -> Store | None:
    """The store to which nfsd turns, without a word, when nfsdcld is not ready in time."""
    kind = _older(system)
    return find(system, kind) if kind is not None else None


def taken(system: System, expected: Store) -> Store | None:
    """The store that the running nfsd has taken where this one was expected; None: it has none."""
    if expected.kind == "nfsdcld" and in_use(system) == "legacy":
        return fallback(system)
    return expected


def daemons(system: System, store: Store) -> list[str]:
    """The units whose daemons keep this store; nfsd gives nfsdcld a second to be there."""
    return [_UNIT] if store.kind == "nfsdcld" and units.exists(system, _UNIT) else []


def _will_start(system: System) -> bool:
    """Whether nfsdcld comes up with nfsd: its program is there and its unit is not masked."""
    if processes.program(system, "nfsdcld") is None:
        return False
    if not units.booted(system):
        # Somebody else starts it: having been used before is the best sign, no rival the second.
        used = system.identity(f"{_STATE}/nfsdcld/main.sqlite")
        rival = system.identity(f"{_STATE}/nfsdcltrack/main.sqlite")
        return bool(used and used[2]) or not (rival and rival[2] and _helper(system))
    return units.exists(system, _UNIT)


def _helper(system: System) -> bool:
    """Whether the kernel can run nfsdcltrack (it blanks the name after a failure)."""
    try:
        program = system.read(_HELPER).decode().strip()
    except (OSError, ValueError):
        program = "/sbin/nfsdcltrack"  # nfsd.ko's own default; the module is not loaded yet
    return bool(program) and processes.program(system, os.path.basename(program)) is not None


def _has_legacy(system: System) -> bool:
    """Whether this kernel knows the older forms (CONFIG_NFSD_LEGACY_CLIENT_TRACKING)."""
    nfsd = f"{system.proc}/fs/nfsd"
    return system.identity(f"{nfsd}/threads") is None or (
        system.identity(f"{nfsd}/nfsv4recoverydir") is not None)


def _kernel_directory(system: System) -> str | None:
    try:
        return system.read(f"{system.proc}/fs/nfsd/nfsv4recoverydir").decode().strip() or None
    except (OSError, ValueError):
        return None


def daemon(system: System) -> tuple[int, str] | None:
    """(pid, storage directory) of the nfsdcld of this network namespace; None when none runs."""
    for pid in processes.named(system, "nfsdcld"):
        place = _storage(processes.arguments(system, pid)[1:])
        return pid, place or nfsconf.setting(
            system, "nfsdcld", "storagedir") or f"{_STATE}/nfsdcld"
    return None


def _storage(arguments: list[str]) -> str | None:
    """What -s or --storagedir says, in each of getopt_long(3)'s spellings."""
    for number, argument in enumerate(arguments):
        if argument in ("-s", "--storagedir"):
            return arguments[number + 1] if number + 1 < len(arguments) else None
        if argument.startswith("--storagedir="):
            return argument.partition("=")[2]
        if argument.startswith("-s"):
            return argument[2:]
    return None


def in_use(system: System) -> str | None:
    """The form that the running nfsd took: nfsdcld, or "legacy"; None when nobody can tell.

    nfsd makes the pipe `nfsd/cld` in rpc_pipefs while it uses nfsdcld, and only then. When nfsdcld
    was too slow, nfsd says nothing and goes on with the node's own directory.
    """
    try:
        if int(system.read(f"{system.proc}/fs/nfsd/threads").split()[0]) < 1:
            return None
    except (OSError, ValueError, IndexError):
        return None
    for mount in holders.mounts(system, " - rpc_pipefs "):
        if mount.kind == "rpc_pipefs":
            return "nfsdcld" if system.identity(f"{mount.point}/nfsd/cld") else "legacy"
    return None
