# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator's end of statd's ha-callout (the protocol stands in callout.py).

Only statd's user and root reach the socket: it belongs to the owner of statd's sm directory, mode
0600, and who connects is looked at again (SO_PEERCRED, unix(7)). One request is read, acted upon
and answered at once; nobody who connects and says nothing can hold the propagator up.
"""

from __future__ import annotations

import os
import struct

from . import sockets as socket
from .errors import Error
from .files import Like
from .runtime import Runtime
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET, TIMEOUT, MISSED = "callout.sock", "callout.timeout", "callout.missed"
FILES = (SOCKET, TIMEOUT, MISSED)
#: Seconds in which a peer that has connected must have sent its request: it sends at once.
_PATIENCE = 0.05
_BACKLOG = 128
_LARGEST = 8192


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
            self.slowest = max(self.slowest, self.system.monotonic() - began)
            try:
                peer.send(answer)
            except OSError:  # it has given up on us, and has noted that
                pass

    def close(self) -> None:
        """The service leaves: callouts do not wait for it any more."""
        try:
            os.unlink(SOCKET, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        self._socket.close()
        os.close(self._directory)
