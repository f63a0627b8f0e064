# SPDX-License-Identifier: GPL-2.0-or-later
"""A server node for the bench: rpcbind, rpc.statd, and a real filesystem for the records.

It lives in the bench's own namespaces and ends with them; the agent runs from the checkout.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import rig

SM = Path("/var/lib/nfs/sm")
DISK = Path("/srv")
HOLDING = DISK / "nfslock"
AGENT = str(rig.LIB.parent / "agents/nfslock")
SERVICE = "bench"


class Node:
    """The node, with nothing started but rpcbind."""

    def __init__(self, place: rig.Rig) -> None:
        """Mount a fresh ext4 image for the service, and an empty state directory for statd."""
        # A name server that never answers would hold up statd at each record.
        (place.work / "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\n")
        rig.OUT.mkdir(parents=True, exist_ok=True)
        image = rig.OUT / "disk.img"
        image.unlink(missing_ok=True)
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        rig.run(f"mkfs.ext4 -q -N 500000 {image}")
        rig.run(f"mount -o loop,noatime {image} {DISK}")
        image.unlink()  # it lives on until the namespace ends
        rig.run("mount -t tmpfs tmpfs /var/lib/nfs")
        self.clear()
        rig.run("rpcbind")

    def clear(self) -> None:
        """Empty statd's directory, as on a node that has never served these clients."""
        shutil.rmtree(SM, ignore_errors=True)
        statd = pwd.getpwnam("statd")
        for directory in (SM, SM.with_name("sm.bak")):
            directory.mkdir(exist_ok=True)
            os.chown(directory, statd.pw_uid, statd.pw_gid)

    def agent(self, action: str, interval: int = 0) -> float:
        """Run an action; return its seconds. Raises RuntimeError unless it succeeds or degrades."""
        start = time.perf_counter()
        done = subprocess.run(
            [AGENT, action], env=self.environment(action, interval), capture_output=True, text=True
        )
        elapsed = time.perf_counter() - start
        if done.returncode not in {0, 190}:
            raise RuntimeError(f"{action}: {done.returncode} {done.stderr[-500:]}")
        return elapsed

    def environment(self, action: str, interval: int = 0) -> dict[str, str]:
        """Return the environment in which Pacemaker calls the agent."""
        return {
            **os.environ,
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RA_VERSION_MAJOR": "1",
            "OCF_RA_VERSION_MINOR": "1",
            "OCF_RESOURCE_INSTANCE": SERVICE,
            "OCF_RESOURCE_TYPE": "nfslock",
            "OCF_RESOURCE_PROVIDER": "flm",
            "OCF_RESKEY_CRM_meta_timeout": "300000",
            "OCF_RESKEY_CRM_meta_interval": str(interval * 1000),
            "OCF_RESKEY_holding_dir": str(HOLDING),
            "OCF_RESKEY_propagate_interval": "200ms",
            "OCF_RESKEY_ip": rig.VIP,
            "OCF_RESKEY_nfs_versions": "3",
            "HA_LOGFACILITY": "none",
            "HA_LOGFILE": str(rig.OUT / "agent.log"),
        }

    def status(self) -> dict[str, str]:
        """Return what the propagator says of itself."""
        pairs = Path(f"/run/nfslock/{SERVICE}/status").read_text().split("\n")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def propagator(self) -> int:
        """Return the propagator's process id, from its status file."""
        return int(self.status()["pid"].partition(":")[0])

    @contextmanager
    def serving(self, place: rig.Rig, clients: int) -> Iterator[None]:
        """Let the service stand, with stand-ins for nfsd and lockd, and every client be told."""
        standin = str(rig.LIB.parent / "tests/support/standin.py")
        answering = place.answering(clients)
        processes = [subprocess.Popen([rig.PYTHON, standin, name]) for name in ("nfsd", "lockd")]
        # A zombie has no command line, as lockd's kernel thread has none: the propagator looks for
        # that thread in all of /proc until it has found it.
        name = "with open('/proc/self/comm', 'w') as file: file.write('lockd')"
        processes.append(subprocess.Popen([rig.PYTHON, "-c", name]))
        Path("/var/lib/nfs/etab").write_text(f"{DISK}\t*(rw)\n")
        try:
            deadline = time.monotonic() + 120
            while self.status()["phase"] != "settled":
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the service does not stand: {self.status()}")
                time.sleep(0.2)  # what is waited for needs the processor more
            answering.kill()
            yield
        finally:
            Path("/var/lib/nfs/etab").unlink()
            for process in (answering, *processes):
                process.kill()
                process.wait()


def fill(directory: Path, clients: Iterable[str]) -> None:
    """Put monitor records of these clients there, without waiting for the disk."""
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory.stat()
    for client in clients:
        path = directory / client
        path.write_bytes(rig.record(client))
        os.chown(path, owner.st_uid, owner.st_gid)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds a process has used (/proc/PID/schedstat, nanoseconds)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def run_timed(
    argv: Sequence[str], environment: dict[str, str] | None = None
) -> tuple[float, float]:
    """Run a command; return (wall, CPU) seconds of it and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = subprocess.DEVNULL
    subprocess.run(argv, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return end - start, used
