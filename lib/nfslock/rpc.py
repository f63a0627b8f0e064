# SPDX-License-Identifier: GPL-2.0-or-later
"""ONC RPC messages as bytes: calls and replies, XDR, and the arguments of rpcbind and statd.

Sources: RFC 5531 (RPC v2), RFC 4506 (XDR), RFC 1833 (portmap v2, rpcbind v3 and v4), RFC 5665
(universal addresses), and X/Open XNFS chapter 11 (Network Status Monitor). Pure: no sockets, no
clock. The monitor loads this module, so it may import nothing but `struct`.
"""

from __future__ import annotations

import struct

PORTMAP = 100000
NFS = 100003
MOUNTD = 100005
NLM = 100021
STATD = 100024

PORTMAP_PORT, NFS_PORT = 111, 2049
IPPROTO_TCP = 6
IPPROTO_UDP = 17

PMAPPROC_SET, PMAPPROC_UNSET, PMAPPROC_GETPORT = 1, 2, 3
RPCBPROC_GETADDR = 3  # the same number in rpcbind v3 and v4
SM_STAT, SM_MON, SM_UNMON, SM_UNMON_ALL, SM_NOTIFY = 1, 2, 3, 4, 6

CALL, REPLY = 0, 1
MSG_ACCEPTED, MSG_DENIED = 0, 1
SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR = range(6)

AUTH_NONE = bytes(8)
MAX_AUTH = 400  # bytes in the body of an opaque_auth: RFC 5531 section 8.2
MAX_NAME = 1024  # SM_MAXSTRLEN, bytes of a mon_name or my_name
_LAST_FRAGMENT = 0x80000000

_u32 = struct.Struct(">I")
_call_head = struct.Struct(">6I")
_reply_head = struct.Struct(">3I")


# REPLY, MSG_ACCEPTED, empty verifier, SUCCESS
_PLAIN_SUCCESS = _reply_head.pack(REPLY, MSG_ACCEPTED, 0) + _u32.pack(0) + _u32.pack(SUCCESS)


class RpcError(ValueError):
    """The bytes are no RPC message of the kind expected."""


class RpcDenied(RpcError):
    """The server refused the call: RPC version mismatch or authentication (RFC 5531 section 9)."""


# XDR


def xdr_string(value: str | bytes) -> bytes:
    """Return a variable-length opaque or string: length, bytes, padding to four."""
    raw = value.encode() if isinstance(value, str) else value
    return _u32.pack(len(raw)) + raw + bytes(-len(raw) % 4)


