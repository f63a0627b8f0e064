# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts at every write of the shared disk, with each order in which a disk may have kept them.

A recorder under the filesystem notes every write and flush while the service starts, takes clients'
records (statd's callout), loses its power, is taken over, notifies, forgets a client, stops and
starts again. Then each prefix of the recording that a power cut could leave is mounted and taken
over from, and reorderings of what was written after the last flush. By default a sample of them;
NFSLOCK_CRASH=all (`make crash`) takes all prefixes. Real NFS servers: tests/cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nfslock import nsm
from nfslock.owner import Owner
from tests.host import crash, power_loss
from tests.host.power_loss import Promised, Replay, Required, Tally, judge
from tests.host.test_crash_propagator import use_callout
from tests.support.hosts import Node
from tests.support.recorded_disk import RecordedDisk, position
from tests.support.service import Cluster, ip_of
from tests.support.wait import wait_until

#: What is tried by default: one image of so many, and so many takeovers for each recording.
SAMPLE = {"reorderings": 10, "every": 5, "takeovers": 3}
NAMES = [f"192.0.2.{number}" for number in range(120, 130)]


class Stage:
    """The service on a disk that records, and what it promises meanwhile."""

    def __init__(self, cluster: Cluster, binary: Path) -> None:
        self.cluster, self.service = cluster, cluster.service
        self.disk = RecordedDisk(cluster.world)
        self.service.image = self.disk
        self.clients = [ip_of(client) for client in cluster.clients]
        self.made: list[Promised] = []
        for node in (cluster.a, cluster.b):
            use_callout(node, binary)

    @property
    def promised(self) -> Promised:
        """Of the recording that is being made."""
        return self.made[-1]

    def bring_up(self, node: Node, options: str = "noatime") -> None:
        """Begin a recording; start the service, which then has shown its numbers."""
        recording = self.disk.attach(node)
        known = {*NAMES, *self.clients}
        self.made.append(
            self.promised.next(recording) if self.made else Promised(recording, known=known)
        )
        service = self.service
        service.mount(node, options)
        service.start(node)
        owner = service.owner(node)
        self.promised.show(position(recording), owner["generation"], owner["state"])
        service.complete(node)

    def lock(self, node: Node, *names: str) -> None:
        """Clients' first locks: statd's answer is what lockd waits for before it grants one."""
        for name in names:
            node.sm_mon(name)
            self.promised.keep(name, position(self.promised.recording))

    def forget(self, node: Node, name: str) -> None:
        """A client is monitored no longer; some time after that its record is removed."""
        self.promised.release(name, position(self.promised.recording))
        node.sm_unmon(name)
        wait_until(lambda: name not in self.service.records(node), f"{name} forgotten", 30)

    def bring_down(self, node: Node) -> None:
        """Stop the group; the recording ends with umount."""
        self.service.bring_down(node)
        self.disk.detach()

    def cut(self, node: Node) -> None:
        """The recording ends in the middle, and the node's part in the service with it."""
        crash.lose_power(node)
        for step in (self.service.unaddress, self.service.unexport, self.service.unserve):
            step(node)
        self.disk.detach()


def replay(stage: Stage, capsys: pytest.CaptureFixture[str], replay: Replay) -> list[Tally]:
    """Replay every recording of a stage and print what was tried."""
    tallies = []
    for number, promised in enumerate(stage.made):
        tallies.append(replay.run(f"power cuts in recording {number + 1}", promised))
        with capsys.disabled():
            print(tallies[-1], end=" ")
    return tallies


@pytest.mark.timeout(7200 if crash.ALL else 900)
def test_no_power_cut_loses_a_record(
    new_cluster: Callable[..., Cluster], binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(new_cluster(), binary)
    a, b = stage.cluster.a, stage.cluster.b
    stage.bring_up(a)
    stage.lock(a, *stage.clients, *NAMES[:4])
    stage.cut(a)
    stage.bring_up(b)
    wait_until(lambda: not stage.service.pending(b) & set(stage.clients), "clients notified")
    stage.lock(b, *NAMES[4:6])
    stage.forget(b, NAMES[4])
    stage.lock(b, NAMES[4])
    stage.bring_down(b)
    stage.bring_up(a)
    stage.lock(a, NAMES[6])
    stage.bring_down(a)
    options = {} if crash.ALL else SAMPLE
    tallies = replay(stage, capsys, Replay(stage.cluster, **options))
    complaints = [line for tally in tallies for line in tally.complaints]
    assert not complaints, "\n".join(complaints[:20])
    assert all(tally.prefixes and tally.reorderings and tally.takeovers for tally in tallies)


@pytest.mark.parametrize("off", ["fsync", "barrier"])
def test_control_without_fsync_or_flushes_records_are_lost(
    new_cluster: Callable[..., Cluster], binary: Path, off: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same checks see the loss when fsync does nothing, or when the disk is told of none."""
    stage = Stage(new_cluster(clients=0), binary)
    a = stage.cluster.a
    if off == "fsync":
        a.path(power_loss.NO_SYNC).write_bytes(power_loss.no_sync())
        a.path(power_loss.PRELOAD).write_text(f"{power_loss.NO_SYNC}\n")
    # commit: the journal's own timer (5 s) must not save what fsync does not.
    stage.bring_up(a, "noatime,commit=300" + (",nobarrier" if off == "barrier" else ""))
    stage.lock(a, *NAMES[:3])
    stage.cut(a)
    (tally,) = replay(stage, capsys, Replay(stage.cluster, **SAMPLE))
    lost = {line.rpartition(" ")[2] for line in tally.complaints if "lost: " in line}
    assert lost == set(NAMES[:3])


ONE, TWO, THREE = NAMES[:3]
RECORD = {f"sm/{name}": nsm.format_line(name, "nodeA") for name in NAMES}
OWNER = Owner("locks", "nodeA", "boot", 3, 7)
GOOD = {
    "sm/": b"", "notify/": b"", "sm/.nfslock.1.0": b"half a rec",
    f"sm/{ONE}": RECORD[f"sm/{ONE}"], f"sm/{TWO}": RECORD[f"sm/{TWO}"],
    f"notify/{ONE}": RECORD[f"sm/{ONE}"],
    "owner.json": OWNER.encode(), "state": nsm.encode_state(7),
}  # fmt: skip
REQUIRED = Required(frozenset((ONE, TWO)), frozenset((ONE, TWO, THREE)), 3, 7)


def test_the_judgement_accepts_what_was_promised() -> None:
    assert judge(GOOD, REQUIRED) == []
    more = {f"sm/{THREE}": RECORD[f"sm/{THREE}"]}
    assert judge({**GOOD, **more}, REQUIRED) == [], "written, and not yet promised"
    before = {**GOOD, "state": nsm.encode_state(5)}
    assert judge(before, REQUIRED) == [], "owner.json has the newer number"
    assert judge({}, Required(frozenset(), frozenset(), 0, 0)) == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({f"sm/{ONE}": None}, f"lost: {ONE}"),
        ({f"sm/{NAMES[3]}": RECORD[f"sm/{NAMES[3]}"]}, f"invented: {NAMES[3]}"),
        ({f"sm/{ONE}": b""}, f"sm/{ONE}: monitor record is empty"),
        ({f"sm/{ONE}": RECORD[f"sm/{TWO}"]}, f"sm/{ONE} is the record of"),
        ({f"notify/{ONE}": b"\0"}, f"notify/{ONE}: monitor record is empty"),
        ({"owner.json": None}, "generation 0, 3 was shown"),
        ({"owner.json": b""}, "owner.json or state: is no JSON"),
        ({"owner.json": OWNER._replace(generation=2).encode()}, "generation 2, 3 was shown"),
        ({"state": b""}, "owner.json or state: state file of 0 bytes"),
        ({"state": None, "owner.json": OWNER._replace(state=5).encode()}, "state 5, 7 was shown"),
    ],
)
def test_the_judgement_sees_what_is_wrong(change: dict[str, bytes | None], wrong: str) -> None:
    found = {path: data for path, data in {**GOOD, **change}.items() if data is not None}
    assert any(line.startswith(wrong) for line in judge(found, REQUIRED)), judge(found, REQUIRED)
