# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded connections and the segments that tickle them."""

import socket
import struct

import pytest

from nfslock import tickle


def shown(address: str, port: int) -> str:
    """An end of a connection as the kernel prints it: words of the machine's own byte order."""
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def table(*lines: "tuple[str, int, str, int, str]") -> str:
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    return head + "".join(f"   {number}: {shown(*line[:2])} {shown(*line[2:4])} {line[4]} 0:0\n"
                          for number, line in enumerate(lines))


TCP = table(("192.0.2.10", 2049, "192.0.2.99", 753, "01"), ("0.0.0.0", 2049, "0.0.0.0", 0, "0A"),
            ("192.0.2.10", 22, "192.0.2.99", 754, "01"))
MAPPED = table(("::ffff:192.0.2.10", 2049, "::ffff:192.0.2.99", 753, "01"),
               ("2001:db8::1", 2049, "2001:db8::2", 1023, "01"))


def test_the_kernels_tables() -> None:
    vips, ports = {"192.0.2.10", "2001:db8::1"}, {2049}
    assert tickle.established(TCP, vips, ports) == {("192.0.2.10", 2049, "192.0.2.99", 753)}
    assert tickle.established(MAPPED, vips, ports) == {
        ("192.0.2.10", 2049, "192.0.2.99", 753), ("2001:db8::1", 2049, "2001:db8::2", 1023)}
    assert tickle.established(TCP, {"192.0.2.11"}, ports) == set()


def test_how_many_connections_were_accepted() -> None:
    other = "Ip: Forwarding DefaultTTL\nIp: 2 64\n"
    text = "Tcp: RtoAlgorithm ActiveOpens PassiveOpens\nTcp: 1 1531 10\n"
    assert tickle.accepted(other + text) == 10
    for damaged in ("", other, text.splitlines()[0], text.replace("10", "x"),
                    text.replace("PassiveOpens", "Others")):
        assert tickle.accepted(damaged) is None


def test_the_file_comes_back_and_rubbish_is_passed_over() -> None:
    found = {("192.0.2.10", 2049, "192.0.2.99", 753), ("2001:db8::1", 2049, "2001:db8::2", 1023)}
    data = tickle.encode(found)
    assert tickle.decode(data) == found
    rubbish = b"\xff\0 x\n1 2\n192.0.2.10 0 192.0.2.9 5\n192.0.2.1 1 ::5 1\n"
    assert tickle.decode(data + rubbish) == found
    assert len(tickle.decode(tickle.encode(
        ("192.0.2.10", 2049, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 700)
        for n in range(tickle.MOST + 5)))) == tickle.MOST


@pytest.mark.parametrize("connection", [
    ("127.0.0.1", 2049, "127.0.0.2", 700), ("::1", 2049, "2001:db8::7", 65535)])
def test_a_segment_has_a_valid_checksum_and_only_ack(connection) -> None:  # type: ignore[no-untyped-def]
    data = tickle.segment(connection)
    family = socket.AF_INET6 if ":" in connection[0] else socket.AF_INET
    pseudo = (socket.inet_pton(family, connection[0]) + socket.inet_pton(family, connection[2])
              + struct.pack(">II", len(data), 6))
    total = sum(struct.unpack(f">{(len(pseudo) + len(data)) // 2}H", pseudo + data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
    assert struct.unpack(">HHIIBB", data[:14]) == (connection[1], connection[3], 0, 0, 0x50, 0x10)
