# SPDX-License-Identifier: GPL-2.0-or-later
"""answerer.c in Python, for machines without a compiler: slower, so that targets may be missed.

Same arguments and output; it may use nothing but the standard library.
"""

from __future__ import annotations

import json
import random
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque

HOSTS, STATD, PKTINFO = 1 << 18, 662, 8


def main() -> None:
    """Answer until SIGTERM."""
    expect, dead = int(sys.argv[1]), int(sys.argv[2])
    loss, delay = float(sys.argv[3]) / 100, float(sys.argv[4]) / 1000
    first: set[tuple[bool, int]] = set()
    state: dict[str, list[int]] = {"sources": [0, 0], "states": [-1, -1]}
    numbers = {"notified": 0, "last": 0.0, "notifies": 0, "lookups": 0}
    seen: list[object] = [None, None]
    late: deque[tuple[float, socket.socket, bytes, list[tuple[int, int, bytes]], object]] = deque()
    chance = random.Random(7).random
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    selector = selectors.DefaultSelector()
    for family in (socket.AF_INET, socket.AF_INET6):
        for port in (111, STATD):
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: see answerer.c
            else:
                sock.setsockopt(socket.IPPROTO_IP, PKTINFO, 1)
            sock.bind(("", port))
            selector.register(sock, selectors.EVENT_READ, family == socket.AF_INET6)
    print("ready", flush=True)

    def serve(sock: socket.socket, v6: bool) -> None:
        data, control, _, peer = sock.recvmsg(1500, 256)
        info = control[0][2]
        if v6:
            host = int.from_bytes(info[12:16], "big") % HOSTS
            reply_control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info[:16] + bytes(4))]
        else:
            host = int.from_bytes(info[8:12], "big") % HOSTS
            reply_control = [(socket.IPPROTO_IP, PKTINFO, bytes(4) + info[8:12] + bytes(4))]
        if len(data) < 40 or host * 2654435761 % (1 << 32) % 100 < dead or chance() < loss:
            return
        reply = data[:4] + struct.pack(">5I", 1, 0, 0, 0, 0)
        _, _, _, prog, _, proc = struct.unpack_from(">6I", data)
        if prog == 100000:
            numbers["lookups"] += 1
            reply += struct.pack(">I8s", 8, b"::.2.150") if v6 else struct.pack(">I", STATD)
        elif proc == 6:
            length = struct.unpack_from(">I", data, 40)[0]
            value = struct.unpack_from(">I", data, 44 + length + -length % 4)[0]
            numbers["notifies"] += 1
            if seen[v6] != peer[0]:
                state["sources"][v6] += 1
                seen[v6] = peer[0]
            low, high = state["states"]
            state["states"] = [value if low < 0 else min(low, value), max(high, value)]
            if (v6, host) not in first:
                first.add((v6, host))
                numbers["notified"] += 1
                numbers["last"] = time.monotonic()
        if chance() < loss:
            return
        if delay:
            late.append((time.monotonic() + delay, sock, reply, reply_control, peer))
        else:
            sock.sendmsg([reply], reply_control, 0, peer)

    while running:
        while late and late[0][0] <= time.monotonic():
            _, sock, reply, control, peer = late.popleft()
            sock.sendmsg([reply], control, 0, peer)
        for key, _ in selector.select(0.001 if late else 0.1):
            for _ in range(64):
                try:
                    serve(key.fileobj, key.data)  # type: ignore[arg-type]
                except BlockingIOError:
                    break
        if numbers["notified"] >= expect:
            expect = 1 << 62
            print("complete", flush=True)
    print(json.dumps({**numbers, **state}))


if __name__ == "__main__":
    main()
