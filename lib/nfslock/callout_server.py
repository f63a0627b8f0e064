# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator's end of statd's ha-callout (the protocol stands in callout.py).

Only statd's user and root reach the socket: it belongs to the owner of statd's sm directory, mode
0600, and who connects is looked at again (SO_PEERCRED, unix(7)). One request is read, acted upon
and answered at once; nobody who connects and says nothing can hold the propagator up.

statd grants the lock whatever becomes of its callout. One that was killed, or could not be run,
cannot say that a client was let through: then it is counted here.
"""

from __future__ import annotations

import os
import socket
import struct

from . import nfsconf
from ._vendor import ocf
from .errors import Error
from .runtime import Runtime
from .system import Like, System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOCKET, TIMEOUT, MISSED = "callout.sock", "callout.timeout", "callout.missed"
FILES = (SOCKET, TIMEOUT, MISSED)
#: Seconds in which a peer that has connected must have sent its request: it sends at once.
_PATIENCE = 0.05
_BACKLOG = 128
_LARGEST = 8192
#: The names under which the callout is installed.
PROGRAMS = ("nfslock-callout", "callout.py")
#: Seconds after a new record in which statd's callout for it comes: statd runs it at once.
_EXPECTED = 10.0


class CalloutServer:
    """Answers `durable` once `keep` has made sure of it; `keep` raises Error, OSError, ValueError.

    A failure is answered and then raised from serve(), for the propagator to note.
    """

    def __init__(
        self, system: System, runtime: Runtime, statd_dir: str, keep: Callable[[str, str], None]
    ) -> None:
        self.system, self.runtime, self._keep = system, runtime, keep
        self.served = 0
        #: The longest time (seconds) between a request and its answer.
        self.slowest = 0.0
        self._timeout = b""
        #: Since when (monotonic seconds) a client has had a record that no callout told of.
        self._expected: dict[str, float] = {}
        program = nfsconf.setting(system, "statd", "ha-callout") or ""
        self._is_configured = os.path.basename(program) in PROGRAMS
        owner = os.stat(system.path(f"{statd_dir}/sm"))
        self._uid, self._gid = owner.st_uid, owner.st_gid
        os.makedirs(system.path(runtime.directory), 0o755, exist_ok=True)
        self._directory = os.open(
            system.path(runtime.directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = self._bind()
        fd = os.open(MISSED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                     dir_fd=self._directory)
        self._hand_to_statd(fd)
        os.close(fd)

    def _bind(self) -> socket.socket:
        """The new socket takes the old one's place at once: a callout always finds one."""
        temporary = f"{SOCKET}.new"
        # By way of the directory's descriptor: a socket address is 107 bytes, a name may be 255.
        place = f"/proc/self/fd/{self._directory}"
        try:
            os.unlink(temporary, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        listener.bind(f"{place}/{temporary}")
        # Nobody can connect before listen(2): the mode is right by then.
        os.chmod(f"{place}/{temporary}", 0o600)
        if (self._uid, self._gid) != (os.geteuid(), os.getegid()):
            os.chown(f"{place}/{temporary}", self._uid, self._gid)
        listener.listen(_BACKLOG)
        os.rename(temporary, SOCKET, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return listener

    def _hand_to_statd(self, fd: int) -> None:
        os.fchmod(fd, 0o600)
        if (self._uid, self._gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, self._uid, self._gid)

    def fileno(self) -> int:
        """The descriptor to poll: readable when a callout has come."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float) -> None:
        """Tell the callouts how long they may wait for us."""
        text = b"%d\n" % max(1, int(1000 * seconds))
        if text == self._timeout:
            return
        self._timeout = text
        self.system.write(self.runtime.directory, {TIMEOUT: text}, Like(0o644), durable=False)

    def missed(self) -> int:
        """How many clients were let through without our answer since the service was started."""
        return self.runtime.missed()

    def serve(self) -> None:
        """Answer every callout that has come; the last failure is raised when all are answered."""
        failure: Exception | None = None
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:  # nobody is there any more
                break
            with peer:
                try:
                    self._answer(peer)
                except (Error, OSError, ValueError) as error:
                    failure = error
        if failure is not None:
            raise failure

    def _answer(self, peer: socket.socket) -> None:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("=iII", credentials)
        peer.settimeout(_PATIENCE)
        began = self.system.monotonic()
        try:
            event, mon_name, my_name = peer.recv(_LARGEST).decode("ascii").split("\0")
        except OSError:
            return
        except ValueError:
            event = mon_name = my_name = ""
        answer = b"failed"
        try:
            if event == "add-client" and uid in (0, os.geteuid(), self._uid):
                self._keep(mon_name, my_name)
                answer = b"durable"
                self.served += 1
        finally:
            self._expected.pop(mon_name, None)
            self.slowest = max(self.slowest, self.system.monotonic() - began)
            try:
                peer.send(answer)
            except OSError:
                # It has given up on us, and says whether it has noted that, or it was killed.
                if event and not _has_noted(peer):
                    self._miss(mon_name, "was killed while it waited")

    def expect(self, clients: Iterable[str]) -> None:
        """Clients that have a new record, and no callout so far: one should come.

        Those that have waited for it too long are counted: statd has let them through.
        """
        now = self.system.monotonic()
        for client in clients if self._is_configured else ():
            self._expected.setdefault(client, now)
        for client in [one for one, since in self._expected.items() if now - since >= _EXPECTED]:
            del self._expected[client]
            self._miss(client, "was killed, or cannot be run")

    def _miss(self, client: str, reason: str) -> None:
        ocf.logger.error(
            "statd's callout for %s %s: its lock was granted before its record was known to be "
            "safe: see `nfslock status`", client, reason)
        try:
            fd = os.open(MISSED, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
                         dir_fd=self._directory)
        except OSError as error:
            ocf.logger.error("%s/%s: %s", self.runtime.directory, MISSED, error.strerror)
            return
        os.write(fd, b".")
        os.close(fd)

    def close(self) -> None:
        """The service leaves: callouts do not wait for it any more."""
        try:
            os.unlink(SOCKET, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        self._socket.close()
        os.close(self._directory)


def _has_noted(peer: socket.socket) -> bool:
    """Whether a callout that has gone counted its client as missed itself."""
    try:
        return peer.recv(64, socket.MSG_DONTWAIT) == b"noted"
    except OSError:
        return False
