# SPDX-License-Identifier: GPL-2.0-or-later
"""A shared disk that records every write and flush in the order in which it answered them.

For machines that are namespaces: QEMU's storage daemon shows an image as a file (FUSE), the
machine's kernel puts a loop device and its filesystem on that, and the filter blklogwrites in
between writes the recording (`writelog` reads it). Each stay on a machine is a recording of its
own, with the image as it was when it began. Nothing here knows what the disk is for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from .machine import PATIENCE, Image, Machine, World
from .wait import wait_until

#: Where the machines see the disk.
_SHOWN = "/run/recorded-disk"


class Recording(NamedTuple):
    """Paths, as the runner sees them: the image before the first request, and the requests."""

    base: Path
    log: Path


class RecordedDisk(Image):
    """To be attached to a machine before it is mounted there, and detached after umount."""

    def __init__(self, world: World, megabytes: int = 16) -> None:
        super().__init__(world, _SHOWN)
        self.content = world.image(megabytes)
        self._daemon: tuple[Machine, subprocess.Popen[str]] | None = None

    def attach(self, machine: Machine) -> Recording:
        """Begin a recording: the disk is there on the machine when this returns."""
        assert self._daemon is None, "the disk is attached already"
        base, log = self.world.place().path, self.world.place().path
        recording = Recording(self.world.seen(base), self.world.seen(log))
        shutil.copyfile(self.world.seen(self.content.path), recording.base)
        recording.log.touch()
        shown = machine.path(_SHOWN)
        shown.write_bytes(b"")
        process = machine.spawn(
            "qemu-storage-daemon",
            "--blockdev", f"file,node-name=content,filename={self.content.path},locking=off",
            "--blockdev", f"file,node-name=log,filename={log}",
            "--blockdev", "blklogwrites,node-name=recorder,file=content,log=log",
            "--export", f"fuse,id=disk,node-name=recorder,mountpoint={_SHOWN},writable=on",
            log="/var/log/recorded-disk.log",
        )  # fmt: skip
        wait_until(
            lambda: shown.stat().st_size, f"{machine.name}: the recorded disk",
            otherwise=lambda: machine.read("/var/log/recorded-disk.log"),
        )  # fmt: skip
        self._daemon = machine, process
        return recording

    def detach(self) -> None:
        """End the recording; the disk must not be mounted."""
        assert self._daemon is not None and not self.busy()
        machine, process = self._daemon
        for daemon in machine.find("qemu-storage-daemon", _SHOWN):
            daemon.terminate()
        process.wait(PATIENCE)
        self._daemon = None


def position(recording: Recording) -> int:
    """The size of the log now: every request that was answered before is within it."""
    return os.stat(recording.log).st_size
