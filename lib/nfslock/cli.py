# SPDX-License-Identifier: GPL-2.0-or-later
"""The `nfslock` command: what an administrator asks, and the daemons' own entry points."""

from __future__ import annotations

import argparse
import json
import sys

from . import __version__, errors, runtime
from .system import System


def _describe(system: System, service: str) -> dict[str, object]:
    """What is known of one service on this node."""
    files = runtime.Runtime(system, service)
    mark, status = files.read("started") or {}, files.read("status") or {}
    alive = files.process(status)
    if mark.get("lock_migration") == "no":
        return {"service": service, "state": "off (lock_migration=no)"}
    state = status.get("phase", "starting") if alive else "propagator dead" if mark else "stopped"
    total, left = int(status.get("notify_total", 0)), int(status.get("notify_left", 0))
    return {
        "service": service,
        "state": status["phase"] if status.get("phase") == "fenced" else state,
        "holding_dir": mark.get("holding_dir", ""),
        "generation": int(status.get("generation", 0)),
        "nsm_state": int(status.get("state", 0)),
        "records": int(status.get("records", 0)),
        "skipped": int(status.get("skipped", 0)),
        "lag": round(system.monotonic() - float(status.get("last_sweep", 0)), 1) if alive else None,
        "notify": {"total": total, "notified": total - left, "left": left},
        "silent": json.loads(status.get("notify_silent") or "{}") or "",
        "callout": {"confirmed": int(status.get("confirmed", 0)), "missed": files.missed()},
        **_describe_v4(system, mark, status),
        **_describe_takeover(mark, status),
        "waiting_for": status.get("waiting_for", ""),
        "problem": status.get("problem", ""),
        "pid": alive,
    }


def _describe_takeover(mark: dict[str, str], status: dict[str, str]) -> dict[str, object]:
    """Where the time went, in milliseconds: start's steps, what was waited for, notification."""
    told = status.get("notified_ms")
    steps, waited = (json.loads(text or "{}") for text in (
        mark.get("start_ms"), status.get("waited_ms")))
    return {"start_ms": {"in all": sum(steps.values()), **steps} if steps else "",
            "waited_ms": waited or "", "notified_ms": int(told) if told else ""}


def _describe_v4(
    system: System, mark: dict[str, str], status: dict[str, str]
) -> dict[str, object]:
    """The NFSv4 part, nothing without NFSv4; grace: seconds left at most, by server."""
    from . import grace

    if not mark.get("v4_store"):
        return {}
    # nfsd may have turned to another form than the start had reason to expect.
    kind, _, place = (status.get("v4_store") or mark["v4_store"]).partition(" ")
    return {"v4_records": int(status.get("v4_records") or 0), "v4_tracking": kind,
            "v4_store": place, "grace": {name: f"{left} s" for name, left in
                                         grace.remaining(system).items()} or "none"}


def _text(value: object) -> object:
    """Numbers with what they count, clients with what is wrong with them."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{key} ({v})" if isinstance(v, str) else f"{v} {key}"
                     for key, v in value.items())


def _status(arguments: argparse.Namespace) -> int:
    system = System()
    known = arguments.service or runtime.services(system)
    found = [_describe(system, service) for service in known]
    if arguments.json:
        print(json.dumps(found, indent=1))
    elif not found:
        print("no nfslock service on this node")
    for item in () if arguments.json else found:
        print(f"{item['service']}: {item['state']}")
        for name, value in item.items():
            if name not in ("service", "state") and value not in ("", None):
                print(f"  {name:12} {_text(value)}")
    return 0 if all(item["state"] not in ("fenced", "propagator dead") for item in found) else 1


def _supervise(arguments: argparse.Namespace) -> int:
    from . import propagate, supervise

    return supervise.supervise(arguments.service, lambda: propagate.main)


def _setup_node(arguments: argparse.Namespace) -> int:
    from . import setup_node

    return setup_node.run(
        System(arguments.root.rstrip("/")), arguments.check, arguments.undo, arguments.apply)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser("nfslock", description="NFS file locks over a failover")
    parser.add_argument("--version", action="version", version=f"nfslock {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what each service on this node is doing")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("service", nargs="*", help="resource names (default: all)")
    status.set_defaults(action=_status)
    setup = commands.add_parser(
        "setup-node", help="prepare this node: statd's callout, systemd units (default: a diff)")
    how = setup.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="only name what is missing; 1 if any")
    how.add_argument("--apply", action="store_true", help="make the changes")
    setup.add_argument("--undo", action="store_true", help="take the changes back")
    setup.add_argument("--root", default="", help="work below this directory")
    setup.set_defaults(action=_setup_node)
    daemon = commands.add_parser(
        "supervise", help="the propagator and its supervisor (started by the resource agent)")
    daemon.add_argument("service")
    daemon.set_defaults(action=_supervise)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except errors.Error as error:
        print(f"nfslock: {error}", file=sys.stderr)
        return error.code
