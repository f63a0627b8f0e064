# SPDX-License-Identifier: GPL-2.0-or-later
"""Many TCP clients in one process, and a server that keeps what it accepts, for the bench.

    connections.py serve ADDRESS            says "ready"; port 2049
    connections.py connect ADDRESS NUMBER   from 10.8.0.1 on, an address each

The clients print their [address, port] pairs as JSON once all are connected. "send" on standard
input has each send something on its connection. On "watch" every client that hears that its
connection is gone connects anew; when the last is connected again, the monotonic time is printed.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import time

PORT = 2049
#: Another in each run: the server may still know the last run's connections.
OWN_PORT = 512 + os.getpid() % 500


def serve(address: str) -> None:
    """Accept for ever."""
    listener = socket.create_server((address, PORT), backlog=4096)
    print("ready", flush=True)
    kept = []
    while True:
        kept.append(listener.accept())


def dial(address: str, number: int, wait: bool) -> socket.socket:
    """A connection of client `number`; wait: until it is there."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: the prefix is local by a route
    sock.bind((f"10.8.{number >> 8}.{number & 255}", OWN_PORT))
    sock.setblocking(wait)
    sock.connect_ex((address, PORT))
    return sock


def watch(address: str, clients: dict[int, socket.socket]) -> None:
    """Connect anew where the connection is gone, until all have a new one."""
    poll = select.epoll()
    numbers = {}
    for number, sock in clients.items():
        poll.register(sock, select.EPOLLIN)
        numbers[sock.fileno()] = number
    again: set[int] = set()
    left = len(clients)
    while left:
        for descriptor, events in poll.poll():
            number = numbers.pop(descriptor)
            if number in again and not events & (select.EPOLLERR | select.EPOLLHUP):
                left -= 1
                poll.unregister(descriptor)
                continue
            poll.unregister(descriptor)
            clients[number].close()
            again.add(number)
            clients[number] = dial(address, number, False)
            numbers[clients[number].fileno()] = number
            poll.register(clients[number], select.EPOLLOUT)
    print(json.dumps(time.monotonic()), flush=True)


def connect(address: str, count: int) -> None:
    """See the module."""
    clients = {number: dial(address, number, True) for number in range(1, count + 1)}
    print(json.dumps([sock.getsockname() for sock in clients.values()]), flush=True)
    for line in sys.stdin:
        if line == "send\n":
            for sock in clients.values():
                sock.setblocking(False)
                sock.send(b"?")
        elif line == "watch\n":
            watch(address, clients)
            return


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        connect(sys.argv[2], int(sys.argv[3]))
