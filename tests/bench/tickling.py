# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's tickle rows: clients whose server died without a word, and its address elsewhere.

Three network namespaces: the clients', the dead server's, and the bench's own, to which the address
moves. Connections are real ones of this kernel; the clients have something to send, so that they
repeat it with growing pauses, as NFS clients do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from . import rig
from .report import Row
from .rig import VIP

HERE = Path(__file__).resolve().parent
CLIENTS = 1000
#: Seconds from the death to the new server: longer pauses than these follow in a real failover.
OUTAGE = 8.0
PATIENCE = 60.0
_STOCK = ("/usr/lib/heartbeat/tickle_tcp", "/usr/libexec/heartbeat/tickle_tcp")


def rows(place: rig.Rig, repeat: int) -> list[Row]:
    """Time ours, resource-agents' tickle_tcp and nothing at all, interleaved."""
    stock = next((path for path in _STOCK if Path(path).exists()), None)
    times: dict[str, list[float]] = {"ours": [], "no tickle": [], "tickle_tcp": []}
    for _ in range(repeat):
        times["ours"].append(failover(place, "ours", [rig.PYTHON, "-IS", str(HERE / "tickler.py"),
                                                      str(rig.LIB)]))
        if stock:
            times["tickle_tcp"].append(failover(place, "stock", [stock, "-n", "1"]))
        times["no tickle"].append(failover(place, "none", ["cat"]))
    medians = {name: median(values) if values else None for name, values in times.items()}
    row = Row(f"{CLIENTS} connections, {OUTAGE:g} s outage", "s", medians.pop("ours"), medians)
    row.targets = [("", 1.0)]
    row.note = "until the last client is connected again"
    row.judge()
    return [row]


def failover(place: rig.Rig, how: str, tickler: list[str]) -> float:
    """Seconds from the new server's being there until the last client has a new connection."""
    run, program = rig.run, [sys.executable, "-I", str(HERE / "connections.py")]
    run("ip netns add dead")
    run("ip link add old netns dead type veth peer name old netns hosts")
    for namespace in ("dead", "hosts"):
        run(f"ip -n {namespace} link set old up")
    run("ip -n dead link set lo up")
    run(f"ip -n dead address add {VIP}/32 dev old")
    run("ip -n dead address add 198.51.100.1/24 dev old")
    run("ip -n hosts address add 198.51.100.2/24 dev old")
    run("ip -n dead route add 10.8.0.0/14 via 198.51.100.2")
    run(f"ip -n hosts route add {VIP}/32 dev old")
    processes = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    try:
        for inside in (["ip", "netns", "exec", "dead"], []):
            server = start(*inside, *program, "serve", VIP)
            assert server.stdout is not None
            server.stdout.readline()
        clients = start("ip", "netns", "exec", "hosts", *program, "connect", VIP, str(CLIENTS))
        assert clients.stdin is not None
        assert clients.stdout is not None
        known = json.loads(clients.stdout.readline())
        run("ip -n dead link set old down")
        print("send", file=clients.stdin, flush=True)
        time.sleep(OUTAGE)
        run(f"ip -n hosts route del {VIP}/32 dev old")
        print("watch", file=clients.stdin, flush=True)
        began = time.monotonic()
        sender = start(*tickler)
        if how == "stock":
            text = "".join(f"{VIP}:2049 {peer}:{port}\n" for peer, port in known)
        else:
            text = "".join(f"{VIP} 2049 {peer} {port}\n" for peer, port in known)
        sender.communicate(text, timeout=PATIENCE)
        return float(json.loads(clients.stdout.readline())) - began
    finally:
        for process in processes:
            process.kill()
            process.wait()
        run("ip -n hosts link del old")
        run("ip netns del dead")
