# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a scenario that failed: journals, consoles, the recording, locks, records."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import frames, layout
from .control import Gone
from .rig import Rig

LOOKS = {
    "locks": "cat /proc/locks",
    "holding": f"ls -lR {layout.HOLDING}; cat {layout.HOLDING}/owner.json; "
    f"head -c 300 {layout.HOLDING}/sm/* {layout.HOLDING}/notify/*",
    "statd": "ls -lR /var/lib/nfs",
    "status": "nfslock status --json",
    "exports": "exportfs -v; cat /proc/fs/nfsd/threads /proc/fs/lockd/nlm_end_grace",
    "addresses": "ip addr; ip neigh; ss -tan",
    "processes": "ps -ef",
    "mounts": "cat /proc/mounts",
    "dmesg": "echo w > /proc/sysrq-trigger; dmesg",  # with the stacks of the tasks that hang
    "journal": "journalctl -b --no-pager -o short-monotonic",
    "cluster": "crm_mon -1rfA; cibadmin -Q",
}


def collect(rig: Rig, folder: Path) -> Path:
    """Write it all below a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rig.switch.write_pcap(folder / "traffic.pcap")
    calls = frames.calls(rig.switch.frames)
    story = sorted(
        [(n.at, f"{n.source} -> {n.target} SM_NOTIFY {n.name} {n.state}")
         for n in frames.notifications(calls)]
        + [(r.at, f"{r.source} -> {r.target} reclaim {r.what} granted at {r.granted_at:.3f}")
           for r in frames.reclaims(calls)]
        + [(a.at, f"{a.port} has {a.address}")
           for a in frames.announcements(rig.switch.frames, layout.VIP)]
    )  # fmt: skip
    (folder / "story.txt").write_text("".join(f"{at:.3f} {text}\n" for at, text in story))
    for machine in rig.machines.values():
        for name in ("console.log", "journal.log", "qemu.log"):
            if (machine.folder / name).exists():
                shutil.copy(machine.folder / name, folder / f"{machine.name}.{name}")
        if not machine.alive or machine.frozen:
            continue
        for name, command in LOOKS.items():
            try:
                done = machine.control.run(command, timeout=20)
            except (Gone, OSError):
                break
            (folder / f"{machine.name}.{name}").write_text(done.out + done.err)
    return folder
