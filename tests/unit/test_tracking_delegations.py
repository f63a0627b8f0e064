# SPDX-License-Identifier: GPL-2.0-or-later
"""When NFSv4 delegations are switched off, and when they must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfslock import delegations
from nfslock.errors import Degraded
from nfslock.runtime import Runtime
from nfslock.system import System
from nfslock.tracking_nfsdcld import Nfsdcld

SWITCH = "proc/sys/fs/leases-enable"


@pytest.fixture
def node(tmp_path: Path) -> Runtime:
    """A node with the kernel's default, and without nfsd's files: never in grace."""
    (tmp_path / "proc/sys/fs").mkdir(parents=True)
    (tmp_path / SWITCH).write_text("1\n")
    (tmp_path / "proc/locks").write_text("1: POSIX  ADVISORY  WRITE 321 fe:10:32779 0 9\n")
    return Runtime(System(str(tmp_path)), "locks")


@pytest.fixture
def held(node: Runtime) -> Nfsdcld:
    store = Nfsdcld(node.system, "/held")
    store.replace({})
    return store


def test_a_first_start_switches_them_off(node: Runtime, held: Nfsdcld) -> None:
    delegations.prepare(node, held, 0)
    assert not delegations.enabled(node.system) and held.noted(delegations.NOTE)


def test_a_takeover_of_clients_without_delegations_switches_them_off(
    node: Runtime, held: Nfsdcld
) -> None:
    delegations.prepare(node, held, 0)
    delegations.switch(node, True)  # the other node
    delegations.prepare(node, held, 7)
    assert not delegations.enabled(node.system)


@pytest.mark.parametrize("before", [True, False])
def test_clients_that_may_have_some_get_them_back(
    node: Runtime, held: Nfsdcld, before: bool
) -> None:
    """Their locks are under the delegations, and nowhere else."""
    delegations.switch(node, before)
    delegations.prepare(node, held, 7)
    assert delegations.enabled(node.system) and not held.noted(delegations.NOTE)


def test_they_go_once_the_service_stands(node: Runtime, held: Nfsdcld) -> None:
    root = Path(node.system.root)
    (root / "proc/locks").write_text("1: DELEG  ACTIVE    WRITE 284 fe:10:32779 0 EOF\n")
    delegations.prepare(node, held, 7)
    delegations.follow(node, held, False)
    assert not delegations.enabled(node.system) and not held.noted(delegations.NOTE)
    delegations.follow(node, held, False)
    assert not held.noted(delegations.NOTE), "a client still has one"
    (root / "proc/locks").write_text("")
    assert delegations.follow(node, held, False)
    assert held.noted(delegations.NOTE)


def test_not_while_clients_reclaim(node: Runtime, held: Nfsdcld) -> None:
    root = Path(node.system.root)
    for path, text in {"proc/fs/nfsd/nfsv4gracetime": "90", "proc/fs/nfsd/v4_end_grace": "N",
                       "proc/9/comm": "nfsd\n", "proc/9/cmdline": "",
                       "proc/9/stat": "9 (nfsd) S " + "0 " * 18 + "0 0"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    delegations.prepare(node, held, 7)
    delegations.follow(node, held, False)
    assert delegations.enabled(node.system)
    (root / "proc/fs/nfsd/v4_end_grace").write_text("Y")
    delegations.follow(node, held, False)
    assert not delegations.enabled(node.system)


def test_somebody_switches_them_on_again(node: Runtime, held: Nfsdcld) -> None:
    delegations.prepare(node, held, 0)
    delegations.switch(node, True)
    with pytest.raises(Degraded, match="leases-enable"):
        delegations.check(node.system)
    assert not delegations.follow(node, held, True)
    assert not delegations.enabled(node.system) and not held.noted(delegations.NOTE)


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_sets_the_switch_as_it_was(node: Runtime, held: Nfsdcld, before: bool) -> None:
    delegations.switch(node, before)
    node.remove("leases")
    delegations.prepare(node, held, 7)  # on, for clients that may have some
    delegations.follow(node, held, False)  # off
    assert not delegations.enabled(node.system)
    delegations.restore(node)
    assert delegations.enabled(node.system) is before
    assert node.read("leases") is None


def test_a_stop_leaves_the_switch_alone_that_nobody_set(node: Runtime, held: Nfsdcld) -> None:
    Path(node.system.root, SWITCH).write_text("0\n")  # the administrator
    delegations.prepare(node, held, 0)
    delegations.restore(node)
    assert not delegations.enabled(node.system)
