# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's rows for what Pacemaker runs every few seconds: monitor and meta-data."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from statistics import median

from . import rig
from .node import AGENT, Node, run_timed
from .report import Row

STOCK = "/usr/lib/ocf/resource.d/heartbeat/nfsserver"
FLOOR = "python3 -I -S"
_STUB_C = """
#include <stdio.h>
#include <string.h>
int main(int count, char **words)
{
	while (count--)
		if (!strcmp(words[count], "list-unit-files"))
			puts("nfs-server.service enabled\\nrpc-statd.service enabled");
	return 0;
}
"""
_STUB_SH = """#!/bin/sh
case "$*" in
*list-unit-files*) echo nfs-server.service enabled; echo rpc-statd.service enabled ;;
esac
"""


def rows(node: Node, place: rig.Rig, repeat: int) -> list[Row]:
    """Time monitor of a started service and meta-data. repeat: times eight runs, interleaved."""
    node.agent("start")
    mountd = pretend_nfsd()
    try:
        return [
            measure("monitor, level 0, service started", "monitor", node, place, repeat * 8),
            measure("meta-data", "meta-data", node, place, repeat * 8),
        ]
    finally:
        mountd.kill()
        mountd.wait()
        rig.run("umount /proc/fs")
        node.agent("stop")


def pretend_nfsd() -> subprocess.Popen[bytes]:
    """Let the stock monitor find systemd, nfsd and mountd, or it returns early; return a process.

    To be killed; the name of this process, the first in its namespace, and the mounts stay.
    """
    Path("/proc/1/comm").write_text("systemd")
    script = "/etc/init.d/nfs-kernel-server"
    if os.path.exists(script):
        rig.run(f"mount --bind /dev/null {script}")
    rig.run("mount -t tmpfs tmpfs /proc/fs")
    Path("/proc/fs/nfsd").mkdir()
    Path("/proc/fs/nfsd/threads").write_text("8\n")
    return subprocess.Popen(["rpc.mountd", "3600"], executable="/bin/sleep")


def measure(work: str, action: str, node: Node, place: rig.Rig, count: int) -> Row:
    """Compare an action with an empty Python and with the stock agent's, interleaved."""
    environment = node.environment(action, 10)
    node.agent(action, 10)
    commands = {
        "ours": ([AGENT, action], environment),
        FLOOR: ([rig.PYTHON, "-I", "-S", "-c", "pass"], environment),
    }
    if os.path.exists(STOCK):
        commands["stock nfsserver"] = ([STOCK, action], stock_environment(environment, place))
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(count):
        for name, (argv, env) in commands.items():
            times[name].append(run_timed(argv, env)[0] * 1000)
    medians = {name: median(values) for name, values in times.items()}
    row = Row(work, "ms", medians.pop("ours"), dict(medians.items()))
    row.targets = [(FLOOR, 2.0)]
    if "stock nfsserver" in commands:
        argv, env = commands["stock nfsserver"]
        code = subprocess.run(argv, env=env, capture_output=True, check=False).returncode
        row.note = f"nfsserver returned {code}, systemctl a stub that says yes"
    else:
        row.note = "the resource-agents package is not installed"
    row.judge()
    return row


def stock_environment(environment: dict[str, str], place: rig.Rig) -> dict[str, str]:
    """Return an environment in which everything the stock agent asks systemd for is active.

    The stand-in for systemctl is as quick as can be: the real one adds D-Bus.
    """
    stub = place.work / "stub"
    stub.mkdir(exist_ok=True)
    program = stub / "systemctl"
    if not program.exists():
        if place.compiler:
            source = stub / "stub.c"
            source.write_text(_STUB_C)
            rig.run(f"{place.compiler} -o {program} {source}")
        else:
            program.write_text(_STUB_SH)
            program.chmod(0o755)
        real = shutil.which("systemctl")  # the agent puts the system's directories first
        if real:
            rig.run(f"mount --bind {program} {real}")
    shared = Path("/srv/stock")
    shared.mkdir(exist_ok=True)
    own = {key: value for key, value in environment.items() if not key.startswith("OCF_RESKEY_")}
    path = f"{stub}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**own, "PATH": path, "OCF_RESKEY_nfs_shared_infodir": str(shared)}
