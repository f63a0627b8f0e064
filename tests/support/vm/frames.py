# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording of the switch says: ARP announcements, notifications, reclaims, and when.

Decodes as much of Ethernet, IPv4, ONC RPC (RFC 5531), NSM and NLM (Open Group, XNFS) and NFSv4
(RFC 8881, RFC 7530) as that takes. A frame that it does not understand is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Callable, NamedTuple, TypeVar

from .switch import Frame

T = TypeVar("T")

NSM, NLM, NFS = 100024, 100021, 100003
SM_NOTIFY = 6
NLM_LOCK = 2


class Announcement(NamedTuple):
    """An ARP packet whose sender says that it has the address."""

    at: float
    port: str
    address: str


class Call(NamedTuple):
    """An RPC call and, when it was seen, the beginning of its accepted reply's results."""

    at: float
    port: str
    source: str
    target: str
    xid: int
    program: int
    version: int
    procedure: int
    body: bytes
    replied_at: float
    result: bytes


class Notification(NamedTuple):
    """An SM_NOTIFY datagram; `at` when it passed the switch."""

    at: float
    port: str
    source: str
    target: str
    name: str
    state: int


class Reclaim(NamedTuple):
    """A reclaim by a client, and when the server agreed (0: not seen to).

    xid: the same when a call is sent again (RFC 5531 section 9).
    """

    at: float
    source: str
    target: str
    xid: int
    what: str
    granted_at: float


class Opened(NamedTuple):
    """An NFSv4 OPEN that the server agreed to, and the delegation that came with it.

    claim: CLAIMS, or "?"; delegation: "none", "read" or "write".
    """

    at: float
    source: str
    claim: str
    delegation: str


def announcements(frames: list[Frame], address: str) -> list[Announcement]:
    """ARP packets (requests and replies) whose sender claims `address` (RFC 826)."""
    wanted = bytes(int(part) for part in address.split("."))
    return [
        Announcement(frame.at, frame.port, address)
        for frame in frames
        if frame.data[12:14] == b"\x08\x06" and frame.data[28:32] == wanted and not frame.dropped
    ]


def last_try(frames: list[Frame], port: str, address: str) -> float:
    """When a port last sent something for an address: IPv4, or an ARP request for it; 0: never."""
    wanted = bytes(int(part) for part in address.split("."))
    for frame in reversed(frames):
        kind = frame.data[12:14]
        asked = kind == b"\x08\x06" and frame.data[38:42] == wanted
        if frame.port == port and (asked or (kind == b"\x08\x00" and frame.data[30:34] == wanted)):
            return frame.at
    return 0.0


def _payloads(frame: Frame) -> Iterator[tuple[str, str, bool, bytes]]:
    """Source and target "address:port", whether TCP, and each RPC message of a frame."""
    data = frame.data
    if frame.dropped or data[12:14] != b"\x08\x00" or len(data) < 34:
        return
    header = (data[14] & 15) * 4
    protocol = data[23]
    (total,) = struct.unpack_from(">H", data, 16)
    source, target = (".".join(map(str, data[i : i + 4])) for i in (26, 30))
    start = 14 + header
    if protocol not in (6, 17) or len(data) < start + 8:
        return
    sport, dport = struct.unpack_from(">HH", data, start)
    ends = f"{source}:{sport}", f"{target}:{dport}"
    if protocol == 17:
        yield (*ends, False, data[start + 8 : 14 + total])
        return
    rest = data[start + (data[start + 12] >> 4) * 4 : 14 + total]
    while len(rest) >= 4:  # record marks; a message that began in an earlier segment is not seen
        (mark,) = struct.unpack_from(">I", rest)
        length = mark & 0x7FFFFFFF
        if not mark & 0x80000000 or length > 1 << 20:
            return
        yield (*ends, True, rest[4 : 4 + length])
        rest = rest[4 + length :]


