# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for the kernel's nfsd and lockd, where the kernel has none.

`standin.py nfsd` and `standin.py lockd` register with the local rpcbind, answer NULL on every
address over UDP and TCP, IPv4 and IPv6, and unregister on SIGTERM. `lockd` also answers the call
by which statd tells lockd that a peer restarted (NLMPROC_NSM_NOTIFY, fs/lockd/svcproc.c), and
appends each to the file in argv[2] as a line of JSON. They hold no locks.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
from nfslock import rpc

RPCBIND = "/run/rpcbind.sock"
PROGRAMS = {
    # name: program, versions, UDP and TCP port (lockd's is any free one; fixed here)
    "nfsd": (rpc.NFS, (3,), 2049),
    "lockd": (rpc.NLM, (1, 3, 4), 4045),
}
RPCBPROC_SET, RPCBPROC_UNSET = 1, 2
NSM_NOTIFY = 16
NETIDS = {"udp": "0.0.0.0", "tcp": "0.0.0.0", "udp6": "::", "tcp6": "::"}


def rpcbind(proc: int, prog: int, vers: int, netid: str, port: int) -> None:
    """Register or unregister one version on one transport with the local rpcbind."""
    args = rpc.rpcb_args(prog, vers, netid, rpc.format_uaddr(NETIDS[netid], port), "superuser")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(RPCBIND)
        sock.sendall(rpc.mark_record(rpc.encode_call(1, rpc.PORTMAP, 4, proc, args)))
        message, rest = None, b""
        while message is None:
            if not (chunk := sock.recv(4096)):
                raise OSError("rpcbind closed the connection")
            message, rest = rpc.split_record(rest + chunk)
    _, status, body = rpc.decode_reply(message)
    if proc == RPCBPROC_SET and (status or rpc.read_uint(body)[0] != 1):
        raise OSError(f"rpcbind refused {prog} v{vers} {netid}")


def register(name: str, proc: int) -> None:
    prog, versions, port = PROGRAMS[name]
    for netid in NETIDS:
        for vers in versions:
            rpcbind(proc, prog, vers, netid, port)


def answer(name: str, message: bytes, log: str) -> bytes:
    """Return the reply to a call; note a notification."""
    xid, prog, vers, proc, body = rpc.decode_call(message)
    if prog != PROGRAMS[name][0]:
        return rpc.encode_reply(xid, status=rpc.PROG_UNAVAIL)
    if vers not in PROGRAMS[name][1]:
        versions = PROGRAMS[name][1]
        mismatch = rpc.xdr_uint(versions[0], versions[-1])
        return rpc.encode_reply(xid, mismatch, rpc.PROG_MISMATCH)
    if proc == 0:
        return rpc.encode_reply(xid)
    if proc == NSM_NOTIFY and log:
        mon_name, offset = rpc.read_string(body)
        state, offset = rpc.read_uint(body, offset)
        seen = {"mon_name": mon_name.decode(), "state": state, "priv": body[offset:].hex()}
        with open(log, "a") as file:
            file.write(json.dumps({"at": time.time(), **seen}) + "\n")
        return rpc.encode_reply(xid)
    return rpc.encode_reply(xid, status=rpc.PROC_UNAVAIL)


def answer_datagram(name: str, sock: socket.socket, log: str) -> None:
    """Answer from the address that was asked, as the kernel's servers do."""
    message, control, _, peer = sock.recvmsg(65536, 256)
    asked = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data[:16] + struct.pack("i", 0))
             for _, kind, data in control if kind == socket.IPV6_PKTINFO]  # fmt: skip
    sock.sendmsg([answer(name, message, log)], asked, 0, peer)


def serve(name: str, log: str) -> None:
    port = PROGRAMS[name][2]
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for sock in (udp, tcp):
        sock.bind(("::", port))
    tcp.listen()
    register(name, RPCBPROC_UNSET)
    register(name, RPCBPROC_SET)
    poll = selectors.DefaultSelector()
    poll.register(udp, selectors.EVENT_READ)
    poll.register(tcp, selectors.EVENT_READ)
    buffers: dict[socket.socket, bytes] = {}
    while True:
        for key, _ in poll.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is udp:
                answer_datagram(name, udp, log)
            elif sock is tcp:
                stream, _ = tcp.accept()
                buffers[stream] = b""
                poll.register(stream, selectors.EVENT_READ)
            else:
                try:
                    chunk = sock.recv(65536)
                except ConnectionError:  # who asked was killed
                    chunk = b""
                message, buffers[sock] = rpc.split_record(buffers[sock] + chunk)
                if message is not None:
                    try:
                        sock.sendall(rpc.mark_record(answer(name, message, log)))
                    except ConnectionError:  # the next recv says so and closes it
                        pass
                elif not chunk:
                    poll.unregister(sock)
                    buffers.pop(sock)
                    sock.close()


def main() -> None:
    name, log = sys.argv[1], (sys.argv[2:] or [""])[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(name, log)
    finally:
        register(name, RPCBPROC_UNSET)


if __name__ == "__main__":
    main()
