# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's units on this node, with as few questions to systemd as will do.

What files say is not asked: every systemctl of a start is time for which all clients wait, and
daemon-reload, which reads every unit of the node again, most of all.
"""

from __future__ import annotations

import os

from . import libraries
from .files import Like
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where a unit may be, first come first served (systemd.unit(5)).
_PLACES = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
           "/usr/lib/systemd/system", "/lib/systemd/system")
DROP_IN = "nfslock.conf"
#: Where systemd itself listens, for root: the bus daemon is not asked, either (systemctl does so).
_DOOR = b"unix:path=/run/systemd/private"
_HEAD = "# Written by nfslock when it starts a service; gone at the next boot.\n"


def booted(system: System) -> bool:
    """Whether systemd is the init of this node (sd_booted(3))."""
    return os.path.isdir(system.path("/run/systemd/system"))


def exists(system: System, unit: str) -> bool:
    """Whether systemd runs and has the unit, not masked."""
    if not booted(system):
        return False
    for place in _PLACES:
        path = f"{place}/{unit}"
        if system.status(path) is not None:
            return os.path.realpath(system.path(path)) != "/dev/null"
    return False


def has_drop_in(system: System, unit: str, text: str, lasting: bool = False) -> bool:
    """Whether this drop-in of ours is in place, for good or (unless `lasting`) since this boot."""
    for place in _PLACES[: 1 if lasting else 2]:
        try:
            if system.read(f"{place}/{unit}.d/{DROP_IN}").decode(errors="replace").endswith(text):
                return True
        except (OSError, ValueError):
            continue
    return False


def put_drop_in(system: System, unit: str, text: str) -> None:
    """Write a drop-in that lasts until the next boot, and make systemd know it."""
    place = f"{_PLACES[1]}/{unit}.d"
    os.makedirs(system.path(place), exist_ok=True)
    system.write(place, {DROP_IN: f"{_HEAD}{text}".encode()}, Like(0o644), durable=False)
    reload(system)


def reload(system: System) -> None:
    """Make systemd read all its units again."""
    system.checked("systemctl", "daemon-reload")


def start(system: System, names: Sequence[str], restart: str = "") -> None:
    """Make systemd start those units that are not active, and restart one; all at once.

    Returns when that is queued. Error when systemd refuses the last of them.
    """
    calls = [("StartUnit", unit) for unit in names] + [("RestartUnit", restart)] * bool(restart)
    if calls and not _called(calls):
        for method, unit in calls:
            verb = method.removesuffix("Unit").lower()
            system.checked("systemctl", "--no-block", verb, unit)


def _called(calls: Sequence[tuple[str, str]]) -> bool:
    """Whether systemd has taken the requests from us, by sd_bus_call_method(3).

    systemctl does no more, but to load it takes a quarter of a start's time on a node that has not
    used it lately. Only the last request is waited for: systemd forks as soon as it has answered
    what there is, and the rest of a start would share the processor with that.
    """
    bus = libraries.c_void_p()
    try:
        systemd = libraries.CDLL("libsystemd.so.0")
        if systemd.sd_bus_new(libraries.byref(bus)) < 0:
            return False
        if systemd.sd_bus_set_address(bus, _DOOR) < 0 or systemd.sd_bus_start(bus) < 0:
            systemd.sd_bus_unref(bus)
            return False
        taken = _call_all(systemd, bus, calls)
        systemd.sd_bus_flush_close_unref(bus)
    except (OSError, AttributeError):  # no libsystemd, or one without this
        return False
    return taken


def _call_all(systemd: libraries.CDLL, bus: libraries.c_void_p, calls: Sequence[tuple[str, str]]
              ) -> bool:
    whom = (b"org.freedesktop.systemd1", b"/org/freedesktop/systemd1",
            b"org.freedesktop.systemd1.Manager")
    *others, last = [
        (method.encode(), None, None, b"ss", unit.encode(), b"replace") for method, unit in calls]
    for call in others:
        if systemd.sd_bus_call_method_async(bus, None, *whom, *call) < 0:
            return False
    return bool(systemd.sd_bus_call_method(bus, *whom, *last) >= 0)
