# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses as the kernel prints them, and host names to addresses without waiting for anybody.

getaddrinfo(3) can block for as long as the name servers are away, so it runs in threads. Their
number is bounded, and none of them touches anything but two queues.
"""

from __future__ import annotations

from . import sockets as socket
from .loop import in_background

TYPE_CHECKING = False
if TYPE_CHECKING:
    import queue

THREADS = 16
AGAIN = 30.0  # seconds until a name without an address is asked for again


class Resolver:
    """Host names to addresses, in a bounded number of threads."""

    def __init__(self) -> None:
        import queue  # rarely needed: most clients are known by their addresses

        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[tuple[str, list[str]]] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._open: set[str] = set()
        self._again: list[tuple[float, str]] = []  # in order: all wait equally long
        self._threads = 0

    def fileno(self) -> int:
        return self._reader.fileno()

    def ask(self, name: str) -> None:
        self._open.add(name)
        self._asked.put(name)
        if self._threads < THREADS:
            self._threads += 1
            in_background(self._work)

    def _work(self) -> None:
        while True:
            name = self._asked.get()
            if name is None:
                return
            self._answered.put((name, _resolve(name)))
            try:
                self._writer.send(b"\0")
            except OSError:  # full: the reader wakes anyway; closed: nobody wants to know
                pass

    def answers(self, now: float) -> list[tuple[str, list[str]]]:
        """Return the names resolved since the last call; ask again for those that were not."""
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass
        good = []
        while not self._answered.empty():
            name, addresses = self._answered.get()
            if addresses:
                self._open.discard(name)
                good.append((name, addresses))
            else:
                self._again.append((now + AGAIN, name))
        while self._again and self._again[0][0] <= now:
            self._asked.put(self._again.pop(0)[1])
        return good

    def next_event(self) -> float | None:
        return self._again[0][0] if self._again else None

    def unresolved(self) -> set[str]:
        return self._open

    def close(self) -> None:
        for _ in range(self._threads):
            self._asked.put(None)
        self._reader.close()
        self._writer.close()


def canonical(text: str) -> str | None:
    """Return an address as the kernel prints it, its scope as %number; None for a host name.

    IPv4 in IPv6 becomes IPv4. Raises no error: an unknown scope makes a host name, which then
    cannot be resolved and is named so.
    """
    try:
        socket.inet_pton(socket.AF_INET, text)
        return text  # it takes four numbers without leading zeros only: there is no other text
    except (OSError, ValueError):
        pass
    host, percent, scope = text.partition("%")
    try:
        address = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
        if address.startswith("::ffff:") and "." in address:
            return address[7:]
        if not percent:
            return address
        return f"{address}%{scope if scope.isdecimal() else socket.if_nametoindex(scope)}"
    except (OSError, ValueError):
        return None


def _resolve(name: str) -> list[str]:
    """Return all addresses of a host name, in the resolver's order; none if it has none now."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    texts = [str(entry[4][0]) for entry in found]
    return list(dict.fromkeys(filter(None, map(canonical, texts))))
