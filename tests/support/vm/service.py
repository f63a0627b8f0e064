# SPDX-License-Identifier: GPL-2.0-or-later
"""The service under test: its resources in group order, and calling their agents by hand.

The same list of resources feeds the cluster's configuration and the hand-driven scenarios. There
nfslock's agent is called over the control channel as Pacemaker would call it, and the stock agents
around it are replaced by the commands that they run (`COMMANDS`): their start takes 25 s under
emulation, the commands 2 s. Every Pacemaker-driven scenario uses the stock agents themselves.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from . import layout
from .control import Done
from .images import REPOSITORY
from .machine import Machine
from .rig import Rig

PROGRAMS = Path(__file__).resolve().parent / "programs"
LOCKER, CROWD = "/usr/local/lib/rig/locker.py", "/usr/local/lib/rig/crowd.sh"


class Grace(NamedTuple):
    """The server's times (s): NFSv4's grace period and lease, and lockd's unit of time.

    lockd's grace must not outlast NFSv4's, and the lease not be shorter than the grace.
    """

    grace: int = 90
    lease: int = 90
    nlm_timeout: int = 5


#: Long enough for the group's start on a busy machine: tests that need its end bring it about.
USUAL = Grace()
#: No port that an outgoing connection may have for the moment: 512 to 1023, or 32768 and up.
NFS_CONF = """\
[nfsd]
grace-time={times.grace}
lease-time={times.lease}
threads=4
[lockd]
port=4045
udp-port=4045
[statd]
port=32765
[mountd]
port=20048
"""


#: How the service's data are exported.
EXPORTED = "rw,no_root_squash,sync,no_subtree_check"
#: How nfsd keeps its NFSv4 recovery records unless it is told otherwise.
TRACKING = "nfsdcld"


class Resource(NamedTuple):
    """One resource of the group; `agent` is "provider/type"."""

    name: str
    agent: str
    parameters: dict[str, str]


def group(
    lock_migration: bool = True, versions: str = "3", stock: bool = False, unlock: bool = False,
    **more: str,
) -> tuple[Resource, ...]:  # fmt: skip
    """The service's resources in start order; `more`: further parameters of nfslock.

    stock: the same service with the stock agents only (nfsnotify in place of nfslock), as their
    documentation has it. unlock: let exportfs drop all locks when it stops, which is its default.
    """
    filesystem = Resource(
        "fs", "heartbeat/Filesystem",
        {"device": layout.SHARED_DEVICE, "directory": layout.EXPORT, "fstype": "ext4"},
    )  # fmt: skip
    nfslock = Resource(
        "locks", "flm/nfslock",
        {
            "holding_dir": layout.HOLDING, "propagate_interval": "5s", "ip": layout.VIP,
            "lock_migration": "yes" if lock_migration else "no", "nfs_versions": versions,
            "notify_names": layout.SERVICE, "server_scope": layout.SERVICE, **more,
        },
    )  # fmt: skip
    server_parameters = {"nfs_server_scope": layout.SERVICE}
    if stock:
        server_parameters["nfs_shared_infodir"] = f"{layout.EXPORT}/nfsinfo"
    server_parameters["nfs_no_notify"] = "true"
    server = Resource("server", "heartbeat/nfsserver", server_parameters)
    export = Resource(
        "export", "heartbeat/exportfs",
        {
            "directory": layout.DATA, "fsid": str(layout.FSID), "clientspec": "10.9.0.0/24",
            "options": EXPORTED,
            **({} if stock or unlock else {"unlock_on_stop": "0"}),
        },
    )  # fmt: skip
    address = Resource(
        "vip", "heartbeat/IPaddr2",
        {"ip": layout.VIP, "cidr_netmask": str(layout.PREFIX), "nic": "eth0"},
    )  # fmt: skip
    notify = Resource("notify", "heartbeat/nfsnotify", {"source_host": layout.SERVICE})
    if stock:
        return (filesystem, server, export, address, notify)
    return (filesystem, nfslock, server, export, address)


def nfslock(resources: tuple[Resource, ...]) -> Resource:
    """nfslock among a service's resources."""
    return next(resource for resource in resources if resource.agent == "flm/nfslock")


