# SPDX-License-Identifier: GPL-2.0-or-later
"""Work that may hang in the kernel, done in a child process that can be left behind.

A filesystem whose disk hangs takes the child only. The child never outlives its time by one more
step: it is killed, and dies when the kernel lets go of it, before it can do anything else.
"""

from __future__ import annotations

import os
import select
import signal

from .errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 60000  # bytes of an answer: a pipe takes as much without a reader


class Hanging(Error):
    """The work did not end in its time: the disk under it hangs, most likely."""


def _let_go() -> None:
    """Give the caller's pipes back: who reads them to their end must not wait for a child."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if not os.isatty(descriptor):
            os.dup2(null, descriptor)


def bounded(work: Callable[[], str | None], limit: float, what: str) -> str:
    """What `work` returns, done within `limit` seconds; Hanging when it takes longer.

    An exception of the work becomes an Error with its text. `what` names the work in messages.
    """
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:  # too many processes, no memory
        os.close(reader)
        os.close(writer)
        raise Error(f"{what}: fork: {error.strerror}") from error
    if pid == 0:
        code, text = 0, ""
        try:
            _let_go()
            text = work() or ""
        except BaseException as error:
            code, text = 1, str(error) or type(error).__name__
        try:
            os.write(writer, text.encode(errors="surrogateescape")[:_LONGEST] + b"\n")
        finally:
            os._exit(code)
    os.close(writer)
    done = b""
    try:
        if not select.select([reader], [], [], limit)[0]:
            raise Hanging(f"{what} did not end within {limit:.3g} s: is the disk hanging?")
        while piece := os.read(reader, 1 << 16):
            done += piece
    finally:
        os.close(reader)
        if not done:
            os.kill(pid, signal.SIGKILL)
    _, code = os.waitpid(pid, 0)
    text = done.decode(errors="surrogateescape").rstrip("\n")
    if code:
        raise Error(text or f"{what} failed ({code})")
    return text
