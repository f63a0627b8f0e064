# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of a machine's control channel: requests, answers, and events with host times.

The channel is a virtio-serial port: it works while the machine's networks are cut, and it is gone
at the instant the machine is. Nothing here knows what a request is for.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Callable, NamedTuple


class Gone(Exception):
    """The machine ended, or never answered, while a request was under way."""


class Failed(AssertionError):
    """A command on a machine ended with another exit code than 0."""


class Done(NamedTuple):
    """How a command on a machine ended."""

    rc: int
    out: str
    err: str


class Event(NamedTuple):
    """A line that a spawned program printed, or its end (`rc`); `at`: the host's monotonic time."""

    at: float
    program: str
    line: str
    rc: int | None


class Control:
    """Requests to one machine's control agent. `listener` is called with each event, in order,
    in the reader's thread and before anybody else sees it."""

    def __init__(self, name: str, path: Path, listener: Callable[[Event], None]) -> None:
        self.name = name
        self.listener = listener
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._reader = threading.Thread(target=self._read, name=f"control {name}", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the channel; whoever waits for an answer gets Gone."""
        with self._lock:
            self._closed = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._reader.join(5) if self._reader is not threading.current_thread() else None

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                got = self._socket.recv(1 << 18)
            except OSError:
                got = b""
            if not got:
                break
            now = time.monotonic()
            *lines, pending = (pending + got).split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:  # the rest of a line of before a restore
                    continue
                if "id" in message:
                    future = self._waiting.pop(message["id"], None)
                    if future is not None and not future.done():
                        future.set_result(message)
                elif message["event"] in ("line", "exit"):
                    self.listener(
                        Event(now, message["name"], message.get("line", ""), message.get("rc"))
                    )
        with self._lock:
            self._closed = True
            waiting, self._waiting = dict(self._waiting), {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Gone(f"{self.name} went away"))

    def begin(self, do: str, **more: object) -> Future[dict[str, Any]]:
        """Send a request without waiting for its answer."""
        number = next(self._numbers)
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._closed:
                raise Gone(f"{self.name} is not there")
            self._waiting[number] = future
            data = json.dumps({"id": number, "do": do, **more}).encode() + b"\n"
            try:
                self._socket.sendall(data)
            except OSError as error:
                raise Gone(f"{self.name}: {error}") from error
        return future

    def request(self, do: str, timeout: float = 30, **more: object) -> dict[str, Any]:
        """Send a request and wait for its answer, `timeout` seconds at most.

        Raises Gone when the machine does not answer, OSError for what went wrong in it.
        """
        try:
            answer = self.begin(do, **more).result(timeout)
        except FutureTimeout:
            raise Gone(f"{self.name} did not answer {do} in {timeout:g} s") from None
        if "error" in answer and answer["error"] != "timeout":
            raise OSError(f"{self.name}: {do} {more.get('path', '')}: {answer['error']}")
        return answer

    def hello(self, timeout: float) -> None:
        """Wait until the agent answers; a machine that boots takes no requests before that."""
        end = time.monotonic() + timeout
        while True:
            try:
                self.request("time", timeout=2)
                return
            except Gone:
                if self._closed or time.monotonic() > end:
                    raise

    def clock(self) -> float:
        """Seconds to add to the machine's CLOCK_MONOTONIC to get the host's; good to a few ms."""
        best = (float("inf"), 0.0)
        for _ in range(5):
            start = time.monotonic()
            answer = self.request("time", timeout=60)
            end = time.monotonic()
            best = min(best, (end - start, (start + end) / 2 - answer["t"]))
        return best[1]

    def run(self, *argv: str, timeout: float = 60, env: dict[str, str] | None = None) -> Done:
        """Run a command to its end, whatever its exit code. A single word goes to sh -c."""
        words = list(argv) if len(argv) > 1 else ["sh", "-c", argv[0]]
        answer = self.request("run", timeout + 5, argv=words, env=env or {}, limit=timeout)
        return Done(answer.get("rc", -1), answer.get("out", ""), answer.get("err", ""))

    def read(self, path: str) -> bytes:
        """Contents of a file of the machine, read without a fork there."""
        return base64.b64decode(self.request("read", path=path)["data"])

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file on the machine, with the folders above it."""
        self.request("write", path=path, data=base64.b64encode(data).decode(), mode=mode)
