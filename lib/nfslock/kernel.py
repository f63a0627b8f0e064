# SPDX-License-Identifier: GPL-2.0-or-later
"""The NFS server on this node, as its clients see it: nfsd, lockd, statd, the export table.

Only questions, no changes. A program counts as there when rpcbind, asked on the address that
clients use, knows it and it answers its NULL procedure (RFC 1833, RFC 5531 section 12.2).
"""

from __future__ import annotations

import os

from . import holders, kernel_tables, processes, rpc
from . import sockets as socket
from .system import System
from .values import address_family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .kernel_tables import Mount

#: Seconds to wait for one answer of a program on this very node.
_TIMEOUT = 1.0


def _xid() -> int:
    return int.from_bytes(os.urandom(4), "big")


def _exchange(address: str, port: int, message: bytes, tcp: bool) -> bytes:
    family = address_family(address)
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        sock.settimeout(_TIMEOUT)
        sock.connect((address, port))
        sock.sendall(rpc.mark_record(message) if tcp else message)
        buffer = b""
        while True:
            data = sock.recv(65536)
            if not tcp:
                return data
            if not data:
                raise rpc.RpcError("connection closed")
            buffer += data
            record, buffer = rpc.split_record(buffer)
            if record is not None:
                return record


def call(address: str, port: int, message: bytes, tcp: bool) -> bytes | None:
    """The body of the reply, None without a good one."""
    try:
        xid, status, body = rpc.decode_reply(_exchange(address, port, message, tcp))
    except (OSError, rpc.RpcError):
        return None
    return body if status == rpc.SUCCESS and xid == int.from_bytes(message[:4], "big") else None


def port_of(address: str, program: int, version: int, tcp: bool) -> int:
    """The port at which rpcbind on `address` knows the program, 0 when it does not."""
    xid = _xid()
    if address_family(address) == socket.AF_INET6:
        netid = "tcp6" if tcp else "udp6"
        question = rpc.encode_getaddr(xid, program, version, netid)
        read = rpc.read_getaddr
    else:
        question = rpc.encode_getport(
            xid, program, version, rpc.IPPROTO_TCP if tcp else rpc.IPPROTO_UDP)
        read = rpc.read_getport
    body = call(address, rpc.PORTMAP_PORT, question, False)
    try:
        return read(body) if body is not None else 0
    except rpc.RpcError:
        return 0


def answers(address: str, program: int, version: int) -> bool:
    """Whether the program is registered on `address` and answers NULL there, by TCP or UDP."""
    return any(_answers_by(tcp, address, program, version) for tcp in (True, False))


def _answers_by(tcp: bool, address: str, program: int, version: int) -> bool:
    port = port_of(address, program, version, tcp)
    null = rpc.encode_null(_xid(), program, version)
    return bool(port) and call(address, port, null, tcp) is not None


def missing_programs(address: str, v3: bool) -> list[str]:
    """Which of the programs that a reclaiming client needs do not answer on `address`.

    v3: of NFSv3; otherwise of NFSv4 alone, which may go without rpcbind.
    """
    if not v3:
        null = rpc.encode_null(_xid(), rpc.NFS, 4)
        there = answers(address, rpc.NFS, 4) or call(address, rpc.NFS_PORT, null, True) is not None
        return [] if there else ["nfsd"]
    wanted = (("nfsd", rpc.NFS, (3,)), ("lockd", rpc.NLM, (4, 3)))
    return [
        name for name, program, versions in wanted
        if not any(answers(address, program, version) for version in versions)
    ]


def statd_lacks() -> list[str]:
    """By which of "TCP" and "UDP" rpc.statd does not answer its NULL procedure on 127.0.0.1.

    lockd asks it by TCP to monitor a client (fs/lockd/mon.c); clients that have rebooted tell it by
    UDP. One whose port was taken when it started goes on with what it got (nfs-utils
    support/nfs/svc_create.c).
    """
    return [name for name, tcp in (("TCP", True), ("UDP", False))
            if not _answers_by(tcp, "127.0.0.1", rpc.STATD, 1)]


def exported(system: System, paths: Iterable[str]) -> list[str]:
    """The directories in the export table through which clients reach these paths' filesystems.

    The table is what exportfs(8) writes: PATH, a tab, CLIENT(OPTIONS); blanks in octal. With
    crossmnt an export includes what is mounted below it.
    """
    try:
        text = system.read(system.etab, 1 << 24).decode(errors="surrogateescape")
    except (OSError, ValueError):
        return []
    mounts = holders.mounts(system)

    def mount_of(path: str) -> Mount | None:
        return kernel_tables.mount_of(mounts, os.path.realpath(path))

    # The superblock's number, not st_dev, which differs from one btrfs subvolume to the next.
    wanted = [mount for mount in map(mount_of, paths) if mount is not None]
    found = set()
    for line in text.splitlines():
        name, _, client = line.partition("\t")
        if not client:
            continue
        path = kernel_tables.unescape(name)
        mount = mount_of(path)
        options = client.rstrip(")").rpartition("(")[2].split(",")
        if mount is not None and any(
                mount.device == one.device
                or ("crossmnt" in options and one.point.startswith(f"{path.rstrip('/')}/"))
                for one in wanted):
            found.add(path)
    return sorted(found)


def serving(system: System) -> bool | None:
    """Whether nfsd has threads; None when this kernel does not say (no nfsd filesystem)."""
    try:
        return int(system.read(f"{system.proc}/fs/nfsd/threads").split()[0]) > 0
    except (OSError, ValueError, IndexError):
        return None


def offers_v3(system: System) -> bool:
    """Whether nfsd offers NFSv3, for which it has lockd; True where the kernel does not say.

    /proc/fs/nfsd/versions: words like "+3 -4 +4.1" (fs/nfsd/nfsctl.c, __write_versions).
    """
    try:
        return b"-3" not in system.read(f"{system.proc}/fs/nfsd/versions").split()
    except (OSError, ValueError):
        return True


def lockd_instance(system: System) -> tuple[int, int] | None:
    """Pid and start time of the lockd kernel thread; None when none is visible from here.

    Another instance than before means that the locks of this node were dropped in between.
    """
    for pid in processes.kernel_threads(system, "lockd"):
        return pid, system.start_time(pid)
    return None
