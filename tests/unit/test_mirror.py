# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror on a real file tree: additions at once, deletions late, rubbish never."""

import os
from pathlib import Path

import pytest

from nfslock import nsm
from nfslock.errors import Error
from nfslock.holding import Holding
from nfslock.mirror import Mirror
from nfslock.owner import Owner
from nfslock.system import System
from tests.unit.records import line

OLD = 1_000_000_000


class Place:
    """A statd directory and a claimed holding directory with a mirror between them."""

    def __init__(self, root: Path) -> None:
        self.sm = root / "nfs/sm"
        self.sm.mkdir(parents=True)
        (root / "locks").mkdir()
        self.holding = Holding(System(), str(root / "locks"), "svc")
        self.holding.claim(Owner("svc", "a", "b", 1, 3))
        self.mirror = Mirror(System(), str(root / "nfs"), self.holding)

    def held(self) -> "set[str]":
        return set(self.holding.records()[0])

    def monitor(self, client: str, my_name: str = "node", cookie: int = 1, file: str = "") -> None:
        (self.sm / (file or client)).write_bytes(line(client, my_name, cookie))

    def quieten(self) -> None:
        """Let the directory's times lie well in the past."""
        os.utime(self.sm, (OLD, OLD))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_sweep_copies_by_mon_name(place: Place) -> None:
    place.monitor("10.0.0.1", file="client1.example.com")
    assert place.mirror.sweep() == 1
    assert place.held() == {"10.0.0.1"}
    assert place.mirror.sweep() == 0


def test_a_touched_file_is_copied(place: Place) -> None:
    place.mirror.sweep()
    place.monitor("10.0.0.1")
    assert place.mirror.touch(["10.0.0.1"]) == 1
    place.monitor("10.0.0.1", "other", cookie=2)
    assert place.mirror.touch(["10.0.0.1"]) == 1
    assert place.holding.records()[0]["10.0.0.1"] == (
        line("10.0.0.1", "other", 2) + line("10.0.0.1", "node", 1))


def test_a_new_cookie_alone_is_not_written(place: Place) -> None:
    """Every client that reclaims after a takeover has one."""
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    place.monitor("10.0.0.1", cookie=2)
    assert place.mirror.touch(["10.0.0.1"]) == 0
    place.mirror.keep("10.0.0.1", "node")
    assert place.mirror.sweep() == 0
    assert place.holding.records()[0] == {"10.0.0.1": line("10.0.0.1", "node", 1)}


def test_a_record_made_without_a_cookie_is_replaced(place: Place) -> None:
    place.mirror.keep("10.0.0.1", "node")
    place.monitor("10.0.0.1")
    assert place.mirror.sweep() == 1
    assert place.holding.records()[0] == {"10.0.0.1": line("10.0.0.1", "node", 1)}


def test_lines_that_only_the_holding_directory_has_stay(place: Place) -> None:
    place.monitor("10.0.0.1", "node-a")
    place.mirror.sweep()
    place.monitor("10.0.0.1", "node-b")
    place.mirror.sweep()
    assert place.holding.records()[0]["10.0.0.1"].count(b"\n") == 2


