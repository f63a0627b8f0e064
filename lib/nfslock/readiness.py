# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether clients that reclaim would find everything they need, asked in a thread until they do."""

from __future__ import annotations

from . import kernel
from .errors import Error
from .loop import in_background

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .system import System

#: Seconds between two looks.
_PAUSE = 0.25


def missing(
    system: System, addresses: Iterable[str], paths: Iterable[str], v3_clients: bool
) -> str:
    """What a reclaiming client would still lack here, "" when nothing.

    paths: on the service's filesystems, one of which clients must reach. v3_clients: there are some
    to be told. They would lose their locks on a server without NFSv3, which may have been set so by
    mistake; one that has none of them need not offer it.
    """
    if kernel.serving(system) is False:
        return "nfsd has no threads"
    if not kernel.exported(system, paths):
        return f"nothing on the filesystem of {' or '.join(paths)} is exported"
    v3 = v3_clients or kernel.offers_v3(system)
    for address in addresses:
        programs = kernel.missing_programs(address, v3)
        if programs:
            return f"{' and '.join(programs)} does not answer on {address}"
    return ""


class Probe:
    """One look after the other, each in a thread: an answer may take seconds.

    look: says what is missing, "" when nothing; wake: is called when there is an answer.
    """

    def __init__(self, look: Callable[[], str], wake: Callable[[], None]) -> None:
        self._look, self._wake = look, wake
        self._looking = False
        self._number = 0  # a look that began before the service went has nothing to say
        self._answer: str | Exception | None = None
        self._due = 0.0

    def at_once(self) -> None:
        """Something has changed: the next look need not wait."""
        self._due = 0.0

    def forget(self) -> None:
        """What is being found out now counts no more."""
        self._number, self._answer, self._looking = self._number + 1, None, False

    def answer(self, now: float) -> str | None:
        """What was found out since the last call, None while nothing; raises what a look raised."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._looking = False
            self._due = now + _PAUSE
            if isinstance(answer, Exception):
                raise answer
        return answer

    def next(self, now: float) -> float | None:
        """Look again when it is time; returns in how many seconds it will be (None: at wake)."""
        if not self._looking:
            if now < self._due:
                return self._due - now
            self._looking = True
            in_background(self._run, self._number)
        return None

    def _run(self, number: int) -> None:
        answer: str | Exception
        try:
            answer = self._look()
        except (Error, OSError, ValueError) as error:
            answer = error
        if number == self._number:
            self._answer = answer
        self._wake()
