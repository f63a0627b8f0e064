# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node needs once, before it may run a service: statd's callout and quiet systemd units.

    nfs.conf drop-in      [statd] ha-callout, no-notify=y, [sm-notify] lift-grace=n (nfs.conf(5))
    rpc-statd             takes its arguments from a file: a start need not have systemd read all
                          its units again
    rpc-statd-notify      masked: its sm-notify would announce the node, use the records up, and end
                          lockd's grace when there are none
    nfs-server            not started at boot: the cluster does that; announces the NFSv4 server
                          scope of the service that is here, if one is
    resource-agents-deps  rpcbind and the nfsd filesystem are there before Pacemaker starts anything

Nothing is changed without being asked to; what was there before is kept for --undo. All paths lie
below the system's root.
"""

from __future__ import annotations

import os

from . import nfsconf, scope, statd, units
from ._vendor import ocf
from .errors import Error
from .files import Like
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Optional

    #: A file as ("text", content) or ("link", target); None: nothing there.
    State = Optional[tuple[str, str]]

_HEAD = "# Written by `nfslock setup-node --apply`; `--undo --apply` takes it away.\n"
_DROP_IN = "nfslock.conf"
_UNITS = "/etc/systemd/system"
_VENDOR_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system")
_NOTIFY = "rpc-statd-notify.service"
_STATD, _SERVER = (f"{_UNITS}/{unit}.d/{units.DROP_IN}" for unit in (statd.UNIT, scope.UNIT))
#: Units that the cluster starts (the nfsserver agent), under the names that distributions use.
_CLUSTERED = ("nfs-server.service", "nfs-kernel-server.service", "nfsserver.service")
_DEPENDENCIES = f"{_UNITS}/resource-agents-deps.target.d/{_DROP_IN}"
_RECORD = "/var/lib/nfslock/setup-node.json"
#: Where `make install` puts the callout: a directory whose programs SELinux lets statd run.
_INSTALLED = ("/usr/sbin/nfslock-callout", "/usr/local/sbin/nfslock-callout")
_NO = ("n", "no", "0", "f", "false", "off")


def callout_program(system: System) -> str:
    """The callout to be configured: the installed one, else the Python form of this checkout."""
    for path in _INSTALLED:
        if os.access(system.path(path), os.X_OK):
            return path
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), "callout.py")


# -- what is, and what should be ---------------------------------------------------------------


def _look(system: System, path: str) -> State:
    real = system.path(path)
    if os.path.islink(real):
        return "link", os.readlink(real)
    try:
        return "text", system.read(path, 1 << 20).decode(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise Error(f"{path}: {error}") from None


def _has_unit(system: System, unit: str) -> bool:
    return any(system.status(f"{place}/{unit}") is not None for place in _VENDOR_UNITS)


def _boot_links(system: System) -> list[str]:
    """The links by which systemd would start the cluster's units at boot (systemctl enable)."""
    return [f"{_UNITS}/{directory}/{unit}"
            for directory in sorted(system.names(_UNITS)) if directory.endswith((".wants",
                                                                                 ".requires"))
            for unit in sorted(system.names(f"{_UNITS}/{directory}")) if unit in _CLUSTERED]


def wanted(system: System) -> dict[str, State]:
    """Every path that matters here and what should be there."""
    _, drop_ins = system.nfs_conf[-1]
    conf = (f"[statd]\nha-callout={callout_program(system)}\nno-notify=y\n\n"
            "[sm-notify]\nlift-grace=n\n")
    files: dict[str, State] = {f"{drop_ins}/{_DROP_IN}": ("text", _HEAD + conf)}
    if _has_unit(system, _NOTIFY):
        files[f"{_UNITS}/{_NOTIFY}"] = ("link", "/dev/null")
    if _has_unit(system, statd.UNIT):
        files[_STATD] = ("text", _HEAD + statd.drop_in(system))
    if _has_unit(system, scope.UNIT):
        files[_SERVER] = ("text", _HEAD + scope.drop_in())
    if any(system.status(place) is not None for place in _VENDOR_UNITS):
        needs = "rpcbind.socket proc-fs-nfsd.mount"
        files[_DEPENDENCIES] = ("text", f"{_HEAD}[Unit]\nWants={needs}\nAfter={needs}\n")
    files.update(dict.fromkeys(_boot_links(system)))
    return files


