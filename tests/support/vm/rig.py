# SPDX-License-Identifier: GPL-2.0-or-later
"""The set of machines: brought up, saved and restored together, and gone when the run is.

A saved state holds every machine's memory, its overlay disk and the shared disk, taken while all of
them stand still: TCP connections, locks and cluster membership go on after a restore.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

from ..wait import wait_until
from . import processes
from .images import CACHE, digest, image
from .layout import HOSTS, ROLES, SHARED_DEVICE, SHARED_MIB
from .machine import Machine
from .switch import Switch


def copy(source: Path, target: Path) -> None:
    """Copy a file and keep its holes."""
    subprocess.run(
        ["cp", "--reflink=auto", "--sparse=always", str(source), str(target)], check=True
    )


class Rig:
    """All machines of one suite, in a scratch folder that goes with the process."""

    def __init__(self, suite: str) -> None:
        self.image = image(suite)
        self.suite = suite
        self.folder = processes.scratch(CACHE / "run")
        self.states = self.folder / "states"
        self.states.mkdir()
        self.switch = Switch()
        self.shared = self.folder / "shared.raw"
        self.machines = {
            role.name: Machine(
                role, self.image, self.folder / role.name, self.switch,
                self.shared if role.shared_disk else None,
            )
            for role in ROLES
        }  # fmt: skip
        self.unfenceable: set[str] = set()
        #: Fence a machine from the shared disk and the clients' network and leave it its power, as
        #: SCSI reservations and a managed switch do.
        self.fabric_fencing = False
        self.fenced: list[str] = []
        self._fencing = threading.Lock()
        for machine in self.machines.values():
            machine.on_fence = self._fence

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def each(self, work: Callable[[Machine], object]) -> None:
        """Do this on every machine, at once."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(work, self.machines.values()))

    def boot(self, names: Iterable[str] | None = None) -> None:
        """Switch machines on, together, with an empty shared disk, and give them their names."""
        with open(self.shared, "wb") as file:
            file.truncate(SHARED_MIB << 20)
        machines = [self.machines[name] for name in names or self.machines]
        for machine in machines:
            machine.boot(wait=False)
        for machine in machines:
            machine.wait_booted()
            machine.write("/etc/hosts", HOSTS)
        self._check_clocks(machines)

    def _check_clocks(self, machines: list[Machine]) -> None:
        """A machine whose clock runs wrong proves nothing: time limits are part of every protocol.

        Raises AssertionError when a second of one is not one of the host's, give or take 5 %.
        """
        start = time.monotonic()
        first = {machine.name: machine.control.clock() for machine in machines}
        wait_until(lambda: time.monotonic() > start + 1, "a second passes")
        for machine in machines:
            off = machine.control.clock() - first[machine.name]
            assert abs(off) < 0.05 * (time.monotonic() - start), (
                f"{machine.name}: the clock was {off:.2f} s off after a second")

    def format_shared(self) -> None:
        """An empty ext4 on the shared disk, made by the first node."""
        self.machines["node-a"].run(f"mkfs.ext4 -q -F -E nodiscard {SHARED_DEVICE} && sync")

    # -- saved states

    def state(self, name: str, make: Callable[[], None], *inputs: str) -> None:
        """Be in a state that does not depend on the product, and that later runs may use too.

        It is kept in the cache under a hash of the image, of what this package makes of it and of
        `inputs`; `make` brings it about when there is none.
        """
        # Two builds of one image from the same inputs differ, and an overlay fits its own only.
        build = (self.image.folder / "root.ext4").stat().st_mtime_ns
        makers = (Path(__file__).with_name(f"{made_by}.py")
                  for made_by in ("layout", "machine", "rig"))
        known = digest(makers, self.image.folder.name, str(build), *inputs)
        folder = CACHE / "states" / f"{self.suite}-{name}-{known}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f"{self.suite}-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it: wait for that
            if not (folder / "complete").exists():
                for old in folder.parent.glob(f"{self.suite}-{name}-*"):
                    shutil.rmtree(old, ignore_errors=True)
                self.crash_all()
                make()
                work = folder.with_name(f"{folder.name}.new")
                self._save(work)
                work.rename(folder)
        self._restore(folder)

    def has(self, state: str) -> bool:
        return (self.states / state / "complete").exists()

    def save(self, state: str) -> None:
        """Save every running machine under a name for this run; the machines go on afterwards."""
        self._save(self.states / state)

    def restore(self, state: str) -> None:
        """End what runs and bring back a saved state; machines that it does not hold stay off."""
        assert self.has(state), f"no saved state {state}"
        self._restore(self.states / state)

    def _save(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        running = [machine for machine in self.machines.values() if machine.alive]
        for machine in running:
            machine.monitor.command("stop")
        for machine in running:
            machine.monitor.command("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
            memory = folder / f"{machine.name}.memory"
            machine.monitor.command("migrate", uri=f"exec:cat > {memory}")
        for machine in running:
            wait_until(
                lambda m=machine: _migration(m) not in ("setup", "active", "device", "none"),  # type: ignore[misc]
                f"{machine.name}: saved", 120,
            )  # fmt: skip
            assert _migration(machine) == "completed", f"{machine.name}: {_migration(machine)}"
            copy(machine.overlay, folder / f"{machine.name}.qcow2")
        copy(self.shared, folder / "shared.raw")
        (folder / "complete").touch()
        for machine in running:
            machine.monitor.command("cont")

    def _restore(self, folder: Path) -> None:
        self.crash_all()
        self.switch.forget()
        self.unfenceable.clear()
        self.fabric_fencing = False
        self.fenced.clear()
        copy(folder / "shared.raw", self.shared)
        saved = []
        for machine in self.machines.values():
            machine.overlay.unlink(missing_ok=True)
            for name in ("console.log", "journal.log"):
                (machine.folder / name).unlink(missing_ok=True)
            if (folder / f"{machine.name}.qcow2").exists():
                copy(folder / f"{machine.name}.qcow2", machine.overlay)
                saved.append(machine)
        for machine in saved:
            memory = folder / f"{machine.name}.memory"
            machine.power_on(["-S", "-incoming", f"exec:cat {memory}"])
        for machine in saved:
            wait_until(
                lambda m=machine: m.monitor.command("query-status")["status"]  # type: ignore[misc]
                not in ("inmigrate",), f"{machine.name}: restored", 120,
            )  # fmt: skip
        for machine in saved:
            machine.monitor.command("cont")

    # -- endings

    def _fence(self, request: str) -> str:
        """What the fence agent on a node asked for: fence the other machine, or say why not."""
        action, _, name = request.partition(" ")
        machine = self.machines.get(name)
        if action == "list":
            return "ok"
        if machine is None:
            return "error no such machine"
        if action == "status":
            return "on" if machine.alive and name not in self.fenced else "off"
        if action == "on":
            return "ok"
        with self._fencing:
            if name in self.unfenceable:
                return "error refused"
            if self.fabric_fencing:
                machine.lose_disk()
                machine.cut("data")
            else:
                machine.crash()
            self.fenced.append(name)
        return "ok"

    def crash_all(self) -> None:
        for machine in self.machines.values():
            machine.crash()

    def close(self) -> None:
        """End every machine and remove the scratch folder."""
        self.crash_all()
        self.switch.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _migration(machine: Machine) -> str:
    status: str = machine.monitor.command("query-migrate").get("status", "none")
    return status