def test_an_absent_record_stays_until_patience_is_over(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    (place.sm / "10.0.0.1").unlink()
    place.mirror.sweep()
    now = place.mirror.system.monotonic()
    assert place.mirror.expire(10.0, None) == 0
    assert place.mirror.expire(10.0, now - 100) == 0
    place.mirror.absent["10.0.0.1"] = now - 11
    assert place.mirror.expire(10.0, now - 5) == 0
    assert place.mirror.expire(10.0, now - 100) == 1
    assert place.held() == set()


def test_a_record_that_comes_back_is_not_absent(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    (place.sm / "10.0.0.1").unlink()
    place.mirror.touch(["10.0.0.1"])
    assert set(place.mirror.absent) == {"10.0.0.1"}
    place.monitor("10.0.0.1", cookie=9)
    place.mirror.touch(["10.0.0.1"])
    assert place.mirror.absent == {}


def test_a_half_written_record_keeps_what_we_have(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    (place.sm / "10.0.0.1").write_bytes(b"0100007f 0001")
    place.mirror.touch(["10.0.0.1"])
    assert place.held() == {"10.0.0.1"}
    assert place.mirror.skipped == {"10.0.0.1"}
    place.monitor("10.0.0.1", cookie=3)
    place.mirror.touch(["10.0.0.1"])
    assert place.mirror.skipped == set()


def test_a_name_that_statd_used_for_an_instant_is_forgotten(place: Place) -> None:
    place.mirror.touch(["10.0.0.1.new"])
    assert place.mirror.skipped == set()
    (place.sm / "10.0.0.1.new").write_bytes(b"half")
    place.mirror.touch(["10.0.0.1.new"])
    assert place.mirror.skipped == {"10.0.0.1.new"}
    (place.sm / "10.0.0.1.new").unlink()
    place.mirror.sweep(watched=True)
    assert place.mirror.skipped == set()


def test_a_client_known_from_the_callout_alone_outlives_the_propagator(place: Place) -> None:
    place.mirror.sweep()
    place.mirror.keep("10.0.0.1", "node")
    place.monitor("10.0.0.2")
    place.mirror.sweep()
    (place.sm / "10.0.0.2").unlink()
    place.mirror = Mirror(System(), str(place.sm.parent), place.holding)
    place.mirror.sweep()
    assert set(place.mirror.absent) == {"10.0.0.2"}


def test_a_record_that_could_not_be_written_is_owed_until_it_is(place: Place) -> None:
    """Also one that statd's directory does not show; and no callout is confirmed before."""
    place.mirror.sweep()
    sm = Path(place.holding.path, "sm")
    sm.rename(f"{sm}.away")
    for _ in range(2):
        with pytest.raises((Error, OSError)):
            place.mirror.keep("10.0.0.1", "node")
    place.monitor("10.0.0.2", file="desk.example.com")
    with pytest.raises((Error, OSError)):
        place.mirror.touch(["desk.example.com"])
    with pytest.raises((Error, OSError)):
        place.mirror.keep("10.0.0.2", "node")
    Path(f"{sm}.away").rename(sm)
    place.mirror.sweep(watched=True)
    assert place.held() == {"10.0.0.1", "10.0.0.2"}


def test_a_damaged_record_is_no_client_going_away(place: Place) -> None:
    """Neither one that was damaged while we watched, nor one that we have never seen whole."""
    for client, file in (("10.0.0.1", "desk.example.com"), ("10.0.0.2", "")):
        place.monitor(client, file=file)
    place.mirror.sweep()
    for name in ("desk.example.com", "10.0.0.2"):
        (place.sm / name).write_bytes(b"")
    long_ago = place.mirror.system.monotonic() - 1000
    place.mirror.touch(["desk.example.com", "10.0.0.2"])
    assert place.mirror.absent == {}
    place.mirror = Mirror(System(), str(place.sm.parent), place.holding)
    place.mirror.sweep()
    place.mirror.absent = dict.fromkeys(place.mirror.absent, long_ago)
    place.mirror.expire(10.0, long_ago)
    assert place.held() == {"10.0.0.1", "10.0.0.2"}
    (place.sm / "desk.example.com").unlink()
    place.monitor("10.0.0.2")
    place.mirror.sweep()
    place.mirror.absent = dict.fromkeys(place.mirror.absent, long_ago)
    place.mirror.expire(10.0, long_ago)
    assert place.held() == {"10.0.0.2"}


def test_a_record_that_comes_back_unseen_is_not_removed(place: Place) -> None:
    """No event has told of the new file yet when the old record's time is over."""
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    (place.sm / "10.0.0.1").unlink()
    place.mirror.sweep()
    long_ago = place.mirror.system.monotonic() - 1000
    place.mirror.absent["10.0.0.1"] = long_ago
    place.monitor("10.0.0.1", cookie=7, file="desk.example.com")
    assert place.mirror.expire(10.0, long_ago) == 0
    assert place.held() == {"10.0.0.1"}


@pytest.mark.parametrize("file", ["", "desk.example.com"])
def test_a_callout_keeps_the_record_wherever_it_is(place: Place, file: str) -> None:
    place.mirror.sweep()
    place.monitor("10.0.0.1", cookie=5, file=file)
    place.mirror.keep("10.0.0.1", "node")
    assert place.holding.records()[0] == {"10.0.0.1": line("10.0.0.1", "node", 5)}
    place.mirror.sweep()
    assert place.mirror.told == set()


def test_a_callout_keeps_a_client_that_has_no_record(place: Place) -> None:
    """statd keeps its records elsewhere: the record is made from the names, and it stays."""
    for client in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        place.mirror.keep(client, "node")
    place.mirror.keep("10.0.0.1", "other")
    held = place.holding.records()[0]
    assert set(nsm.parse_record(held["10.0.0.1"])) == {("10.0.0.1", "node"), ("10.0.0.1", "other")}
    long_ago = place.mirror.system.monotonic() - 1000
    place.mirror.sweep()
    assert place.mirror.absent == {}
    place.mirror.expire(10.0, long_ago)
    assert place.held() == {"10.0.0.1", "10.0.0.2"}


def test_a_callout_before_the_first_sweep_costs_no_line(place: Place) -> None:
    """What the holding directory has of that client is read, not overwritten."""
    old = line("10.0.0.1", "before")
    place.holding.put({"10.0.0.1": old})
    sweep = place.mirror.steps()
    place.monitor("10.0.0.1")
    place.mirror.keep("10.0.0.1", "node")
    both = place.holding.records()[0]["10.0.0.1"]
    assert set(nsm.parse_record(both)) == {("10.0.0.1", "before"), ("10.0.0.1", "node")}
    for _ in sweep:
        pass
    assert place.holding.records()[0]["10.0.0.1"] == both


def test_callouts_between_the_steps_of_a_sweep(place: Place) -> None:
    for number in range(350):
        place.monitor(f"10.0.1.{number}")
    for number, _ in enumerate(place.mirror.steps()):
        place.monitor(f"10.0.2.{number}")
        place.mirror.keep(f"10.0.2.{number}", "node")
        assert f"10.0.2.{number}" in place.held()
    assert number > 2
    assert len(place.held()) == 350 + number + 1
    assert place.mirror.sweep() == 0


def test_a_client_that_no_record_can_hold_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="no monitor record can hold"):
        place.mirror.keep("../x", "node")
    assert place.held() == set()


def test_a_quiet_directory_is_not_read_again_but_a_changed_one_is(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.quieten()
    place.mirror.sweep(watched=True)
    place.monitor("10.0.0.2")
    place.quieten()  # as if nothing had happened: only its identity could tell
    ctime_changed = place.mirror.sweep(watched=True)
    assert ctime_changed == 1
    assert place.held() == {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("known", [0, 5001])
def test_many_names_are_not_compared_with_every_sweep(place: Place, known: int) -> None:
    """inotify has told of them; what it missed is found after a while all the same."""
    held = Path(place.holding.path) / "sm"
    for number in range(known):
        client = f"10.1.{number >> 8}.{number & 255}"
        place.monitor(client)
        (held / client).write_bytes(line(client, "node", 1))
    place.mirror.sweep(watched=True)
    place.monitor("10.0.0.2")
    assert place.mirror.sweep(watched=True) == (0 if known else 1)
    place.mirror.sweep(watched=True)
    assert "10.0.0.2" in place.mirror.held


def test_lost_events_mean_a_full_sweep(place: Place) -> None:
    """A changed file in a directory that stands still."""
    place.monitor("10.0.0.1")
    place.mirror.sweep(watched=True)
    place.monitor("10.0.0.1", "other")
    assert place.mirror.sweep(watched=True) == 0
    place.mirror.distrust()
    assert place.mirror.sweep(watched=True) == 1
    assert place.mirror.sweep(watched=True) == 0


def test_another_directory_in_its_place_is_read(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.mirror.sweep(watched=True)
    os.rename(place.sm, f"{place.sm}.away")
    place.sm.mkdir()
    place.monitor("10.0.0.1", "other")
    assert place.mirror.sweep(watched=True) == 1


def test_a_failed_write_is_made_good_by_the_next_sweep(place: Place) -> None:
    place.quieten()
    place.mirror.sweep(watched=True)
    place.monitor("10.0.0.1")
    os.rename(f"{place.holding.path}/sm", f"{place.holding.path}/away")
    with pytest.raises(Exception, match="cannot write 10.0.0.1"):
        place.mirror.touch(["10.0.0.1"])
    os.rename(f"{place.holding.path}/away", f"{place.holding.path}/sm")
    place.quieten()
    assert place.mirror.sweep(watched=True) == 1
    assert place.held() == {"10.0.0.1"}


def test_a_missing_statd_directory_is_an_error_and_no_deletion(place: Place) -> None:
    place.monitor("10.0.0.1")
    place.mirror.sweep()
    os.rename(place.sm, f"{place.sm}.away")
    with pytest.raises(Exception, match="is gone"):
        place.mirror.sweep()
    assert place.held() == {"10.0.0.1"}
    assert place.mirror.absent == {}
