# SPDX-License-Identifier: GPL-2.0-or-later
"""Record hygiene: what is no monitor record is skipped and counted, never followed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.hosts import Node
from tests.support.service import HOLDING, MOUNT_POINT, OK, SM, Cluster
from tests.support.wait import wait_until

NUMBERS = "0100007f 000186b5 00000004 00000010 000102030405060708090a0b0c0d0e0f"
SECRET = "root's own"
HOSTILE = {
    "empty": "",
    "truncated": f"{NUMBERS} truncated no",
    "headless": "0100007f 000186b5\n",
    "no-hex": f"{NUMBERS.replace('0', 'z')} no-hex nodeA\n",
    "noname": f"{NUMBERS}\n",
    "192.0.2.201.new": f"{NUMBERS} 192.0.2.201 nodeA\n",
    "huge": f"{NUMBERS} huge nodeA\n" * 2000,
    ".192.0.2.202": f"{NUMBERS} 192.0.2.202 nodeA\n",
    "with\nnewline": f"{NUMBERS} 192.0.2.203 nodeA\n",
    "escape": f"{NUMBERS} ../../../tmp/escape nodeA\n",
    "absolute": f"{NUMBERS} /tmp/absolute nodeA\n",
    "control": f"{NUMBERS} 192.0.2.\x1b204 nodeA\n",
    "dotted": f"{NUMBERS} .ssh nodeA\n",
    "binary": "\x00" * 200,
}


def plant(node: Node, where: str) -> None:
    """Put all that is no record into a directory, owned as statd's own files are."""
    for name, content in HOSTILE.items():
        node.path(f"{where}/{name}").write_text(content)
    node.path("/tmp/secret").write_text(f"{NUMBERS} 192.0.2.210 {SECRET}\n")
    os.symlink("/tmp/secret", node.path(f"{where}/192.0.2.210"))
    os.symlink("/dev/zero", node.path(f"{where}/192.0.2.211"))
    os.mkfifo(node.path(f"{where}/192.0.2.212"))
    node.path(f"{where}/192.0.2.213").mkdir()
    os.mknod(node.path(f"{where}/192.0.2.214"), 0o020666, os.makedev(1, 5))
    node.path(f"{where}/192.0.2.215").touch()
    with open(node.path(f"{where}/192.0.2.216"), "wb") as file:
        file.write(f"{NUMBERS} 192.0.2.216 nodeA\n".encode())
        file.truncate(100 << 20)


@pytest.fixture
def started(pair: Cluster) -> Cluster:
    """Node A with the service started and one good record held."""
    pair.service.mount(pair.a)
    pair.service.start(pair.a)
    pair.a.sm_mon("192.0.2.101")
    pair.service.held(pair.a, "192.0.2.101")
    return pair


def entries(node: Node, where: str) -> set[str]:
    return {path.name for path in node.path(where).iterdir()}


def escaped(node: Node) -> set[str]:
    """Return the files of the names that hostile records aim at with paths."""
    places = ["/etc", "/run", "/srv", "/tmp", "/var/lib/nfs"]
    names = ["-name", "escape", "-o", "-name", "absolute"]
    return set(node.run("find", *places, *names).stdout.split())


def test_what_is_no_record_in_statds_directory(started: Cluster) -> None:
    service, a = started.service, started.a
    plant(a, SM)
    # statd's own next record comes through: nothing above has stopped or blocked the propagator.
    a.sm_mon("192.0.2.102")
    service.held(a, "192.0.2.102")
    wait_until(lambda: service.status(a)["skipped"] > 0, "skipped files counted")
    assert entries(a, f"{HOLDING}/sm") == {"192.0.2.101", "192.0.2.102"}
    assert escaped(a) == {f"{SM}/escape", f"{SM}/absolute"}
    assert service.agent.monitor(a).code in (0, 190)
    service.stop(a)
    assert entries(a, f"{HOLDING}/sm") == {"192.0.2.101", "192.0.2.102"}
    assert entries(a, SM) > set(HOSTILE), "they are statd's or root's: nothing was removed"


