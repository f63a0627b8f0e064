# SPDX-License-Identifier: GPL-2.0-or-later
"""The holding directory: the service's lock records on its own shared filesystem.

    HOLDING/owner.json   service, node, boot id, generation, state number, clean-stop mark
    HOLDING/sm/CLIENT    monitor records as statd writes them, named by mon_name
    HOLDING/state        the service's NSM state number (native int, odd, only grows)
    HOLDING/notify/CLIENT  clients that are still to be notified
    HOLDING/nfsdcld/main.sqlite, HOLDING/v4recovery/MD5   NFSv4 recovery records, in two forms
    HOLDING/nfsd_started  the second in which the owner's nfsd was started (birthday.py)
    HOLDING/connections  TCP connections of the clients, to be tickled after a takeover
    HOLDING/reserve      space for records and a takeover when the disk is full (reserve.py)

An addition is durable before it is acknowledged. Every write after the claim first makes sure
that the claim still stands (`check_owner`); it raises errors.Fenced when a newer one was made.
"""

from __future__ import annotations

import errno
import os
import stat

from . import birthday, holders, nsm, reserve
from .errors import ConfigError, Error, Fenced, NodeError
from .files import TEMPORARY, finished
from .owner import Owner, decode_owner
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DIRECTORIES = ("sm", "notify")
_OURS = frozenset(
    ("owner.json", "state", "connections", "nfsdcld", "v4recovery", birthday.NAME, reserve.NAME,
     *DIRECTORIES))
#: A filesystem keeps these in its root for itself.
_HARMLESS = frozenset(("lost+found", ".snapshot", ".snapshots"))
#: Filesystems that do not outlive their node (statfs(2) names in mountinfo).
_VOLATILE = frozenset(("tmpfs", "ramfs", "devtmpfs", "rootfs", "proc", "sysfs", "overlay"))


def examine_place(system: System, path: str, statd_dir: str) -> bool:
    """Whether the directory exists; an error when it must not be used, or not be created, here.

    A missing directory may be created only below a parent on a filesystem of its own: filling an
    unmounted mount point would hide the records from every other node.
    """
    status = system.status(path)
    if status is not None:
        if stat.S_ISLNK(status.st_mode):
            raise ConfigError(f"holding_dir {path} is a symbolic link: name the directory itself")
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"holding_dir {path} is not a directory")
        if status.st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"holding_dir {path} is writable for everybody (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): chmod 0700 {path}")
    place = path if status is not None else os.path.dirname(path) or "/"
    here = system.status(place)
    if here is None or not stat.S_ISDIR(here.st_mode):
        raise NodeError(
            f"holding_dir {path} does not exist and neither does {place}: is the service's "
            "filesystem mounted? It must start before this resource")
    for other in ("/", statd_dir):
        neighbour = system.status(other)
        if neighbour is not None and neighbour.st_dev == here.st_dev:
            raise NodeError(
                f"holding_dir {path} is on the same filesystem as {other}, which does not fail "
                "over: is the service's filesystem mounted? It must start before this resource")
    kind = _filesystem_type(system, here.st_dev)
    if kind in _VOLATILE:
        raise NodeError(
            f"holding_dir {path} is on a {kind}, which does not outlive the node: use the "
            "service's shared filesystem")
    return status is not None


