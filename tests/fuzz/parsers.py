# SPDX-License-Identifier: GPL-2.0-or-later
"""Every parser that reads what others may have written, and what must hold for any input.

Used by the property tests and by the fuzzer. A check may refuse its input (ValueError) and nothing
else; what it accepts has to mean the same when it is written and read again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable

from nfslock import nfsconf, nsm, owner, params, rpc, runtime, tickle, values
from nfslock.errors import ConfigError, Error
from nfslock.holding import Holding
from nfslock.notify import Notifier
from nfslock.notify_job import Vip
from nfslock.system import System
from nfslock.tracking_nfsdcld import Nfsdcld


def record(data: bytes) -> None:
    lines = nsm.parse_record(data)
    assert lines
    for (mon_name, my_name), line in lines.items():
        assert nsm.parse_line(line[:-1]) == (mon_name, my_name)
        assert nsm.valid_name(mon_name)
        assert nsm.valid_name(my_name)
        assert line in data
        assert os.path.basename(mon_name) == mon_name not in (".", "..")
    clients = nsm.by_client([lines])
    assert {key for text in clients.values() for key in nsm.parse_record(text)} == lines.keys()
    assert not nsm.missing_lines(lines, data)


def callout_request(data: bytes) -> None:
    """What the propagator makes a record of when statd's cannot be found."""
    mon_name, _, my_name = data.decode("ascii").partition("\0")
    line = nsm.format_line(mon_name, my_name)
    assert nsm.parse_record(line) == {(mon_name, my_name): line}


def state(data: bytes) -> None:
    number = nsm.decode_state(data)
    assert number % 2 == 1
    assert nsm.encode_state(number) == data
    assert nsm.next_state([number], 0) % 2 == 1


def owner_file(data: bytes) -> None:
    found = owner.decode_owner(data)
    assert owner.decode_owner(found.encode()) == found
    assert found.generation >= 1


def rpc_call(data: bytes) -> None:
    xid, program, version, procedure, arguments = rpc.decode_call(data)
    again = rpc.encode_call(xid, program, version, procedure, arguments)
    assert rpc.decode_call(again) == (xid, program, version, procedure, arguments)


def rpc_reply(data: bytes) -> None:
    xid, status, body = rpc.decode_reply(data)
    assert rpc.decode_reply(rpc.encode_reply(xid, body, status)) == (xid, status, body)
    for read in (rpc.read_getport, rpc.read_getaddr, rpc.read_stat_res):
        try:
            read(body)
        except rpc.RpcError:
            continue


def rpc_stream(data: bytes) -> None:
    found, rest = rpc.split_record(data, 1 << 16)
    if found is not None:
        assert rpc.split_record(rpc.mark_record(found) + rest) == (found, rest)
    else:
        assert rest == data


def notify_reply(data: bytes) -> None:
    """A datagram that comes to the sender of SM_NOTIFY makes nobody count as notified."""
    vip = Vip("10.0.0.100", ("10.0.0.100",))
    notifier = Notifier((vip,), 7, salt=1)
    notifier.receive(1.0, 0, [(data, ("10.0.0.1", port)) for port in (111, 662)])


def connections(data: bytes) -> None:
    found = tickle.decode(data)
    assert tickle.decode(tickle.encode(found)) == found
    for connection in found:
        tickle.segment(connection)


def addresses(data: bytes) -> None:
    text = data.decode("utf-8")
    found = values.parse_addresses(text)
    assert values.parse_addresses(" ".join(found)) == found


def parameters(data: bytes) -> None:
    """Raw parameters, as a person may have typed them: wrong ones are a ConfigError."""
    given = dict(line.split("=", 1) for line in data.decode("utf-8").splitlines() if "=" in line)
    try:
        params.parse(given)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _with_file(path: str, data: bytes, use: Callable[[System], None]) -> None:
    root = tempfile.mkdtemp(dir="/dev/shm")
    try:
        os.makedirs(os.path.dirname(root + path))
        with open(root + path, "wb") as file:
            file.write(data)
        use(System(root))
    finally:
        shutil.rmtree(root)


def nfs_conf(data: bytes) -> None:
    def use(system: System) -> None:
        nfsconf.setting(system, "statd", "ha-callout")
        nfsconf.seconds(nfsconf.setting(system, "nfsd", "grace-time"))

    _with_file("/etc/nfs.conf", data, use)


def runtime_status(data: bytes) -> None:
    def use(system: System) -> None:
        files = runtime.Runtime(system, "locks")
        files.process(files.read("status"))

    _with_file("/run/nfslock/locks/status", data, use)


def holding_directory(data: bytes) -> None:
    """A damaged owner.json and a damaged record refuse or are passed over, whatever is in them."""
    def use(system: System) -> None:
        os.makedirs(system.path("/h/sm"))
        with open(system.path("/h/sm/10.0.0.1"), "wb") as file:
            file.write(data)
        holding = Holding(system, "/h", "locks")
        records, skipped = holding.records()
        assert len(records) + skipped == 1
        assert holding.read_state() is None or holding.read_state()
        try:
            holding.examine()
        except Error as error:
            raise ValueError(str(error)) from None

    _with_file("/h/owner.json", data, use)


def database(data: bytes) -> None:
    """nfsdcld's database, damaged: an error of ours, and never another."""
    def use(system: System) -> None:
        try:
            clients = Nfsdcld(system, "/d").read()
        except Error as error:
            raise ValueError(str(error)) from None
        assert clients is None or all(isinstance(one, bytes) for one in clients)

    _with_file("/d/main.sqlite", data, use)


PARSERS: dict[str, Callable[[bytes], None]] = {
    check.__name__: check for check in (
        record, callout_request, state, owner_file, rpc_call, rpc_reply, rpc_stream, notify_reply,
        connections, addresses, parameters, nfs_conf, runtime_status, holding_directory, database)}
