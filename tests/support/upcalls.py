# SPDX-License-Identifier: GPL-2.0-or-later
"""A real nfsdcld on a test machine, and the kernel's side of its pipe.

There is no nfsd on this kernel to make the pipe `nfsd/cld` in rpc_pipefs: a pseudo-terminal in raw
mode stands in its place, since it carries bytes both ways as the pipe does. The messages are those
of include/uapi/linux/nfsd/cld.h, version 2.
"""

from __future__ import annotations

import ast
import os
import pty
import struct
import subprocess
import tty
from typing import Any

from .machine import CHECKOUT, Machine
from .wait import wait_until

DATABASE = "/var/lib/nfs/nfsdcld/main.sqlite"
_PIPES = "/var/lib/nfs/rpc_pipefs"
_SIZE = 8 + 2 + 1024 + 1 + 32
_CREATE, _REMOVE, _CHECK, _GRACE_DONE, _GRACE_START, _GET_VERSION = range(6)
_IN_PROGRESS = -115  # EINPROGRESS: one client of several


class Nfsdcld:
    """The daemon, and what nfsd would tell it."""

    def __init__(self, machine: Machine, *options: str) -> None:
        self.machine = machine
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        machine.path(f"{_PIPES}/nfsd").mkdir(parents=True, exist_ok=True)
        pipe = machine.path(f"{_PIPES}/nfsd/cld")
        pipe.unlink(missing_ok=True)
        pipe.symlink_to(os.ttyname(slave))
        # Having no capabilities, nfsdcld writes only where root may as the owner.
        machine.path("/var/lib/nfs/nfsdcld").mkdir(mode=0o700, exist_ok=True)
        self._xid = 0
        self.log = f"/var/log/nfsdcld.{self._master}"
        self.process: subprocess.Popen[str] = machine.spawn(
            "setsid", "nfsdcld", "-F", "-d", "-p", _PIPES, *options, log=self.log)
        wait_until(lambda: machine.find("nfsdcld", "-F"), "nfsdcld runs",
                   otherwise=lambda: machine.read(self.log))
        self._ask(_GET_VERSION)
        os.close(slave)

    def greet(self) -> None:
        """Wait for whoever has the pipe open now: the agent may have started another daemon."""
        self._ask(_GET_VERSION)

    def create(self, owner: bytes, principal: bytes = b"") -> None:
        """A client's first RECLAIM_COMPLETE or OPEN_CONFIRM; durable when this returns."""
        self._ask(_CREATE, _client(owner, principal))

    def remove(self, owner: bytes) -> None:
        """A client's lease ran out, or it said goodbye."""
        self._ask(_REMOVE, _client(owner))

    def grace_start(self) -> list[bytes]:
        """nfsd starts; returns who may reclaim."""
        return self._ask(_GRACE_START)

    def grace_done(self) -> None:
        """The grace period ends."""
        self._ask(_GRACE_DONE, struct.pack("=q", 0))

    def stop(self) -> None:
        """End the daemon."""
        for process in self.machine.find("nfsdcld", "-F"):
            process.kill()
        self.process.wait()
        os.close(self._master)

    def _ask(self, command: int, body: bytes = b"") -> list[bytes]:
        self._xid += 1
        message = struct.pack("=BBhI", 2, command, 0, self._xid) + body
        os.write(self._master, message.ljust(_SIZE, b"\0"))
        told: list[bytes] = []
        while True:
            answer = b""
            while len(answer) < _SIZE:
                answer += os.read(self._master, _SIZE - len(answer))
            status, xid = struct.unpack_from("=hI", answer, 2)
            assert xid == self._xid, answer[:16]
            if status != _IN_PROGRESS:
                assert status == 0, f"nfsdcld: command {command}: status {status}"
                return told
            (length,) = struct.unpack_from("=H", answer, 8)
            told.append(answer[10 : 10 + length])


def _client(owner: bytes, principal: bytes = b"") -> bytes:
    return (struct.pack("=H", len(owner)) + owner.ljust(1024, b"\0")
            + struct.pack("=B", len(principal)) + principal)


_LOOP = f"""
import sys
sys.path.insert(0, {str(CHECKOUT / 'lib')!r})
from nfslock.system import System
from nfslock.tracking_nfsdcld import Nfsdcld
store = Nfsdcld(System(), sys.argv[1], sys.argv[2] == "live")
for line in sys.stdin:
    name, *arguments = eval(line)
    print(repr(getattr(store, name)(*arguments)), flush=True)
"""


class Store:
    """Our view of a database on the machine, by a process there.

    SQLite resolves /proc/PID/root as a link: opened from outside, the file would be the host's.
    """

    def __init__(self, machine: Machine, live: bool = False) -> None:
        argv = ["nsenter", "-t", str(machine.pid), "--all", "--", "/usr/bin/python3", "-I", "-c",
                _LOOP, os.path.dirname(DATABASE), "live" if live else "rest"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, method: str, *arguments: object) -> Any:
        """Call a method of the store there and return what it returns."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{(method, *arguments)!r}\n")
        self._process.stdin.flush()
        return ast.literal_eval(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def printed(machine: Machine, path: str) -> list[str]:
    """What nfsdclddb says of a database, by lines."""
    return machine.run("nfsdclddb", "-p", path, "print").stdout.splitlines()