def missing(system: System) -> list[str]:
    """What this node still lacks, a line each, judged by its effect and not by who wrote it."""
    lacking = []
    conf = nfsconf.settings(system)
    callout = conf.get(("statd", "ha-callout"))
    if not callout:
        lacking.append("nfs.conf has no [statd] ha-callout: a lock that is granted within about a "
                       "millisecond before a crash may be lost")
    elif not os.access(system.path(callout), os.X_OK):
        lacking.append(f"[statd] ha-callout={callout} in nfs.conf is no program: no new client's "
                       "record is waited for")
    elif os.path.basename(callout) not in ("nfslock-callout", "callout.py"):
        lacking.append(f"[statd] ha-callout={callout} in nfs.conf is not nfslock's: let it call "
                       f"{callout_program(system)} with its own arguments")
    if conf.get(("statd", "no-notify"), "n").lower() in _NO:
        lacking.append("nfs.conf has no [statd] no-notify=y: an rpc.statd that nfsserver starts "
                       "would announce the node")
    if conf.get(("sm-notify", "lift-grace"), "y").lower() not in _NO:
        lacking.append("nfs.conf has no [sm-notify] lift-grace=n: a stray sm-notify would end the "
                       "grace period in which clients reclaim")
    for path, state in wanted(system).items():
        if path.startswith(_UNITS) and _look(system, path) != state:
            lacking.append({
                f"{_UNITS}/{_NOTIFY}": f"{_NOTIFY} is not masked: it would announce the node",
                **{path: f"{path} is missing or another: a start has systemd read all its units"
                   for path in (_STATD, _SERVER)},
                _DEPENDENCIES: f"{path} is missing or another: rpcbind may come after Pacemaker",
            }.get(path, f"{path} starts at boot what the cluster should start"))
    return lacking


def advise(system: System) -> None:
    """Log what this node lacks; locks are kept without it, but not in every case."""
    for line in missing(system):
        ocf.logger.warning("%s (see `nfslock setup-node`)", line)


# -- changing it ---------------------------------------------------------------------------------


def _recorded(system: System) -> dict[str, dict[str, State]]:
    """What --apply has changed: the state of each path before and after."""
    try:
        import json

        raw = json.loads(system.read(_RECORD, 1 << 22))
        return {path: {when: tuple(entry[when]) if entry[when] else None
                       for when in ("before", "after")} for path, entry in raw.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Error(f"{_RECORD} is damaged: move it away; nothing can be undone then") from None


def changes(system: System, undo: bool = False) -> dict[str, tuple[State, State]]:
    """What would change: (now, then) for each path. Undo leaves alone what others changed since."""
    if undo:
        todo = {path: entry["before"] for path, entry in _recorded(system).items()
                if _look(system, path) == entry["after"]}
    else:
        todo = wanted(system)
    found = {path: (_look(system, path), state) for path, state in todo.items()}
    return {path: (now, then) for path, (now, then) in found.items() if now != then}


def _lines(state: State) -> list[str]:
    if state is None:
        return []
    kind, text = state
    return [f"(symbolic link to {text})\n"] if kind == "link" else text.splitlines(True)


def diff(todo: Mapping[str, tuple[State, State]]) -> str:
    """The changes as a unified diff."""
    import difflib  # a start asks this module what the node lacks, and shows no differences

    out: list[str] = []
    for path, (now, then) in todo.items():
        before, after = (path if state is not None else "/dev/null" for state in (now, then))
        out += difflib.unified_diff(_lines(now), _lines(then), before, after)
    return "".join(out)


def apply(system: System, undo: bool = False) -> dict[str, tuple[State, State]]:
    """Make the changes (or take them back); returns what was done. May be killed and repeated."""
    todo = changes(system, undo)
    record = _recorded(system)
    if not undo and todo:
        for path, (now, then) in todo.items():
            before = record[path]["before"] if path in record else now
            record[path] = {"before": before, "after": then}
        import json

        # First, so that whatever is changed can be taken back.
        _put(system, _RECORD, ("text", json.dumps(record, indent=1) + "\n"))
    for path, (_, then) in todo.items():
        _put(system, path, then)
    if undo and record:
        _put(system, _RECORD, None)
    if todo and not system.root and units.booted(system):
        system.run("systemctl", "daemon-reload", timeout=30.0)
    return todo


def _put(system: System, path: str, state: State) -> None:
    directory, name = os.path.split(path)
    try:
        if state is None:
            system.remove(directory, [name])
            return
        os.makedirs(system.path(directory), 0o755, exist_ok=True)
        kind, text = state
        if kind == "link":
            temporary = f"{system.path(path)}.{system.nonce}"
            os.symlink(text, temporary)
            os.rename(temporary, system.path(path))
            system.fsync(directory)
        else:
            data = text.encode(errors="surrogateescape")
            system.write(directory, {name: data}, Like(0o644))
    except OSError as error:
        raise Error(f"{path}: {error.strerror}") from error


def run(system: System, check: bool, undo: bool, really: bool) -> int:
    """The `nfslock setup-node` command; returns its exit code (1: --check found something)."""
    if check:
        lacking = missing(system)
        print("\n".join(lacking) or "this node has what nfslock needs")
        return 1 if lacking else 0
    kept = [path for path, entry in _recorded(system).items()
            if undo and _look(system, path) not in (entry["before"], entry["after"])]
    todo = apply(system, undo) if really else changes(system, undo)
    print(diff(todo) or "nothing to change\n", end="")
    for path in kept:
        print(f"{path} was changed by somebody else since and is left alone")
    if todo and not really:
        print("\nNothing was changed: that takes --apply.")
    if todo and really:
        print("\nrpc.statd takes this up when it is started next; starting a service does that.")
    return 0
