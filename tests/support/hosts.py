# SPDX-License-Identifier: GPL-2.0-or-later
"""The two kinds of machines of an NFS cluster: server nodes and clients, with real rpc.statd.

Daemons are the distribution's. What the kernel would do (lockd asking statd to monitor a peer, and
hearing from it) is done by RPC, with the product's codec. Nothing here calls the agent.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from nfslock import rpc

from .machine import CHECKOUT, Machine, World
from .wait import wait_until

SM = "/var/lib/nfs/sm"
ETAB = "/var/lib/nfs/etab"
_STANDIN = str(CHECKOUT / "tests/support/standin.py")
_LOCKD_LOG = "/var/log/lockd-heard"
_CALLOUT_LOG = "/tmp/callouts"
_CALLOUT = f"""#!/bin/sh
echo "$(date +%s.%N) $1 $2 $3 $4" >> {_CALLOUT_LOG}
"""
_xids = itertools.count(1000)


class Notified(NamedTuple):
    """What a client's statd received: rpc.statd's ha-callout event `sm-notify`."""

    at: float  # seconds since the epoch
    name: str
    address: str
    state: int


class Accepted(NamedTuple):
    """What a client's lockd was told by its statd, which had found the notification new."""

    at: float  # seconds since the epoch
    mon_name: str
    state: int
    priv: str


class Host(Machine):
    """A machine with rpcbind."""

    def __init__(self, world: World, name: str, addresses: Sequence[str], hosts: str = "") -> None:
        super().__init__(world, name, addresses, hosts)
        self.run("rpcbind")
        wait_until(lambda: self.path("/run/rpcbind.sock").exists(), f"{name}: rpcbind's socket")

    def call(self, prog: int, vers: int, proc: int, args: bytes = b"", tcp: bool = False) -> bytes:
        """Call a program on 127.0.0.1 of this machine and return the result's bytes."""
        proto = rpc.IPPROTO_TCP if tcp else rpc.IPPROTO_UDP
        query = rpc.encode_getport(next(_xids), prog, vers, proto)
        port = rpc.read_getport(self._exchange(rpc.PORTMAP_PORT, query, False))
        if not port:
            raise ConnectionRefusedError(f"{self.name}: program {prog} is not registered")
        return self._exchange(port, rpc.encode_call(next(_xids), prog, vers, proc, args), tcp)

    def _exchange(self, port: int, message: bytes, tcp: bool) -> bytes:
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with self.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(5)
            sock.connect(("127.0.0.1", port))
            sock.sendall(rpc.mark_record(message) if tcp else message)
            reply: bytes | None = None if tcp else sock.recv(65536)
            rest = b""
            while reply is None:
                reply, rest = rpc.split_record(rest + sock.recv(65536))
        _, status, body = rpc.decode_reply(reply)
        assert status == rpc.SUCCESS, f"{self.name}: port {port}: RPC status {status}"
        return body

    def registered(self, prog: int, vers: int) -> bool:
        """Return whether rpcbind has the program for UDP."""
        query = rpc.encode_getport(next(_xids), prog, vers)
        return rpc.read_getport(self._exchange(rpc.PORTMAP_PORT, query, False)) != 0

    def statd_answers(self) -> bool:
        """Return whether statd answers its NULL procedure."""
        try:
            self.call(rpc.STATD, 1, 0)
        except OSError:
            return False
        return True

    def sm_mon(self, mon_name: str, my_name: str = "", priv: bytes = b"", tcp: bool = True) -> int:
        """Have statd monitor mon_name, as lockd does at a peer's first lock; return its state.

        priv: lockd's cookie, 16 bytes; without it a new one. Raises AssertionError on STAT_FAIL.
        """
        args = rpc.mon_args(mon_name, my_name or self.name, priv or os.urandom(16))
        result, state = rpc.read_stat_res(self.call(rpc.STATD, 1, rpc.SM_MON, args, tcp))
        assert result == 0, f"{self.name}: statd refused to monitor {mon_name}"
        return state

    def sm_unmon(self, mon_name: str, my_name: str = "") -> None:
        """Have statd forget mon_name, as lockd does some minutes after its last lock."""
        args = rpc.mon_id_args(mon_name, my_name or self.name)
        self.call(rpc.STATD, 1, rpc.SM_UNMON, args, tcp=True)

    def stand_in(self, name: str, log: str = "") -> subprocess.Popen[str]:
        """Start the stand-in for nfsd or lockd and return when it is registered."""
        argv = ["/usr/bin/python3", "-I", _STANDIN, name, *([log] if log else [])]
        process = self.spawn(*argv, log=f"/var/log/{name}.log")
        prog = rpc.NFS if name == "nfsd" else rpc.NLM
        wait_until(
            lambda: self.registered(prog, 3),
            f"{self.name}: {name} registered",
            otherwise=lambda: self.read(f"/var/log/{name}.log"),
        )
        return process

    def sm_records(self) -> dict[str, str]:
        """Return statd's monitor records: file name and content."""
        return read_directory(self, SM)


