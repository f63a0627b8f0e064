# SPDX-License-Identifier: GPL-2.0-or-later
"""The oldest form: nfsd itself keeps an empty directory for each client, named by a hash.

fs/nfsd/nfs4recover.c: MD5 of the owner id in hexadecimal, mode 0700, in /var/lib/nfs/v4recovery
(/proc/fs/nfsd/nfsv4recoverydir). nfsd reads the names at its start; other names are not its own.
"""

from __future__ import annotations

import errno
import os

from . import recovery
from .errors import Error
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .recovery import Clients


class Directory:
    """The directories of the clients, on the node or in the holding directory."""

    kind = "v4recovery"

    def __init__(self, system: System, directory: str) -> None:
        self.system = system
        self.directory = self.path = directory
        self._seen: tuple[int, ...] | None = None
        self._rows: Clients = {}

    def names(self) -> set[str]:
        """The directory names of clients."""
        return {name for name in self.system.names(self.directory) if recovery.is_name(name)}

    def read(self) -> Clients | None:
        """All who could reclaim from an nfsd that starts now; None without a directory."""
        if self.system.identity(self.directory) is None:
            return None
        own = recovery.name_of(recovery.PLACEHOLDER)
        return {recovery.hashed(name): b"" for name in self.names() if name != own}

    def follow(self) -> tuple[Clients, list[bytes]] | None:
        """(new clients, ids gone) since the last call; None when nothing moved."""
        seen = self.system.identity(self.directory)
        if seen is None or seen == self._seen:
            return None
        before, rows = self._seen, self.read() or {}
        changed, gone = recovery.difference(self._rows, rows)
        if before is not None and before[:2] != seen[:2]:
            gone = []
        # Times advance in ticks on older kernels: what is this recent is looked at again.
        settled = self.system.epoch() - seen[3] / 1e9 >= 2.0
        self._rows, self._seen = rows, seen if settled else (*seen[:2], 0)
        return changed, gone

    def replace(self, clients: Mapping[bytes, bytes]) -> None:
        """Let these and nobody else reclaim from the nfsd that starts next. Durable."""
        wanted = {recovery.name_of(owner) for owner in clients}
        self._write(wanted, self.names() - wanted)

    def change(self, add: Mapping[bytes, bytes], drop: Iterable[bytes] = ()) -> None:
        """Add clients and take others out; durable when this returns."""
        self._write({recovery.name_of(owner) for owner in add},
                    {recovery.name_of(owner) for owner in drop})

    def _write(self, wanted: set[str], unwanted: set[str]) -> None:
        self.system.make_directory(self.directory)
        where = self.system.path(self.directory)
        name = ""
        try:
            for name in wanted - self.names():
                os.mkdir(f"{where}/{name}", 0o700)
            for name in unwanted - wanted:
                try:
                    os.rmdir(f"{where}/{name}")
                except FileNotFoundError:
                    continue
                except OSError as error:
                    # Not a client's: nfsd's are empty directories.
                    if error.errno not in (errno.ENOTDIR, errno.ENOTEMPTY):
                        raise
            self.system.fsync(self.directory)
        except OSError as error:
            raise Error(f"{self.directory}: cannot change {name}: {error.strerror}") from error
