# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator struck at its durable system calls: copying, being asked by statd's callout,
coming back with work to do, and taking notified clients off the list.

Whatever SM_MON's reply covers must survive a power cut right after it; what could not be confirmed
is counted and made good by a sweep. A client is notified, or it is still on the list.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.host import crash
from tests.host.crash import KILL, Point, Snapshot
from tests.support.hosts import Node
from tests.support.service import HOLDING, MOUNT_POINT, OK, Cluster, ip_of
from tests.support.wait import PATIENCE, wait_until

STATUS = "/run/nfslock/locks/status"
CALLOUT = "/usr/sbin/nfslock-callout"
OLD, NEW = "192.0.2.101", "192.0.2.102"


def use_callout(node: Node, binary: Path) -> None:
    """Let the next statd on the node run the callout."""
    shutil.copy(binary, node.path(CALLOUT))
    node.path("/etc/nfs.conf").write_text(f"[statd]\nha-callout={CALLOUT}\n")


def propagator(node: Node) -> psutil.Process:
    """Return the one propagator of the node."""
    return wait_until(lambda: node.find("propagate locks"), f"{node.name}: a propagator")[0]


class Attached:
    """strace attached to a running process (and with "-f" to its children to come)."""

    def __init__(self, node: Node, process: psutil.Process, *argv: str) -> None:
        self.node = node
        self.process = node.spawn(*argv, "-p", str(node.local_pid(process)))
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: "TracerPid:\t0" not in status.read_text(), "strace attached")

    def detach(self) -> None:
        """Let the process, if there still is one, go on without; else strace ends by itself."""
        for process in self.node.find("strace", "-p"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"strace does not detach: {self.node.find('strace')}") from None


def observe(node: Node, process: psutil.Process, run: Callable[[], object], *options: str
            ) -> list[Point]:
    """Return the durable calls that a process makes while something runs without a fault."""
    argv = ["strace", "-qq", "-o", crash.TRACE, *options, "-e", f"trace={crash.CALLS}"]
    attached = Attached(node, process, *argv)
    run()
    attached.detach()
    return crash.traced(node, "-f" in options)


def missed_by(node: Node) -> int:
    """Return how many clients the callout has let through."""
    return len(node.read("/run/nfslock/locks/callout.missed"))


def settled_down(cluster: Cluster, node: Node) -> None:
    """Wait until monitor is content: whatever was missed has been caught up with."""
    wait_until(
        lambda: cluster.service.agent.monitor(node).code == OK, "monitor content",
        otherwise=lambda: (cluster.service.told(node), cluster.service.log(node)),
    )


