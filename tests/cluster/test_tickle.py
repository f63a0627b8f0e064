# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon clients work again once the address is back, with the tickle and without.

A client whose server lost its power repeats its segments with growing pauses. How long it takes to
find the new server by itself depends on where in such a pause the address comes back, so chance
is taken out: in both runs everything but the address is started, and the address follows when
the client has just tried in vain. The control (`tickle=no`) differs in that parameter of the
adoptive node only; the connections are on record in both.

Both nodes have run the service before, as in a cluster that has stood for a while: a restored
machine has yet to translate every program.
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


def serve_on_both(trial: Trial) -> None:
    """Move the service to the other node and back."""
    for _ in layout.NODES:
        trial.move_by_hand()
        trial.wait_held()
        trial.wait_io()


def take_over(trial: Trial, tickle: str) -> tuple[Times, dict[str, Any]]:
    """Cut the power, take over, wait for I/O; returns the times and what `nfslock status` says."""
    serve_on_both(trial)
    trial.wait_recorded()
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


def cost(status: dict[str, Any]) -> str:
    """What of the takeover was nfslock's, in words: all but the wait for others' resources."""
    steps = {
        "start": status["start_ms"]["in all"],
        "server's answers": status["waited_ms"]["the server's answers"],
    }
    if status["notified_ms"]:
        steps["clients told"] = status["notified_ms"]
    parts = ", ".join(f"{step} {took / 1000:.2f}" for step, took in steps.items())
    return f"nfslock took {sum(steps.values()) / 1000:.2f} s ({parts})"


@pytest.mark.scenario("I/O after a power cut, by when the address is back")
@pytest.mark.parametrize("protocol", ["3", "4.1"])
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
    record.finish(
        trial,
        f"I/O {ours:.1f} s after the VIP, with tickle=no {theirs:.1f} s; {cost(status)}",
    )
