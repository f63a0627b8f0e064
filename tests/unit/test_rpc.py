# SPDX-License-Identifier: GPL-2.0-or-later
"""The RPC codec against bytes written down from the RFCs, and against hostile input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfslock import rpc

# RFC 5531 section 9: xid, CALL, RPC 2, program, version, procedure, two empty opaque_auth.
GETPORT = (
    "00000001 00000000 00000002 000186a0 00000002 00000003"
    "00000000 00000000 00000000 00000000"
    "000186b8 00000001 00000011 00000000"
)
NOTIFY = (
    "0000002a 00000000 00000002 000186b8 00000001 00000006"
    "00000000 00000000 00000000 00000000"
    "00000005 76697031 2e000000 00000007"
)


def test_getport_bytes() -> None:
    assert rpc.encode_getport(1, rpc.STATD, 1) == bytes.fromhex(GETPORT)


def test_notify_bytes() -> None:
    call = rpc.encode_call(0x2A, rpc.STATD, 1, rpc.SM_NOTIFY, rpc.notify_args("vip1.", 7))
    assert call == bytes.fromhex(NOTIFY)


def test_mon_bytes() -> None:
    expected = "00000001 61000000 00000002 62630000 000186b5 00000004 00000010" + "0f" * 16
    assert rpc.mon_args("a", "bc", b"\x0f" * 16) == bytes.fromhex(expected)
    with pytest.raises(rpc.RpcError):
        rpc.mon_args("a", "b", b"short")


def test_getaddr_round_trip() -> None:
    xid, prog, vers, proc, body = rpc.decode_call(rpc.encode_getaddr(9, rpc.STATD, 1, "udp6"))
    assert (xid, prog, vers, proc) == (9, rpc.PORTMAP, 4, rpc.RPCBPROC_GETADDR)
    assert body == rpc.xdr_uint(rpc.STATD, 1) + rpc.xdr_string("udp6") + bytes(8)


def test_credentials_stand_before_the_verifier() -> None:
    cred = rpc.xdr_uint(1) + rpc.xdr_string(b"12345678")
    call = rpc.encode_call(3, rpc.NFS, 3, 0, b"body", cred=cred)
    assert call[24:] == cred + bytes(8) + b"body"
    assert rpc.decode_call(call) == (3, rpc.NFS, 3, 0, b"body")


@given(st.integers(0, 2**32 - 1), st.binary(max_size=64), st.integers(0, 5))
def test_reply_round_trip(xid: int, body: bytes, status: int) -> None:
    assert rpc.decode_reply(rpc.encode_reply(xid, body, status)) == (xid, status, body)


def test_reply_with_verifier() -> None:
    reply = rpc.xdr_uint(5, rpc.REPLY, rpc.MSG_ACCEPTED, 1) + rpc.xdr_string(b"abc")
    assert rpc.decode_reply(reply + rpc.xdr_uint(0) + b"done") == (5, 0, b"done")


def test_denied() -> None:
    with pytest.raises(rpc.RpcDenied):
        rpc.decode_reply(rpc.xdr_uint(5, rpc.REPLY, rpc.MSG_DENIED, 1, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        rpc.encode_reply(1)[:-1],
        rpc.encode_null(1, rpc.NFS, 3),
        rpc.xdr_uint(1, rpc.REPLY, 2),
        rpc.xdr_uint(1, rpc.REPLY, 0, 0, 401) + bytes(408),
        rpc.xdr_uint(1, rpc.REPLY, 0, 0, 0xFFFFFFFF, 0),
    ],
    ids=["empty", "cut", "a call", "status 2", "long verifier", "length overflow"],
)
def test_no_reply(data: bytes) -> None:
    with pytest.raises(rpc.RpcError):
        rpc.decode_reply(data)


@given(st.binary(max_size=80))
def test_noise_raises_nothing_else(data: bytes) -> None:
    for decode in (
        rpc.decode_reply,
        rpc.decode_call,
        rpc.split_record,
        rpc.read_getport,
        rpc.read_getaddr,
        rpc.read_stat_res,
    ):
        try:
            decode(data)
        except rpc.RpcError:
            pass


@given(st.lists(st.binary(max_size=20), max_size=4), st.integers(0, 200))
def test_records_come_whole_or_not_at_all(messages: list[bytes], cut: int) -> None:
    stream = b"".join(map(rpc.mark_record, messages))
    buffer, late = stream[:cut], stream[cut:]
    seen = []
    for _ in range(2):
        while True:
            record, buffer = rpc.split_record(buffer)
            if record is None:
                break
            seen.append(record)
        buffer, late = buffer + late, b""
    assert seen == messages and buffer == b""


def test_record_of_two_fragments_and_a_limit() -> None:
    assert rpc.split_record(b"\0\0\0\2ab\x80\0\0\1cX") == (b"abc", b"X")
    with pytest.raises(rpc.RpcError):
        rpc.split_record(b"\x7f\xff\xff\xff")


@given(st.sampled_from(["10.9.0.1", "fd00::1", "::", "fe80::1%eth0"]), st.integers(0, 65535))
def test_universal_address_round_trip(host: str, port: int) -> None:
    assert rpc.parse_uaddr(rpc.format_uaddr(host, port)) == (host, port)


@pytest.mark.parametrize("text", ["", "1.2", ".1.2", "::.256.1", "::.1.-1", "::.1.x", "::.1.²"])
def test_bad_universal_address(text: str) -> None:
    with pytest.raises(rpc.RpcError):
        rpc.parse_uaddr(text)


def test_ports_from_results() -> None:
    assert rpc.read_getport(rpc.xdr_uint(0)) == 0
    assert rpc.read_getport(rpc.xdr_uint(662)) == 662
    with pytest.raises(rpc.RpcError):
        rpc.read_getport(rpc.xdr_uint(65536))
    assert rpc.read_getaddr(rpc.xdr_string("")) == 0
    assert rpc.read_getaddr(rpc.xdr_string("::.2.150")) == 662


def test_loads_nothing_but_struct() -> None:
    """The monitor pays for every import: compare with a Python that has struct already."""
    lib = Path(rpc.__file__).parents[1]
    code = (
        "import sys, struct; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "import nfslock.rpc; print(*sorted(set(sys.modules) - before))"
    )
    run = [sys.executable, "-I", "-S", "-c", code, str(lib)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert out == ["__future__", "nfslock", "nfslock.rpc"]
