# SPDX-License-Identifier: GPL-2.0-or-later
"""The NFSv4.1 server scope: what nfsd announces, and making it the service's.

Clients of 4.1 and later reclaim only from a server of the scope they know (RFC 8881 2.10.4,
8.4.2.1). nfsd takes the host name of the process that last set its thread count, unless told
otherwise: every `rpc.nfsd N` or `echo N > threads` on a running server resets it. Here it is set by
exactly that, right after nfs-server.service has started nfsd and before any address is up: the same
count is written again under the wanted host name. That works with every kernel and nfs-utils.
"""

from __future__ import annotations

import os

from . import kernel, nfsconf, rpc, units
from .errors import Error, NodeError
from .files import Like
from .system import System

UNIT = "nfs-server.service"
_PLACE = f"/run/systemd/system/{UNIT}.d"
#: Where drop-ins are until the next boot and systemd reads *.conf only: the scope while a service
#: is here, and that systemd has read a drop-in from there. So it reads its units again at one start
#: after a boot, and at none on a node that `nfslock setup-node` has given the drop-in for good.
_VALUE, _LOADED = "nfslock-scope", "nfslock-scope.loaded"
#: Where the stock nfsserver agent keeps its nfs_server_scope; it has its own way to set it.
STOCK = "/run/sysconfig/nfs-server-scope"
_SET = ('echo "$scope" > /proc/sys/kernel/hostname && read count < /proc/fs/nfsd/threads && '
        'echo "$count" > /proc/fs/nfsd/threads')
_EXCHANGE_ID, _COMPOUND = 42, 1


def stock(system: System) -> str | None:
    """The scope that the nfsserver resource sets by itself; None when it sets none."""
    try:
        text = system.read(STOCK).decode(errors="replace")
    except (OSError, ValueError):
        return None
    for line in text.splitlines():
        if line.startswith("NFS_SERVER_SCOPE="):
            return line.partition("=")[2].strip().strip('"')
    return None


def wanted(system: System, configured: str, default: str) -> str:
    """The scope that clients shall see. NodeError when two places say different things."""
    scope = configured or default
    for place, found in (("nfs.conf ([nfsd] scope)", nfsconf.setting(system, "nfsd", "scope")),
                         ("nfsserver (nfs_server_scope)", stock(system))):
        if not found or found == scope:
            continue
        if configured or not place.startswith("nfsserver"):
            raise NodeError(
                f"{place} sets the NFSv4 server scope to {found}, this resource to {scope}: all "
                f"nodes must announce the same; set server_scope={found} or remove it there")
        return found
    return scope


def drop_in() -> str:
    """The lines for systemd: no matter who starts nfs-server.service, the scope is set next.

    They do nothing while none of our services is on the node.
    """
    value = f"{_PLACE}/{_VALUE}"
    command = f"test -e {STOCK} || test ! -e {value} || {{ read scope < {value} && {_SET}; }}"
    return ("[Service]\n"
            f"ExecStartPost=/usr/bin/unshare --uts /bin/sh -c '{command.replace('$', '$$')}'\n")


def install(system: System, scope: str) -> bool:
    """Have systemd set the scope whenever it starts nfsd; False where systemd does not run."""
    if not units.booted(system):
        return False
    text = drop_in()
    os.makedirs(system.path(_PLACE), exist_ok=True)
    known = system.identity(f"{_PLACE}/{_LOADED}") and units.has_drop_in(system, UNIT, text)
    if not known and not units.has_drop_in(system, UNIT, text, lasting=True):
        system.remove(_PLACE, [_LOADED])
        units.put_drop_in(system, UNIT, text)
        system.write(_PLACE, {_LOADED: b""}, Like(0o644), durable=False)
    system.write(_PLACE, {_VALUE: f"{scope}\n".encode()}, Like(0o644), durable=False)
    return True


def uninstall(system: System) -> None:
    """Let nfsd announce, when it is started next, what it did before."""
    if system.identity(f"{_PLACE}/{_VALUE}") is not None:
        system.remove(_PLACE, [_VALUE])


def announce(system: System, scope: str) -> None:
    """Set the scope of the running nfsd now. Clients notice at their next EXCHANGE_ID only."""
    system.checked("unshare", "--uts", "/bin/sh", "-c", f"scope=$0; {_SET}", scope)


def announced(address: str) -> str | None:
    """What the nfsd on this address announces; None when it does not tell.

    It is asked as a client would ask (EXCHANGE_ID, RFC 8881 18.35), for no kernel file says it. The
    client that this makes is unconfirmed, has no record and is gone after a lease. nfsd answers
    only hosts that may mount something: an export for a subnet includes its own addresses, one for
    single hosts does not.
    """
    owner = rpc.xdr_string(b"nfslock asks for the server scope")
    question = (rpc.xdr_string(b"") + rpc.xdr_uint(1, 1, _EXCHANGE_ID) + b"nfslock\0" + owner
                + rpc.xdr_uint(0, 0, 0))
    message = rpc.encode_call(int.from_bytes(os.urandom(4), "big"), rpc.NFS, 4, _COMPOUND, question)
    body = kernel.call(address, rpc.NFS_PORT, message, tcp=True)
    try:
        return _scope(body) if body is not None else None
    except rpc.RpcError:
        return None


def _scope(body: bytes) -> str | None:
    """The scope in a COMPOUND reply with one EXCHANGE_ID."""
    status, offset = rpc.read_uint(body)
    _, offset = rpc.read_string(body, offset)
    if status:
        return None
    # Count, operation, its status, client id (2), sequence id, flags, state protection, minor id.
    offset += 4 * 8
    offset += 8
    _, offset = rpc.read_string(body, offset)
    scope, _ = rpc.read_string(body, offset)
    return scope.decode(errors="replace")


def check(system: System, address: str, scope: str) -> str:
    """Error when nfsd announces another scope; else what is known of it, in words.

    Where nfsd does not answer this node, nobody can tell.
    """
    found = announced(address)
    if found is None:
        return f"not known (nfsd does not answer EXCHANGE_ID from {address})"
    if found != (stock(system) or scope):
        raise Error(
            f"nfsd announces the NFSv4 server scope {found} instead of {scope}: after a failover "
            "clients would not reclaim; a change of the thread count on the running server does "
            "this (rpc.nfsd N): restart nfs-server, or set it as `nfslock` does, with the host "
            "name changed in a UTS namespace")
    return found
