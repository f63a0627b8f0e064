# SPDX-License-Identifier: GPL-2.0-or-later
"""Releasing what NFS holds of the service's filesystems when it stops, and proving it.

Nothing here decides: `release_plan.steps` does, and numbers the rules. Nothing here fails a stop:
what could not be released is named, and the umount that follows is the judge. It may hang with the
filesystem's disk: callers run it in a process that they can leave behind.

Source of the effects: fs/nfsd/nfsctl.c, fs/lockd/svcsubs.c, fs/lockd/svc.c, net/sunrpc/cache.c of
Linux 6.1, 6.12 and 7.2.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from . import clients, holders, kernel, kernel_tables, release_plan
from ._vendor import ocf
from .events import Addresses
from .release_plan import Seen, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .plan import Step
    from .system import System

_NFSD = "fs/nfsd"
_CACHES = ("auth.unix.ip", "nfsd.fh", "nfsd.export")
#: Seconds to the next look, at first; and at most, and between two times of unlocking and flushing.
_LOOK, _AGAIN = 0.05, 0.5
#: Seconds for nfsd to close in the background what it has let go of (7.2: about 2 s, emulated).
_SETTLE = 4.0
_STILL_HERE = ("nothing was unlocked: {} is still on this node, and its clients would lose their "
               "locks; stop the address before this resource")
#: unlock_filesystem says so when nfsd has stopped; lockd's part is done by then.
_NFSD_STOPPED = (errno.EIO, errno.EINVAL)


def release(system: System, wanted: Wanted, deadline: float) -> list[str]:
    """Release the service's filesystems; what NFS holds of them at `deadline`, [] for nothing.

    `deadline`: on System.monotonic(). Returns as soon as umount would succeed, and _SETTLE seconds
    after NFS has nothing visible there any more: who else is in the way, `bystanders` says.
    """
    done: set[str] = set()
    began = unlocked = system.monotonic()
    pause = _LOOK
    while True:
        seen = observe(system, wanted)
        here = seen.addresses & wanted.addresses
        if here:
            return [_STILL_HERE.format(", ".join(sorted(here)))]
        for step in (due := release_plan.steps(seen, wanted, done)):
            _execute(system, step)
            done.add(release_plan.key(step))
        if due:
            continue
        places = release_plan.still_there(wanted.places, seen.mounts)
        held = {point: device for point, device in places.items() if _held(seen, device)}
        now = system.monotonic()
        if held:
            began = now
        elif now >= began + _SETTLE or not any(
                holders.is_free(system, point) is False for point in places):
            return []
        if now >= deadline:
            return _described(seen, wanted, held)
        time.sleep(pause)
        pause = min(2 * pause, _AGAIN)
        if system.monotonic() - unlocked >= _AGAIN:
            # nfsd closes some files in the background, and a client's last call may reopen one.
            unlocked = system.monotonic()
            done = {name for name in done if name.startswith(("expire", "kill"))}


def bystanders(system: System, wanted: Wanted, explained: bool) -> list[str]:
    """What besides NFS keeps the filesystems in use, each in a line.

    `explained`: what NFS holds has been named, so that nothing more need be found.
    """
    mounts = holders.mounts(system)
    found = []
    for point, device in release_plan.still_there(wanted.places, mounts).items():
        if holders.is_free(system, point) is False:
            names = holders.named(system, point) + holders.exports(system, point)
            if not names and not explained:
                names = [f"{point}: is in use; no process, mount or export of it is known"]
            found += names
        found += release_plan.elsewhere(mounts, point, device)
    return found


def observe(system: System, wanted: Wanted) -> Seen:
    """What this node shows now of what is to be released."""
    mounts = holders.mounts(system)
    devices = frozenset(release_plan.still_there(wanted.places, mounts).values())
    if not devices:
        return Seen(mounts=mounts)
    locks = holders.locks(system, devices)
    lockd = _lockd(system) if locks or wanted.lockd_kill == "always" else 0
    return Seen(
        addresses=Addresses.current() if wanted.addresses else frozenset(),
        mounts=mounts, locks=locks, clients=holders.clients(system),
        serving=bool(kernel.serving(system)), lockd=lockd,
        lockd_dies=bool(lockd) and _honours_kill(system, lockd),
        own_locks=clients.own_locks(system) if lockd else 0)


def _lockd(system: System) -> int:
    instance = kernel.lockd_instance(system)
    return instance[0] if instance else 0


def _honours_kill(system: System, pid: int) -> bool:
    try:
        status = system.read(f"{system.proc}/{pid}/status").decode(errors="replace")
    except (OSError, ValueError):
        return False
    return kernel_tables.honours_kill(status)


def _held(seen: Seen, device: str) -> bool:
    """Whether NFS still has a lock or state on the device."""
    return bool(release_plan.of_nfs(seen.locks, {device})
                or any(client.on({device}) for client in seen.clients))


def _described(seen: Seen, wanted: Wanted, held: dict[str, str]) -> list[str]:
    """What NFS holds of the filesystems, each in a line, and why it was left."""
    found = [text for point, device in held.items()
             for text in release_plan.describe(point, device, seen.locks, seen.clients)]
    if found and wanted.others:
        found[-1] += f" (kept for {', '.join(wanted.others)}, which is on this node too)"
    return found


# -- the steps ---------------------------------------------------------------------------------


def _execute(system: System, step: Step) -> None:
    """Do one step; what the kernel refuses is logged and shows in what is left."""
    try:
        if step.name == "unlock":
            _tell(system, f"{system.proc}/{_NFSD}/unlock_filesystem",
                  f"{kernel_tables.escape(str(step.what))}\n")
        elif step.name == "flush":
            # The number must be one; the kernel flushes everything whatever it is.
            for cache in _CACHES:
                _tell(system, f"{system.proc}/net/rpc/{cache}/flush", f"{system.epoch() + 1}\n")
        elif step.name == "expire":
            ocf.logger.warning("NFSv4 client %s is expired here: this kernel does not release its "
                               "state with the filesystem", step.text)
            _tell(system, f"{system.proc}/{_NFSD}/clients/{step.what}/ctl", "expire\n")
        elif step.name == "kill_lockd":
            ocf.logger.warning("SIGKILL to lockd (pid %s): %s", step.what, step.text)
            os.kill(int(str(step.what)), signal.SIGKILL)
    except ProcessLookupError:
        return
    except OSError as error:
        if step.name == "unlock" and error.errno in _NFSD_STOPPED:
            ocf.logger.debug("unlock_filesystem: %s: nfsd has stopped", error.strerror)
            return
        ocf.logger.warning("%s of %s: %s", step.name, step.what, error.strerror)


def _tell(system: System, path: str, text: str) -> None:
    """Write to a file of the kernel, in one write(2); one that is not there has nothing to do."""
    try:
        fd = os.open(system.path(path), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)
