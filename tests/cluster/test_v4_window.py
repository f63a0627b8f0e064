# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts just after a client's first RECLAIM_COMPLETE, when nfsd has recorded it.

nfsd answers when the record is in nfsdcld's database on the node; the copy in the holding directory
follows (v4_records=mirror), and a crash in between is the window that remains. How many records it
costs is printed: an emulated machine's window is much longer than a real one's. With
v4_records=direct there is no copy, and none may be lost. NFSLOCK_CUTS sets the number of cuts (10).
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.vm import frames, layout, service
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import Trial, equipped
from tests.support.wait import wait_until

CUTS = int(os.environ.get("NFSLOCK_CUTS", "10"))
WINDOW = 0.5  # seconds


def unmounted(rig: Rig, records: str) -> Trial:
    """The service on node-a, mounted by nobody; saved under the name of the kind of records."""
    equipped(rig)
    trial = Trial(rig, "4.1", service.group(True, "3,4", v4_records=records))
    trial.start(rig["node-a"])
    trial.end_grace()
    rig.save(records)
    return trial


def mount_and_cut(trial: Trial, delay: float) -> float:
    """Mount; cut the power `delay` seconds after the reply to RECLAIM_COMPLETE passes the switch.

    Returns the seconds between the two.
    """

    def answered() -> list[float]:
        seen = frames.granted(frames.calls(list(trial.rig.switch.frames)))
        return [r.granted_at for r in seen if r.what == "RECLAIM_COMPLETE"]

    trial.rig["client"].begin(
        f"mkdir -p {layout.MOUNT}; mount -t nfs -o vers=4.1 {layout.VIP}:{layout.DATA} "
        f"{layout.MOUNT}", timeout=300,
    )  # fmt: skip
    at = wait_until(answered, "RECLAIM_COMPLETE", 120)[0]
    while time.monotonic() < at + delay:
        pass
    trial.power_cut()
    return trial.fault_at - at


def known(trial: Trial) -> int:
    """How many clients could reclaim, by the disk as the other node finds it."""
    node = trial.other()
    node.run(service.COMMANDS["fs"][0])
    return service.v4_records(node)


@pytest.mark.full
@pytest.mark.scenario(
    f"{CUTS} power cuts after the first RECLAIM_COMPLETE, v4_records={{records}}"
)
@pytest.mark.parametrize("records", ["mirror", "direct"])
def test_window(
    rig: Rig, record: Record, records: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record.protocol = "4.1"
    trial = unmounted(rig, records)
    dice, gaps, lost = random.Random(7), [], []
    for _ in range(CUTS):
        rig.restore(records)
        trial.reset()
        gaps.append(mount_and_cut(trial, dice.uniform(0, WINDOW)))
        if not known(trial):
            lost.append(gaps[-1])
    outcome = f"{len(lost)} of {CUTS} records lost"
    with capsys.disabled():
        print(
            f"\nv4_records={records}: {outcome}, cut {1000 * min(gaps):.0f} to "
            f"{1000 * max(gaps):.0f} ms after the reply; the last loss after "
            f"{1000 * max(lost, default=0):.0f} ms"
        )
    record.finish(trial, outcome)
    assert records == "mirror" or not lost
