# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to the operating system: files (files.py), commands, processes, clocks.

Everything is found from a `System`, from its root and its values, so that a service can later live
in namespaces of its own. Monitor loads this module: subprocess is imported only by the function
that needs it.
"""

from __future__ import annotations

import os
import time

from . import errors, signals
from .files import Files


class System(Files):
    """Where the NFS stack of this node (or of one service) lives."""

    __slots__ = ("boot_id_file", "etab", "nfs_conf", "proc", "run_dir", "sm_notify_pids",
                 "statd_dirs")

    def __init__(self, root: str = "") -> None:
        super().__init__(root)
        self.run_dir = "/run/nfslock"
        self.proc = "/proc"
        self.boot_id_file = "/proc/sys/kernel/random/boot_id"
        self.statd_dirs = ("/var/lib/nfs/statd", "/var/lib/nfs")
        self.sm_notify_pids = ("/run/sm-notify.pid", "/var/run/sm-notify.pid")
        self.etab = "/var/lib/nfs/etab"
        #: A distribution's first, the administrator's last: files, and what lies beside them.
        self.nfs_conf = tuple(
            (f"{place}/nfs.conf", f"{place}/nfs.conf.d") for place in ("/usr/etc", "/etc"))

    def node(self) -> str:
        """The node's name (uname -n)."""
        return os.uname().nodename

    def boot_id(self) -> str:
        """The kernel's identity of this boot (random(4))."""
        return self.read(self.boot_id_file).decode().strip()

    def monotonic(self) -> float:
        """Seconds on the clock that nothing sets (CLOCK_MONOTONIC)."""
        return time.monotonic()

    def age(self) -> float:
        """Seconds since this process was started, to a clock tick (proc_pid_stat(5), starttime)."""
        born = self.start_time(os.getpid()) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - born

    def epoch(self) -> int:
        """Seconds since 1970."""
        return int(time.time())

    def start_time(self, pid: int) -> int:
        """When the process started, in clock ticks since boot (proc(5), stat field 22); 0: gone.

        With the pid this identifies a process; a zombie counts as gone.
        """
        try:
            fields = self.read(f"{self.proc}/{pid}/stat").rpartition(b")")[2].split()
        except (OSError, ValueError):
            return 0
        return 0 if not fields or fields[0] in b"ZX" else int(fields[19])

    def end(self, pid: int, born: int, patience: float) -> bool:
        """End that very process (pid and start time) and wait for it: SIGTERM, then SIGKILL.

        `patience`: seconds in all, half of them for SIGTERM. False when it is still there then.
        """
        began = self.monotonic()
        for number, limit in ((signals.SIGTERM, patience / 2), (signals.SIGKILL, patience)):
            if not born or self.start_time(pid) != born:
                return True
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return True
            pause = 0.0005  # soon at first: a takeover waits for rpc.statd, which ends at once
            while self.start_time(pid) == born and self.monotonic() - began < limit:
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
        return self.start_time(pid) != born

    def run(self, *argv: str, timeout: float = 30.0) -> tuple[int, str]:
        """Run a command to its end: (exit code, its output and errors together).

        No shell, closed stdin, an environment from scratch. MissingError when there is no such
        program, Error with a line that can be pasted into a shell when it takes too long.
        """
        import shlex
        import subprocess

        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment, timeout=timeout, check=False)
        except FileNotFoundError:
            raise errors.MissingError(f"{argv[0]} is not installed on this node") from None
        except subprocess.TimeoutExpired:
            raise errors.Error(
                f"`{shlex.join(argv)}` did not end within {timeout:g} s") from None
        return done.returncode, done.stdout.decode(errors="replace").strip()

    def checked(self, *argv: str, timeout: float = 60.0) -> None:
        """Run a command that must succeed; Error with its last line when it does not."""
        code, out = self.run(*argv, timeout=timeout)
        if code:
            raise errors.Error(
                f"`{' '.join(argv)}` failed ({code}): {out.splitlines()[-1] if out else ''}")
