# SPDX-License-Identifier: GPL-2.0-or-later
"""Corosync, Pacemaker and fencing around the service, and driving it through them.

Fencing is real: the fence agent asks the host to end the other machine, and gets its answer when
that is gone (`rig`). The cluster without the service is brought up once and kept for later runs;
the service is added to it for each run, since it comes from the checkout.
"""

from __future__ import annotations

from lxml import etree
from lxml.builder import E  # type: ignore[import-not-found]

from ..wait import wait_until
from . import audits, frames, layout, service
from .images import digest, sources
from .machine import Machine
from .rig import Rig
from .trial import Trial, bare, saved

#: Seconds; emulated machines on two shared cores miss shorter ones now and then.
TOKEN = 4.0
OPERATION = "240s"
COROSYNC = f"""\
totem {{
  version: 2
  cluster_name: rig
  transport: knet
  crypto_cipher: none
  crypto_hash: none
  token: {int(TOKEN * 1000)}
}}
nodelist {{
  node {{
    name: node-a
    nodeid: 1
    ring0_addr: {layout.NODE_A.addresses["cluster"]}
  }}
  node {{
    name: node-b
    nodeid: 2
    ring0_addr: {layout.NODE_B.addresses["cluster"]}
  }}
}}
quorum {{
  provider: corosync_votequorum
  two_node: 1
  wait_for_all: 0
}}
logging {{
  to_syslog: yes
}}
"""


def _pairs(owner: str, values: dict[str, str]) -> list[etree._Element]:
    return [E.nvpair(id=f"{owner}-{name}", name=name, value=text) for name, text in values.items()]


def _fencing(node: str) -> etree._Element:
    """The device that fences a node; node-b is spared first when both want to fence each other."""
    name = f"fence-{node}"
    values = {"pcmk_host_list": node, "pcmk_host_check": "static-list"}
    if node == "node-b":
        values["pcmk_delay_base"] = "10s"
    device: etree._Element = E.primitive(
        E.instance_attributes(*_pairs(name, values), id=f"{name}-attributes"),
        id=name, **{"class": "stonith", "type": "fence_rig"},
    )  # fmt: skip
    return device


def configuration() -> bytes:
    """The cluster information base without the service."""
    properties = {
        "stonith-enabled": "true", "have-watchdog": "false", "dc-deadtime": "5s",
        "no-quorum-policy": "stop", "stonith-timeout": "60s", "cluster-name": "rig",
        # A node that was fenced from its disk alone must not live on with the address.
        "fence-reaction": "panic",
    }  # fmt: skip
    cib = E.cib(
        E.configuration(
            E.crm_config(E.cluster_property_set(*_pairs("p", properties), id="properties")),
            E.nodes(
                E.node(id="1", uname="node-a"), E.node(id="2", uname="node-b"),
            ),
            E.resources(*(_fencing(node) for node in layout.NODES)),
            E.constraints(),
            E.rsc_defaults(
                E.meta_attributes(
                    *_pairs("d", {"resource-stickiness": "100", "migration-threshold": "3"}),
                    id="defaults",
                )
            ),
        ),
        E.status(),
        crm_feature_set="3.16.1", **{"validate-with": "pacemaker-3.9"},
        epoch="1", num_updates="0", admin_epoch="0",
    )  # fmt: skip
    text: bytes = etree.tostring(cib, pretty_print=True)
    return text


def group(resources: tuple[service.Resource, ...]) -> bytes:
    """The service as a resource group that would rather be on node-a."""
    members = []
    for resource in resources:
        provider, kind = resource.agent.split("/")
        interval = "10s" if kind == "nfslock" else "30s"
        monitor = {"on-fail": "fence"} if kind == "nfslock" else {}
        members.append(
            E.primitive(
                E.instance_attributes(
                    *_pairs(resource.name, resource.parameters), id=f"{resource.name}-attributes"
                ),
                E.operations(
                    E.op(id=f"{resource.name}-start", name="start", interval="0",
                         timeout=OPERATION),
                    E.op(id=f"{resource.name}-stop", name="stop", interval="0", timeout=OPERATION),
                    E.op(id=f"{resource.name}-monitor", name="monitor", interval=interval,
                         timeout="60s", **monitor),
                ),
                id=resource.name, **{"class": "ocf", "provider": provider, "type": kind},
            )
        )  # fmt: skip
    added = E.configuration(
        E.resources(E.group(*members, id="service")),
        E.constraints(E.rsc_location(id="prefer-a", rsc="service", node="node-a", score="50")),
    )
    text: bytes = etree.tostring(added, pretty_print=True)
    return text