def changed(resources: tuple[Resource, ...], **parameters: str) -> tuple[Resource, ...]:
    """The same resources with other parameters of nfslock."""
    old = nfslock(resources)
    new = old._replace(parameters={**old.parameters, **parameters})
    return tuple(new if resource is old else resource for resource in resources)


def product() -> bytes:
    """The checkout's agent and library as `make install` lays them out, as a tar archive."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["make", "-s", "install", f"DESTDIR={folder}", "PYTHON=true"],
            cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.add(path, path.name)
    return file.getvalue()


def equip(rig: Rig, setup: bool = True) -> None:
    """Give the machines the product and the lock programs, all at once; see equip_machine."""
    archive = product()
    rig.each(lambda machine: equip_machine(machine, archive, setup))


def equip_machine(machine: Machine, archive: bytes, setup: bool = True) -> None:
    """Give a machine the lock programs and, to a node, the product and the server's settings.

    setup: prepare the node with `nfslock setup-node`, as an administrator does once.
    """
    for path in (LOCKER, CROWD):
        machine.write(path, (PROGRAMS / Path(path).name).read_bytes(), 0o755)
    prepare = "nfslock setup-node --apply" if setup else "true"
    if machine.name in layout.NODES:
        machine.write("/run/product.tar.gz", archive)
        machine.run(
            "tar -xzf /run/product.tar.gz -C / --no-same-owner --keep-directory-symlink && "
            "python3 -m compileall -q /usr/lib/ocf/lib/flm && "
            "modprobe lockd && modprobe nfsd && systemctl start proc-fs-nfsd.mount && "
            f"systemctl start run-rpc_pipefs.mount && {prepare}",
            timeout=120,
        )
        set_times(machine, USUAL)
    machine.run("sync")  # it may lose its power next, and boot again


def set_times(machine: Machine, times: Grace) -> None:
    """Configure a node's server with these times; lockd takes them when it starts."""
    machine.write("/etc/nfs.conf.d/rig.conf", NFS_CONF.format(times=times))
    machine.run(
        f"sysctl -q fs.nfs.nlm_timeout={times.nlm_timeout} "
        f"fs.nfs.nlm_grace_period={times.grace} && sync"
    )


def set_tracking(machine: Machine, tracking: str) -> None:
    """Have a node's nfsd keep its recovery records in this form, by taking the newer ones away."""
    if tracking != TRACKING:
        machine.run("systemctl -q mask --now nfsdcld && mkdir -p /var/lib/nfs/v4recovery")
    if tracking == "v4recovery":
        machine.run("echo '' > /sys/module/nfsd/parameters/cltrack_prog")


#: Prints how many clients the held database knows.
_COUNT = f"""
import sqlite3
connection = sqlite3.connect("{layout.HOLDING}/nfsdcld/main.sqlite")
tables = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'rec-%'").fetchall()
print(sum(connection.execute(f'SELECT count(*) FROM "{{name}}"').fetchone()[0] for name, in tables))
"""


def v4_records(machine: Machine) -> int:
    """How many NFSv4 recovery records a node finds in the holding directory."""
    return int(machine.out("python3", "-c", _COUNT))


#: What nfslock switches delegations off with, and what a test puts over it.
_LEASES, _COVER = "/proc/sys/fs/leases-enable", "/run/leases-enable"


def keep_delegations(machine: Machine) -> None:
    """Let a node's nfsd give out delegations, and nfslock switch off something else instead."""
    machine.run(f"echo 1 > {_LEASES} && echo 1 > {_COVER} && mount --bind {_COVER} {_LEASES}")


def let_delegations_go(machine: Machine) -> None:
    """From now on nfslock can switch a node's delegations off."""
    machine.run(f"umount {_LEASES}")


class Step(NamedTuple):
    """One call of an agent by hand."""

    resource: str
    action: str
    rc: int
    seconds: float
    output: str