class Node(Host):
    """A server node of the cluster."""

    def __init__(self, world: World, name: str, addresses: Sequence[str], hosts: str = "") -> None:
        super().__init__(world, name, addresses, hosts)
        self.start_statd()

    def start_statd(self) -> None:
        """Start rpc.statd as the distribution's unit does: in the background, not notifying."""
        self.run("rpc.statd", "--no-notify")
        wait_until(self.statd_answers, f"{self.name}: statd answers")

    def export(self, path: str, client: str = "192.0.2.0/24") -> None:
        """Enter path into the export table, in the format of exportfs (exports(5))."""
        with open(self.path(ETAB), "a") as file:
            file.write(f"{path}\t{client}(rw,sync,wdelay,hide,secure,root_squash,fsid=1)\n")

    def unexport(self, path: str) -> None:
        """Remove path from the export table."""
        etab = self.path(ETAB)
        kept = [line for line in etab.read_text().splitlines(True) if line.split("\t")[0] != path]
        etab.write_text("".join(kept))


class Client(Host):
    """An NFS client: its real statd monitors servers for a stand-in of its lockd."""

    def __init__(self, world: World, name: str, addresses: Sequence[str], hosts: str = "") -> None:
        super().__init__(world, name, addresses, hosts)
        callout = self.path("/usr/local/sbin/note-event")
        callout.write_text(_CALLOUT)
        callout.chmod(0o755)
        self.statd = self.start_statd()
        self.lockd = self.stand_in("lockd", _LOCKD_LOG)

    def start_statd(self) -> subprocess.Popen[str]:
        """Start rpc.statd in the foreground with its log and callout; return when it answers."""
        options = ["-F", "-d", "--no-notify", "--ha-callout", "/usr/local/sbin/note-event"]
        process = self.spawn("rpc.statd", *options, log="/var/log/statd.log")
        wait_until(self.statd_answers, f"{self.name}: statd answers", otherwise=self.statd_log)
        return process

    def statd_log(self) -> str:
        """Return what statd has said."""
        return self.read("/var/log/statd.log")

    def watch(self, server: str) -> str:
        """Have statd monitor a server, as the client's lockd does; return the cookie in hex."""
        cookie = os.urandom(16)
        self.sm_mon(server, priv=cookie)
        return cookie.hex()

    def notified(self) -> list[Notified]:
        """Return every SM_NOTIFY that statd received, new or not."""
        lines = (line.split() for line in self.read(_CALLOUT_LOG).splitlines(keepends=True))
        return [
            Notified(float(at), name, address, int(state))
            for at, event, name, address, state in (parts for parts in lines if len(parts) == 5)
            if event == "sm-notify"
        ]

    def accepted(self) -> list[Accepted]:
        """Return every notification that statd took for new and passed on to lockd."""
        lines = self.read(_LOCKD_LOG).splitlines(keepends=True)
        return [Accepted(**json.loads(line)) for line in lines if line.endswith("\n")]


def read_directory(machine: Machine, where: str) -> dict[str, str]:
    """Return the regular files of a directory on a machine: name and content."""
    found = {}
    try:
        entries = sorted(os.scandir(machine.path(where)), key=lambda entry: entry.name)
    except FileNotFoundError:
        return {}
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            found[entry.name] = machine.read(f"{where}/{entry.name}")
    return found