def test_what_is_no_record_is_no_hindrance_to_start(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    service.mount(a)
    plant(a, SM)
    a.sm_mon("192.0.2.101")
    service.start(a)
    service.held(a, "192.0.2.101")
    assert entries(a, f"{HOLDING}/sm") == {"192.0.2.101"}


def test_what_is_no_record_in_the_holding_directory(started: Cluster) -> None:
    service, a, b = started.service, started.a, started.b
    service.stop(a)
    plant(a, f"{HOLDING}/sm")
    service.umount(a)
    service.mount(b)
    service.start(b)
    wait_until(lambda: "192.0.2.101" in b.sm_records(), "the good record merged")
    assert entries(b, SM) == {"192.0.2.101"}
    assert service.pending(b) == {"192.0.2.101"}
    assert escaped(b) == {f"{HOLDING}/sm/escape", f"{HOLDING}/sm/absolute"}
    service.stop(b)


FOREIGN = 100_000


def crowd(node: Node, where: str) -> None:
    """Put FOREIGN files that are no records into a directory."""
    place = node.path(where)
    for number in range(FOREIGN):
        os.close(os.open(place / f"foreign.{number}", os.O_WRONLY | os.O_CREAT, 0o600))


def test_a_hundred_thousand_foreign_files(new_cluster: Callable[..., Cluster]) -> None:
    """In statd's directory and in the holding directory: they cost time, and nothing else."""
    cluster = new_cluster(clients=0, megabytes=500)  # mkfs makes an inode for each 4 KiB
    service, a = cluster.service, cluster.a
    service.mount(a)
    service.start(a)
    a.sm_mon("192.0.2.101")
    service.held(a, "192.0.2.101")
    service.stop(a)
    crowd(a, SM)
    crowd(a, f"{HOLDING}/sm")
    service.start(a)
    a.sm_mon("192.0.2.102")
    service.held(a, "192.0.2.101", "192.0.2.102")
    assert service.agent.monitor(a, 10).code == OK
    assert service.pending(a) == {"192.0.2.101"}
    service.stop(a)
    assert len(entries(a, SM)) == FOREIGN + 2
    assert len(entries(a, f"{HOLDING}/sm")) == FOREIGN + 2


def test_a_hard_link_is_not_written_through(started: Cluster) -> None:
    """A file that also lies elsewhere gets a successor; the other name keeps the old content."""
    service, a = started.service, started.a
    inside, outside = a.path(f"{HOLDING}/sm/192.0.2.101"), a.path(f"{MOUNT_POINT}/elsewhere")
    os.link(inside, outside)
    before = outside.read_text()
    a.sm_mon("192.0.2.101", my_name="alias")
    wait_until(lambda: service.records(a)["192.0.2.101"].count("\n") == 2, "both lines held")
    assert outside.read_text() == before


def test_a_record_that_becomes_whole_is_taken_then(started: Cluster) -> None:
    """statd writes in two steps: what was cut short is looked at again."""
    service, a = started.service, started.a
    line = f"{NUMBERS} 192.0.2.150 nodeA\n"
    path = a.path(f"{SM}/192.0.2.150")
    path.write_text(line[:40])
    a.sm_mon("192.0.2.102")
    service.held(a, "192.0.2.102")
    assert "192.0.2.150" not in service.records(a)
    path.write_text(line)
    wait_until(lambda: service.records(a).get("192.0.2.150") == line, "the whole record held")


def test_a_good_copy_outlives_a_damaged_original(started: Cluster) -> None:
    service, a = started.service, started.a
    good = service.records(a)["192.0.2.101"]
    a.path(f"{SM}/192.0.2.101").write_text("")
    a.sm_mon("192.0.2.102")
    service.held(a, "192.0.2.102")
    assert service.records(a)["192.0.2.101"] == good
    service.stop(a)
    assert service.records(a)["192.0.2.101"] == good


def test_local_records_win_and_lines_are_united(started: Cluster) -> None:
    """B has its own, newer record of the client: it stays, the lines it lacks are added."""
    service, a, b = started.service, started.a, started.b
    a.sm_mon("192.0.2.101", my_name="alias")
    wait_until(lambda: service.records(a)["192.0.2.101"].count("\n") == 2, "both lines held")
    held = service.records(a)["192.0.2.101"].splitlines()
    service.stop(a)
    service.umount(a)
    b.sm_mon("192.0.2.101", my_name="nodeA")
    b.sm_mon("192.0.2.103")
    local = b.sm_records()["192.0.2.101"]
    service.mount(b)
    service.start(b)
    lines = b.sm_records()["192.0.2.101"].splitlines()
    (alias,) = [line for line in held if line.endswith("alias")]
    assert sorted(lines) == sorted([local.rstrip("\n"), alias])
    assert set(b.sm_records()) == {"192.0.2.101", "192.0.2.103"}
    status = b.path(f"{SM}/192.0.2.101").stat()
    directory = b.path(SM).stat()
    assert (status.st_uid, status.st_gid) == (directory.st_uid, directory.st_gid)
    assert status.st_mode & 0o777 == 0o600
    service.held(b, "192.0.2.103")


def test_statd_knows_the_merged_records(started: Cluster) -> None:
    """SM_UNMON of a merged record works: statd has read it, and can write where it lies."""
    service, a, b = started.service, started.a, started.b
    service.stop(a)
    service.umount(a)
    service.mount(b)
    service.start(b)
    assert "192.0.2.101" in b.sm_records()
    b.sm_unmon("192.0.2.101", my_name="nodeA")
    wait_until(lambda: "192.0.2.101" not in b.sm_records(), "statd removed the record")
