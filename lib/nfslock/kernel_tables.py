# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own tables of mounts, locks and NFSv4 state, taken apart (pure).

Devices are MAJOR:MINOR in decimal, as mountinfo has them: that is the superblock's number, which
/proc/locks and nfsd's states show (in hexadecimal); st_dev differs from it on btrfs.
"""

from __future__ import annotations

import sys

from .named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Compiled, and re loaded, when they are first needed: a start needs none of them.
_STATE = r"type: ([a-z]+)"
_SUPERBLOCK = r'superblock: "([0-9a-f]+):([0-9a-f]+):(\d+)"'
_FILE = r'filename: "(.*?)"(?:, owner:| ?}|, admin|$)'
_HEX = rb"\\x([0-9a-f]{2})"
_OCTAL = rb"\\([0-7]{3})"
#: Bit of SIGKILL in the signal masks of /proc/PID/status.
_SIGKILL = 1 << 8


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo (proc(5)); paths are plain, options the superblock's."""

    device: str
    root: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]

    def option(self, name: str) -> str:
        """The value of an option NAME=VALUE, "" when it is not there."""
        return next((o.partition("=")[2] for o in self.options if o.startswith(f"{name}=")), "")


class Lock(NamedTuple):
    """One line of /proc/locks; `holder` is the command name of its pid, "" when that is gone."""

    kind: str
    pid: int
    device: str
    inode: int
    holder: str = ""


class State(NamedTuple):
    """One NFSv4 stateid: open, lock, deleg, layout; device "" where nfsd shows no file."""

    kind: str
    device: str
    inode: int
    file: str
    revoked: bool


class Client(NamedTuple):
    """One NFSv4 client that nfsd knows: its number in /proc/fs/nfsd/clients and its state."""

    number: int
    address: str
    states: tuple[State, ...] = ()

    def on(self, devices: Collection[str]) -> tuple[State, ...]:
        """Its live state on these devices."""
        return tuple(s for s in self.states if s.device in devices and not s.revoked)


def unescape(text: str) -> str:
    """The kernel and exportfs write blanks and the like as a backslash and three octal digits."""
    if "\\" not in text:
        return text
    import re

    plain = re.sub(_OCTAL, lambda found: bytes([int(found[1], 8) & 0xFF]), _bytes(text))
    return plain.decode(errors="surrogateescape")


def escape(text: str) -> str:
    """The same the other way, in plain ASCII: qword_get() of net/sunrpc/cache.c reads it back."""
    return "".join(f"\\{byte:03o}" if byte <= 0x20 or byte >= 0x7F or byte == 0x5C else chr(byte)
                   for byte in _bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def parse_mounts(text: str, having: str = "") -> tuple[Mount, ...]:
    """The mounts of a mountinfo file, in its order: a later one covers an earlier.

    having: lines without this text are not taken apart; one that has it may still be another's.
    """
    found = []
    for line in text.splitlines():
        if having not in line:
            continue
        left, _, right = line.partition(" - ")
        first, last = left.split(" "), right.split(" ")
        if len(first) >= 6 and len(last) >= 3:
            found.append(Mount(first[2], unescape(first[3]), unescape(first[4]), last[0],
                               unescape(last[1]), tuple(last[2].split(","))))
    return tuple(found)


def mount_of(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that a path (without symbolic links) lies on: the longest, and latest, above it."""
    best = None
    for mount in mounts:
        inside = mount.point in ("/", path) or path.startswith(f"{mount.point}/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def on_top(mounts: Iterable[Mount], point: str) -> list[str]:
    """Mounts below the point: umount refuses it as long as they stand."""
    return [f"{mount.point} ({mount.kind}) is mounted on top of it"
            for mount in mounts if mount.point.startswith(f"{point}/")]


def parse_locks(text: str) -> tuple[Lock, ...]:
    """The locks of /proc/locks, those that wait for another ("->") too; fs/locks.c."""
    found = []
    for line in text.splitlines():
        fields = [word for word in line.split() if word != "->"]
        try:
            device, inode = _where(*fields[5].split(":"))
            found.append(Lock(fields[1], int(fields[4]), device, inode))
        except (IndexError, ValueError, TypeError):
            continue  # no inode any more
    return tuple(found)


def _where(major: str, minor: str, inode: str) -> tuple[str, int]:
    return f"{int(major, 16)}:{int(minor, 16)}", int(inode)


def parse_states(text: str) -> tuple[State, ...]:
    """The stateids of /proc/fs/nfsd/clients/N/states; fs/nfsd/nfs4state.c.

    The file name is the client's choice and stands there as it is: what counts is read before or
    after it.
    """
    import re

    found = []
    for line in text.splitlines():
        kind, superblock, file = (re.search(p, line) for p in (_STATE, _SUPERBLOCK, _FILE))
        if kind is None:
            continue
        device, inode = _where(*superblock.groups()) if superblock else ("", 0)
        found.append(State(kind[1], device, inode, file[1] if file else "",
                           line.rstrip().endswith(", admin-revoked }")))
    return tuple(found)


def _fields(info: str) -> dict[str, str]:
    """The lines NAME: VALUE of /proc/fs/nfsd/clients/N/info (client_info_show)."""
    parts = (line.partition(": ") for line in info.splitlines())
    return {name: value.strip() for name, _, value in parts}


def parse_address(info: str) -> str:
    """The client's address, without the port, from /proc/fs/nfsd/clients/N/info."""
    value = _fields(info).get("address")
    return "?" if value is None else value.strip('"').rpartition(":")[0].strip("[]")


def parse_leased(info: str) -> bytes:
    """The client's owner id from /proc/fs/nfsd/clients/N/info; b"" when it has no lease any more.

    fs/nfsd/nfs4state.c, client_info_show: the id is quoted, with \\xHH for what is not printable.
    """
    fields = _fields(info)
    name = fields.get("name", "")
    # Older kernels do not show a status: there all count.
    if fields.get("status", "confirmed") != "confirmed" or len(name) < 2:
        return b""
    import re

    return re.sub(_HEX, lambda found: bytes([int(found[1], 16)]), _bytes(name[1:-1]))


def parse_birthday(info: str) -> int:
    """When nfsd was started, by a client's /proc/fs/nfsd/clients/N/info; ValueError without an id.

    Seconds since 1970, modulo 2**32: the first half of the client id, which is shown as one number
    of this machine's (fs/nfsd/nfs4state.c, client_info_show).
    """
    whole = int(_fields(info).get("clientid", ""), 16).to_bytes(8, sys.byteorder)
    return int.from_bytes(whole[:4], sys.byteorder)


def honours_kill(status: str) -> bool:
    """Whether a kernel thread with this /proc/PID/status takes SIGKILL: caught and not ignored.

    Kernel threads ignore every signal; lockd allowed itself this one until 6.6 (fs/lockd/svc.c).
    """
    masks = {}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in ("SigIgn", "SigCgt"):
            masks[name] = int(value, 16)
    return bool(masks.get("SigCgt", 0) & ~masks.get("SigIgn", 0) & _SIGKILL)
