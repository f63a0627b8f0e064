# SPDX-License-Identifier: GPL-2.0-or-later
"""statd's callout struck at each system call by which it talks to others or leaves word.

statd grants the lock whatever becomes of its callout. So each client is held when SM_MON's reply
comes, or it is counted as missed: by the callout, or by a propagator that sees a record and hears
no callout, or whose answer nobody takes any more.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.host import crash
from tests.host.crash import Point
from tests.host.test_callout import CALLOUT, slow_disk
from tests.host.test_crash_propagator import missed_by, settled_down
from tests.support.hosts import Node
from tests.support.machine import CHECKOUT
from tests.support.service import Cluster
from tests.support.wait import wait_until

CALLS = "socket,connect,sendto,recvfrom,poll,chdir,getdents64,write"
REAL = "/usr/lib/nfslock-callout"
PLACE = "/var/lib/nfs/strikes"
FORMS = ("python", "c")
#: Seconds: more than the propagator waits for a callout that does not come (callout_server.py).
OVERDUE = 12.0


@pytest.fixture
def up(pair: Cluster) -> Cluster:
    """The service on A with a callout that strace can strike; each fsync takes 50 ms.

    A record that nobody has waited for is therefore not there when statd answers.
    """
    service, a = pair.service, pair.a
    service.agent.parameters.update(propagate_interval="250ms", callout_timeout="4s")
    a.run("install", "-d", "-o", "statd", PLACE)
    a.path("/etc/nfs.conf").write_text(f"[statd]\nha-callout={CALLOUT}\n")
    return pair


def bring_up(cluster: Cluster) -> Node:
    cluster.service.mount(cluster.a)
    cluster.service.start(cluster.a)
    slow_disk(cluster.a)
    return cluster.a


def use(node: Node, form: str, binary: Path, *wrapper: str) -> None:
    """Let statd run this form of the callout, with a wrapper around it."""
    shutil.copy(binary if form == "c" else CHECKOUT / "lib/nfslock/callout.py", node.path(REAL))
    node.path(REAL).chmod(0o755)
    words = " ".join(f"'{word}'" for word in (*wrapper, REAL))
    new = node.path(f"{CALLOUT}.new")
    new.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    new.chmod(0o755)
    new.rename(node.path(CALLOUT))


def strikes(point: Point | None, fault: str) -> list[str]:
    argv = ["/usr/bin/strace", "-qq", "-o", f"{PLACE}/log", "-e", f"trace={CALLS}"]
    if point is None:
        return argv
    return [*argv, "-e", f"inject={point.call}:{fault}:when={point.number}"]


def struck(node: Node) -> bool:
    log = node.read(f"{PLACE}/log")
    return "(INJECTED)" in log or "killed by SIGKILL" in log


def named(cluster: Cluster) -> set[str]:
    """Return the clients that the propagator has counted, by its log."""
    words = "statd's callout for "
    lines = cluster.service.log(cluster.a).splitlines()
    return {line.split(words)[1].split()[0] for line in lines if words in line}


def accounted(cluster: Cluster, let_through: set[str]) -> bool:
    """Whether each of these clients was counted, by whomever."""
    by_propagator = named(cluster)
    by_callout = missed_by(cluster.a) - len(by_propagator)
    return len(let_through - by_propagator) <= by_callout


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", crash.FAULTS)
def test_callout(
    up: Cluster, binary: Path, form: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service, a = up.service, bring_up(up)
    use(a, form, binary, *strikes(None, fault))
    a.sm_mon("10.9.0.1")
    assert set(service.records(a)) == {"10.9.0.1"}
    every = crash.traced_in(a.read(f"{PLACE}/log"), CALLS, followed=False)
    done, let_through, clients = [], set(), {"10.9.0.1"}
    for number, point in enumerate(crash.sample(every, crash.FAULTS.index(fault)), start=2):
        client = f"10.9.0.{number}"
        use(a, form, binary, *strikes(point, fault))
        a.sm_mon(client)
        if client not in service.records(a):
            let_through.add(client)
        clients.add(client)
        if struck(a):
            done.append(point)
    service.held(a, *clients)
    wait_until(
        lambda: accounted(up, let_through), f"{let_through} counted", timeout=60,
        otherwise=lambda: (missed_by(a), named(up), service.log(a)),
    )
    settled_down(up, a)
    with capsys.disabled():
        told = f"{len(let_through)} let through, {missed_by(a)} counted"
        print(crash.report(f"callout ({form}), {told}", fault, done, every, "calls"), end=" ")


@pytest.mark.parametrize("ours", [True, False])
def test_control_a_program_that_does_nothing_in_its_place(up: Cluster, ours: bool) -> None:
    """It lets everybody through: counted under the callout's name, and not under another's."""
    a = up.a
    place = CALLOUT if ours else "/usr/sbin/another"
    shutil.copy(a.path("/bin/true"), a.path(place))
    a.path("/etc/nfs.conf").write_text(f"[statd]\nha-callout={place}\n")
    bring_up(up)
    a.sm_mon("10.9.0.1")
    assert "10.9.0.1" not in up.service.records(a), "slow enough to be seen"
    up.service.held(a, "10.9.0.1")

    def swept() -> float:
        return float(up.service.told(a)["last_sweep"])

    began = swept()
    wait_until(lambda: swept() > began + OVERDUE, "sweeps after the time", timeout=60)
    assert accounted(up, {"10.9.0.1"}) is ours
