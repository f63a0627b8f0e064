#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""rpc.statd's ha-callout: hands a new client to every propagator here before lockd grants its lock.

statd runs `callout add-client MON_NAME MY_NAME` after its own record is on disk and before it
answers lockd (nfs-utils utils/statd/monitor.c, sm_mon_1_svc): when this returns, the record is
durable in each holding directory. statd is single-threaded and waits without a limit, so this is
bounded (callout_timeout) and then lets the lock be granted: the propagator is told how often that
happened, and catches up.

It runs as statd's user without capabilities, with all of statd's sockets open, once for each new
client, so it imports built-in modules only and starts nothing. callout.c is the same protocol:

    RUN/SERVICE/callout.sock     one packet `add-client NUL MON_NAME NUL MY_NAME`, one packet back:
                                 `durable`, or why not
    RUN/SERVICE/callout.timeout  how long to wait, in milliseconds
    RUN/SERVICE/callout.missed   a byte for each client that was let through without an answer

A socket that refuses is a propagator being restarted: it is tried again until the time is over.
"""

import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_SEQPACKET, socket
from errno import EACCES, ENOENT, ENOTDIR, EPERM
from posix import (
    O_APPEND,
    O_CLOEXEC,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    chdir,
    close,
    closerange,
    listdir,
    read,
    write,
)
from posix import open as open_file
from select import POLLIN, poll
from time import monotonic

RUN = "/run/nfslock"
_TIMEOUT_MS, _LIMIT_MS = 2000, 30000
#: Milliseconds between two attempts to reach a propagator that is being restarted.
_PAUSE_MS = 20
_DURABLE = b"durable"


def connect(packet: bytes) -> "socket | None":
    """A socket of the service in the current directory with the packet sent.

    None: try again. FileNotFoundError: no propagator here; PermissionError: nor will there be.
    """
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        sock.connect("callout.sock")
        sock.send(packet)
    except OSError as error:
        sock.close()
        if error.errno in (ENOENT, ENOTDIR, EACCES, EPERM):
            raise
        return None
    return sock


def timeout_ms() -> int:
    """How long the service in the current directory wants to be waited for, in milliseconds."""
    try:
        fd = open_file("callout.timeout", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        try:
            value = int(read(fd, 16))
            return min(value, _LIMIT_MS) if value > 0 else _TIMEOUT_MS
        finally:
            close(fd)
    except (OSError, ValueError):
        return _TIMEOUT_MS


def answer_of(sock: socket) -> bytes:
    """The propagator's answer; empty when it went away without one."""
    try:
        return bytes(sock.recv(256))
    except OSError:
        return b""
    finally:
        sock.close()


class Round:
    """One client, on its way to every propagator below `run`."""

    def __init__(self, packet: bytes, run: str) -> None:
        self.packet, self.run = packet, run
        #: The connected socket of each service that has not answered; None: it refused.
        self.waiting: dict[str, socket | None] = {}
        self.missed: list[str] = []

    def send(self, service: str) -> None:
        """Make a service's directory the current one and try to reach its propagator.

        A relative name fits into a socket address, whatever the length of the service's name.
        """
        self.waiting.pop(service, None)
        try:
            chdir(f"{self.run}/{service}")
            self.waiting[service] = connect(self.packet)
        except PermissionError:
            self.missed.append(service)
        except OSError:
            return  # not a running service, or stopped meanwhile: it has nothing to keep

    def receive(self, wait_ms: int) -> None:
        """Take the answers that come within `wait_ms` milliseconds."""
        poller = poll()
        asked = {sock.fileno(): (service, sock) for service, sock in self.waiting.items() if sock}
        for fd in asked:
            poller.register(fd, POLLIN)
        for fd, _ in poller.poll(wait_ms if len(asked) == len(self.waiting)
                                 else min(wait_ms, _PAUSE_MS)):
            service, sock = asked[fd]
            answer = answer_of(sock)
            self.waiting[service] = None
            if answer:
                del self.waiting[service]
                if answer != _DURABLE:
                    self.missed.append(service)


def hand_over(packet: bytes, run: str = RUN) -> "list[str]":
    """Give the packet to every propagator below `run`; returns the services that did not take it.

    Changes the current directory.
    """
    began, limit = monotonic(), 0
    this = Round(packet, run)
    try:
        services = listdir(run)
    except OSError:
        return []
    for service in services:
        this.send(service)
        if service in this.waiting:
            limit = max(limit, timeout_ms())
    while this.waiting:
        left = limit - int(1000 * (monotonic() - began))
        if left <= 0:
            break
        this.receive(left)
        for service in [name for name, sock in this.waiting.items() if sock is None]:
            this.send(service)
    return this.missed + list(this.waiting)


def note(missed: "list[str]", mon_name: bytes, run: str = RUN) -> None:
    """Leave word of a client that was let through: for the propagators, and in the syslog."""
    import syslog

    syslog.openlog("nfslock-callout", syslog.LOG_PID, syslog.LOG_DAEMON)
    client = "".join(chr(byte) if 32 < byte < 127 else "?" for byte in mon_name[:256])
    for service in missed:
        try:
            fd = open_file(f"{run}/{service}/callout.missed",
                           O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
            write(fd, b".")
            close(fd)
        except OSError:
            pass
        syslog.syslog(
            syslog.LOG_ERR, f"{service}: the propagator did not confirm the record of {client} in "
            "time; its lock is granted all the same: see `nfslock status`")


def main(argv: "list[bytes]", run: str = RUN) -> int:
    """Handle one event of statd's; always 0: statd does not look at it."""
    if len(argv) >= 4 and argv[1] == b"add-client":
        missed = hand_over(b"\0".join(argv[1:4]), run)
        if missed:
            note(missed, argv[2], run)
    return 0


if __name__ == "__main__":
    # A child of ours cannot keep statd's listeners, but a slow interpreter could, for its while.
    closerange(3, 1024)
    sys.exit(main([argument.encode(errors="surrogateescape") for argument in sys.argv]))