def _filesystem_type(system: System, device: int) -> str:
    """The type of the mounted filesystem with this device number ("" when it is not listed)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((m.kind for m in holders.mounts(system, f" {wanted} ") if m.device == wanted), "")


class Holding:
    """The holding directory of one service, seen by one start of it."""

    def __init__(self, system: System, path: str, service: str) -> None:
        self.system, self.path, self.service = system, path, service
        self.owner: Owner | None = None
        self.reserved = True
        #: What lies in it and is not known here; a newer version's files, perhaps.
        self.foreign: list[str] = []
        self._seen: tuple[int, ...] | None = None

    # -- claim -----------------------------------------------------------------------------

    def read_owner(self) -> Owner | None:
        """owner.json, None when there is none; Error when it is damaged, with what to do."""
        try:
            return decode_owner(self.system.read(f"{self.path}/owner.json"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Error(
                f"{self.path}/owner.json {str(error).removeprefix(f'{self.path}/owner.json ')}: "
                "the lock records beside it are untouched; move this file away to start a new "
                "history with them") from None
        except OSError as error:
            raise Error(f"{self.path}/owner.json: {error.strerror}") from error

    def examine(self) -> Owner | None:
        """Who owns the directory; an error when it is foreign or another service's."""
        try:
            names = os.listdir(self.system.path(self.path))
        except OSError as error:
            raise Error(f"holding_dir {self.path}: {error.strerror}") from error
        self.foreign = sorted(set(finished(names)) - _OURS - _HARMLESS)
        for name in names:
            if name in DIRECTORIES:
                status = self.system.status(f"{self.path}/{name}")
                if status is not None and not stat.S_ISDIR(status.st_mode):
                    raise ConfigError(f"{self.path}/{name} is not a directory")
        owner = self.read_owner()
        if owner is None and self.foreign:
            raise ConfigError(
                f"holding_dir {self.path} is not nfslock's (no owner.json) and holds "
                f"{len(self.foreign)} foreign files ({self.foreign[0]}"
                f"{', ...' if self.foreign[1:] else ''}): use a directory for this resource alone")
        if owner is not None and owner.service != self.service:
            raise ConfigError(
                f"holding_dir {self.path} belongs to the resource {owner.service} (node "
                f"{owner.node}, generation {owner.generation}): every resource needs its own")
        return owner

    def claim(self, owner: Owner) -> None:
        """Make `owner` the owner; Fenced when somebody has claimed it since it was examined."""
        before = self.read_owner()
        if before is not None and before.generation >= owner.generation:
            raise Fenced(self._fenced_text(before))
        for name in DIRECTORIES:
            self.spending(lambda: self.system.make_directory(f"{self.path}/{name}"))  # noqa: B023
        for place in (self.path, *(f"{self.path}/{name}" for name in DIRECTORIES)):
            leftovers = [n for n in self.system.names(place) if n.startswith(TEMPORARY)]
            if leftovers:
                self.system.remove(place, leftovers)
        self.write_owner(owner)

    def write_owner(self, owner: Owner) -> None:
        """Write owner.json and take it as what we believe."""
        self.spending(lambda: self.system.write(self.path, {"owner.json": owner.encode()}))
        self.adopt(owner)

    def adopt(self, owner: Owner) -> None:
        """Work under a claim that is already written."""
        self.owner, self._seen = owner, None
        self.check_owner()

    def check_owner(self) -> None:
        """Fenced unless our claim is still the newest; costs one stat(2) while nothing changed."""
        seen = self.system.identity(f"{self.path}/owner.json")
        if seen is not None and seen == self._seen:
            return
        now, ours = self.read_owner(), self.owner
        if ours is None or now is None or (now.generation, now.node, now.boot_id) != (
            ours.generation, ours.node, ours.boot_id
        ):
            raise Fenced(self._fenced_text(now))
        self._seen = seen

    def _fenced_text(self, now: Owner | None) -> str:
        mine = f"generation {self.owner.generation}" if self.owner else "this start"
        if now is None:
            return f"{self.path}: owner.json is gone; {mine} writes nothing more"
        return (f"{self.path} is owned by a newer generation: {now.generation} on node "
                f"{now.node}; {mine} writes nothing more")

    # -- room ------------------------------------------------------------------------------

    def spending(self, write: Callable[[], None]) -> None:
        """Write here, with the reserve's space if there is no other; `write` may be repeated."""
        reserve.spending(self.system, self.path, write)

    def keep_reserve(self) -> None:
        """Have a whole reserve if there is room for it; `reserved` says so."""
        self.check_owner()
        self.reserved = reserve.keep(self.system, self.path)

    # -- state number ----------------------------------------------------------------------

    def read_state(self) -> int | None:
        """The service's state number; None when there is none yet or it is damaged."""
        try:
            return nsm.decode_state(self.system.read(f"{self.path}/state"))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise Error(f"{self.path}/state: {error.strerror}") from error

    def write_state(self, number: int) -> None:
        """Make the number durable, in the form that statd and sm-notify read."""
        self.check_owner()
        self.spending(lambda: self.system.write(self.path, {"state": nsm.encode_state(number)}))

    # -- records ---------------------------------------------------------------------------

    def record(self, client: str) -> bytes | None:
        """One client's record; None where there is none, ValueError for what is no record."""
        if not nsm.is_record_file(client):
            raise ValueError(f"{client!r} is no record name")
        try:
            data = self.system.read(f"{self.path}/sm/{client}", nsm.MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise ValueError(f"{client} is a link or device") from None
            raise Error(f"{self.path}/sm/{client}: {error.strerror}") from error
        if any(mon_name != client for mon_name, _ in nsm.parse_record(data)):
            raise ValueError(f"{client} holds another client's record")
        return data

    def names(self) -> list[str]:
        """The names in the record directory but our own temporary files."""
        return finished(self.system.names(f"{self.path}/sm"))

    def records(self) -> tuple[dict[str, bytes], int]:
        """The monitor records by client, and how many other files were skipped."""
        good: dict[str, bytes] = {}
        skipped = 0
        for name in self.names():
            try:
                data = self.record(name)
            except ValueError:
                skipped += 1
                continue
            if data is not None:
                good[name] = data
        return good, skipped

    def put(self, records: Mapping[str, bytes]) -> None:
        """Add or replace records; durable when this returns."""
        if records:
            self.check_owner()
            self.spending(lambda: self.system.write(f"{self.path}/sm", records))

    def drop(self, clients: Iterable[str]) -> None:
        """Remove records of clients that hold no locks any more."""
        self.check_owner()
        self.system.remove(f"{self.path}/sm", clients)

    def enlist(self, clients: Iterable[str]) -> None:
        """Put clients that have a record on the list of those to be notified."""
        self.check_owner()
        names = tuple(clients)
        self.spending(lambda: self.system.link(f"{self.path}/sm", f"{self.path}/notify", names))

    def pending(self) -> list[str]:
        """Clients that are still to be notified."""
        return [n for n in self.system.names(f"{self.path}/notify") if nsm.is_record_file(n)]

    def notified(self, clients: Iterable[str]) -> None:
        """Take clients that have answered off the list."""
        self.check_owner()
        self.system.remove(f"{self.path}/notify", clients)
