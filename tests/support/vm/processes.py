# SPDX-License-Identifier: GPL-2.0-or-later
"""Ending what the rig started: every process by its id, whatever way the run ends.

A normal end and sys.exit run the atexit hook; SIGTERM and SIGHUP are turned into sys.exit; Ctrl-C
is an exception; and when the runner is killed with SIGKILL the kernel kills its children
(PR_SET_PDEATHSIG, through setpriv). That signal is tied to the *thread* that starts a child, so
children are started from the main thread only.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType

_numbers = itertools.count(1)
_children: dict[int, subprocess.Popen[bytes]] = {}
_folders: list[Path] = []
_armed = False


def _arm() -> None:
    global _armed  # noqa: PLW0603
    if not _armed:
        _armed = True
        atexit.register(end_everything)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    # By the signal, not by SystemExit, which pytest takes for a failed test, and goes on.
    end_everything()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def start(argv: list[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a program that ends when this process does; its output is appended to a file."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start processes from the main thread: they end with their thread")
    _arm()
    with open(output, "ab") as file:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    _children[process.pid] = process
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL and reap; returns when the process is gone."""
    if process.poll() is None:
        process.kill()
        process.wait()
    _children.pop(process.pid, None)


def scratch(parent: Path) -> Path:
    """Make a folder that goes away with this process, and remove those of runs that were killed.

    Its name is this process's id and a number.
    """
    _arm()
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.iterdir():
        pid = other.name.partition("-")[0]
        ours = pid == str(os.getpid())
        if pid.isdigit() and not (other in _folders if ours else Path("/proc", pid).exists()):
            shutil.rmtree(other, ignore_errors=True)
    folder = parent / f"{os.getpid()}-{next(_numbers)}"
    folder.mkdir()
    _folders.append(folder)
    return folder


def end_everything() -> None:
    """End every process of the rig and remove its scratch folders; safe to call twice."""
    for process in list(_children.values()):
        end(process)
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)
