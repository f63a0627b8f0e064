# SPDX-License-Identifier: GPL-2.0-or-later
"""One power cut on the rig as a person would want to see it: `make demo-cluster`.

Shows the cluster's view (crm_mon), the client's view (lock held, write stalls, write goes on) and a
time line, and writes the time line as an SVG. Ends with 0 only if every audit is content.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import audits, cluster, frames, layout, timeline
from .images import CACHE
from .rig import Rig


def crm_mon(trial: cluster.ClusterTrial) -> str:
    """What the cluster says, indented."""
    text = trial.active.out("crm_mon -1 --exclude=all --include=nodes,resources")
    return "\n".join(f"    {line}" for line in text.splitlines() if line.strip())


def drawing(trial: cluster.ClusterTrial, end: float) -> tuple[str, list[timeline.Event]]:
    """The SVG, and the events that it shows, from the recording and the programs' logs."""
    zero = trial.fault_at
    recording = list(trial.rig.switch.frames)
    calls = [call for call in frames.calls(recording) if call.at > zero]
    address = [
        a.at - zero
        for a in frames.announcements(recording, layout.VIP)
        if a.at > zero and a.port.startswith("node-b")
    ]
    told = frames.notifications(calls)
    reclaimed = frames.granted(calls)
    events = [timeline.Event(0.0, "node-a", "power cut", "bad")]
    if address:
        events.append(timeline.Event(address[0], "node-b", f"{layout.VIP} announced", "good"))
    if told:
        events.append(
            timeline.Event(told[0].at - zero, "network", f"SM_NOTIFY, state {told[0].state}")
        )
    if reclaimed:
        last = max(r.granted_at for r in reclaimed) - zero
        events.append(timeline.Event(last, "network", f"{len(reclaimed)} reclaims granted", "good"))
    spans = [
        timeline.Span(-8, 0, "node-a", "serves", "good"),
        timeline.Span(trial.taken_over_at - zero, end, "node-b", "serves", "good"),
    ]
    owner = trial.owners[0]
    stalled = next(e for e in owner.entries("wrote", after=zero) if e.took > 1)
    spans += [
        timeline.Span(-8, stalled.at - stalled.took - zero, "client", "holds, writes", "good"),
        timeline.Span(
            stalled.at - stalled.took - zero, stalled.at - zero, "client", "write stalls", "note"
        ),
        timeline.Span(stalled.at - zero, end, "client", "holds, writes", "good"),
    ]
    events.append(timeline.Event(stalled.at - zero, "client", "write goes on", "good"))
    refused = trial.rivals[0].entries("denied", after=zero)
    if refused:
        events.append(timeline.Event(refused[0].at - zero, "rival", "denied", "good"))
    spans.append(timeline.Span(-8, end, "rival", "wants the same lock, never gets it"))
    lanes = ["node-a", "node-b", "network", "client", "rival"]
    title = f"Power cut on {trial.rig.suite}: an NFSv{trial.protocol} lock moves with its service"
    return timeline.svg(title, lanes, spans, events), events


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--suite", default=os.environ.get("SUITE", "trixie"))
    options.add_argument("--protocol", default="3")
    options.add_argument("--svg", type=Path, default=CACHE / "power-cut.svg")
    wanted = options.parse_args()
    start = time.monotonic()

    def say(line: str = "") -> None:
        print(line, flush=True)

    say(
        f"Two nodes, two clients, Debian {wanted.suite}: starting (some minutes the first time) ..."
    )
    rig = Rig(wanted.suite)
    try:
        trial = cluster.steady(rig, wanted.protocol)
        versions = rig.image.versions
        say(f"Up after {time.monotonic() - start:.0f} s: Linux {versions['kernel']}, "
            f"Pacemaker {versions['pacemaker']}.\n\nThe cluster before:")  # fmt: skip
        say(crm_mon(trial))
        say(f"\nclient holds two locks on {layout.VIP}:{layout.DATA} and writes; rival wants them.")
        trial.owners[0].wait_for("wrote")
        trial.power_cut()
        say("\n*** power cut: node-a is gone ***\n")
        trial.take_over("node-b")
        trial.wait_held()
        trial.wait_io()
        trial.end_grace()
        trial.wait_rivals("denied")
        svg, events = drawing(trial, time.monotonic() - trial.fault_at)
        say(timeline.text(events))
        say("\nThe cluster after:")
        say(crm_mon(trial))
        say(f"\n/proc/locks on {trial.active.name}:")
        for entries in audits.server_locks(trial, trial.held_files()).values():
            say("    " + "; ".join(entries))
        complaints = audits.complaints(trial)
        wanted.svg.parent.mkdir(parents=True, exist_ok=True)
        wanted.svg.write_text(svg)
        say(f"\nTime line: {wanted.svg}")
        say("\n".join(complaints) or "Every lock was kept, nobody else got one, no I/O error.")
        return 1 if complaints else 0
    finally:
        rig.close()


if __name__ == "__main__":
    sys.exit(main())
