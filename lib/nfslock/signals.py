# SPDX-License-Identifier: GPL-2.0-or-later
"""What start, stop and the propagator need of `signal`, which loads enum to give numbers names."""

from __future__ import annotations

__all__ = [
    "ITIMER_REAL", "SIGALRM", "SIGHUP", "SIGKILL", "SIGTERM", "SIG_BLOCK", "SIG_DFL", "SIG_UNBLOCK",
    "getitimer", "pthread_sigmask", "setitimer", "signal",
]  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import (
        ITIMER_REAL,
        SIG_BLOCK,
        SIG_DFL,
        SIG_UNBLOCK,
        SIGALRM,
        SIGHUP,
        SIGKILL,
        SIGTERM,
        getitimer,
        pthread_sigmask,
        setitimer,
        signal,
    )
else:
    from _signal import (
        ITIMER_REAL,
        SIG_BLOCK,
        SIG_DFL,
        SIG_UNBLOCK,
        SIGALRM,
        SIGHUP,
        SIGKILL,
        SIGTERM,
        getitimer,
        pthread_sigmask,
        setitimer,
        signal,
    )
