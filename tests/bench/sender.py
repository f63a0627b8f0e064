# SPDX-License-Identifier: GPL-2.0-or-later
"""The product's SM_NOTIFY sender alone, for the bench: sender.py LIB VIPS CLIENTS UNTIL LIMIT.

VIPS: comma separated; CLIENTS: a file of names, one a line; UNTIL: end when so many have been told;
LIMIT: seconds. Prints one line of JSON; `began` is when the sender got the list, and `cpu` what was
used from then on: the propagator, which does this in earnest, runs already by then, and has looked
which ports are nobody's (announce.py, prepare).
"""

from __future__ import annotations

import json
import resource
import select
import sys
import time

sys.path.insert(0, sys.argv[1])

from nfslock.loop import collect_rarely
from nfslock.notify_io import NotifySockets, reserved_ports
from nfslock.notify_job import Vip


def main() -> None:
    """Notify, as the propagator's loop does."""
    vips = [Vip(address, (address,)) for address in sys.argv[2].split(",")]
    with open(sys.argv[3], encoding="ascii") as names:
        clients = names.read().split()
    until, end = int(sys.argv[4]), time.monotonic() + float(sys.argv[5])
    collect_rarely()
    reserved_ports()
    began, used = time.monotonic(), time.process_time()
    sender = NotifySockets(vips, clients, 7)
    poll = select.poll()
    for descriptor in sender.filenos():
        poll.register(descriptor, select.POLLIN)
    told = 0
    while (now := time.monotonic()) < end:
        told += len(sender.pump(now))
        if told >= until:
            break
        wait = sender.timeout(time.monotonic())
        poll.poll(1000 if wait is None else min(1000.0, wait * 1000))
    report = {
        "began": began,
        "told": told,
        "cpu": time.process_time() - used,
        "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps({**report, **sender.progress(), **sender.statistics()}))
    sender.close()


if __name__ == "__main__":
    main()
