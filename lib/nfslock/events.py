# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel tells the propagator unasked: changes in directories and of addresses.

inotify(7) through libc, and rtnetlink(7): Python's standard library offers neither. Both only
say that something happened and where; the reader looks for itself.
"""

from __future__ import annotations

import os
import struct

from . import libraries
from . import sockets as socket
from .values import canonical_address

_IN_CLOSE_WRITE = 0x8
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_IN_ONLYDIR = 0x01000000
_WANTED = _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_DELETE | _IN_ONLYDIR
_EVENT = struct.Struct("iIII")

_RTM_NEWADDR, _RTM_GETADDR, _NLMSG_DONE, _NLMSG_ERROR = 20, 22, 3, 2
_NLM_F_REQUEST_DUMP = 0x301
_RTMGRP_ADDRESSES = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_UNUSABLE = 0x40 | 0x08  # IFA_F_TENTATIVE | IFA_F_DADFAILED: bind(2) would fail
_HEADER = struct.Struct("=IHHII")


class Inotify:
    """Watches on directories; reading gives (directory, name) pairs, name "" for "look at all"."""

    def __init__(self) -> None:
        self._libc = libraries.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            code = libraries.get_errno()
            raise OSError(code, os.strerror(code))
        self._watches: dict[int, str] = {}

    def fileno(self) -> int:
        """The descriptor to poll."""
        return int(self._fd)

    def add(self, directory: str, created: bool = False) -> None:
        """Watch a directory; OSError (ENOSPC: fs.inotify.max_user_watches is used up).

        `created`: tell of new names at once, not only when a new file is whole; new directories
        are told of no other way.
        """
        wanted = _WANTED | (_IN_CREATE if created else 0)
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), wanted)
        if watch < 0:
            code = libraries.get_errno()
            raise OSError(code, os.strerror(code), directory)
        self._watches[watch] = directory

    def read(self) -> set[tuple[str, str]]:
        """What changed since the last call, each once; an overflow names every directory."""
        changed: set[tuple[str, str]] = set()
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return changed
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size
                name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
                offset += length
                if mask & _IN_Q_OVERFLOW:
                    changed.update((directory, "") for directory in self._watches.values())
                elif mask & _IN_IGNORED:
                    changed.add((self._watches.pop(watch, ""), ""))
                else:
                    changed.add((self._watches.get(watch, ""), name))

    def close(self) -> None:
        """Give the descriptor back, and with it every watch."""
        os.close(self._fd)


class Addresses:
    """The usable addresses of this network namespace, kept up to date by the kernel."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_ADDRESSES))

    def fileno(self) -> int:
        """The descriptor to poll: readable when some address has come, changed or gone."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget the waiting messages; current() is what counts."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: messages were lost, which is as good as read here
                continue

    @classmethod
    def current(cls) -> frozenset[str]:
        """Every usable address in canonical spelling; not those that IPv6 still checks (DAD)."""
        return frozenset(cls.interfaces())

    @staticmethod
    def interfaces() -> dict[str, int]:
        """The usable addresses, each with the index of its interface."""
        found: dict[str, int] = {}
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as dump:
            dump.settimeout(5.0)
            dump.send(_HEADER.pack(24, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + bytes(8))
            while True:
                data = dump.recv(1 << 18)
                offset = 0
                while offset + _HEADER.size <= len(data):
                    length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                    if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                        return found
                    if kind == _RTM_NEWADDR:
                        message = data[offset + _HEADER.size : offset + length]
                        address = _parse_address(message)
                        if address:
                            (found[address],) = struct.unpack_from("=I", message, 4)
                    offset += (length + 3) & ~3

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _parse_address(message: bytes) -> str:
    """The address in an RTM_NEWADDR message (struct ifaddrmsg and attributes), "" if unusable."""
    family, flags = message[0], message[2]
    local = address = b""
    offset = 8
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        value = message[offset + 4 : offset + length]
        if kind == _IFA_LOCAL:
            local = value
        elif kind == _IFA_ADDRESS:
            address = value
        elif kind == _IFA_FLAGS:
            (flags,) = struct.unpack("=I", value)
        offset += max(4, (length + 3) & ~3)
    packed = local or address
    if flags & _UNUSABLE or len(packed) not in (4, 16):
        return ""
    return canonical_address(socket.inet_ntop(family, packed))
