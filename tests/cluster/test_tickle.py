# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon clients work again once the address is back, with the tickle and without.

A client whose server lost its power repeats its segments with growing pauses. How long it takes to
find the new server by itself depends on where in such a pause the address comes back, so chance
is taken out: in both runs everything but the address is started, and the address follows when
the client has just tried in vain. The control (`tickle=no`) differs in that parameter of the
adoptive node only; the connections are on record in both.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.vm import frames, layout, service
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.trial import LOOK, Times, Trial, steady
from tests.support.wait import wait_until

#: Seconds from the power cut until the address may come back: a failover by Pacemaker takes longer.
OUTAGE = 20.0
#: Seconds without a word from the client: no ARP request of it waits for an answer any more, which
#: would let the segment behind it go at once.
QUIET = 2.0


def probe(trial: Trial) -> None:
    """What Pacemaker does on every node before it starts a resource anywhere.

    The program has run on the adoptive node by then; a restored machine has yet to translate it.
    """
    (ours,) = (r for r in trial.resources if r.agent.endswith("nfslock"))
    assert service.call(trial.other(), ours, "monitor").rc == 7


def take_over(trial: Trial, tickle: str) -> tuple[Times, dict[str, Any]]:
    """Cut the power, take over, wait for I/O; returns the times and what `nfslock status` says."""
    trial.wait_recorded()
    probe(trial)
    trial.resources = service.changed(trial.resources, tickle=tickle)
    trial.power_cut()

    def in_a_pause() -> bool:
        tried = frames.last_try(trial.rig.switch.frames, "client/data", layout.VIP)
        return tried > trial.fault_at + OUTAGE and QUIET < time.monotonic() - tried < 2 * QUIET

    trial.start(
        trial.other(),
        before_address=lambda: wait_until(
            in_a_pause, "the client tries in vain", 180, pause=LOOK),
    )
    trial.wait_io(180)
    (status,) = json.loads(trial.active.run("nfslock status --json").out)
    return trial.times(), status


def after_address(times: Times) -> float:
    """Seconds from the address's coming back until every owner had written."""
    assert times.io is not None
    assert times.address is not None
    return times.io - times.address


@pytest.mark.scenario("I/O after a power cut, by when the address is back")
@pytest.mark.parametrize("protocol", ["3", pytest.param("4.1", marks=pytest.mark.full)])
def test_io_is_back_with_the_address(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    without, _ = take_over(trial, "no")
    trial = steady(rig, protocol)
    with_it, status = take_over(trial, "yes")
    ours, theirs = after_address(with_it), after_address(without)
    print(f"NFSv{protocol}: I/O {ours:.1f} s after the address, with tickle=no {theirs:.1f} s")
    for name in ("start_ms", "waited_ms", "notified_ms"):
        print(f"  {name}: {status[name]}")
    assert ours < theirs
    start = status["start_ms"]["in all"] / 1000
    waited, told = sum(status["waited_ms"].values()) / 1000, status["notified_ms"]
    record.finish(
        trial,
        f"I/O {ours:.1f} s after the VIP, with tickle=no {theirs:.1f} s; start {start:.1f} s, "
        f"waited {waited:.1f} s" + (f", notified in {told / 1000:.1f} s" if told else ""),
    )
