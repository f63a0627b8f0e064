# SPDX-License-Identifier: GPL-2.0-or-later
"""Grace periods, lease and nlm_timeout: which times could give one lock to two owners."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import grace
from nfslock.errors import Error, NodeError
from nfslock.grace import Timing
from nfslock.system import System

SYSCTLS = "proc/sys/fs/nfs"
timings = st.builds(
    Timing, st.integers(10, 3600), st.integers(10, 3600), st.integers(0, 240), st.integers(3, 20))


def put(root: Path, **files: object) -> None:
    """Kernel files by name: `nfsv4gracetime=90`; nlm_ ones are sysctls."""
    for name, value in files.items():
        below = SYSCTLS if name.startswith("nlm_") and "end" not in name else (
            "proc/fs/lockd" if name.startswith("nlm_") else "proc/fs/nfsd")
        (root / below).mkdir(parents=True, exist_ok=True)
        end = "\n\0" if name == "nlm_end_grace" else "\n"
        (root / below / name).write_text(f"{value}{end}")


def sysctl(root: Path, name: str) -> int:
    return int((root / SYSCTLS / name).read_text())


@pytest.fixture
def node(tmp_path: Path) -> System:
    """A node with nfsd loaded and the kernel's defaults."""
    (tmp_path / "etc").mkdir()
    put(tmp_path, nfsv4gracetime=90, nfsv4leasetime=90, nlm_grace_period=0, nlm_timeout=10)
    return System(str(tmp_path))


@pytest.mark.parametrize(("given_", "timeout", "length"), [
    (0, 10, 50), (15, 10, 20), (15, 5, 15), (90, 10, 90), (1, 20, 20), (240, 7, 245)])
def test_lockd_rounds_up(given_: int, timeout: int, length: int) -> None:
    assert grace.lockd_period(given_, timeout) == length


@pytest.mark.parametrize("timing", [
    Timing(), Timing(90, 90, 90), Timing(15, 15, 15, 5), Timing(10, 10, 10)])
def test_safe_times(timing: Timing) -> None:
    assert grace.problem(timing) == ""


@pytest.mark.parametrize(("timing", "words"), [
    # Seen to give a lock to two owners: grace 15, lease 10, nlm_timeout 10.
    (Timing(15, 10, 15, 10), ("lease (10 s)", "grace period (15 s")),
    (Timing(15, 15, 15, 10), ("20 s", "15 rounded up", "nlm_timeout, 10 s")),
    (Timing(15, 90, 0, 10), ("50 s", "unset")),
])
def test_hazardous_times_are_named(timing: Timing, words: tuple[str, ...]) -> None:
    assert all(word in grace.problem(timing) for word in words)


@given(timings)
def test_a_repair_is_safe_and_small(timing: Timing) -> None:
    better = grace.repaired(timing)
    if better is None:
        assert timing.lease < timing.grace or all(
            -(-min(timing.lockd_grace or 999, timing.grace) // t) * t > timing.grace
            for t in range(3, timing.nlm_timeout + 1))
        return
    assert grace.problem(better) == ""
    assert (better.grace, better.lease) == (timing.grace, timing.lease)
    assert better.nlm_timeout <= timing.nlm_timeout
    if not grace.problem(timing):
        assert better == timing


def test_defaults_need_no_repair(node: System) -> None:
    assert grace.prepare(node) == ""
    assert grace.expected(node) == Timing(origin="the kernel's present values")


def test_a_grace_time_that_timeouts_do_not_divide_is_repaired(node: System) -> None:
    """rpc.nfsd passes grace-time on to lockd, which rounds it up: 15 s to 20 s."""
    root = Path(node.root)
    (root / "etc/nfs.conf").write_text("[nfsd]\ngrace-time=15\nlease-time=15\n")
    said = grace.prepare(node)
    assert "fs.nfs.nlm_timeout 10 -> 7" not in said and "nlm_timeout 10 -> 5" in said
    assert sysctl(root, "nlm_timeout") == 5
    assert grace.prepare(node) == ""


def test_lockd_left_at_its_default_is_shortened(node: System) -> None:
    put(Path(node.root), nfsv4gracetime=20, nfsv4leasetime=20)
    assert "nlm_grace_period 0 -> 20" in grace.prepare(node)
    assert sysctl(Path(node.root), "nlm_grace_period") == 20
    assert grace.prepare(node) == ""


@pytest.mark.parametrize("conf", ["grace-time=23\n", "grace-time=90\nlease-time=30\n"])
def test_what_cannot_be_repaired_is_refused(node: System, conf: str) -> None:
    (Path(node.root) / "etc/nfs.conf").write_text(f"[nfsd]\n{conf}")
    with pytest.raises(NodeError, match="nfs\\.conf"):
        grace.prepare(node)
    assert sysctl(Path(node.root), "nlm_timeout") == 10


def test_running_servers_are_checked(node: System) -> None:
    grace.check(node)
    put(Path(node.root), nfsv4gracetime=15, nfsv4leasetime=10, nlm_grace_period=15)
    with pytest.raises(Error, match="lease"):
        grace.check(node)


def test_nothing_is_claimed_where_nfsd_is_not_loaded(tmp_path: Path) -> None:
    empty = System(str(tmp_path))
    assert grace.running(empty) is None and grace.remaining(empty) == {}
    grace.check(empty)


def thread(root: Path, pid: int, name: str, age: float) -> None:
    """A kernel thread that was born `age` seconds ago."""
    (root / f"proc/{pid}").mkdir()
    (root / f"proc/{pid}/comm").write_text(f"{name}\n")
    (root / f"proc/{pid}/cmdline").write_text("")
    start = int((System().monotonic() - age) * 100)
    (root / f"proc/{pid}/stat").write_text(f"{pid} ({name}) S " + "0 " * 18 + f"{start} 0\n")


def test_the_remaining_grace_counts_from_the_servers_start(node: System) -> None:
    root = Path(node.root)
    for pid, (name, age) in enumerate([("lockd", 20), ("nfsd", 20), ("nfsd", 1)], 7):
        thread(root, pid, name, age)
    put(root, v4_end_grace="N", nlm_end_grace="N")
    left = grace.remaining(node)
    assert abs(left["nfsd"] - 70) <= 1 and abs(left["lockd"] - 30) <= 1
    put(root, v4_end_grace="N", nlm_end_grace="Y")
    assert set(grace.remaining(node)) == {"nfsd"}


@pytest.mark.parametrize(("age", "ended", "missed"), [
    (20, "Y", True), (20, "N", False), (60, "Y", False),
])  # fmt: skip
def test_a_grace_period_that_was_over_too_early(
    node: System, age: float, ended: str, missed: bool
) -> None:
    """A lockd that stood before the takeover began has nothing to do with it."""
    root = Path(node.root)
    thread(root, 7, "lockd", age)
    put(root, nlm_end_grace=ended)
    assert grace.missed(node, node.monotonic() - 40) is missed
