# SPDX-License-Identifier: GPL-2.0-or-later
"""One NFS service on the test cluster: the agent as Pacemaker calls it, in the group's order.

Group: filesystem, nfslock, nfsd and lockd (stand-ins), export, VIP; stop runs backwards. Nothing
here judges what the agent does: the tests do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .hosts import SM, Client, Node, read_directory
from .machine import CHECKOUT, Image, Machine, World
from .wait import wait_until

AGENT = str(CHECKOUT / "agents/nfslock")
COMMAND = str(CHECKOUT / "agents/nfslock-cli")
VIP = "192.0.2.10"
VIP6 = "2001:db8::10"
MOUNT_POINT = "/srv/nfs"
HOLDING = f"{MOUNT_POINT}/.nfslock"
HOSTS = f"{VIP} nfs.example.com nfs\n192.0.2.1 nodeA\n192.0.2.2 nodeB\n"
LOG = "/var/log/cluster.log"
OK, GENERIC, ARGS, UNIMPLEMENTED, PERM, INSTALLED, CONFIGURED, NOT_RUNNING = range(8)
DEGRADED = 190


class Outcome(NamedTuple):
    """What an action returned. reason: the last ocf-exit-reason, as Pacemaker keeps it."""

    code: int
    reason: str
    stdout: str
    stderr: str


class Agent:
    """The resource: its name and parameters. None as a parameter's value leaves it unset."""

    def __init__(self, instance: str = "locks", **parameters: str | None) -> None:
        self.instance = instance
        defaults = {
            "holding_dir": HOLDING, "propagate_interval": "500ms", "ip": VIP, "nfs_versions": "3"}
        self.parameters: dict[str, str | None] = {**defaults, **parameters}

    def environment(self, action: str, interval: int, timeout: float, level: int) -> dict[str, str]:
        """Return what Pacemaker's executor sets (OCF resource agent API 1.1)."""
        reskey = {f"OCF_RESKEY_{k}": v for k, v in self.parameters.items() if v is not None}
        return {
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RA_VERSION_MAJOR": "1",
            "OCF_RA_VERSION_MINOR": "1",
            "OCF_RESOURCE_INSTANCE": self.instance,
            "OCF_RESOURCE_TYPE": "nfslock",
            "OCF_RESOURCE_PROVIDER": "flm",
            "OCF_RESKEY_crm_feature_set": "3.16.2",
            "OCF_RESKEY_CRM_meta_name": action,
            "OCF_RESKEY_CRM_meta_timeout": str(int(timeout * 1000)),
            "OCF_RESKEY_CRM_meta_interval": str(interval * 1000),
            "OCF_CHECK_LEVEL": str(level),
            "HA_LOGFACILITY": "none",
            "HA_LOGFILE": LOG,
            **reskey,
        }

    def __call__(
        self,
        node: Machine,
        action: str,
        *,
        interval: int = 0,
        timeout: float = 20,
        level: int = 0,
        wrapper: Sequence[str] = (),
        **changes: str | None,
    ) -> Outcome:
        """Run an action on a node. interval in seconds: 0 makes a monitor a probe.

        wrapper: a command line to run it with, such as strace's; changes: other parameter values.
        """
        agent = Agent(self.instance, **{**self.parameters, **changes}) if changes else self
        environment = agent.environment(action, interval, timeout, level)
        done = node.run(*wrapper, AGENT, action, check=False, env=environment, timeout=timeout + 5)
        marker = "ocf-exit-reason:"
        reasons = [line for line in done.stderr.splitlines() if line.startswith(marker)]
        reason = reasons[-1][len(marker) :].strip() if reasons else ""
        return Outcome(done.returncode, reason, done.stdout, done.stderr)

    def start(self, node: Machine, **changes: str | None) -> Outcome:
        return self(node, "start", **changes)

    def stop(self, node: Machine, **changes: str | None) -> Outcome:
        return self(node, "stop", **changes)

    def monitor(self, node: Machine, level: int = 0, **changes: str | None) -> Outcome:
        return self(node, "monitor", interval=10, level=level, **changes)

    def probe(self, node: Machine, **changes: str | None) -> Outcome:
        return self(node, "monitor", **changes)


