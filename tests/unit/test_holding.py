# SPDX-License-Identifier: GPL-2.0-or-later
"""The holding directory on a real file tree: claim, fence, records, the list of the notified."""

import os
from pathlib import Path

import pytest

from nfslock import errors, nsm
from nfslock.holding import Holding
from nfslock.owner import Owner, decode_owner
from nfslock.system import System
from tests.unit.records import line

OWNER = Owner("svc", "node-a", "boot", 1, 3)
A = line("10.0.0.1", "node-a")


@pytest.fixture
def holding(tmp_path: Path) -> Holding:
    (tmp_path / "locks").mkdir()
    held = Holding(System(), str(tmp_path / "locks"), "svc")
    held.claim(OWNER)
    return held


def test_what_a_claim_leaves(holding: Holding) -> None:
    assert sorted(os.listdir(holding.path)) == ["notify", "owner.json", "sm"]
    assert holding.read_owner() == OWNER
    assert holding.examine() == OWNER


def test_records_go_in_and_come_out(holding: Holding) -> None:
    holding.put({"10.0.0.1": A})
    assert holding.records() == ({"10.0.0.1": A}, 0)
    assert os.stat(f"{holding.path}/sm/10.0.0.1").st_mode & 0o777 == 0o600
    holding.drop(["10.0.0.1", "never.there"])
    assert holding.records() == ({}, 0)


def test_many_records_at_once(holding: Holding) -> None:
    clients = [f"10.0.{n // 250}.{n % 250}" for n in range(600)]
    many = {client: line(client, "a") for client in clients}
    holding.put(many)
    assert holding.records() == (many, 0)
    holding.enlist(many)
    assert sorted(holding.pending()) == sorted(many)


def test_the_list_keeps_its_entry_when_the_record_changes(holding: Holding) -> None:
    holding.put({"10.0.0.1": A})
    holding.enlist(["10.0.0.1"])
    holding.enlist(["10.0.0.1"])
    holding.drop(["10.0.0.1"])
    assert holding.pending() == ["10.0.0.1"]
    assert nsm.parse_record(Path(f"{holding.path}/notify/10.0.0.1").read_bytes())
    holding.notified(["10.0.0.1"])
    assert holding.pending() == []


def test_hostile_files_are_skipped_and_counted(holding: Holding) -> None:
    sm = Path(holding.path, "sm")
    holding.put({"10.0.0.1": A})
    (sm / "empty").touch()
    (sm / "10.0.0.2").write_bytes(line("10.0.0.3", "x"))  # named after somebody else
    (sm / "10.0.0.4.new").write_bytes(A)
    (sm / ".dot").write_bytes(A)
    (sm / "10.0.0.5").symlink_to("/etc/passwd")
    (sm / "10.0.0.7").mkdir()
    os.mkfifo(sm / "10.0.0.6")
    (sm / "10.0.0.8").write_bytes(A * 10000)
    assert holding.records() == ({"10.0.0.1": A}, 8)


def test_every_write_stops_at_a_newer_owner(holding: Holding) -> None:
    holding.put({"10.0.0.1": A})
    other = Holding(System(), holding.path, "svc")
    other.claim(Owner("svc", "node-b", "boot2", 2, 5))
    for write in (lambda: holding.put({"10.0.0.2": A}), lambda: holding.drop(["10.0.0.1"]),
                  lambda: holding.enlist(["10.0.0.1"]), lambda: holding.notified(["10.0.0.1"]),
                  lambda: holding.write_state(9)):
        with pytest.raises(errors.Fenced, match="newer generation: 2 on node node-b"):
            write()
    assert holding.records() == ({"10.0.0.1": A}, 0)


def test_a_claim_that_is_not_newer_is_refused(holding: Holding) -> None:
    with pytest.raises(errors.Fenced):
        Holding(System(), holding.path, "svc").claim(OWNER)


def test_foreign_files_and_owners_are_refused(holding: Holding) -> None:
    with pytest.raises(errors.ConfigError, match=r"belongs to the resource svc \(node node-a"):
        Holding(System(), holding.path, "other").examine()
    Path(holding.path, "owner.json").unlink()
    Path(holding.path, "database.db").touch()
    with pytest.raises(errors.ConfigError, match=r"1 foreign files \(database.db\)"):
        holding.examine()


def test_a_foreign_file_in_a_directory_of_ours_keeps_nobody_from_taking_over(
    holding: Holding
) -> None:
    Path(holding.path, "owner.json.bak").touch()
    assert holding.examine() == OWNER
    assert holding.foreign == ["owner.json.bak"]


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100000,
    b'{"service": 5, "node": "a", "boot_id": "b", "generation": 1, "state": 1}',
    b'{"format": 99, "service": "s"}',
    OWNER.encode().replace(b'"generation": 1', b'"generation": 0'),
    OWNER.encode().replace(b'"generation": 1', b'"generation": true'),
    OWNER.encode().replace(b'"state": 3', b'"state": 99999999999')])
def test_a_damaged_owner_file_stops_everything_and_costs_nothing(
    holding: Holding, data: bytes
) -> None:
    holding.put({"10.0.0.1": A})
    Path(holding.path, "owner.json").write_bytes(data)
    with pytest.raises(errors.Error, match="owner.json .*untouched"):
        holding.examine()
    with pytest.raises(errors.Error):
        holding.put({"10.0.0.2": A})
    assert holding.records() == ({"10.0.0.1": A}, 0)


def test_owner_survives_its_own_format() -> None:
    assert decode_owner(OWNER.encode()) == OWNER


def test_leftovers_of_a_killed_write_go_with_the_next_claim(holding: Holding) -> None:
    Path(holding.path, "sm/.nfslock.dead.0").write_bytes(b"half")
    holding.claim(Owner("svc", "node-a", "boot", 2, 5))
    assert os.listdir(f"{holding.path}/sm") == []


def test_a_damaged_state_file_is_no_state(holding: Holding) -> None:
    for data in (b"", b"abc", b"\2\0\0\0"):
        Path(holding.path, "state").write_bytes(data)
        assert holding.read_state() is None
    holding.write_state(11)
    assert holding.read_state() == 11
