# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be released, as pure decisions: the kernel's tables, the rules, the texts."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import kernel_tables as tables
from nfslock import release_plan as plan
from nfslock.kernel_tables import Client, Lock, Mount, State

OURS, OTHER = "8:17", "8:33"
POINT = "/srv/nfs"
MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:17 / /srv/nfs rw,noatime - ext4 /dev/sdb1 rw
31 22 8:33 / /srv/b\040c rw - xfs /dev/sdc1 rw
32 22 0:50 / /mnt rw - nfs nas:/x rw,vers=3,local_lock=none,addr=10.0.0.9
"""
LOCKS = """1: POSIX  ADVISORY  WRITE 700 08:11:131 0 EOF
1: -> POSIX  ADVISORY  WRITE 700 08:11:131 0 EOF
2: POSIX  ADVISORY  READ  701 08:21:12 0 9
3: FLOCK  ADVISORY  WRITE 90 00:19:3 0 EOF
4: DELEG  ACTIVE    WRITE 710 08:11:140 0 EOF
5: OFDLCK ADVISORY  WRITE -1 08:11:9 0 EOF
6: ACCESS *NOINODE*
"""
STATES = """\
- 0x1: { type: open, access: rw, deny: --, superblock: "08:11:131", filename: "d/a b", owner: "x" }
- 0x2: { type: lock, superblock: "08:11:131", filename: "d/a b", owner: "lock id:\\x00" }
- 0x3: { type: deleg, access: w, superblock: "08:21:7", filename: "q"}
- 0x4: { type: open, access: rw, deny: --, owner: "open id", admin-revoked }
- 0x5: { type: open, superblock: "08:11:5", filename: "x, admin-revoked }", owner: "y" }
"""
MOUNTS = tables.parse_mounts(MOUNTINFO)
WANTED = plan.Wanted(((POINT, OURS),), frozenset({"192.0.2.10"}), records_kept=True)
NLM = Lock("POSIX", 700, OURS, 131, "lockd")
V4 = Client(5, "10.0.0.7", (State("open", OURS, 131, "db/data", False),))
GENTLE = {"unlock /srv/nfs", "flush"}


def test_mounts() -> None:
    assert [mount.point for mount in MOUNTS] == ["/", POINT, "/srv/b c", "/mnt"]
    assert MOUNTS[3].option("vers") == "3" and MOUNTS[3].option("port") == ""
    for path, point in ((f"{POINT}/x", POINT), ("/srv/nfs2", "/"), ("/srv/b c", "/srv/b c")):
        found = tables.mount_of(MOUNTS, path)
        assert found is not None and found.point == point


def test_a_covered_mount_is_not_the_one_that_start_found() -> None:
    over = (*MOUNTS, Mount("0:77", "/", POINT, "tmpfs", "tmpfs", ()))
    assert plan.still_there(WANTED.places, MOUNTS) == {POINT: OURS}
    assert plan.still_there(WANTED.places, over) == {}
    assert plan.still_there(((POINT, OTHER),), MOUNTS) == {}
    assert plan.still_there((("/srv", "8:1"),), MOUNTS) == {}


def test_locks() -> None:
    found = tables.parse_locks(LOCKS)
    assert [(lock.kind, lock.pid, lock.device, lock.inode) for lock in found] == [
        ("POSIX", 700, OURS, 131), ("POSIX", 700, OURS, 131), ("POSIX", 701, OTHER, 12),
        ("FLOCK", 90, "0:25", 3), ("DELEG", 710, OURS, 140), ("OFDLCK", -1, OURS, 9)]


def test_states_whatever_a_client_calls_its_files() -> None:
    found = tables.parse_states(STATES)
    assert [(s.kind, s.device, s.inode, s.revoked) for s in found] == [
        ("open", OURS, 131, False), ("lock", OURS, 131, False), ("deleg", OTHER, 7, False),
        ("open", "", 0, True), ("open", OURS, 5, False)]
    assert [s.file for s in found[:3]] == ["d/a b", "d/a b", "q"]


@pytest.mark.parametrize(("line", "address"), [
    ('address: "10.0.0.7:1021"', "10.0.0.7"), ('address: "[2001:db8::7]:890"', "2001:db8::7"),
    ("status: confirmed", "?")])
def test_addresses(line: str, address: str) -> None:
    assert tables.parse_address(f"clientid: 0x1\n{line}\n") == address


@pytest.mark.parametrize(("ignored", "caught", "honours"), [
    # 6.1: everything ignored but SIGKILL, which lockd allows itself; 6.12: everything ignored.
    ("fffffffffffffeff", "0000000000000100", True), ("ffffffffffffffff", "0000000000000000", False),
    ("0000000000000000", "0000000000000000", False)])
def test_whether_lockd_takes_sigkill(ignored: str, caught: str, honours: bool) -> None:
    text = f"Name:\tlockd\nSigBlk:\t0000000000000000\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
    assert tables.honours_kill(text) is honours


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_path_is_read_back_as_it_was_written(path: str) -> None:
    written = tables.escape(path)
    assert tables.unescape(written) == path
    assert not set(" \t\n") & set(written)


def seen(**values: object) -> plan.Seen:
    return plan.Seen(mounts=MOUNTS, serving=True)._replace(**values)  # type: ignore[arg-type]


def names(found: list[plan.Step]) -> list[str]:
    return [plan.key(step) for step in found]


def test_the_gentle_way_first() -> None:
    everything = seen(locks=(NLM,), clients=(V4,), lockd=700, lockd_dies=True)
    assert names(plan.steps(everything, WANTED, set())) == ["unlock /srv/nfs", "flush"]
    assert names(plan.steps(everything, WANTED, {"unlock /srv/nfs"})) == ["flush"]
    assert names(plan.steps(everything, WANTED, GENTLE)) == ["expire 5", "kill_lockd 700"]
    assert names(plan.steps(everything, WANTED, {*GENTLE, "expire 5", "kill_lockd 700"})) == []


def test_nothing_while_the_address_is_here() -> None:
    here = seen(addresses=frozenset({"192.0.2.10", "10.0.0.1"}), locks=(NLM,), lockd=700)
    for mode in ("never", "auto", "always"):
        assert plan.steps(here, WANTED._replace(lockd_kill=mode), set()) == []


def test_nothing_when_the_filesystem_is_gone() -> None:
    assert plan.steps(seen(mounts=MOUNTS[:1]), WANTED, set()) == []


@pytest.mark.parametrize(("change", "expired"), [
    ({}, True), ({"serving": False}, False),
    ({"clients": (V4._replace(states=(*V4.states, State("open", OTHER, 1, "x", False))),)}, False),
    ({"clients": (V4._replace(states=(*V4.states, State("layout", "", 0, "", False))),)}, False),
    ({"clients": (V4._replace(states=(*V4.states, State("open", "", 0, "", True))),)}, True),
    ({"clients": (V4._replace(states=(State("open", OTHER, 1, "x", False),)),)}, False),
    ({"clients": (Client(6, "10.0.0.8"),)}, False)])
def test_only_clients_of_this_filesystem_alone_are_expired(
    change: dict[str, object], expired: bool
) -> None:
    found = plan.steps(seen(**{"clients": (V4,), **change}), WANTED, GENTLE)
    assert names(found) == (["expire 5"] if expired else [])


def test_no_client_is_expired_beside_another_service_or_without_its_record() -> None:
    for wanted in (WANTED._replace(others=("mail",)), WANTED._replace(records_kept=False)):
        assert plan.steps(seen(clients=(V4,)), wanted, GENTLE) == []


@given(mode=st.sampled_from(["never", "auto", "always"]), dies=st.booleans(),
       others=st.booleans(), own=st.integers(0, 2), left=st.booleans(), lockd=st.booleans())
def test_when_lockd_is_killed(
    mode: str, dies: bool, others: bool, own: int, left: bool, lockd: bool
) -> None:
    wanted = WANTED._replace(lockd_kill=mode, others=("mail",) if others else ())
    found = plan.steps(
        seen(locks=(NLM,) if left else (NLM._replace(device=OTHER),), lockd=700 * lockd,
             lockd_dies=dies, own_locks=own), wanted, GENTLE)
    harmless = dies and left and not others and not own
    assert bool(found) is (lockd and (mode == "always" or (mode == "auto" and harmless)))


def test_which_locks_are_clients() -> None:
    mine = Lock("POSIX", 42, OURS, 1, "smbd")
    locks = (NLM, mine, NLM._replace(kind="FLOCK", holder=""), NLM._replace(device=OTHER),
             Lock("DELEG", 710, OURS, 2, "nfsd"), Lock("OFDLCK", -1, OURS, 3))
    assert plan.of_nfs(locks, {OURS}) == (NLM, locks[4])


def test_what_is_left_is_named() -> None:
    found = plan.describe(POINT, OURS, (NLM, NLM, NLM._replace(inode=9)), (V4,))
    assert found == [
        "/srv/nfs: 1 NLM lock left on inode 9 (lockd)",
        "/srv/nfs: 2 NLM locks left on inode 131 (lockd), open by 10.0.0.7",
        "/srv/nfs: NFSv4 client 10.0.0.7 left 1 open on db/data"]


def test_other_mounts_are_named() -> None:
    every = (*MOUNTS, Mount(OURS, "/x", "/mnt/x", "ext4", "/dev/sdb1", ()),
             Mount("0:9", "/", f"{POINT}/sub", "tmpfs", "tmpfs", ()))
    assert tables.on_top(every, POINT) == ["/srv/nfs/sub (tmpfs) is mounted on top of it"]
    assert plan.elsewhere(every, POINT, OURS) == [
        "/srv/nfs: is mounted on /mnt/x too (bind mount): umount /mnt/x"]
