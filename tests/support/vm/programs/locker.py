#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks files as an application does, and says what happens, one JSON line at a time.

`owner` takes a lock on each file, holds it and writes through it; `rival` keeps trying to take the
same locks and gives back at once what it gets. Times are CLOCK_MONOTONIC of this machine.
Locks are POSIX byte ranges (`posix`: bytes 0-9) or whole files (`flock`, which NFS turns into a
lock of every byte). A line on standard input ends it; `release` makes the owner unlock first.
"""

import errno
import fcntl
import json
import os
import select
import sys
import time


def say(what, **more):
    sys.stdout.write(json.dumps(dict(more, t=time.monotonic(), what=what)) + "\n")
    sys.stdout.flush()


def lock(fd, kind, wait):
    """Take the lock; False when somebody else has it. `wait`: until it is free."""
    flags = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        if kind == "flock":
            fcntl.flock(fd, flags)
        else:
            fcntl.lockf(fd, flags, 10, 0)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(fd, kind):
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_UN)
    else:
        fcntl.lockf(fd, fcntl.LOCK_UN, 10, 0)


def told(seconds):
    """A line from standard input within so many seconds, or None."""
    ready, _, _ = select.select([0], [], [], seconds)
    return (sys.stdin.readline().strip() or "end") if ready else None


def owner(kind, interval, paths):
    held = []
    for path in paths:
        started = time.monotonic()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            lock(fd, kind, True)
        except OSError as error:
            say("error", file=path, op="lock", errno=errno.errorcode.get(error.errno, "?"))
            continue
        held.append((path, fd))
        say("locked", file=path, took=time.monotonic() - started)
    count = 0
    word = None
    while word is None:
        for path, fd in held:
            count += 1
            started = time.monotonic()
            try:
                os.pwrite(fd, b"%020d\n" % count, 100)
                os.fsync(fd)
            except OSError as error:
                say("error", file=path, op="write", errno=errno.errorcode.get(error.errno, "?"))
            else:
                say("wrote", file=path, took=time.monotonic() - started)
            word = told(interval / len(held))
            if word:
                break
        if not held:
            word = told(3600)
    if word == "release":
        for path, fd in held:
            say("releasing", file=path)
            unlock(fd, kind)
    say("end")


def rival(kind, interval, paths):
    descriptors = {}
    word = None
    while word is None:
        for path in paths:
            started = time.monotonic()
            try:
                if path not in descriptors:
                    descriptors[path] = os.open(path, os.O_RDWR)
                got = lock(descriptors[path], kind, False)
            except OSError as error:
                say("refused", file=path, errno=errno.errorcode.get(error.errno, "?"),
                    took=time.monotonic() - started)  # fmt: skip
                continue
            if got:
                say("granted", file=path, took=time.monotonic() - started)
                word = told(0.2) or word
                say("returning", file=path)
                unlock(descriptors[path], kind)
            else:
                say("denied", file=path, took=time.monotonic() - started)
        word = word or told(interval)
    say("end")


if __name__ == "__main__":
    role, how, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
    {"owner": owner, "rival": rival}[role](how, pause, sys.argv[4:])
