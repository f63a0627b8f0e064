# SPDX-License-Identifier: GPL-2.0-or-later
"""A learning Ethernet switch between the machines: records every frame, drops what a test cuts off.

Each machine's network is a QEMU stream socket (four bytes of length, then the frame) that connects
to a Unix socket here: no bridge, no rights, no cost to the guests. Frames travel only between ports
of the same network. What the frames mean is decoded afterwards, in `frames`.
"""

from __future__ import annotations

import collections
import selectors
import socket
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

#: Frames for a machine that does not read (frozen, booting) are dropped beyond this many bytes.
QUEUE_LIMIT = 1 << 20
RECORD_LIMIT = 96 << 20


class Frame(NamedTuple):
    """One frame as it came in; `at` is the host's monotonic time, `port` is "machine/network"."""

    at: float
    port: str
    data: bytes
    dropped: bool


class Port:
    """One machine's network interface: the listening socket, and the connection, if any."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.network = name.split("/")[1]
        self.listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.setblocking(False)
        self.connection: socket.socket | None = None
        self.incoming = bytearray()
        self.outgoing = bytearray()


class Switch:
    """Runs in a thread of its own until close(). `cut` and `heal` take effect at once."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._size = 0
        self._ports: dict[str, Port] = {}
        self._table: dict[tuple[str, bytes], Port] = {}
        self._cut: set[str] = set()
        self._pairs: set[frozenset[str]] = set()
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._tasks: collections.deque[Port] = collections.deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="switch", daemon=True)
        self._thread.start()

    def port(self, name: str, path: Path) -> None:
        """Make (or make anew, after a power cut) the socket of port "machine/network"."""
        old = self._ports.get(name)
        if old is None:
            self._ports[name] = Port(name, path)
            self._tasks.append(self._ports[name])
            self._wake_out.send(b"x")

    def cut(self, *ports: str) -> None:
        """Drop everything from and to these ports."""
        self._cut |= set(ports)

    def cut_between(self, one: str, other: str) -> None:
        """Drop what these two ports send to each other, and nothing else."""
        self._pairs.add(frozenset((one, other)))

    def heal(self, *ports: str) -> None:
        """Undo what cut() did to these ports; without any, every cut."""
        self._cut -= set(ports or self._cut)
        if not ports:
            self._pairs.clear()

    def forget(self) -> None:
        """Start a new recording: frames, learnt addresses and cuts are of the past."""
        self.heal()
        self._table.clear()
        self.frames = []
        self._size = 0

    def close(self) -> None:
        """End the thread and every socket."""
        self._closing = True
        self._wake_out.send(b"x")
        self._thread.join(5)
        for port in self._ports.values():
            port.listener.close()
            if port.connection is not None:
                port.connection.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _run(self) -> None:
        while not self._closing:
            for key, events in self._selector.select(1):
                port = key.data
                if port is None:
                    self._wake_in.recv(64)
                    while self._tasks:
                        new = self._tasks.popleft()
                        self._selector.register(new.listener, selectors.EVENT_READ, new)
                elif key.fileobj is port.listener:
                    self._accept(port)
                elif key.fileobj is port.connection:  # else: replaced by an earlier event
                    if events & selectors.EVENT_READ:
                        self._receive(port)
                    if events & selectors.EVENT_WRITE and port.connection is not None:
                        self._flush(port)

    def _accept(self, port: Port) -> None:
        connection, _ = port.listener.accept()
        self._drop(port)
        connection.setblocking(False)
        port.connection = connection
        self._selector.register(connection, selectors.EVENT_READ, port)

    def _drop(self, port: Port) -> None:
        if port.connection is not None:
            self._selector.unregister(port.connection)
            port.connection.close()
            port.connection = None
        port.incoming.clear()
        port.outgoing.clear()

    def _receive(self, port: Port) -> None:
        assert port.connection is not None
        try:
            got = port.connection.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self._drop(port)
            return
        port.incoming += got
        now = time.monotonic()
        start = 0
        while len(port.incoming) - start >= 4:
            (length,) = struct.unpack_from(">I", port.incoming, start)
            if len(port.incoming) - start - 4 < length:
                break
            self._forward(port, bytes(port.incoming[start + 4 : start + 4 + length]), now)
            start += 4 + length
        del port.incoming[:start]

    def _forward(self, source: Port, data: bytes, now: float) -> None:
        dropped = source.name in self._cut
        if self._size < RECORD_LIMIT:
            self.frames.append(Frame(now, source.name, data, dropped))
            self._size += len(data)
        if dropped:
            return
        self._table[source.network, data[6:12]] = source
        target = None if data[0] & 1 else self._table.get((source.network, data[:6]))
        targets = [target] if target is not None else list(self._ports.values())
        for port in targets:
            if (
                port is not source
                and port.network == source.network
                and port.connection is not None
                and port.name not in self._cut
                and frozenset((source.name, port.name)) not in self._pairs
                and len(port.outgoing) < QUEUE_LIMIT
            ):
                port.outgoing += struct.pack(">I", len(data)) + data
                self._flush(port)

    def _flush(self, port: Port) -> None:
        assert port.connection is not None
        try:
            sent = port.connection.send(port.outgoing) if port.outgoing else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(port)
            return
        del port.outgoing[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.outgoing else 0)
        self._selector.modify(port.connection, wanted, port)

    def write_pcap(self, path: Path) -> None:
        """The recording as a pcap file (link type Ethernet), with times of the wall clock."""
        shift = time.time() - time.monotonic()
        with open(path, "wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for frame in list(self.frames):
                at = frame.at + shift
                file.write(
                    struct.pack(
                        "<IIII", int(at), int(at % 1 * 1e6), len(frame.data), len(frame.data)
                    )
                )
                file.write(frame.data)
