#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""Has this node's rpc.statd monitor clients, as lockd does at a client's first lock.

Says a JSON line for each when statd has answered: lockd would grant the lock now. For clients that
no machine is there for; the product's codec is used, which is installed here.
"""

import json
import os
import socket
import sys

sys.path.insert(0, "/usr/lib/ocf/lib/flm")
from nfslock import rpc


def call(port, xid, prog, vers, proc, args):
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(rpc.mark_record(rpc.encode_call(xid, prog, vers, proc, args)))
        reply, rest = None, b""
        while reply is None:
            reply, rest = rpc.split_record(rest + connection.recv(65536))
    _, status, body = rpc.decode_reply(reply)
    if status != rpc.SUCCESS:
        raise OSError(f"RPC status {status}")
    return body


def main(port, names):
    for xid, name in enumerate(names, 1):
        args = rpc.mon_args(name, os.uname().nodename, os.urandom(16))
        result, _ = rpc.read_stat_res(call(port, xid, rpc.STATD, 1, rpc.SM_MON, args))
        what = "error" if result else "locked"
        sys.stdout.write(json.dumps({"what": what, "file": name}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
