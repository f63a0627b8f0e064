# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for many things at once: descriptors with an action each, and to be woken.

What may wait for the network goes on in threads meanwhile.
"""

from __future__ import annotations

import gc
import os
import select
from _thread import allocate_lock, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Collection

    from _typeshed import HasFileno


def in_background(work: Callable[..., None], *arguments: object) -> LockType:
    """A thread for what may wait for the network; the process ends without waiting for it.

    Returns a lock that is free when the work has ended. (threading, or what else there is for this,
    loads modules that every takeover would wait for.)
    """
    busy = allocate_lock()
    busy.acquire()

    def run() -> None:
        try:
            work(*arguments)
        finally:
            busy.release()

    start_new_thread(run, ())
    return busy


def collect_rarely() -> None:
    """Collect garbage once 100,000 more objects stay, and never among those there are by now.

    By default it is after 700, which took a tenth of the time to notify 10,000 clients, and among
    all lock records in the end.
    """
    gc.freeze()
    gc.set_threshold(100_000)
    gc.enable()


class Loop:
    """What a daemon waits for; one thread waits, any thread or signal handler may wake it."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._near, self._far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._actions: dict[int, Callable[[], object]] = {}
        self._followed: set[int] = set()
        self._register(self._near, self._woken)

    def listen(self, source: HasFileno, action: Callable[[], object]) -> None:
        """Call `action` whenever `source` can be read."""
        self._register(source.fileno(), action)

    def _register(self, fd: int, action: Callable[[], object]) -> None:
        self._actions[fd] = action
        self._poll.register(fd, select.EPOLLIN)

    def follow(self, filenos: Collection[int]) -> None:
        """End a wait when one of these can be read, instead of those of the last call."""
        wanted = set(filenos)
        for fd in self._followed - wanted:
            del self._actions[fd]
            try:
                self._poll.unregister(fd)
            except OSError:  # closed by now, and forgotten with that
                pass
        for fd in wanted - self._followed:
            self._register(fd, lambda: None)
        self._followed = wanted

    def wake(self) -> None:
        """End the wait (from a thread or a signal handler)."""
        try:
            os.write(self._far, b"\0")
        except OSError:  # it has not gone round since the last time, or goes no more
            pass

    def _woken(self) -> None:
        try:
            os.read(self._near, 4096)
        except BlockingIOError:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait that long at most and act on what came; whether it was more than to be woken."""
        ready = [fd for fd, _ in self._poll.poll(max(0.0, seconds))]
        for fd in ready:
            self._actions[fd]()
        return any(fd != self._near for fd in ready)
