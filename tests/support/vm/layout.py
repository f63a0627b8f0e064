# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, addresses and paths of the rig, in one place: values only."""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """One machine: its name, memory in MiB, its networks' addresses and whether it has the disk."""

    name: str
    memory: int
    addresses: dict[str, str]
    shared_disk: bool


NODE_A = Role("node-a", 640, {"data": "10.9.0.11", "cluster": "10.8.0.11"}, True)
NODE_B = Role("node-b", 640, {"data": "10.9.0.12", "cluster": "10.8.0.12"}, True)
CLIENT = Role("client", 400, {"data": "10.9.0.21"}, False)
RIVAL = Role("rival", 400, {"data": "10.9.0.22"}, False)
ROLES = (NODE_A, NODE_B, CLIENT, RIVAL)
NODES = (NODE_A.name, NODE_B.name)

VIP = "10.9.0.100"
PREFIX = 24
#: The service's name: what statd and nfsd call themselves, whichever node they run on.
SERVICE = "nfs-service"
SHARED_DEVICE = "/dev/vdb"
SHARED_MIB = 256
EXPORT = "/srv/nfs"
#: Where clients mount it, and what of it is exported (the holding directory is beside it).
DATA = EXPORT + "/data"
HOLDING = EXPORT + "/holding"
MOUNT = "/mnt/nfs"
FSID = 1001

HOSTS = (
    "127.0.0.1 localhost\n"
    + "".join(f"{role.addresses['data']} {role.name}\n" for role in ROLES)
    + "".join(
        f"{role.addresses['cluster']} {role.name}-cluster\n"
        for role in ROLES
        if "cluster" in role.addresses
    )
    + f"{VIP} {SERVICE}\n"
)


def mac(machine: str, network: str) -> str:
    """Hardware address of a machine's port: the last two octets tell machine and network."""
    names = [role.name for role in ROLES]
    return f"52:54:00:09:{names.index(machine) + 1:02x}:{0 if network == 'data' else 1:02x}"
