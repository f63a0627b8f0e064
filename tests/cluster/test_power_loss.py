# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts at every write of the shared disk under a real NFS server, each taken over from.

QEMU records every write and flush of the shared disk while the service starts, two clients take
real locks and others are monitored, the node loses its power, the other one takes over, notifies,
stops, starts again and takes new clients. Each prefix of the recording that a power cut could
leave, and reorderings of what was written after the last flush, are then mounted on the machine
that runs the tests and taken over from there (tests/host/power_loss.py). A short form without
virtual machines is tests/host/test_power_loss.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.host import power_loss
from tests.host.power_loss import Promised, Replay, Tally
from tests.support.machine import World
from tests.support.recorded_disk import Recording, position
from tests.support.service import HOLDING, Agent, Cluster, Service
from tests.support.vm import layout, locks, service
from tests.support.vm.control import Event
from tests.support.vm.machine import Machine
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig, copy
from tests.support.vm.service import PROGRAMS
from tests.support.vm.trial import BYTES, WHOLE, Trial, equipped
from tests.support.wait import wait_until

MONITOR = "/usr/local/lib/rig/monitor.py"
STATD_PORT = "32765"  # service.NFS_CONF
#: Clients that the client machine has addresses for, so that its statd answers, and others.
ALIVE = [f"10.9.0.{number}" for number in range(121, 127)]
AWAY = [f"10.9.0.{number}" for number in range(221, 227)]
CLIENTS = {layout.CLIENT.addresses["data"], layout.RIVAL.addresses["data"]}
#: Seconds between two writes through a lock: they are not what this is about.
SLOWLY = 5.0


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    """Two nodes on this machine, for the takeovers."""
    world = World()
    yield Cluster(world, Service(world, Agent()), clients=0)
    world.end()


class Stage:
    """The service on the rig's shared disk, and what it promises while that is recorded."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        equipped(rig)
        for name in layout.NODES:
            rig[name].recorder = rig.folder / f"{name}.recording"
        try:
            rig.restore("equipped")
        finally:
            for name in layout.NODES:
                rig[name].recorder = None
        self._format()
        # The holding directory is where the nodes on this machine look for it.
        self.trial = Trial(rig, "3", service.changed(service.group(), holding_dir=HOLDING))
        self.made: list[Promised] = []
        aliases = "; ".join(f"ip addr add {address}/24 dev eth0" for address in ALIVE)
        rig["client"].run(aliases)
        for name in layout.NODES:
            rig[name].write(MONITOR, (PROGRAMS / "monitor.py").read_bytes(), 0o755)

    def _format(self) -> None:
        """A filesystem in which the kernel has nothing left to initialise; no node has mounted it.

        Initialising takes thousands of writes that say nothing about the service.
        """
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(f"{root}/data")
            os.chmod(f"{root}/data", 0o777)
            now = "lazy_itable_init=0,lazy_journal_init=0"
            command = ["mkfs.ext4", "-q", "-F", "-E", now, "-d", root, str(self.rig.shared)]
            subprocess.run(command, check=True)

    def begin(self, node: Machine) -> None:
        """From here on it is this node that writes."""
        base = self.rig.folder / f"{node.name}.base"
        copy(self.rig.shared, base)
        recording = Recording(base, self.rig.folder / f"{node.name}.recording")
        known = CLIENTS | {*ALIVE, *AWAY}
        self.made.append(
            self.made[-1].next(recording) if self.made else Promised(recording, known=known)
        )

    def position(self) -> int:
        return position(self.made[-1].recording)

    def start(self, node: Machine) -> None:
        """Start the group; its numbers are durable as soon as nfslock's start has succeeded."""
        self.trial.start(node)
        owner = json.loads(node.read(f"{HOLDING}/owner.json"))
        self.made[-1].show(self.position(), owner["generation"], owner["state"])

    def monitored(self, node: Machine, names: list[str]) -> None:
        """Clients' first locks, one by one, as far as statd sees them."""
        said: list[str] = []

        def heard(event: Event) -> None:
            if event.program == program and event.rc is None:
                word = json.loads(event.line)
                assert word["what"] == "locked", word
                self.made[-1].keep(word["file"], self.position())
                said.append(word["file"])

        program = f"monitor-{names[0]}"
        node.listeners.append(heard)
        node.spawn(program, MONITOR, STATD_PORT, *names)
        wait_until(lambda: said == names, f"{names} monitored", 120, lambda: said)
        node.listeners.remove(heard)

    def lock(self, machine: Machine, name: str) -> None:
        """A real lock of a real client, which is its first."""
        locks.mount(machine, "3")
        granted: list[int] = []

        def heard(event: Event) -> None:
            if '"locked"' in event.line and not granted:
                granted.append(self.position())

        machine.listeners.append(heard)
        program = locks.Program(machine, "owner", "posix", [f"{layout.MOUNT}/{name}"], SLOWLY)
        self.trial.owners.append(program)
        program.wait_for("locked", timeout=120)
        machine.listeners.remove(heard)
        self.made[-1].keep(machine.role.addresses["data"], granted[0])


def replay(
    stage: Stage, here: Cluster, replay: Replay, capsys: pytest.CaptureFixture[str]
) -> list[Tally]:
    """Switch the machines off, replay what was recorded on each node, and print what was tried."""
    stage.rig.crash_all()
    tallies = []
    for promised in stage.made:
        title = f"power cuts on {promised.recording.log.stem}, {stage.rig.suite}"
        tallies.append(replay.run(title, promised))
        with capsys.disabled():
            print(tallies[-1])
    return tallies


@pytest.mark.full
@pytest.mark.timeout(5400)
@pytest.mark.scenario("every write of the shared disk is a power cut, in every order")
def test_no_power_cut_loses_a_record(
    rig: Rig, record: Record, here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(rig)
    trial, a, b = stage.trial, rig["node-a"], rig["node-b"]
    stage.begin(a)
    stage.start(a)
    stage.monitored(a, ALIVE[:3])
    stage.lock(rig["client"], BYTES)
    stage.monitored(a, AWAY[:3])
    stage.lock(rig["rival"], WHOLE)
    trial.power_cut()
    stage.begin(b)
    stage.start(b)
    trial.wait_held()
    stage.monitored(b, [ALIVE[3], AWAY[3]])
    trial.stop()
    stage.start(b)
    trial.wait_held()
    stage.monitored(b, [ALIVE[4], AWAY[4]])
    trial.power_cut()
    tallies = replay(stage, here, Replay(here, reorderings=30), capsys)
    complaints = [line for tally in tallies for line in tally.complaints]
    images = sum(tally.prefixes + tally.reorderings for tally in tallies)
    assert not complaints, "\n".join(complaints[:20])
    record.finish(trial, f"none of {images} images lost a record")


@pytest.mark.full
@pytest.mark.scenario("control: the same without fsync")
def test_control_without_fsync_records_are_lost(
    rig: Rig, record: Record, here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(rig)
    a = rig["node-a"]
    a.write(power_loss.NO_SYNC, power_loss.no_sync(), 0o755)
    a.write(power_loss.PRELOAD, f"{power_loss.NO_SYNC}\n")
    stage.begin(a)
    stage.start(a)
    stage.monitored(a, ALIVE[:3])
    stage.trial.power_cut()
    (tally,) = replay(stage, here, Replay(here, reorderings=10, takeovers=4), capsys)
    lost = {line.rpartition(" ")[2] for line in tally.complaints if "lost: " in line}
    assert lost
    record.finish(stage.trial, f"{len(lost)} of 3 clients lost, as it must be")