def call(
    machine: Machine, resource: Resource, action: str, timeout: float = 180, level: int = 0
) -> Step:
    """Call one agent's action as Pacemaker would; `level`: how deep a monitor looks."""
    environment = {
        "OCF_ROOT": "/usr/lib/ocf", "OCF_RA_VERSION_MAJOR": "1", "OCF_RA_VERSION_MINOR": "1",
        "OCF_RESOURCE_INSTANCE": resource.name, "OCF_RESOURCE_TYPE": resource.agent.split("/")[1],
        "OCF_RESOURCE_PROVIDER": resource.agent.split("/")[0],
        "OCF_RESKEY_CRM_meta_timeout": str(int(timeout * 1000)),
        "OCF_RESKEY_crm_feature_set": "3.16.1", "HA_RSCTMP": "/run/resource-agents",
        "HA_LOGFACILITY": "daemon", "HA_logfacility": "daemon",
        **{f"OCF_RESKEY_{name}": value for name, value in resource.parameters.items()},
    }  # fmt: skip
    if action == "monitor":
        environment["OCF_RESKEY_CRM_meta_interval"] = "10000"
        environment["OCF_CHECK_LEVEL"] = str(level)
    start = time.monotonic()
    done: Done = machine.run(
        f"/usr/lib/ocf/resource.d/{resource.agent}", action,
        env=environment, timeout=timeout, check=False,
    )  # fmt: skip
    return Step(
        resource.name, action, done.rc, time.monotonic() - start, (done.out + done.err).strip()
    )


class AgentFailed(AssertionError):
    """An agent's action did not succeed; the steps so far are in the text."""


#: What the stock agents do at start and stop, by resource name, in as few words as possible.
#: $SCOPE is the server scope that nfsd announces.
COMMANDS = {
    "fs": (f"mount {layout.SHARED_DEVICE} {layout.EXPORT}", f"umount {layout.EXPORT}"),
    "server": (
        (
            # systemd takes nfsdcld for started while it still opens its database, and nfsd waits
            # for it no longer than a second.
            "systemctl start rpc-statd && { test -L /etc/systemd/system/nfsdcld.service || "
            "{ systemctl start nfsdcld && "
            "until grep -qs inotify /proc/$(pgrep -x nfsdcld)/fdinfo/*; do sleep 0.1; done; }; } "
            "&& "
            "unshare -u sh -c 'hostname $SCOPE; rpc.nfsd 4' && "
            "pgrep -x rpc.mountd >/dev/null || rpc.mountd -p 20048"
        ),
        (
            "rpc.nfsd 0; pkill -x rpc.mountd; systemctl stop nfsdcld; "
            "pkill -x sm-notify; systemctl stop rpc-statd; true"
        ),
    ),
    "export": (
        (
            f"exportfs -o {EXPORTED},sec=sys:krb5,fsid={layout.FSID} "
            f"10.9.0.0/24:{layout.DATA}"
        ),
        f"exportfs -u 10.9.0.0/24:{layout.DATA}; exportfs -f",
    ),
    "vip": (
        (
            f"ip addr add {layout.VIP}/{layout.PREFIX} dev eth0 && "
            f"(arping -q -U -c 2 -I eth0 {layout.VIP} >/dev/null 2>&1 &)"
        ),
        f"ip addr del {layout.VIP}/{layout.PREFIX} dev eth0",
    ),
}


def by_hand(
    machine: Machine, resources: tuple[Resource, ...], action: str, scope: str = layout.SERVICE
) -> list[Step]:
    """Start or stop the group in order, nfslock by its agent, the rest by COMMANDS.

    Raises AgentFailed at the first step that does not succeed.
    """
    steps: list[Step] = []
    for resource in reversed(resources) if action == "stop" else resources:
        if resource.name in COMMANDS:
            start = time.monotonic()
            command = COMMANDS[resource.name][action == "stop"]
            done = machine.run(
                "sh", "-c", command, check=False, timeout=90, env={"SCOPE": scope}
            )
            seconds = time.monotonic() - start
            steps.append(Step(resource.name, action, done.rc, seconds, done.out + done.err))
        else:
            steps.append(call(machine, resource, action))
        _check(machine, steps)
    return steps


def _check(machine: Machine, steps: list[Step]) -> None:
    if steps[-1].rc != 0:
        table = "\n".join(f"{s.resource} {s.action}: rc {s.rc} {s.output}" for s in steps)
        journal = machine.journal_text()[-1500:]
        raise AgentFailed(f"{machine.name}:\n{table[-3000:]}\n{journal}")


def run_group(machine: Machine, resources: tuple[Resource, ...], action: str) -> list[Step]:
    """Call an action of every agent, in group order (stop: backwards). Raises AgentFailed."""
    steps = []
    for resource in reversed(resources) if action == "stop" else resources:
        steps.append(call(machine, resource, action))
        _check(machine, steps)
    return steps
