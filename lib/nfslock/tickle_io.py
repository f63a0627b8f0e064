# SPDX-License-Identifier: GPL-2.0-or-later
"""Records the service's TCP connections beside its lock records; tickles them after a takeover.

The neighbours hear first where the address is now: the segments' answers must come here.

Never needed for safety: a lost record or segment costs one client some seconds, so the list is
written after a round of tickling and at most once a second then, and no failure here fails
anything. Nobody is ever sent a segment who was not recorded as a peer.
"""

from __future__ import annotations

from . import advertise, errors, rpc, tickle
from . import sockets as socket
from ._vendor import ocf
from .events import Addresses
from .holding import Holding
from .kernel import port_of
from .loop import in_background
from .system import System
from .values import address_family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: When each connection is tickled, in seconds after the service stands.
_TIMES = (0.0, 0.3, 1.0, 2.5)
#: Seconds after a round in which its clients have connected anew: then they are looked for. Longer
#: than until the second round: the write would hold up the callouts of those that reclaim.
_ANSWERED = 0.5
#: Segments sent at once, and seconds until the next lot: no burst that a switch would drop.
_LOT, _PAUSE = 200, 0.01
#: Ports of nfsd and rpcbind; those of the others are asked of rpcbind.
_FIXED_PORTS = (rpc.NFS_PORT, rpc.PORTMAP_PORT)
_PROGRAMS = ((rpc.NLM, 4), (rpc.MOUNTD, 3), (rpc.STATD, 1))
#: Seconds after which these are asked for again.
_PORTS_LAST = 60.0
#: The kernel's tables, which take it milliseconds, are read when a connection has come since: after
#: so many times what the last look took, within these seconds.
_SHARE, _SHORTEST, _LONGEST = 1000, 1.0, 10.0
#: And after so many seconds anyway, for those that have gone.
_FORGET = 60.0


class Tickler:
    """The connections of one service: recorded while it stands, tickled when it has moved here."""

    def __init__(self, system: System, holding: Holding, addresses: Sequence[str]) -> None:
        self.system, self.holding, self.addresses = system, holding, frozenset(addresses)
        self._file = f"{holding.path}/connections"
        self._written = self._read()
        #: What the last owner had, each round of it still to be tickled.
        self.targets = sorted(
            c for c in tickle.decode(self._written) if c[0] in self.addresses)
        self._rounds = list(_TIMES) if self.addresses else []
        self._lot = 0
        #: Where they connect to, as far as is known; what rpcbind has said of it since; and when it
        #: is to be asked next.
        self._ports = set(_FIXED_PORTS)
        self._answer: set[int] | None = None
        self._next_question = 0.0
        self._next_look = float("inf")  # nothing to see before the first round
        self._seen: int | None = None  # of the node's connections, when the tables were last read
        self._looked = 0.0
        self.sent = 0
        self._sockets: dict[str, socket.socket] = {}

    def _read(self) -> bytes:
        try:
            return self.system.read(self._file, 1 << 22)
        except (OSError, ValueError):
            return b""

    def tick(self, now: float, ready_since: float | None) -> float | None:
        """Send what is due; returns in how many seconds to come again (None: nothing to do)."""
        if ready_since is None or not self._rounds:
            return None
        due = ready_since + self._rounds[0] - now
        if due > 0:
            return due
        if not self._lot and len(self._rounds) < len(_TIMES):  # the first time it was done before
            self.advertise()
        for connection in self.targets[self._lot : self._lot + _LOT]:
            self._send(connection)
        self._lot += _LOT
        if self._lot < len(self.targets):
            return _PAUSE
        self._lot = 0
        del self._rounds[0]
        self._next_look, self._seen = now + _ANSWERED, None
        if not self._rounds:
            if self.targets:
                ocf.logger.info("%d connections of the last owner tickled", len(self.targets))
            self.close()
            return None
        return max(0.0, ready_since + self._rounds[0] - now)

    def advertise(self) -> None:
        """Tell the neighbours that the addresses are here: who answers shall answer this node."""
        try:
            for address, interface in Addresses.interfaces().items():
                if address in self.addresses:
                    advertise.advertise(address, interface)
        except OSError as error:
            ocf.logger.debug("the neighbours are not told of the address: %s", error.strerror)

    def _send(self, connection: tickle.Connection) -> None:
        address, _, peer, _ = connection
        try:
            if address not in self._sockets:
                self._sockets[address] = self._open(address)
            self._sockets[address].sendto(tickle.segment(connection), (peer, 0))
            self.sent += 1
        except OSError as error:
            ocf.logger.debug("cannot tickle %s from %s: %s", peer, address, error.strerror)

    @staticmethod
    def _open(address: str) -> socket.socket:
        sock = socket.socket(address_family(address), socket.SOCK_RAW, socket.IPPROTO_TCP)
        # The kernel hands every TCP segment of the node to a raw socket: keep none of them.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        sock.setblocking(False)
        sock.bind((address, 0))
        return sock

    def record(self, ready_since: float | None) -> None:
        """Write down the established connections, if they have changed and it is time to look.

        In the rounds of tickling together with the last owner's: who has not come back yet may have
        to be tickled by the next one.
        """
        began = self.system.monotonic()
        if ready_since is None or not self.addresses:
            return
        self._follow_ports(began)
        if began < self._next_look:
            return
        accepted = tickle.accepted(self._table("snmp"))
        if accepted is not None and accepted == self._seen and began < self._looked + _FORGET:
            self._next_look = began + _SHORTEST
            return
        self._seen = accepted
        self._look()
        self._looked = now = self.system.monotonic()
        self._next_look = now + min(max(_SHORTEST, _SHARE * (now - began)), _LONGEST)

    def _table(self, name: str) -> str:
        """One of /proc/net, "" when it cannot be read (no IPv6, for example)."""
        try:
            return self.system.read(f"{self.system.proc}/net/{name}", 1 << 26).decode()
        except (OSError, ValueError):
            return ""

    def _look(self) -> None:
        found = set(self.targets if self._rounds else ())
        for table in ("tcp", "tcp6"):
            found |= tickle.established(self._table(table), self.addresses, self._ports)
        data = tickle.encode(found)
        if data != self._written:
            try:
                self.holding.check_owner()
                self.system.write(self.holding.path, {"connections": data})
                self._written = data
            except errors.Fenced:
                raise
            except errors.Error as error:
                self._seen = None  # to be tried again
                ocf.logger.debug("connections are not recorded: %s", error)

    def _follow_ports(self, now: float) -> None:
        """Take in what rpcbind has said, and ask it when that is due."""
        answer = self._answer
        if answer is not None:
            self._answer = None
            if answer != self._ports:
                self._ports, self._seen = answer, None
                self._next_look = min(self._next_look, now + _SHORTEST)
        if now >= self._next_question:
            self._next_question = now + _PORTS_LAST
            in_background(self._ask_for_ports)

    def _ask_for_ports(self) -> None:
        """In a thread: rpcbind may take long, and clients are being told at that time."""
        address = sorted(self.addresses)[0]
        self._answer = {*_FIXED_PORTS, *(
            port_of(address, program, version, True) for program, version in _PROGRAMS)}

    def close(self) -> None:
        """Give the raw sockets back."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets = {}
