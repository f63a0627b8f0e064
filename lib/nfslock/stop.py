# SPDX-License-Identifier: GPL-2.0-or-later
"""The stop action: the last copy, the release of the locks, the mark of a clean stop.

It never fails for want of storage, and may be killed at any instant and repeated.
"""

from __future__ import annotations

import stat

from . import (
    callout_server,
    delegations,
    errors,
    leave,
    statd,
    supervise,
    tracking_mirror,
    tracking_takeover,
)
from ._vendor import ocf
from .bounded import Hanging, bounded
from .holding import Holding
from .mirror import Mirror
from .runtime import STATD_DOWN, Runtime
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds that stop gives the last copy at least, and its share of the time that there is: the
#: filesystem under it may be hanging, or have very many records.
_LAST_SWEEP, _SHARE = 10.0, 0.4


def stop(system: System, service: str, holding_dir: str) -> None:
    """Copy what is left, release the locks, mark a clean stop. Never fails for want of storage."""
    runtime = Runtime(system, service)
    mark = (runtime.read("started") or runtime.read("parameters")
            or runtime.read("starting"))  # a start that failed on its way
    if not supervise.end(runtime):
        ocf.logger.error("the propagator hangs in the kernel and was left behind")
    # Other services' clients must not wait for a propagator that is gone.
    runtime.remove("callout.sock")
    directory = (mark or {}).get("holding_dir") or holding_dir
    copied = hangs = False
    if directory and (mark or {}).get("lock_migration") != "no":
        try:
            bounded(lambda: _leave(system, service, directory, mark or {}),
                    max(_LAST_SWEEP, _SHARE * leave.time_left()), "the last copy")
            copied = True
        except errors.Error as error:
            hangs = isinstance(error, Hanging)
            ocf.logger.warning("the service is stopped without a last copy: %s", error)
    # First: nfsdcld may have its database there, and must not lose the record of a client that the
    # release expires.
    try:
        # After a start that was killed there may be no mark yet.
        delegations.restore(runtime)
        if (mark or {}).get("v4_store"):
            tracking_takeover.leave(system, directory)
    except errors.Error as error:
        copied = False
        ocf.logger.warning("NFSv4: %s", error)
    # On a disk that hangs even a file that is closed may wait, with a lock of nfsd held.
    if mark and not hangs:
        leave.free(system, service, mark, copied)
    _bring_statd_back(system, runtime)
    runtime.remove("starting", STATD_DOWN, "started", "parameters", "status", "supervisor",
                   *callout_server.FILES)


def _bring_statd_back(system: System, runtime: Runtime) -> None:
    """Start statd if a start was killed between stopping and starting it; see Start."""
    down = runtime.read(STATD_DOWN)
    try:
        if down is not None and not statd.pids(system):
            statd.start(system, down["statd_dir"], down["name"])
            ocf.logger.warning("an interrupted start had left rpc.statd down: it is started again")
    except (errors.Error, OSError, KeyError) as error:
        ocf.logger.error("rpc.statd is down and does not start (%s): no new client of this node's "
                         "NFS servers and mounts can lock", error)


def _leave(system: System, service: str, directory: str, mark: Mapping[str, str]) -> None:
    """One last sweep, additions only, and the clean-stop mark, if the directory is still ours."""
    place = system.status(directory)
    if place is None or not stat.S_ISDIR(place.st_mode):
        raise errors.Error(f"{directory} is not there")
    holding = Holding(system, directory, service)
    owner = holding.examine()
    if owner is None or owner.clean_stop:
        return
    if (owner.node, owner.boot_id) != (system.node(), system.boot_id()):
        raise errors.Error(
            f"{directory} belongs to generation {owner.generation} on node {owner.node} now")
    holding.adopt(owner)
    try:
        Mirror(system, mark.get("statd_dir") or statd.find_directory(system, None), holding).sweep()
        if mark.get("v4_store"):
            tracking_mirror.from_text(system, mark["v4_store"], holding).touch(lambda: False)
    finally:
        holding.check_owner()  # a newer owner's claim stays
        holding.write_owner(owner._replace(clean_stop=True))