class Service:
    """The resource group on its shared disk."""

    def __init__(self, world: World, agent: Agent | None = None, megabytes: int = 16) -> None:
        self.image: Image = world.image(megabytes)
        self.agent = agent or Agent()
        self.vips = [vip for vip in (self.agent.parameters["ip"] or "").split(",") if vip]

    # Resources of the group, one by one

    def mount(self, node: Node, options: str = "noatime") -> None:
        node.mount(self.image, MOUNT_POINT, options)

    def umount(self, node: Node) -> None:
        node.umount(MOUNT_POINT)

    def start(self, node: Node) -> Outcome:
        """Start nfslock; anything but success is an error of the test."""
        outcome = self.agent.start(node)
        assert outcome.code == OK, f"{node.name}: start: {outcome}"
        return outcome

    def stop(self, node: Node) -> Outcome:
        outcome = self.agent.stop(node)
        assert outcome.code == OK, f"{node.name}: stop: {outcome}"
        return outcome

    def serve(self, node: Node) -> None:
        """Start nfsd and lockd, as nfsserver would."""
        node.stand_in("nfsd")
        node.stand_in("lockd")

    def unserve(self, node: Node) -> None:
        """End nfsd and lockd; they unregister."""
        for process in node.find("standin.py"):
            process.terminate()
        wait_until(lambda: not node.find("standin.py"), f"{node.name}: nfsd and lockd gone")

    def export(self, node: Node) -> None:
        node.export(MOUNT_POINT)

    def unexport(self, node: Node) -> None:
        node.unexport(MOUNT_POINT)

    def address(self, node: Node) -> None:
        """Bring the VIPs up."""
        for vip in self.vips:
            node.add_ip(_interface(vip))

    def unaddress(self, node: Node) -> None:
        for vip in self.vips:
            node.del_ip(_interface(vip))

    # The whole group

    def bring_up(self, node: Node) -> None:
        """Start the group."""
        self.mount(node)
        self.start(node)
        self.complete(node)

    def complete(self, node: Node) -> None:
        """Start what comes after nfslock in the group."""
        for step in (self.serve, self.export, self.address):
            step(node)

    def bring_down(self, node: Node) -> None:
        """Stop the group."""
        for step in (self.unaddress, self.unexport, self.unserve, self.stop, self.umount):
            step(node)

    # What there is to see

    def records(self, node: Machine) -> dict[str, str]:
        """Return the held monitor records: name and content."""
        return read_directory(node, f"{HOLDING}/sm")

    def pending(self, node: Machine) -> set[str]:
        """Return the names of the clients that are still to be notified."""
        return set(read_directory(node, f"{HOLDING}/notify"))

    def owner(self, node: Machine) -> dict[str, Any]:
        """Return owner.json."""
        content = json.loads(node.read(f"{HOLDING}/owner.json"))
        assert isinstance(content, dict)
        return content

    def state(self, node: Machine) -> int:
        """Return the service's NSM state number, 0 if there is none."""
        try:
            raw = node.path(f"{HOLDING}/state").read_bytes()
        except FileNotFoundError:
            return 0
        return int.from_bytes(raw[:4], "little")

    def status(self, node: Machine) -> dict[str, Any]:
        """Return what `nfslock status --json` says of this service."""
        found = json.loads(node.run(COMMAND, "status", "--json", check=False).stdout)
        (mine,) = [one for one in found if one["service"] == self.agent.instance]
        assert isinstance(mine, dict)
        return mine

    def phase(self, node: Machine) -> str:
        """Return what the propagator says it is doing: waiting, notifying, settled, fenced."""
        return self.told(node).get("phase", "")

    def told(self, node: Machine) -> dict[str, str]:
        """Return the NAME=VALUE pairs of the propagator's status file, none if there is no file."""
        lines = node.read(f"/run/nfslock/{self.agent.instance}/status").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def held(self, node: Node, *addresses: str) -> None:
        """Wait until the clients' records are in the holding directory as statd has them."""

        def same() -> bool:
            live, kept = node.sm_records(), self.records(node)
            return all(kept.get(one) == live.get(one) is not None for one in addresses)

        wait_until(
            same,
            f"{node.name}: records of {addresses} held",
            otherwise=lambda: (
                f"sm {node.sm_records()}\nheld {self.records(node)}\n{self.log(node)}"
            ),
        )

    def durable(self, node: Node, *addresses: str) -> None:
        """As held(), and the propagator says so too: what is only visible may yet be lost."""
        self.held(node, *addresses)
        wait_until(
            lambda: int(self.told(node).get("records", 0)) >= len(self.records(node)),
            f"{node.name}: records of {addresses} durable",
        )

    def spoil_reserve(self, node: Node) -> None:
        """Leave a reserve in the holding directory that has its size and no blocks."""
        reserve, sparse = node.path(f"{HOLDING}/reserve"), node.path(f"{MOUNT_POINT}/sparse")
        wait_until(reserve.exists, f"{node.name}: the reserve")
        with open(sparse, "wb") as file:
            file.truncate(reserve.stat().st_size)
        sparse.rename(reserve)

    def log(self, node: Machine) -> str:
        """Return the cluster log of a node, for messages of failed tests."""
        return node.read(LOG)


class Cluster:
    """Two server nodes and two clients that have mounted the service."""

    def __init__(self, world: World, service: Service, clients: int = 2) -> None:
        self.world = world
        self.service = service
        self.a = self.node("nodeA", 1)
        self.b = self.node("nodeB", 2)
        self.clients = [self.client(f"client{number + 1}", number) for number in range(clients)]

    def node(self, name: str, number: int) -> Node:
        return Node(self.world, name, _addresses(number), HOSTS)

    def client(self, name: str, number: int) -> Client:
        client = Client(self.world, name, _addresses(101 + number))
        for vip in self.service.vips:
            client.watch(vip)
        return client

    def machines(self) -> list[Machine]:
        return [self.a, self.b, *self.clients]

    def reboot(self, node: Node) -> Node:
        """Return the node, powered on again after power_off, with nothing of its former life."""
        again = self.node(node.name, 1 if node is self.a else 2)
        if node is self.a:
            self.a = again
        else:
            self.b = again
        return again

    def lock(self, node: Node, *clients: Client) -> None:
        """Have clients take their first lock on the node: lockd has statd monitor them."""
        for client in clients or self.clients:
            node.sm_mon(ip_of(client))


def ip_of(machine: Machine) -> str:
    """Return the machine's IPv4 address: the name of its monitor record."""
    return machine.addresses[0].partition("/")[0]


def _addresses(number: int) -> list[str]:
    return [f"192.0.2.{number}/24", f"2001:db8::{number}/64"]


def _interface(address: str) -> str:
    return f"{address}/64" if ":" in address else f"{address}/24"


__all__ = [
    "ARGS", "CONFIGURED", "DEGRADED", "GENERIC", "HOLDING", "INSTALLED", "MOUNT_POINT",
    "NOT_RUNNING", "OK", "PERM", "SM", "UNIMPLEMENTED", "VIP", "VIP6", "Agent", "Cluster",
    "Outcome", "Service", "ip_of",
]  # fmt: skip