def online(rig: Rig) -> None:
    """Be in the state in which the cluster is up and has fencing, but no service."""

    def make() -> None:
        bare(rig)
        for name in layout.NODES:
            node = rig[name]
            node.write("/etc/corosync/corosync.conf", COROSYNC)
            node.write("/var/lib/pacemaker/cib/cib.xml", configuration(), 0o600)
            node.run("chown -R hacluster:haclient /var/lib/pacemaker/cib")
            node.begin("systemctl start corosync pacemaker", timeout=180)
        for name in layout.NODES:
            wait_online(rig[name], 2)
        wait_until(lambda: "fence-node-b" in rig["node-a"].out("crm_mon -1"), "fencing starts", 120)

    rig.state("cluster", make, COROSYNC, configuration().decode())


#: True when the cluster's controller has nothing to do.
_IDLE = 'test "$(crmadmin -S $(crmadmin -qD) 2>&1 | grep -c S_IDLE)" = 1'


def wait_online(node: Machine, count: int, timeout: float = 240) -> None:
    """Wait until a node sees so many nodes online, and the cluster is at rest."""
    _wait_for(node, f"test $(crm_node -p | wc -w) = {count} && {_IDLE}", timeout)


def wait_idle(node: Machine, timeout: float = 240) -> None:
    """Wait until the cluster is at rest, however many nodes it has."""
    _wait_for(node, _IDLE, timeout)


def _wait_for(node: Machine, condition: str, timeout: float) -> None:
    """To ask costs an emulated node a second, which the cluster needs itself."""
    node.run(f"until {condition}; do sleep 5; done", timeout=timeout)


class ClusterTrial(Trial):
    """A trial in which the cluster manager starts and stops the group."""

    @property
    def stock(self) -> bool:
        """Whether the service is made of the stock agents alone."""
        return all(resource.agent != "flm/nfslock" for resource in self.resources)

    def verdict(self) -> str:
        """As for every trial; what the stock agents do is reported and not judged."""
        if not self.stock:
            return super().verdict()
        self.wait_io()
        self.end_grace()
        lost = audits.not_held(self)
        return f"lost {len(lost)} of {len(self.held_files())}" if lost else "kept"

    def take_over(self, node: str, timeout: float = 450) -> None:
        """Wait until the group's address is announced by a node, which is the active one then.

        timeout: shorter than the limits (OPERATION) of a start and a stop that hang, after which
        Pacemaker fences the node: until then it can be asked what it waits for.
        """

        recording = self.rig.switch.frames
        looked_at = 0

        def announced() -> float:
            nonlocal looked_at
            new = recording[looked_at:]
            looked_at += len(new)
            return next(
                (
                    a.at
                    for a in frames.announcements(new, layout.VIP)
                    if a.port == f"{node}/data" and a.at > self.fault_at
                ),
                0.0,
            )

        seen = wait_until(announced, f"the address is announced by {node}", timeout)
        self.active = self.rig[node]
        self.taken_over_at = seen
        self.takeovers += 1

    def move(self, node: str) -> None:
        """Ask the cluster to move the group."""
        self.fault()
        self.active.run(f"crm_resource --move -r service -N {node}", timeout=60)


#: What the service's state depends on.
SOURCES = ("lib/**/*.py", "lib/**/*.c", "agents/*", "tests/support/vm/*.py",
           "tests/support/vm/programs/*")


def standing(rig: Rig, kind: str) -> tuple[service.Resource, ...]:
    """Be in the state in which the cluster has the service running on node-a, and no client of it.

    Returns its resources.
    """
    resources = service.group(
        kind != "off", "3,4", stock=kind == "stock", unlock=kind == "unlock"
    )

    def make() -> None:
        online(rig)
        service.equip(rig, setup=kind != "stock")
        node = rig["node-a"]
        node.write("/run/group.xml", group(resources))
        node.run("cibadmin --modify --allow-create -o configuration --xml-file /run/group.xml")
        ClusterTrial(rig, "3", resources).take_over("node-a", timeout=600)
        wait_online(node, 2)

    rig.state(f"service-{kind}", make, digest(sources(*SOURCES)))
    return resources


def steady(rig: Rig, protocol: str, kind: str = "on") -> ClusterTrial:
    """The steady state under Pacemaker.

    Its kind is "on", "off" (lock_migration=no), "stock" (without nfslock) or "unlock" (exportfs
    drops the locks whenever it stops).
    """

    def make() -> ClusterTrial:
        trial = ClusterTrial(rig, protocol, standing(rig, kind))
        trial.mount(rig["client"], rig["rival"])
        trial.end_grace()
        trial.take_locks()
        if trial.protected:
            trial.wait_recorded()
        wait_online(trial.active, 2)
        return trial

    return saved(rig, f"cluster-{protocol}-{kind}", make)
