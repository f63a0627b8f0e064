# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator as a process: its parameters, its signals and its exit code.

SIGTERM ends it, SIGHUP has it read its parameters again.
"""

from __future__ import annotations

from . import errors, params, signals, supervise
from ._vendor import ocf
from .propagator import Orphaned, Propagator
from .runtime import Runtime
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main(service: str, written: Callable[[], None] = lambda: None) -> int:
    """Run the propagator of the service whose parameters stand in its run-time directory.

    written: is called after each write of its status.
    """
    system = System()
    runtime = Runtime(system, service)
    given = runtime.read("parameters")
    if given is None:
        return supervise.FINAL
    try:
        propagator = Propagator(system, runtime, given, written)
    except errors.Fenced as error:
        ocf.logger.error("%s", error)
        return supervise.FINAL

    def stop(_number: int, _frame: object) -> None:
        propagator.stopping = True
        propagator.loop.wake()

    def reload(_number: int, _frame: object) -> None:
        again = runtime.read("parameters")
        if again is not None:
            propagator.reload(params.parse(again))
        propagator.loop.wake()

    signals.signal(signals.SIGTERM, stop)
    signals.signal(signals.SIGHUP, reload)
    try:
        return propagator.run()
    except Orphaned:
        supervise.launch(service)
        return 0