def xdr_uint(*values: int) -> bytes:
    """Return 32-bit words; negative numbers in two's complement (XDR int)."""
    return struct.pack(f">{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def read_uint(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Return (value, offset behind it). Raises RpcError where the data ends too soon."""
    try:
        return _u32.unpack_from(data, offset)[0], offset + 4
    except struct.error:
        raise RpcError(f"truncated at byte {len(data)}, wanted 4 bytes at {offset}") from None


def read_string(data: bytes, offset: int = 0, limit: int = MAX_NAME) -> tuple[bytes, int]:
    """Return (bytes, offset behind their padding). Raises RpcError if longer than limit or cut."""
    length, start = read_uint(data, offset)
    end = start + length + -length % 4
    if length > limit or end > len(data):
        raise RpcError(f"string of {length} bytes at {offset} in a message of {len(data)}")
    return data[start : start + length], end


# Messages


def encode_call(
    xid: int, prog: int, vers: int, proc: int, body: bytes = b"", *, cred: bytes = b""
) -> bytes:
    """Return a call. body: the XDR arguments; cred: a whole opaque_auth, empty for AUTH_NONE."""
    head = _call_head.pack(xid, CALL, 2, prog, vers, proc)
    return head + (cred or AUTH_NONE) + AUTH_NONE + body


def encode_null(xid: int, prog: int, vers: int) -> bytes:
    """Return a call of procedure 0, which every program answers with nothing."""
    return encode_call(xid, prog, vers, 0)


def decode_call(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return (xid, prog, vers, proc, arguments) of a call, for answerers. Raises RpcError."""
    try:
        xid, kind, rpcvers, prog, vers, proc = _call_head.unpack_from(data)
    except struct.error:
        raise RpcError(f"call of {len(data)} bytes") from None
    if kind != CALL or rpcvers != 2:
        raise RpcError(f"message type {kind}, RPC version {rpcvers}")
    offset = _call_head.size
    for _ in ("cred", "verf"):
        _, offset = read_string(data, offset + 4, MAX_AUTH)
    return xid, prog, vers, proc, data[offset:]


def encode_reply(xid: int, body: bytes = b"", status: int = SUCCESS) -> bytes:
    """Return an accepted reply with an empty verifier."""
    return _reply_head.pack(xid, REPLY, MSG_ACCEPTED) + AUTH_NONE + _u32.pack(status) + body


def decode_reply(data: bytes) -> tuple[int, int, bytes]:
    """Return (xid, accept status, results). The caller compares the xid and the status.

    Raises RpcDenied for a refused call, RpcError for anything that is no reply.
    """
    if data[4:24] == _PLAIN_SUCCESS:  # as nearly all are: ten thousand of them count
        return _u32.unpack_from(data)[0], SUCCESS, data[24:]
    try:
        xid, kind, stat = _reply_head.unpack_from(data)
    except struct.error:
        raise RpcError(f"reply of {len(data)} bytes") from None
    if kind != REPLY:
        raise RpcError(f"message type {kind}, not a reply")
    if stat == MSG_DENIED:
        raise RpcDenied(f"call {xid:#x} denied: {data[12:24].hex()}")
    if stat != MSG_ACCEPTED:
        raise RpcError(f"reply status {stat}")
    _, offset = read_string(data, _reply_head.size + 4, MAX_AUTH)
    status, offset = read_uint(data, offset)
    return xid, status, data[offset:]


# Record marking on streams: RFC 5531 section 11


def mark_record(message: bytes) -> bytes:
    """Return the message as one last fragment, for TCP and local streams."""
    return _u32.pack(_LAST_FRAGMENT | len(message)) + message


def split_record(buffer: bytes, limit: int = 1 << 20) -> tuple[bytes | None, bytes]:
    """Return (first complete record or None, rest). Raises RpcError beyond limit bytes."""
    parts = []
    offset = total = 0
    while offset + 4 <= len(buffer):
        mark, start = read_uint(buffer, offset)
        offset = start + (mark & ~_LAST_FRAGMENT)
        total += offset - start
        if total > limit:
            raise RpcError(f"record of more than {limit} bytes")
        if offset > len(buffer):
            break
        parts.append(buffer[start:offset])
        if mark & _LAST_FRAGMENT:
            return b"".join(parts), buffer[offset:]
    return None, buffer


# rpcbind


def pmap_args(prog: int, vers: int, proto: int = IPPROTO_UDP, port: int = 0) -> bytes:
    """Return a portmap v2 mapping: GETPORT (port ignored), SET, UNSET (RFC 1833 section 3)."""
    return xdr_uint(prog, vers, proto, port)


def rpcb_args(prog: int, vers: int, netid: str, addr: str = "", owner: str = "") -> bytes:
    """Return an rpcbind v3/v4 rpcb: GETADDR, SET, UNSET (RFC 1833 section 2)."""
    return xdr_uint(prog, vers) + xdr_string(netid) + xdr_string(addr) + xdr_string(owner)


def encode_getport(xid: int, prog: int, vers: int, proto: int = IPPROTO_UDP) -> bytes:
    """Return a portmap v2 GETPORT call."""
    return encode_call(xid, PORTMAP, 2, PMAPPROC_GETPORT, pmap_args(prog, vers, proto))


def encode_getaddr(
    xid: int, prog: int, vers: int, netid: str = "udp6", *, addr: str = "", rpcbvers: int = 4
) -> bytes:
    """Return an rpcbind GETADDR call. addr: universal address at which the server is asked."""
    return encode_call(xid, PORTMAP, rpcbvers, RPCBPROC_GETADDR, rpcb_args(prog, vers, netid, addr))


def read_getport(body: bytes) -> int:
    """Return the port in a GETPORT result; 0 means not registered. Raises RpcError."""
    port, _ = read_uint(body)
    if port > 65535:
        raise RpcError(f"port {port}")
    return port


def read_getaddr(body: bytes) -> int:
    """Return the port in a GETADDR result; 0 (an empty string) means not registered."""
    uaddr, _ = read_string(body)
    return parse_uaddr(uaddr.decode("ascii", "replace"))[1] if uaddr else 0


def format_uaddr(host: str, port: int) -> str:
    """Return a universal address (RFC 5665 section 5.2.3.3): host, high and low byte of port."""
    return f"{host}.{port >> 8}.{port & 255}"


def parse_uaddr(uaddr: str) -> tuple[str, int]:
    """Return (host, port). Raises RpcError."""
    host, *digits = uaddr.rsplit(".", 2)
    if host and len(digits) == 2 and all(d.isascii() and d.isdigit() for d in digits):
        high, low = map(int, digits)
        if high < 256 and low < 256:
            return host, high << 8 | low
    raise RpcError(f"universal address {uaddr!r}")


# statd


def notify_args(mon_name: str | bytes, state: int) -> bytes:
    """Return a stat_chge, the argument of SM_NOTIFY: who restarted, and its new state."""
    return xdr_string(mon_name) + xdr_uint(state)


def mon_id_args(
    mon_name: str | bytes, my_name: str | bytes, prog: int = NLM, vers: int = 4, proc: int = 16
) -> bytes:
    """Return a mon_id, the argument of SM_UNMON. proc 16 is NLMPROC_NSM_NOTIFY."""
    return xdr_string(mon_name) + my_id_args(my_name, prog, vers, proc)


def my_id_args(my_name: str | bytes, prog: int = NLM, vers: int = 4, proc: int = 16) -> bytes:
    """Return a my_id, the argument of SM_UNMON_ALL."""
    return xdr_string(my_name) + xdr_uint(prog, vers, proc)


def mon_args(mon_name: str | bytes, my_name: str | bytes, priv: bytes = bytes(16)) -> bytes:
    """Return a mon, the argument of SM_MON, as lockd sends it. priv: 16 bytes, the cookie."""
    if len(priv) != 16:
        raise RpcError(f"private data of {len(priv)} bytes, must be 16")
    return mon_id_args(mon_name, my_name) + priv


def read_stat_res(body: bytes) -> tuple[int, int]:
    """Return (0 for success or 1 for failure, state): the result of SM_MON and SM_STAT."""
    result, offset = read_uint(body)
    return result, read_uint(body, offset)[0]
