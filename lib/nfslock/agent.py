# SPDX-License-Identifier: GPL-2.0-or-later
"""The OCF face: what Pacemaker calls, and the one place where failures become exit codes.

Monitor and meta-data come through here every few seconds: everything that only start, stop,
reload-agent and validate-all need is imported by them.
"""

from __future__ import annotations

import os

from . import errors, params, signals
from ._vendor import ocf
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from . import supervise

_LONGDESC = """\
Keeps the lock records of an NFS service on the service's own shared filesystem, puts them in place
on the node that takes the service over, and tells the clients from the service's address to reclaim
their locks: file locks survive the failover of a highly available NFS server.

Order in a group: Filesystem, nfslock, nfsserver (with nfs_no_notify=true), exportfs (with
unlock_on_stop=0), IPaddr2.
The monitor should fence a node on which the records are not kept: op monitor on-fail=fence."""

#: (name, timeout, interval, depth): seconds
_ACTIONS = (
    ("start", 60, None, None), ("stop", 60, None, None),
    ("monitor", 20, 10, 0), ("monitor", 30, 60, 10),
    ("reload-agent", 20, None, None), ("validate-all", 20, None, None),
)
#: An action gives up this long before Pacemaker's own limit, so that its reason is heard.
_MARGIN = 1.0
_TIMEOUT = "OCF_RESKEY_CRM_meta_timeout"


class _Expired(BaseException):
    """Pacemaker's time is nearly up. No handler on the way may take it for a lesser failure.

    An unfinished stop is a failed stop: the cluster fences the node rather than start the service
    a second time.
    """


def _service() -> str:
    """The resource's name, without the instance number of a clone."""
    return (os.environ.get("OCF_RESOURCE_INSTANCE") or "default").partition(":")[0]


def _level() -> int:
    text = os.environ.get("OCF_CHECK_LEVEL") or "0"
    return int(text) if text.isdigit() else 0


def _raw() -> dict[str, str]:
    """The parameters' texts as Pacemaker passes them."""
    return {parameter.name: os.environ[f"OCF_RESKEY_{parameter.name}"]
            for parameter in params.PARAMETERS if f"OCF_RESKEY_{parameter.name}" in os.environ}


def _start() -> None:
    from . import start

    def load_propagator() -> supervise.Work:
        from . import propagate

        return propagate.main

    start.start(System(), params.parse(_raw()), _service(), _raw(), load_propagator)


def _stop() -> None:
    from . import stop

    # Whatever is wrong with the parameters, a stop must not fail for it.
    stop.stop(System(), _service(), _raw().get("holding_dir", "").rstrip("/"))


def _monitor() -> None:
    from . import monitor

    monitor.monitor(System(), params.parse(_raw()), _service(), _level())


def _reload() -> None:
    from . import start

    start.reload(System(), params.parse(_raw()), _service(), _raw())


def _validate() -> None:
    config = params.parse(_raw())
    if _level() >= 10:
        from . import start

        start.validate(System(), config, _service(), _level())


def _give_up_in_time() -> None:
    """Let a SIGALRM end the action shortly before Pacemaker would kill it without a reason."""
    text = os.environ.get(_TIMEOUT, "")
    if not text.isdigit():
        return
    limit = int(text) / 1000

    def expired(_number: int, _frame: object) -> None:
        raise _Expired(f"{_service()}: {ocf.OCF_ACTION} did not end within {limit:g} s")

    signals.signal(signals.SIGALRM, expired)
    signals.setitimer(signals.ITIMER_REAL, max(limit - _MARGIN, limit / 2))


def _in_time() -> None:
    """The action has ended: no alarm any more."""
    signals.setitimer(signals.ITIMER_REAL, 0)


def _guarded(action: Callable[[], None]) -> Callable[[], int]:
    """The action with our errors turned into OCF's codes."""
    def handler() -> int:
        _give_up_in_time()
        try:
            action()
        except _Expired as error:
            raise ocf.OcfError(str(error), errors.GENERIC) from None
        except errors.Error as error:
            # A probe of what is not started here is an answer, not a complaint.
            if isinstance(error, errors.NotRunning):
                return errors.NOT_RUNNING
            if ocf.is_probe() and isinstance(error, errors.ConfigError):
                return errors.NOT_RUNNING
            raise ocf.OcfError(str(error), error.code) from error
        finally:
            _in_time()
        return errors.OK
    return handler


def build() -> ocf.Agent:
    """The agent as its metadata describe it."""
    agent = ocf.Agent(
        "nfslock", "Keeps NFS file locks over a failover", _LONGDESC, version="1.0",
        ocf_version="1.1")
    for p in params.PARAMETERS:
        agent.add_parameter(
            p.name, p.shortdesc, p.longdesc, p.kind, unique=p.unique, required=p.required,
            default=p.default, reloadable=p.reloadable)
    handlers = {"start": _start, "stop": _stop, "monitor": _monitor, "reload-agent": _reload,
                "validate-all": _validate}
    for name, timeout, interval, depth in _ACTIONS:
        agent.add_action(name, timeout=timeout, interval=interval, depth=depth,
                         handler=_guarded(handlers[name]))
    agent.add_action("meta-data", timeout=10)
    return agent


def main() -> NoReturn:
    """Perform the action that the command line names; exits with its OCF code."""
    ocf.run(build())
