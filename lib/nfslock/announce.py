# SPDX-License-Identifier: GPL-2.0-or-later
"""When clients are told to reclaim, and who still has to be: one announcement of the service.

It waits until the VIPs are on this node, nfsd and lockd answer on them, statd answers lockd and the
service's filesystem is exported; a client that asks earlier is refused and drops its lock without a
word.
Then it drives the SM_NOTIFY sender and takes each client off the durable list after its reply.
"""

from __future__ import annotations

from . import grace, plain_json
from . import sockets as socket
from ._vendor import ocf
from .errors import Error
from .holding import Holding
from .loop import in_background
from .params import Config
from .readiness import Probe, missing
from .statd_watch import StatdWatch
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from .notify_io import NotifySockets

#: Seconds between two writes of the list while answers pour in, at least, and in multiples of the
#: time that a write takes.
_FLUSH_PAUSE, _FLUSH_SHARE = 0.1, 4
#: Seconds that looking up the service's own name may hold up its first notification.
_NAME_PATIENCE = 1.0
#: Seconds between two looks at who has not answered and why, and how many of them are named.
_NAMING_PAUSE, _MOST_NAMED = 2.0, 20


def names_of(address: str, configured: tuple[str, ...]) -> tuple[str, ...]:
    """The mon_names to announce for a VIP: its text, then the configured or found names."""
    names = configured
    if not names:
        try:
            names = (socket.gethostbyaddr(address)[0],)
        except OSError:
            names = ()
    return tuple(dict.fromkeys((address, *names)))


