# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting, supervising and ending the propagator.

A small parent of its own starts a killed propagator again at once; one that ended by itself (told
to, or fenced) stays down. Both are forks of the start action: a takeover waits for them, and what
it has loaded already need not be loaded again. What the propagator alone needs is loaded by them,
while the start waits for its disks.
"""

from __future__ import annotations

import os
import sys
import time

from . import signals
from ._vendor import ocf
from .errors import Error
from .runtime import Runtime
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    #: The propagator: it gets the service's name and whom to tell of each status that it has
    #: written, and returns its exit code.
    Work = Callable[[str, Callable[[], None]], int]
    #: Loads it.
    Load = Callable[[], Work]

#: Exit code of a propagator that must not be restarted: a newer owner, or nothing to do.
FINAL = 3
#: Seconds before a restart: at once at first, longer when it keeps dying.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_PATIENCE = 6.0
#: Passed on to a supervisor that is not a fork: where Pacemaker wants agents to log.
_LOGGING = ("HA_LOGFACILITY", "HA_LOGFILE", "HA_DEBUGLOG", "HA_debug", "HA_LOGTAG")
_SIGNALS = (signals.SIGTERM, signals.SIGALRM, signals.SIGHUP)
#: No score that would let it be killed before all else when memory runs out.
_OOM_SCORE = b"-900"


class Supervisor:
    """A supervisor that is forked early, while this process is small, and begins when told to.

    It ends when this process does without having told it: a start that fails leaves nothing behind.
    """

    def __init__(self, service: str, load: Load) -> None:
        receive, self._send = os.pipe2(os.O_CLOEXEC)
        self._news, announce = os.pipe2(os.O_CLOEXEC)
        if os.fork():
            os.close(receive)
            os.close(announce)
            return

        def told() -> bool:
            word = os.read(receive, 1)
            os.close(receive)
            return bool(word)

        def written() -> None:
            try:
                os.write(announce, b"\0")
            except OSError:  # the start has ended
                pass

        def wait() -> int:
            os.close(self._send)
            os.close(self._news)
            _detach()
            return supervise(service, load, told, written)

        _be_the_child(wait)

    def begin(self) -> None:
        """Let it start the propagator; the caller waits for the propagator's status."""
        os.write(self._send, b"\0")
        os.close(self._send)

    def wait(self) -> None:
        """Return when the propagator has written its status again; Error when both have ended."""
        if not os.read(self._news, 64):
            raise Error("the propagator has ended: see the log")


def launch(service: str) -> None:
    """Start a fresh supervisor in the background, for a propagator that has lost its own."""
    import subprocess

    main = os.path.join(os.path.dirname(os.path.realpath(__file__)), "__main__.py")
    environment = {name: os.environ[name] for name in _LOGGING if name in os.environ}
    # Nothing but the standard library (-S): no other package can stop it.
    subprocess.Popen(
        [sys.executable or "/usr/bin/python3", "-IS", main, "supervise", service],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment}, cwd="/",
        start_new_session=True)


def _detach() -> None:
    """Become a daemon: no session, folder or output of the action."""
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _be_the_child(work: Callable[[], int]) -> NoReturn:
    """Do a fork's work without the parent's signal handlers, and end; what goes wrong is logged."""
    code = 1
    try:
        for number in _SIGNALS:
            signals.signal(number, signals.SIG_DFL)
        signals.pthread_sigmask(signals.SIG_UNBLOCK, _SIGNALS)
        code = work()
    except Error as error:
        ocf.logger.error("%s", error)
    except Exception as error:
        ocf.logger.error("a defect of the propagator: %r", error, exc_info=True)
    finally:
        os._exit(code)


def _show_as(title: str) -> None:
    """Let ps(1) show this title: a fork has the arguments of the start that it comes from.

    They lie between arg_start and arg_end, fields 48 and 49 of proc_pid_stat(5).
    """
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.encode()[: end - start - 1].ljust(end - start, b"\0"))
        with open("/proc/self/comm", "wb", buffering=0) as file_of_name:
            file_of_name.write(b"nfslock")
    except (OSError, ValueError, IndexError) as error:
        ocf.logger.debug("ps does not show %r: %s", title, error)


def _unlikely_to_be_killed() -> None:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(_OOM_SCORE)
    except OSError as error:
        ocf.logger.debug("oom_score_adj: %s", error)


def end(runtime: Runtime) -> bool:
    """End supervisor and propagator; False when one of them cannot be ended (hanging disk)."""
    system = runtime.system
    status, parent = runtime.read("status"), runtime.read("supervisor")
    # Without parameters none of them starts again.
    runtime.remove("parameters")
    ended = True
    for pairs in (parent, status):
        pid = runtime.process(pairs)
        if pid:
            ended &= system.end(pid, system.start_time(pid), _PATIENCE)
    # One that was being born while its parent ended.
    late = runtime.process(runtime.read("status"))
    return ended and (not late or system.end(late, system.start_time(late), _PATIENCE))


def _spawn(service: str, work: Work, written: Callable[[], None]) -> int:
    """Fork the propagator; returns its pid."""
    # A signal that comes in between is for the parent's handlers in the parent alone.
    signals.pthread_sigmask(signals.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid:
        signals.pthread_sigmask(signals.SIG_UNBLOCK, _SIGNALS)
        return pid

    def propagate() -> int:
        _show_as(f"nfslock propagate {service}")
        return work(service, written)

    _be_the_child(propagate)


def supervise(
    service: str, load: Load, told: Callable[[], bool] = lambda: True,
    written: Callable[[], None] = lambda: None,
) -> int:
    """Run the propagator and start it again whenever it is killed; ends when told (SIGTERM).

    told: waits until it may begin; False when it may not. written: passed on to the propagator.
    """
    system = System()
    runtime = Runtime(system, service)
    _show_as(f"nfslock supervise {service}")
    _unlikely_to_be_killed()
    work = load()
    if not told():
        return 0
    runtime.write("supervisor", {"pid": f"{os.getpid()}:{system.start_time(os.getpid())}"})
    child = 0
    leaving = False

    # The handlers only send signals: the loop below is waiting for the child meanwhile.
    def leave(_number: int, _frame: object) -> None:
        nonlocal leaving
        leaving = True
        if child:
            os.kill(child, signals.SIGTERM)
        signals.setitimer(signals.ITIMER_REAL, _PATIENCE / 3)

    def insist(_number: int, _frame: object) -> None:
        if child:
            os.kill(child, signals.SIGKILL)

    signals.signal(signals.SIGTERM, leave)
    signals.signal(signals.SIGALRM, insist)
    pause = _FIRST_PAUSE
    while not leaving and runtime.read("parameters") is not None:
        began = time.monotonic()
        child = _spawn(service, work, written)
        if leaving:
            os.kill(child, signals.SIGTERM)
        _, status = os.waitpid(child, 0)
        child = 0
        if os.waitstatus_to_exitcode(status) in (0, FINAL) or leaving:
            break
        pause = _FIRST_PAUSE if time.monotonic() - began > 10 else min(2 * pause, _LONGEST_PAUSE)
        time.sleep(pause)
    return 0
