# SPDX-License-Identifier: GPL-2.0-or-later
"""The NFSv4 server scope where nobody but nfslock sets it, and systemd starts nfsd."""

from __future__ import annotations

import pytest

from tests.cluster.test_release import NFSLOCK, ready
from tests.support.vm import layout, service
from tests.support.vm.machine import Machine
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig

ASK = (
    "import sys; sys.path.insert(0, '/usr/lib/ocf/lib/flm'); "
    "from nfslock import scope; print(scope.announced('127.0.0.1'))"
)


def announced(node: Machine) -> str:
    """What nfsd tells a client, after systemd has started it anew."""
    node.run("systemctl restart nfs-server", timeout=120)
    node.run(f"exportfs -o rw,no_subtree_check,fsid={layout.FSID} '*:{layout.DATA}'")
    return node.out("python3", "-c", ASK)


def reloads(node: Machine) -> int:
    """How often systemd has read its units again."""
    return sum(str(entry["MESSAGE"]).startswith("Reloading") for entry in node.journal())


@pytest.mark.scenario("server scope set when systemd starts nfsd; a stop is cheap")
@pytest.mark.parametrize("protocol", ["4.2"])
def test_the_scope(rig: Rig, record: Record, protocol: str) -> None:
    ready(rig)
    node = rig["node-a"]
    assert announced(node) == node.name, "the control: nfsd takes the host's name"
    node.run("systemctl stop nfs-server", timeout=120)
    node.run(service.COMMANDS["fs"][0])
    for _ in range(2):
        assert service.call(node, NFSLOCK, "start").rc == 0
        assert announced(node) == layout.VIP
        before = reloads(node)
        node.run("exportfs -au; systemctl stop nfs-server", timeout=120)
        assert service.call(node, NFSLOCK, "stop").rc == 0
        assert reloads(node) == before
    assert announced(node) == node.name, "nfsd keeps the scope of a service that has left"
    record.outcome = "announced, no reload of systemd by a stop"
