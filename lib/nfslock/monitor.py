# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the service's lock protection at work here? The question Pacemaker asks every few seconds.

Level 0 costs a few file reads: no subprocess, no heavy import (a test holds it). Level 10 also
compares the directories and calls statd.
"""

from __future__ import annotations

import os
import time

from . import errors
from .runtime import STATD_DOWN, Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .params import Config
    from .system import System

#: Seconds that a killed propagator has to be back before its absence is a failure.
_COMEBACK = 3.0


def monitor(system: System, config: Config, service: str, level: int) -> None:
    """Return if all is well; NotRunning, Degraded or another Error says what is not."""
    runtime = Runtime(system, service)
    mark = runtime.read("started")
    if mark is None:
        _check_interrupted(runtime)
        raise errors.NotRunning(f"{service} is not started on this node")
    if mark.get("lock_migration") == "no":
        return
    status = _living(runtime)
    interval = float(status.get("interval", 0))
    _check_sweeps(system, status, interval)
    _check_place(system, config.holding_dir, status)
    if status.get("problem"):
        _problem(config.holding_dir, status["problem"])
    if level >= 10:
        from . import deep

        lacks = deep.check(system, config.holding_dir, mark["statd_dir"])
        if mark.get("v4_store"):
            deep.check_v4(system, config, mark["v4_store"])
    _check_callouts(runtime, status)
    _check_tracking(status)
    if status.get("reserve") == "no":
        raise errors.Degraded(
            f"{config.holding_dir}: no room for the reserve that lock records have on a full disk "
            f"({os.statvfs(config.holding_dir).f_bavail} free blocks): make room")
    _check_notification(system, status)
    if status.get("inotify") == "no":
        raise errors.Degraded(
            f"{config.holding_dir}: inotify does not work, new lock records are copied only every "
            f"{interval:g} s: raise fs.inotify.max_user_watches")
    if level >= 10:
        deep.check_statd(lacks)
        deep.check_clients(system, config.ip)


def _check_interrupted(runtime: Runtime) -> None:
    """A start that was killed while statd was down is not cleanly stopped: a stop has to follow."""
    if runtime.read(STATD_DOWN) is not None and not runtime.process(runtime.read("starting")):
        raise errors.Error(
            f"a start of {runtime.service} was interrupted while rpc.statd was down: NFSv3 clients "
            "of this node cannot lock until the resource is stopped here, which brings it up again")


def _living(runtime: Runtime) -> dict[str, str]:
    """The status of a living propagator; waits a little for one that is being restarted."""
    deadline = time.monotonic() + _COMEBACK
    while True:
        status = runtime.read("status") or {}
        if status.get("phase") == "fenced":
            raise errors.Error(status.get("problem") or "a newer owner has claimed the records")
        if runtime.process(status):
            return status
        if time.monotonic() > deadline:
            raise errors.Error(
                f"the propagator (pid {status.get('pid', '?').partition(':')[0]}) is dead and was "
                f"not restarted within {_COMEBACK:g} s: lock records are not kept")
        time.sleep(0.05)


def _check_sweeps(system: System, status: Mapping[str, str], interval: float) -> None:
    limit = max(3 * interval, 10.0)
    silent = system.monotonic() - float(status.get("last_sweep", 0))
    if silent > limit:
        raise errors.Error(
            f"the propagator (pid {status['pid'].partition(':')[0]}) has not compared the lock "
            f"records for {silent:.0f} s (limit {limit:.0f} s): is the filesystem hanging?")


def _check_place(system: System, path: str, status: Mapping[str, str]) -> None:
    """The holding directory is the one the propagator opened, still ours, and can be written."""
    place = system.status(path)
    if place is None or f"{place.st_dev}:{place.st_ino}" != status.get("holding"):
        raise errors.Error(
            f"{path} is not the directory that this service was started with: is its filesystem "
            "still mounted?")
    if str(system.identity(f"{path}/owner.json")) != status.get("owner"):
        from .holding import Holding

        owner = Holding(system, path, "").read_owner()
        if owner is None or str(owner.generation) != status.get("generation"):
            raise errors.Error(
                f"{path} has been claimed by " + (
                    f"generation {owner.generation} on node {owner.node}" if owner else "nobody")
                + f"; this node's generation is {status.get('generation')}")
    if not os.access(system.path(path), os.W_OK):
        raise errors.Error(f"{path} is read-only: lock records cannot be kept")


def _problem(path: str, problem: str) -> None:
    """A full disk is full on every node: moving the service there would only cost the locks."""
    space = os.statvfs(path)
    if not space.f_bavail or (space.f_files and not space.f_favail):
        raise errors.Degraded(f"{problem}; {path} has {space.f_bavail} free blocks and "
                              f"{space.f_favail} free inodes: make room")
    raise errors.Error(problem)


def _check_callouts(runtime: Runtime, status: Mapping[str, str]) -> None:
    """Clients whose first lock was granted although the propagator had not confirmed the record."""
    if status.get("callout") == "no":
        raise errors.Degraded(
            f"{runtime.directory}: statd's callout cannot be answered: a lock that is granted just "
            "before a crash may be lost; see the log")
    behind = runtime.missed() - int(status.get("caught_up", 0))
    if behind > 0:
        raise errors.Degraded(
            f"{behind} clients were granted their first lock before their records were safe: the "
            "propagator or its filesystem is slow; the next sweep catches up")


def _check_tracking(status: Mapping[str, str]) -> None:
    """An nfsd that came before nfsdcld was ready keeps its records elsewhere."""
    found = status.get("v4_fallback")
    if found == "nothing":
        raise errors.Degraded(
            "nfsd did not find nfsdcld ready within a second of its start and keeps no NFSv4 "
            "recovery records: NFSv4 clients cannot reclaim after a failover; restart the service")
    if found:
        raise errors.Degraded(
            f"nfsd did not find nfsdcld ready within a second of its start and uses {found} "
            "instead, which nfslock keeps as well: restart the service when it suits")


def _check_notification(system: System, status: Mapping[str, str]) -> None:
    left, total = status.get("notify_left", "0"), status.get("notify_total", "0")
    if status.get("notify_late") == "yes":
        raise errors.Degraded(
            f"lockd's grace period was over before {total} clients could be told to reclaim: they "
            "have lost their locks; make it longer (sysctl fs.nfs.nlm_grace_period)")
    if left == "0" or system.monotonic() < float(status.get("notify_deadline", 0)):
        return
    if status.get("phase") == "waiting":
        raise errors.Degraded(
            f"{left} clients not notified yet: still waiting for {status.get('waiting_for')}")
    raise errors.Degraded(
        f"{left} of {total} clients did not answer SM_NOTIFY: see `nfslock status`; they are "
        "tried again at the next start")
