# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting, supervising and ending the propagator.

Where systemd runs it is a transient unit that systemd restarts; elsewhere a small parent of our
own does the same. Both restart a killed propagator at once; one that ended by itself (told to, or
fenced) stays down.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from . import units
from ._vendor import ocf
from .errors import Error
from .runtime import Runtime
from .system import System

#: Exit code of a propagator that must not be restarted: a newer owner, or nothing to do.
FINAL = 3
#: Seconds before a restart: at once at first, longer when it keeps dying.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_PATIENCE = 6.0
#: Passed on to the daemon: where Pacemaker wants agents to log.
_LOGGING = ("HA_LOGFACILITY", "HA_LOGFILE", "HA_DEBUGLOG", "HA_debug", "HA_LOGTAG")


def command(verb: str, service: str) -> list[str]:
    """The command line that runs one of our own daemons with this same library.

    Nothing but the standard library (-S): they start sooner, and no other package can stop them.
    """
    main = os.path.join(os.path.dirname(os.path.realpath(__file__)), "__main__.py")
    return [sys.executable or "/usr/bin/python3", "-IS", main, verb, service]


def unit(service: str) -> str:
    """The name of the service's transient systemd unit."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in service)
    return f"nfslock-{safe}.service"


def launch(runtime: Runtime) -> None:
    """Start the supervised propagator in the background; the caller waits for its status."""
    service = runtime.service
    environment = {name: os.environ[name] for name in _LOGGING if name in os.environ}
    if units.booted(runtime.system):
        # Before=pacemaker.service: at shutdown the cluster stops its resources first.
        settings = ["Restart=on-failure", "RestartSec=100ms", f"RestartPreventExitStatus={FINAL}",
                    "StartLimitIntervalSec=0", "Before=pacemaker.service", "KillMode=mixed",
                    f"Description=nfslock propagator of {service}", "OOMScoreAdjust=-900"]
        argv = ["systemd-run", "--quiet", "--collect", f"--unit={unit(service)}"]
        argv += [f"--property={setting}" for setting in settings]
        argv += [f"--setenv={name}={value}" for name, value in environment.items()]
        code, out = runtime.system.run(*argv, *command("propagate", service), timeout=30.0)
        if code:
            raise Error(f"systemd-run could not start {unit(service)}: {out}")
        return
    subprocess.Popen(
        command("supervise", service), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        cwd="/", start_new_session=True)


def end(runtime: Runtime) -> bool:
    """End supervisor and propagator; False when one of them cannot be ended (hanging disk)."""
    system = runtime.system
    status, parent = runtime.read("status"), runtime.read("supervisor")
    # Without parameters none of them starts again.
    runtime.remove("parameters")
    if units.is_transient(system, unit(runtime.service)):
        try:
            system.run("systemctl", "stop", unit(runtime.service), timeout=20.0)
        except Error as error:
            ocf.logger.warning("%s: ending the propagator by its pid", error)
    ended = True
    for pairs in (parent, status):
        pid = runtime.process(pairs)
        if pid:
            ended &= system.end(pid, system.start_time(pid), _PATIENCE)
    # One that was being born while its parent ended.
    late = runtime.process(runtime.read("status"))
    return ended and (not late or system.end(late, system.start_time(late), _PATIENCE))


def supervise(service: str) -> int:
    """Run the propagator and start it again whenever it is killed; ends when told (SIGTERM)."""
    system = System()
    runtime = Runtime(system, service)
    runtime.write("supervisor", {"pid": f"{os.getpid()}:{system.start_time(os.getpid())}"})
    child: subprocess.Popen[bytes] | None = None
    leaving = False

    # The handlers only send signals: the loop below is waiting for the child meanwhile.
    def leave(_number: int, _frame: object) -> None:
        nonlocal leaving
        leaving = True
        if child is not None:
            child.send_signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE / 3)

    def insist(_number: int, _frame: object) -> None:
        if child is not None:
            child.send_signal(signal.SIGKILL)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGALRM, insist)
    pause = _FIRST_PAUSE
    while not leaving and runtime.read("parameters") is not None:
        began = time.monotonic()
        child = subprocess.Popen(command("propagate", service))
        if leaving:
            child.terminate()
        if child.wait() in (0, FINAL) or leaving:
            break
        pause = _FIRST_PAUSE if time.monotonic() - began > 10 else min(2 * pause, _LONGEST_PAUSE)
        time.sleep(pause)
    return 0