def _opaque(data: bytes, offset: int) -> tuple[bytes, int]:
    """XDR variable-length opaque at an offset, and the offset behind it."""
    (length,) = struct.unpack_from(">I", data, offset)
    return data[offset + 4 : offset + 4 + length], offset + 4 + (length + 3) // 4 * 4


def calls(frames: list[Frame]) -> list[Call]:
    """Every RPC call that passed the switch, retransmissions too, with its first reply."""
    replies: dict[tuple[str, str, int], tuple[float, bytes]] = {}
    found = []
    for frame in list(frames):
        for source, target, _, message in _payloads(frame):
            try:
                xid, kind = struct.unpack_from(">II", message)
                if kind == 1:
                    verifier = _opaque(message, 16)[1]
                    if struct.unpack_from(">II", message, 8)[0] == 0:
                        replies.setdefault(
                            (target, source, xid), (frame.at, message[verifier + 4 :])
                        )
                elif kind == 0:
                    two, program, version, procedure = struct.unpack_from(">IIII", message, 8)
                    if two != 2:
                        continue
                    _, offset = _opaque(message, 28)
                    _, offset = _opaque(message, offset + 4)
                    found.append(
                        (frame, source, target, xid, program, version, procedure, message[offset:])
                    )
            except struct.error:
                continue
    return [
        Call(
            frame.at, frame.port, source, target, xid, program, version, procedure, body,
            *replies.get((source, target, xid), (0.0, b"")),
        )
        for frame, source, target, xid, program, version, procedure, body in found
    ]  # fmt: skip


def notifications(seen: list[Call]) -> list[Notification]:
    """Every SM_NOTIFY."""
    found = []
    for call in seen:
        if (call.program, call.procedure) == (NSM, SM_NOTIFY):
            name, offset = _opaque(call.body, 0)
            (state,) = struct.unpack_from(">i", call.body, offset)
            found.append(
                Notification(
                    call.at, call.port, call.source.split(":")[0], call.target.split(":")[0],
                    name.decode("latin-1"), state,
                )
            )  # fmt: skip
    return found


def _nlm_reclaim(call: Call) -> bool:
    """Whether an NLM4_LOCK call says reclaim."""
    _, offset = _opaque(call.body, 0)
    _, offset = _opaque(call.body, offset + 8)  # block, exclusive, caller_name
    _, offset = _opaque(call.body, offset)
    _, offset = _opaque(call.body, offset)
    (reclaim,) = struct.unpack_from(">I", call.body, offset + 20)  # svid, offset, length
    return bool(reclaim)


#: NFSv4 operations (RFC 8881 16.2.1), and what an OPEN may claim (18.16.1, open_claim_type4).
_LOCK, _OPEN, _PUTFH, _SEQUENCE, _RECLAIM_COMPLETE = 12, 18, 22, 53, 58
_ERR_GRACE = 10013
CLAIMS = {0: "null", 1: "previous", 4: "fh"}


def _v4_operation(body: bytes) -> tuple[int, int]:
    """The first operation of a COMPOUND that is not SEQUENCE or PUTFH, and where its words begin.

    0 for one without.
    """
    _, offset = _opaque(body, 0)
    (count,) = struct.unpack_from(">I", body, offset + 4)
    offset += 8
    for _ in range(count):
        (operation,) = struct.unpack_from(">I", body, offset)
        offset += 4
        if operation == _SEQUENCE:
            offset += 32
        elif operation == _PUTFH:
            _, offset = _opaque(body, offset)
        else:
            return operation, offset
    return 0, offset


def _v4_claim(body: bytes, offset: int) -> int:
    """What an OPEN claims (open_claim_type4); -1 when it may create the file."""
    _, offset = _opaque(body, offset + 20)  # seqid, access, deny, client id
    create, claim = struct.unpack_from(">II", body, offset)
    return -1 if create else claim


