# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts at random instants within 50 ms after a client's first NFSv3 lock was granted.

With statd's callout the lock is granted only when its record is safe: none may be lost. The control
is the old way, a copy every 5 s with neither callout nor inotify; how many that loses is printed.
Every cut is judged by the disk as the other node mounts it, every tenth by a whole takeover too.
NFSLOCK_CUTS sets the number of cuts (100).
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.vm import layout, locks, service
from tests.support.vm.control import Event
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import BYTES, Trial, equipped
from tests.support.wait import wait_until

CUTS = int(os.environ.get("NFSLOCK_CUTS", "100"))
WINDOW = 0.05  # seconds
#: What takes the protection away: no callout, and no inotify watch for the propagator when it
#: starts (afterwards the node's other daemons have theirs again).
STARVE = "nfslock setup-node --undo --apply && sysctl -q fs.inotify.max_user_watches=0"
FEED = "sysctl -q fs.inotify.max_user_watches=65536"


def fresh(rig: Rig, name: str, before: str = "true", after: str = "true") -> Trial:
    """The service on node-a, mounted by the client, no lock taken yet; saved under this name."""
    equipped(rig)
    trial = Trial(rig, "3", service.group())
    node, resources = rig["node-a"], service.group()
    node.run(before)
    service.by_hand(node, resources[:2], "start")  # filesystem, nfslock
    node.run(after)
    service.by_hand(node, resources[2:], "start")
    locks.mount(rig["client"], "3")
    trial.end_grace()
    rig.save(name)
    return trial


def cut_after_first_lock(trial: Trial, delay: float) -> float:
    """Lock once on the client; cut the power `delay` seconds after it says so.

    Returns the seconds from the lock, by the client's clock, to the SIGKILL of the node's QEMU.
    """
    client = trial.rig["client"]
    cut: list[float] = []

    def locked(event: Event) -> None:
        if '"locked"' in event.line and not cut:
            while time.monotonic() < event.at + delay:
                pass
            cut.append(time.monotonic())
            trial.power_cut()

    client.listeners.append(locked)
    path = f"{layout.MOUNT}/{BYTES}"
    program = locks.Program(client, "owner", "posix", [path], 0.25)
    trial.owners.append(program)
    at = program.wait_for("locked", timeout=60).at
    wait_until(lambda: trial.fault_at, "the power is cut")
    return cut[0] - at


def kept(trial: Trial) -> bool:
    """Whether the record of the client is on the disk, as the other node finds it."""
    node, place = trial.other(), layout.EXPORT
    done = node.run(
        f"mount {layout.SHARED_DEVICE} {place} && ls {layout.HOLDING}/sm; umount {place}",
        timeout=60, check=False,
    )  # fmt: skip
    return any(not name.startswith(".") for name in done.out.split())


def cuts(
    rig: Rig, trial: Trial, name: str, number: int, takeovers: bool
) -> tuple[int, list[float]]:
    """Cut the power until `number` cuts came within WINDOW: a busy host is late with some.

    Returns how many records were lost, by the late ones too, and the gaps in seconds.
    """
    dice, lost, gaps = random.Random(5), 0, []
    while sum(gap <= WINDOW for gap in gaps) < number:
        turn = len(gaps)
        rig.restore(name)
        trial.reset()
        gaps.append(cut_after_first_lock(trial, dice.uniform(0, WINDOW)))
        lost += not kept(trial)
        if takeovers and turn % 10 == 0:
            trial.start(trial.other())
            trial.recover()
    return lost, gaps


def summary(lost: int, gaps: list[float]) -> str:
    """What became of the cuts, in one line."""
    late = sum(gap > WINDOW for gap in gaps)
    return (f"{lost} of {len(gaps)} lost, cut {1000 * min(gaps):.0f} to {1000 * max(gaps):.0f} ms "
            f"after the lock, {late} of them later than {1000 * WINDOW:.0f} ms")


@pytest.mark.full
@pytest.mark.scenario(f"{CUTS} power cuts within 50 ms of a client's first lock")
def test_no_cut_loses_a_lock(rig: Rig, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    trial = fresh(rig, "no-loss")
    lost, gaps = cuts(rig, trial, "no-loss", CUTS, takeovers=True)
    with capsys.disabled():
        print("\nwith the callout:", summary(lost, gaps))
    record.finish(trial, f"{lost} of {len(gaps)} lost")
    assert lost == 0


@pytest.mark.full
@pytest.mark.scenario("control: the same with a copy every 5 s, no callout, no inotify")
def test_control_the_old_way_loses_locks(
    rig: Rig, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = fresh(rig, "loss", STARVE, FEED)
    lost, gaps = cuts(rig, trial, "loss", CUTS, takeovers=False)
    with capsys.disabled():
        print("\nthe old way:", summary(lost, gaps))
    record.finish(trial, f"{lost} of {len(gaps)} lost, as it must be")
    assert lost > 0
