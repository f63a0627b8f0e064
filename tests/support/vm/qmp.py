# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor protocol, as much of it as the rig needs: one command, one answer."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class Monitor:
    """A connection to one QEMU process. Raises OSError when it refuses a command or is gone."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rwb")
        self._file.readline()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: object) -> Any:
        """Execute a command, skip the events that come before its answer, return the answer."""
        request = {"execute": name, "arguments": arguments}
        self._file.write(json.dumps(request).encode() + b"\n")
        self._file.flush()
        while True:
            line = self._file.readline()
            if not line:
                raise OSError(f"the monitor went away at {name}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise OSError(f"{name}: {answer['error']['desc']}")

    def close(self) -> None:
        self._file.close()
        self._socket.close()
