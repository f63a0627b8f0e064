# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for many things at once: descriptors with an action each, and to be woken."""

from __future__ import annotations

import selectors
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from _typeshed import HasFileno


class Loop:
    """What a daemon waits for; one thread waits, any thread or signal handler may wake it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._near, self._far = socket.socketpair()
        for end in (self._near, self._far):
            end.setblocking(False)
        self._followed: set[int] = set()
        self.listen(self._near, self._woken)

    def listen(self, source: HasFileno, action: Callable[[], object]) -> None:
        """Call `action` whenever `source` can be read."""
        self._selector.register(source, selectors.EVENT_READ, action)

    def follow(self, filenos: Collection[int]) -> None:
        """End a wait when one of these can be read, instead of those of the last call."""
        wanted = set(filenos)
        for fd in self._followed - wanted:
            self._selector.unregister(fd)
        for fd in wanted - self._followed:
            self._selector.register(fd, selectors.EVENT_READ, lambda: None)
        self._followed = wanted

    def wake(self) -> None:
        """End the wait (from a thread or a signal handler)."""
        try:
            self._far.send(b"\0")
        except OSError:  # it has not gone round since the last time, or goes no more
            pass

    def _woken(self) -> None:
        try:
            self._near.recv(4096)
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait that long at most and act on what came; whether it was more than to be woken."""
        ready = self._selector.select(max(0.0, seconds))
        for key, _ in ready:
            key.data()
        return any(key.data != self._woken for key, _ in ready)
