# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the bench runs: private namespaces, a server side with the VIPs, and an answering side.

Everything here ends with the process: mounts, network and process namespaces are its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
LIB = HERE.parents[1] / "lib"
OUT = HERE.parents[1] / "build/bench"
PYTHON = "/usr/bin/python3"
VIP, VIP6, NAME = "192.0.2.10", "2001:db8::10", "vip.example.com"
_INSIDE = "NFSLOCK_BENCH_INSIDE"


def enter() -> None:
    """Run this program again in namespaces of its own, unless it is there already."""
    if os.environ.get(_INSIDE):
        return
    if os.geteuid():
        raise SystemExit("the bench needs root: it makes network and mount namespaces")
    os.environ[_INSIDE] = "1"
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    os.execvp("unshare", [*own, sys.executable, *sys.argv])


def run(line: str) -> None:
    """Run a command line without quotes in it. Raises CalledProcessError."""
    subprocess.run(line.split(), check=True, stdin=subprocess.DEVNULL)


class Rig:
    """The network, and what was built for it."""

    def __init__(self) -> None:
        """Lay the cable and compile the answering side; without a compiler it is Python."""
        run("mount -t tmpfs -o size=4g tmpfs /run")
        self.work = Path("/run/nfslock-bench")
        self.work.mkdir()
        hosts = self.work / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{VIP} {NAME} vip\n")
        run(f"mount --bind {hosts} /etc/hosts")
        # Name servers that never answer: the answering side drops what is not its own.
        resolv = self.work / "resolv.conf"
        resolv.write_text("nameserver 203.0.113.53\n")
        run(f"mount --bind {resolv} {os.path.realpath('/etc/resolv.conf')}")
        switch = self.work / "nsswitch.conf"
        switch.write_text("hosts: files dns\nservices: files\npasswd: files\ngroup: files\n")
        run(f"mount --bind {switch} /etc/nsswitch.conf")
        run("ip netns add hosts")
        run("ip link add wire type veth peer name wire netns hosts")
        run("ip link set lo up")
        run("ip link set wire up")
        inside = "ip -n hosts"
        run(f"{inside} link set lo up")
        run(f"{inside} link set wire up")
        run("ip address add 192.0.2.1/24 dev wire")
        run(f"ip address add {VIP}/24 dev wire")
        run(f"ip address add {VIP6}/64 dev wire nodad")
        run(f"{inside} address add 192.0.2.2/24 dev wire")
        run(f"{inside} address add 2001:db8::2/64 dev wire nodad")
        run(f"{inside} route add local 10.8.0.0/14 dev lo")
        run(f"{inside} -6 route add local fd08::/64 dev lo")
        run("ip route add default via 192.0.2.2")
        run("ip -6 route add fd08::/64 via 2001:db8::2")
        self.compiler = shutil.which("cc") or shutil.which("gcc")
        if self.compiler:
            for name in ("answerer", "floor"):
                source = HERE / f"{name}.c"
                run(f"{self.compiler} -O2 -o {self.work / name} {source}")

    def answering(
        self, expect: int, dead: int = 0, loss: float = 0, rtt: float = 0
    ) -> subprocess.Popen[str]:
        """Start the answering side. RuntimeError if it does not come up."""
        program = [str(self.work / "answerer")] if self.compiler else [
            PYTHON, str(HERE / "answerer.py")]
        arguments = [str(expect), str(dead), str(loss), str(rtt)]
        process = subprocess.Popen(
            ["ip", "netns", "exec", "hosts", *program, *arguments],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the answering side did not start")
        return process

    def floor(self, number: int, expect: int) -> list[str] | None:
        """Return the command line of the floor loop."""
        if not self.compiler:
            return None
        return [str(self.work / "floor"), VIP, NAME, str(number), str(expect), "2048"]

    def ours(self, clients: Sequence[str], vips: str, until: int, limit: float) -> list[str]:
        """Return the command line of the product's sender."""
        names = self.work / f"clients.{len(clients)}"
        names.write_text("\n".join(clients))
        program = str(HERE / "sender.py")
        return [PYTHON, "-I", program, str(LIB), vips, str(names), str(until), str(limit)]

    def stock(self, clients: Sequence[str]) -> list[str]:
        """Return the command line of sm-notify over a fresh state directory with these records."""
        base = self.work / "stock"
        shutil.rmtree(base, ignore_errors=True)
        for directory in ("sm", "sm.bak"):
            (base / directory).mkdir(parents=True)
        for client in clients:
            (base / "sm" / client).write_bytes(record(client))
        return ["/usr/sbin/sm-notify", "-d", "-f", "-P", str(base), "-v", NAME]


def record(client: str) -> bytes:
    """Return a monitor record as statd writes it."""
    return b"0100007f 000186b5 00000004 00000010 " + b"0" * 32 + f" {client} node\n".encode()


def clients(number: int) -> list[str]:
    """Return hosts 1 to number of 10.8.0.0/14."""
    return [f"10.{8 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(1, number + 1)]


def alive(number: int, dead: int) -> int:
    """Return how many of them answer: the same arithmetic as in answerer.c."""
    return sum(n * 2654435761 % (1 << 32) % 100 >= dead for n in range(1, number + 1))


class Run(NamedTuple):
    """One run of a sender. last: seconds from its start to the last first SM_NOTIFY.

    Ours starts when it has the list of clients: in earnest it is a daemon, and runs already.
    """

    last: float
    notified: int
    answering: dict[str, Any]
    sender: dict[str, Any]
    complete: bool


def notify(
    rig: Rig,
    argv: list[str],
    expect: int,
    *,
    dead: int = 0,
    loss: float = 0,
    rtt: float = 0,
    limit: float = 20,
) -> Run:
    """Run a sender against a fresh answering side until `expect` hosts have heard of it.

    limit: seconds. Raises RuntimeError if the answering side does not start.
    """
    answering = rig.answering(expect, dead, loss, rtt)
    assert answering.stdout is not None
    start = time.monotonic()
    sender = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    )
    signal.signal(signal.SIGALRM, lambda *_: answering.terminate())
    signal.setitimer(signal.ITIMER_REAL, limit)
    line = answering.stdout.readline()
    complete = line == "complete\n"
    signal.setitimer(signal.ITIMER_REAL, 0)
    out = ""
    try:
        # Ours ends by itself once it knows; sm-notify stays for those who never answer.
        out, _ = sender.communicate(timeout=5 if complete and "sender.py" in str(argv) else 0.5)
    except subprocess.TimeoutExpired:
        sender.terminate()
        sender.communicate()
    answering.terminate()
    rest, _ = answering.communicate()
    report = json.loads(rest if complete else line)
    known = json.loads(out) if out.startswith("{") else {}
    start = known.get("began", start)
    last = report["last"] - start if report["notified"] else float("inf")
    return Run(last, report["notified"], report, known, complete)
