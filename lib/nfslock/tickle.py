# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections of the service as text and as bytes: what is recorded, what is sent (pure).

A client of a dead server retransmits on its old connection with growing pauses, for a minute and
more. One bare ACK from the same address and port makes it answer; the new kernel, which has no
such connection, resets it, and the client connects anew at once (RFC 9293 section 3.10.7.4: an
unacceptable segment is answered with an ACK; 3.10.7.1: an ACK for no connection with a RST).
"""

from __future__ import annotations

import struct
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from .values import address_family, canonical_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    #: (our address, our port, the client's address, the client's port)
    Connection = tuple[str, int, str, int]

#: More connections than this are not recorded: losing one only costs its client some time.
MOST = 20000
_ESTABLISHED = "01"
_MAPPED = bytes(10) + b"\xff\xff"
_IPPROTO_TCP = 6


def _address(text: str) -> str:
    """An address of /proc/net/tcp or tcp6: 32 bit words in the machine's own byte order."""
    raw = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    if raw.startswith(_MAPPED) and len(raw) == 16:
        raw = raw[12:]
    return inet_ntop(AF_INET6 if len(raw) == 16 else AF_INET, raw)


def _written(address: str) -> list[str]:
    """How the two tables write an address; a socket for IPv6 may have an IPv4 peer."""
    family = address_family(address)
    raw = inet_pton(family, address)
    forms = [raw] if family == AF_INET6 else [raw, _MAPPED + raw]
    return ["".join(f"{word:08X}" for word in struct.unpack(f"={len(form) // 4}I", form))
            for form in forms]


def established(
    table: str, addresses: Iterable[str], ports: Iterable[int]
) -> set[Connection]:
    """The established connections to these addresses and ports in a /proc/net/tcp{,6} text."""
    ours = {f"{written}:{port:04X}": (address, port)
            for address in addresses for written in _written(address) for port in ports}
    found: set[Connection] = set()
    for line in table.splitlines()[1:]:
        fields = line.split(None, 4)
        if len(fields) > 3 and fields[1] in ours and fields[3] == _ESTABLISHED:
            peer, _, port = fields[2].partition(":")
            found.add((*ours[fields[1]], _address(peer), int(port, 16)))
    return found


def accepted(snmp: str) -> int | None:
    """How many connections this network namespace has accepted so far, by /proc/net/snmp.

    tcpPassiveOpens of RFC 4022; None when the text does not say.
    """
    lines = [line.split() for line in snmp.splitlines() if line.startswith("Tcp:")]
    counts = dict(zip(*lines)) if len(lines) == 2 else {}
    text = counts.get("PassiveOpens", "")
    return int(text) if text.isdigit() else None


def encode(connections: Iterable[Connection]) -> bytes:
    """The file of recorded connections: a line each, sorted, at most MOST of them."""
    lines = sorted(" ".join(map(str, connection)) for connection in connections)[:MOST]
    return "".join(f"{line}\n" for line in lines).encode()


def decode(data: bytes) -> set[Connection]:
    """The connections in such a file; lines that make no sense are passed over."""
    found: set[Connection] = set()
    for line in data.decode("ascii", "replace").splitlines()[:MOST]:
        try:
            address, port, peer, peer_port = line.split()
            connection = (canonical_address(address), int(port), canonical_address(peer),
                          int(peer_port))
        except ValueError:
            continue
        if (address_family(address) == address_family(peer)
                and 0 < connection[1] < 65536 and 0 < connection[3] < 65536):
            found.add(connection)
    return found


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(connection: Connection) -> bytes:
    """A TCP segment with nothing but ACK, sequence and acknowledgement 0, for that connection."""
    address, port, peer, peer_port = connection
    family = address_family(address)
    ends = inet_pton(family, address) + inet_pton(family, peer)
    # The pseudo headers of RFC 9293 section 3.1 and RFC 8200 section 8.1 sum up to the same.
    pseudo = ends + struct.pack(">II", 20, _IPPROTO_TCP)
    head = struct.pack(">HHIIBBHHH", port, peer_port, 0, 0, 5 << 4, 0x10, 0, 0, 0)
    return head[:16] + struct.pack(">H", _checksum(pseudo + head)) + head[18:]