def _v4_reclaim(body: bytes) -> str:
    """The reclaiming operation of a COMPOUND, or nothing."""
    operation, offset = _v4_operation(body)
    if operation == _RECLAIM_COMPLETE:
        return "RECLAIM_COMPLETE"
    if operation == _LOCK:
        return "LOCK" if struct.unpack_from(">II", body, offset)[1] else ""
    return "OPEN" if operation == _OPEN and _v4_claim(body, offset) == 1 else ""


def _v4_delegation(result: bytes) -> str:
    """The delegation in the reply to an OPEN (open_delegation_type4)."""
    _, offset = _opaque(result, 4)
    (count,) = struct.unpack_from(">I", result, offset)
    offset += 4
    for _ in range(count):
        (operation,) = struct.unpack_from(">I", result, offset)
        offset += 8
        if operation == _SEQUENCE:
            offset += 36
        elif operation == _OPEN:
            (words,) = struct.unpack_from(">I", result, offset + 40)  # stateid, change, flags
            (kind,) = struct.unpack_from(">I", result, offset + 44 + 4 * words)
            return {1: "read", 2: "write", 4: "read", 5: "write"}.get(kind, "none")
        elif operation != _PUTFH:
            break
    return "?"


def _is_compound(call: Call) -> bool:
    return (call.program, call.version, call.procedure) == (NFS, 4, 1)


def _from_answered(seen: list[Call], read: Callable[[Call], T | None]) -> list[T]:
    """What `read` finds in the NFSv4 calls that were answered; None and what is cut short: nothing.
    """
    found = []
    for call in seen:
        if _is_compound(call) and call.result:
            with suppress(struct.error):
                what = read(call)
                if what is not None:
                    found.append(what)
    return found


def opens(seen: list[Call]) -> list[Opened]:
    """Every NFSv4 OPEN that the server agreed to."""

    def opened(call: Call) -> Opened | None:
        operation, offset = _v4_operation(call.body)
        if operation != _OPEN or call.result[:4] != b"\0\0\0\0":
            return None
        claim = CLAIMS.get(_v4_claim(call.body, offset), "?")
        client = call.source.split(":")[0]
        return Opened(call.replied_at, client, claim, _v4_delegation(call.result))

    return _from_answered(seen, opened)


def held_off(seen: list[Call]) -> list[float]:
    """When the server answered a new NFSv4 LOCK with NFS4ERR_GRACE (RFC 8881 15.1.9.2)."""

    def put_off(call: Call) -> float | None:
        new = _v4_operation(call.body)[0] == _LOCK and not _v4_reclaim(call.body)
        late = new and struct.unpack_from(">I", call.result)[0] == _ERR_GRACE
        return call.replied_at if late else None

    return _from_answered(seen, put_off)


def reclaims(seen: list[Call]) -> list[Reclaim]:
    """Locks (and NFSv4 opens) that clients reclaimed, NFSv4's RECLAIM_COMPLETE among them."""
    found = []
    for call in seen:
        what = ""
        granted = False
        try:
            if (call.program, call.version, call.procedure) == (NLM, 4, NLM_LOCK):
                what = "NLM LOCK" if _nlm_reclaim(call) else ""
                if call.result:
                    _, offset = _opaque(call.result, 0)
                    granted = struct.unpack_from(">I", call.result, offset)[0] == 0
            elif _is_compound(call):
                what = _v4_reclaim(call.body)
                granted = call.result[:4] == b"\0\0\0\0"
        except struct.error:
            continue
        if what:
            found.append(
                Reclaim(
                    call.at, call.source.split(":")[0], call.target.split(":")[0], call.xid,
                    what, call.replied_at if granted else 0.0,
                )
            )  # fmt: skip
    return found


def granted(seen: list[Call]) -> list[Reclaim]:
    """The reclaims that the server agreed to, each once however often its client sent it."""
    found: dict[tuple[str, int], Reclaim] = {}
    for reclaim in reclaims(seen):
        if reclaim.granted_at:
            found.setdefault((reclaim.source, reclaim.xid), reclaim)
    return list(found.values())