@pytest.mark.parametrize("fault", crash.FAULTS)
def test_copy_asked_for_by_the_callout(
    pair: Cluster, binary: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service, a, b = pair.service, pair.a, pair.b
    service.agent.parameters.update(propagate_interval="250ms", callout_timeout="4s")
    use_callout(a, binary)
    service.mount(a)
    service.start(a)
    every = copies(a, OLD)
    struck, missed, confirmed = [], 0, set()
    for number, point in enumerate(crash.sample(every, crash.FAULTS.index(fault))):
        client = f"192.0.2.{110 + number}"
        before = propagator(a)
        settled_down(pair, a)
        fault_at = Attached(a, before, *point.strace(fault))
        a.sm_mon(client)
        fault_at.detach()
        now = missed_by(a)
        if now == missed:
            assert client in service.records(a), f"{fault} at {point}: confirmed and not there"
            confirmed.add(client)
        else:
            assert fault != KILL, f"{point}: a killed propagator is waited for"
        missed = now
        service.held(a, client)
        if crash.struck(a):
            struck.append(point)
    settled_down(pair, a)
    assert struck
    assert service.records(a).keys() >= confirmed
    crash.lose_power(a)
    service.mount(b)
    assert service.records(b).keys() >= confirmed | {OLD}
    service.start(b)
    assert service.pending(b) == service.records(b).keys()
    with capsys.disabled():
        print(crash.report("copy for the callout", fault, struck, every), end=" ")


def copies(node: Node, client: str) -> list[Point]:
    """Return the calls of the propagator until a new client is confirmed."""
    wait_until(lambda: "phase=waiting" in node.read(STATUS), "the first status")
    return observe(node, propagator(node), lambda: node.sm_mon(client))


#: What the callout does in order (callout.c), and statd itself never while it monitors a client.
HAND_OVER = ("execve", "socket", "connect", "sendto", "recvfrom")


def test_a_callout_killed_at_each_step_of_its_hand_over(
    pair: Cluster, binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """statd answers all the same, and the propagator finds the record by itself."""
    service, a = pair.service, pair.a
    use_callout(a, binary)
    service.mount(a)
    service.start(a)
    (statd,) = a.find("rpc.statd")
    for number, call in enumerate(HAND_OVER):
        client = f"192.0.2.{110 + number}"
        fault_at = Attached(a, statd, *Point(call, 1).strace(KILL, "-f"))
        a.sm_mon(client)
        fault_at.detach()
        assert crash.struck(a), call
        service.held(a, client)
    settled_down(pair, a)
    assert a.find("rpc.statd")[0].pid == statd.pid
    with capsys.disabled():
        print(f"hand-over: KILL at {len(HAND_OVER)} of {len(HAND_OVER)} calls", end=" ")


@pytest.mark.parametrize("fault", crash.FAULTS)
def test_power_cut_right_after_a_confirmation(
    pair: Cluster, binary: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The propagator is struck on its way, its successor confirms, the power goes."""
    service, a, b = pair.service, pair.a, pair.b
    service.agent.parameters.update(propagate_interval="1h", callout_timeout="4s")
    use_callout(a, binary)
    service.mount(a)
    service.start(a)
    every = copies(a, OLD)
    service.stop(a)
    service.umount(a)
    disk = Snapshot(service.image)
    struck = []
    for point in crash.sample(every, 1 + crash.FAULTS.index(fault)):
        disk.restore()
        crash.set_local(a, OLD)
        service.mount(a)
        service.start(a)
        fault_at = Attached(a, propagator(a), *point.strace(fault))
        a.sm_mon(NEW)
        sure = missed_by(a) == 0
        crash.lose_power(a)
        fault_at.detach()
        if crash.struck(a):
            struck.append(point)
        service.mount(b)
        assert not sure or NEW in service.records(b), f"{fault} at {point}"
        assert OLD in service.records(b)
        service.umount(b)
    with capsys.disabled():
        print(crash.report("power cut after the callout", fault, struck, every), end=" ")


def test_control_without_the_callout_the_power_cut_loses_the_client(pair: Cluster) -> None:
    """The same without a callout, each fsync of the propagator taking 50 ms."""
    service, a, b = pair.service, pair.a, pair.b
    service.mount(a)
    service.start(a)
    slow = Attached(a, propagator(a), *Point("fsync", 1).strace("delay_enter=50000"))
    a.sm_mon(NEW)
    crash.lose_power(a)
    slow.detach()
    service.mount(b)
    assert NEW not in service.records(b)


def test_a_propagator_killed_while_it_comes_back(
    pair: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Again and again at the same call, with records that appeared while there was none."""
    service, a, b = pair.service, pair.a, pair.b
    service.mount(a)
    service.start(a)
    a.sm_mon(OLD)
    clients = {OLD}
    struck: list[Point] = []

    def come_back(*options: str) -> Attached:
        """Kill the propagator; a record appears while there is none; strace awaits the next."""
        settled_down(pair, a)
        (supervisor,) = a.find("supervise locks")
        first = propagator(a)
        supervisor.suspend()
        first.kill()
        a.sm_mon(client)
        attached = Attached(a, supervisor, *options, "-f")
        supervisor.resume()
        return attached

    def let_go(attached: Attached) -> None:
        """Detach strace while the supervisor stands still.

        strace hangs when it is to leave a process within vfork(2), whose child it has stopped.
        """
        (supervisor,) = a.find("supervise locks")
        supervisor.suspend()
        before = None

        def stands() -> bool:
            nonlocal before
            last, before = before, supervisor.num_ctx_switches()
            stopped = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
            return before == last and supervisor.status() in stopped

        wait_until(stands, "the supervisor stands still", pause=0.05)
        attached.detach()
        supervisor.resume()

    client = "192.0.2.109"
    clients.add(client)
    attached = come_back("strace", "-qq", "-o", crash.TRACE, "-e", f"trace={crash.CALLS}")
    service.held(a, *clients)
    wait_until(lambda: service.phase(a) == "waiting", "the first sweep done")
    let_go(attached)
    every = crash.traced(a, True)
    for number, point in enumerate(crash.sample(every, 0)):
        clients.add(client := f"192.0.2.{110 + number}")
        attached = come_back(*point.strace(KILL))
        wait_until(lambda: crash.struck(a) or client in service.records(a), "killed, or done")
        let_go(attached)
        if crash.struck(a):
            struck.append(point)
        service.held(a, *clients)
    assert struck
    a.run("sync", "-f", MOUNT_POINT)
    crash.lose_power(a)
    service.mount(b)
    service.start(b)
    assert service.pending(b) == service.records(b).keys() == clients
    with capsys.disabled():
        print(crash.report("coming back", KILL, struck, every), end=" ")


@pytest.mark.parametrize("fault", crash.FAULTS)
def test_notifier(cluster: Cluster, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    service, a = cluster.service, cluster.a
    service.agent.parameters["propagate_interval"] = "250ms"
    service.mount(a)
    cluster.lock(a)

    def told(times: int) -> None:
        """Bring the service up all the way; everybody is told."""
        service.serve(a)
        service.export(a)
        service.address(a)
        for client in cluster.clients:
            wait_until(
                lambda: len({one.state for one in client.accepted()}) == times,  # noqa: B023
                f"{client.name} told",
                otherwise=lambda: (client.notified(), service.log(a)),  # noqa: B023
            )
        wait_until(lambda: not service.pending(a), "nobody left")

    def down() -> None:
        service.unaddress(a)
        service.unexport(a)
        service.unserve(a)
        service.stop(a)

    service.start(a)
    every = observe(a, propagator(a), lambda: told(1))
    down()
    struck = []
    for count, point in enumerate(crash.sample(every, crash.FAULTS.index(fault)), start=2):
        service.start(a)
        assert service.pending(a) == {ip_of(client) for client in cluster.clients}
        attached = Attached(a, propagator(a), *point.strace(fault))
        told(count)
        attached.detach()
        if crash.struck(a):
            struck.append(point)
        states = {one.state for client in cluster.clients for one in client.accepted()}
        assert max(states) == service.state(a)
        settled_down(cluster, a)
        down()
    assert struck
    with capsys.disabled():
        print(crash.report("notifier", fault, struck, every), end=" ")


def test_a_client_that_could_not_be_told_stays_on_the_list(cluster: Cluster) -> None:
    """The control of the last one: an empty list means told, and nothing else."""
    service, a = cluster.service, cluster.a
    service.mount(a)
    cluster.lock(a)
    gone = cluster.clients[0]
    service.start(a)
    gone.run("ip", "link", "set", "eth0", "down")
    service.serve(a)
    service.export(a)
    service.address(a)
    wait_until(lambda: service.pending(a) == {ip_of(gone)}, "one told")
    propagator(a).kill()
    wait_until(lambda: service.phase(a) == "notifying", "a new one")
    assert service.pending(a) == {ip_of(gone)}
    assert a.path(f"{HOLDING}/notify/{ip_of(gone)}").exists()