class Announcement:
    """The state number told to every client on the list, once the service stands."""

    def __init__(
        self, system: System, config: Config, holding: Holding, statd: StatdWatch,
        wake: Callable[[], None], stands: Callable[[], None],
    ) -> None:
        """wake: a thread has found something out; stands: the service does, nobody is told yet."""
        self.system, self.config, self.holding = system, config, holding
        self._statd, self._stands = statd, stands
        #: Since when (monotonic seconds) clients can work here; None: not (yet, or any more).
        self.ready_since: float | None = None
        #: The locks were lost at this time or later (monotonic seconds).
        self.lost_since = system.monotonic()
        self.waiting_for = "the floating address"
        self._waiting_since = self.began = self.lost_since
        #: What was waited for until the service stood, in seconds; and how long it took from then
        #: until the last client on the list had answered.
        self.waited: dict[str, float] = {}
        self.told_after: float | None = None
        #: The grace period was over before the first client could be told.
        self.late = False
        self.sender: NotifySockets | None = None
        self._present = False
        self._probe = Probe(self._look, wake)
        self._names: dict[str, tuple[str, ...]] = {}
        self._look_ups: list[LockType] = []
        self._answered: set[str] = set()
        self._next_flush = 0.0
        #: Clients that were asked and are not told yet, with the reason, some of them; and when to
        #: look again.
        self.silent: dict[str, str] = {}
        self._next_naming = 0.0
        if system.status(holding.path) is None:
            raise Error(f"{holding.path} is gone: is the service's filesystem mounted?")
        self.pending = set(holding.pending())
        self.total = len(self.pending)

    def addresses_changed(self, present: frozenset[str]) -> None:
        """Take in which addresses are on this node now."""
        absent = [address for address in self.config.ip if address not in present]
        came, self._present = not absent and not self._present, not absent
        if absent:
            self._leave()
            self._wait_for(f"{', '.join(absent)} on this node")
        elif self.ready_since is None:
            self._probe.at_once()
            if came:
                self._wait_for("the server's answers")

    def _wait_for(self, reason: str) -> None:
        """Note what is waited for now ("": nothing), and for how long it was the one before."""
        now, old = self.system.monotonic(), self.waiting_for
        if old:
            self.waited[old] = self.waited.get(old, 0.0) + now - self._waiting_since
        self.waiting_for, self._waiting_since = reason, now

    def _leave(self) -> None:
        if self.ready_since is not None:
            self.waited, self.told_after = {}, None
        self.ready_since = None
        self._probe.forget()
        if self.sender is not None:
            self.sender.close()
            self.sender = None

    def restart(self, since: float) -> None:
        """Announce to everybody on the list again: lockd has lost their locks after `since`."""
        self._leave()
        self.began, self.lost_since = self.system.monotonic(), since
        self._probe.at_once()
        self._wait_for("the restarted NFS server")
        self._answered = set()  # to a number that counts no more
        self.pending = set(self.holding.pending())
        self.total = len(self.pending)

    # -- progress --------------------------------------------------------------------------

    def tick(self, now: float) -> float | None:
        """Do what is due; returns in how many seconds to come again (None: at an event)."""
        if not self._present:
            return None
        if self.ready_since is None:
            wait = self._wait(now)
            if self.ready_since is None:
                return wait
        if not self.pending:
            return None
        if self.expired(now):
            if self.sender is not None:
                self._name_the_silent(now)
                self.sender.close()
                self.sender = None
            return None
        if self.sender is None:
            self.sender = self._open()
            self._next_naming = now + _NAMING_PAUSE
        self._answered.update(self.sender.pump(now))
        self._take_off(now, self.ready_since)
        now = self.system.monotonic()
        if now >= self._next_naming:
            self._name_the_silent(now)
        if self.sender is None:
            return None
        waits = [self.began + self.config.notify_timeout - now]  # status is to say so at once
        if self._answered:
            waits.append(self._next_flush - now)
        wait = self.sender.timeout(now)
        if wait is not None:
            waits.append(wait)
        return max(0.0, min(waits))

    def _take_off(self, now: float, ready_since: float) -> None:
        all_told = len(self._answered) == len(self.pending)
        if all_told:
            self.told_after = self.system.monotonic() - ready_since
        if all_told or now >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Take those that have answered off the durable list; Error leaves them for next time.

        A propagator that is killed before this tells them a second time.
        """
        if self._answered:
            began = self.system.monotonic()
            self.holding.notified(self._answered)
            now = self.system.monotonic()
            self._next_flush = now + max(_FLUSH_PAUSE, _FLUSH_SHARE * (now - began))
            self.pending -= self._answered
            self._answered = set()
        if not self.pending and self.sender is not None:
            self.sender.close()
            self.sender = None

    def _name_the_silent(self, now: float) -> None:
        """Note for status who was asked and is not told yet; looks at every client."""
        from . import roster

        if self.sender is not None:
            self.silent = dict(sorted(
                (client, reason) for client, reason in self.sender.outstanding().items()
                if reason != roster.WAITING and client not in self._answered)[:_MOST_NAMED])
        self._next_naming = now + _NAMING_PAUSE

    def _wait(self, now: float) -> float | None:
        answer = self._probe.answer(now)
        if answer is not None:
            self._wait_for(answer)
            if not answer:
                self.ready_since = now
                self._stands()
                self._look_at_grace()
        return self._probe.next(now)

    def _look_at_grace(self) -> None:
        """Clients that are told too late reclaim in vain, and only their kernel's log says so."""
        self.late = bool(self.pending) and grace.missed(self.system, self.lost_since)
        if self.late:
            ocf.logger.error(
                "lockd's grace period was over before %d clients could be told to reclaim: they "
                "lose their locks; make it longer than the group's start takes (sysctl "
                "fs.nfs.nlm_grace_period)", len(self.pending))

    def _look(self) -> str:
        """What clients would still lack (in a thread)."""
        return self._statd.missing() or missing(
            self.system, self.config.ip, (self.config.holding_dir, *self.config.filesystems),
            bool(self.pending))

    def _find_names(self, address: str) -> None:
        """Find out by which names clients know the service (in a thread: DNS may hang)."""
        self._names[address] = names_of(address, self.config.notify_names)

    def prepare(self) -> None:
        """Load what is needed when the service stands, and have its names looked up.

        The start, for which all that comes after it waits, does not wait for this.
        """
        from . import notify_io

        notify_io.reserved_ports()
        if not self._look_ups:
            self._look_ups = [
                in_background(self._find_names, address) for address in self.config.ip]

    def _open(self) -> NotifySockets:
        from .notify_io import NotifySockets
        from .notify_job import Vip

        self.prepare()
        state = self.holding.read_state()
        if state is None:
            raise Error(f"{self.holding.path}/state is damaged: stop and start the resource")
        deadline = self.system.monotonic() + _NAME_PATIENCE
        for look_up in self._look_ups:
            if look_up.acquire(timeout=max(0.0, deadline - self.system.monotonic())):
                look_up.release()
        vips = [Vip(address, self._names.get(address, (address,))) for address in self.config.ip]
        return NotifySockets(
            vips, sorted(self.pending), state, window=self.config.notify_window)

    def expired(self, now: float) -> bool:
        """Whether notify_timeout has passed since this announcement began."""
        return now - self.began >= self.config.notify_timeout

    def phase(self) -> str:
        """waiting, notifying, settled, or unanswered (the time is up), in one word."""
        if self.ready_since is None:
            return "waiting"
        if not self.pending:
            return "settled"
        return "unanswered" if self.expired(self.system.monotonic()) else "notifying"

    def status(self) -> dict[str, object]:
        """What the status file says of it."""
        return {
            "notify_total": self.total,
            "notify_left": len(self.pending),
            "notify_silent": plain_json.dumps({
                client: reason for client, reason in self.silent.items()
                if client in self.pending}),
            "notify_late": "yes" if self.late else "no",
            "notify_began": f"{self.began:.3f}",
            "notify_deadline": f"{self.began + self.config.notify_timeout:.3f}",
            "waiting_for": self.waiting_for if self.ready_since is None else "",
            "waited_ms": plain_json.dumps(
                {text: round(1000 * took) for text, took in self.waited.items()}),
            "notified_ms": "" if self.told_after is None else round(1000 * self.told_after),
        }

    def close(self) -> None:
        """Give the sockets back."""
        self._leave()
