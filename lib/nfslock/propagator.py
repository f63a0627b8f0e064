# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator: the daemon that keeps the holding directory equal to the node.

One process for each service, one loop: statd's callouts, inotify on statd's directory and on the
export table, netlink for addresses, the SM_NOTIFY sockets, and a sweep each propagate_interval as
the net below all of them, in steps so short that no callout waits for it. It stops at once when the
holding directory has a newer owner.
"""

from __future__ import annotations

import gc
import os

from . import errors, params, plain_json, plan, report, supervise
from ._vendor import ocf
from .announce import Announcement
from .callout_server import CalloutServer
from .events import Addresses, Inotify
from .holding import Holding
from .lockd_watch import LockdWatch
from .loop import Loop, collect_rarely
from .mirror import Mirror
from .owner import Owner
from .recovery_watch import RecoveryWatch
from .runtime import Runtime
from .statd_watch import StatdWatch
from .system import System
from .tickle_io import Tickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Seconds between two writes of the status file while something is going on.
_STATUS_PAUSE = 0.1
#: Seconds that are left to a start to end in, and to clients to be told and to reclaim in.
_STAND_BACK = 0.3
#: Seconds until nfsd's records are looked at where the start has not waited for that.
_SECOND_SWEEP = 0.1
#: Seconds of a sweep between two looks at whether a callout has come.
_SLICE = 0.005


class Orphaned(Exception):
    """The supervisor was killed: a new one takes over, with a new propagator."""


class Propagator:
    """The propagation of one service, from its run-time parameters."""

    def __init__(
        self, system: System, runtime: Runtime, given: Mapping[str, str],
        written: Callable[[], None],
    ) -> None:
        """written: is called after each write of the status file."""
        self.system, self.runtime, self._written = system, runtime, written
        self.config = params.parse(given)
        self.statd_dir = given["statd_dir"]
        self.holding = Holding(system, self.config.holding_dir, runtime.service)
        self.holding.adopt(Owner(
            runtime.service, system.node(), system.boot_id(), int(given["generation"]), 1))
        self.mirror = Mirror(system, self.statd_dir, self.holding)
        self.problem, self.stopping = "", False
        self._parent = os.getppid()
        self.identity = f"{os.getpid()}:{system.start_time(os.getpid())}"
        self.loop, self.addresses = Loop(), Addresses()
        self.loop.listen(self.addresses, self._addresses_changed)
        self.inotify: Inotify | None = None
        self._watch()
        self.recovery: RecoveryWatch | None = None
        if given.get("v4_store"):
            self.recovery = RecoveryWatch(
                runtime, self.holding, given["v4_store"], self._settled, self._watch_store)
        self.callouts: CalloutServer | None = None
        self._answer_callouts()
        statd = StatdWatch(system, self.statd_dir, self.config.ip[0])
        self.announcement = Announcement(
            system, self.config, self.holding, statd, self.loop.wake, self._stands)
        before = runtime.read("status") or {}
        if before.get("generation") != given["generation"]:
            before = {}
        if before.get("notify_began"):
            # A propagator that was killed does not begin the time for the clients anew.
            self.announcement.began = self.announcement.lost_since = float(before["notify_began"])
            waited = plain_json.loads((before.get("waited_ms") or "{}").encode())
            self.announcement.waited = {text: ms / 1000 for text, ms in waited.items()}
        self.announcement.addresses_changed(self.addresses.current())
        self.lockd = LockdWatch(
            system, self.holding, self.mirror, self.announcement, before.get("lockd", ""))
        self.tickler = Tickler(system, self.holding, self.config.ip if self.config.tickle else ())
        self._sweeping: Iterator[object] | None = None
        self._swept = False
        #: When to do what the start does not wait for.
        self._prepare_at = float("inf")
        #: When the next sweep is due since the service has come to stand in this one.
        self._due_by = float("inf")
        #: How many clients statd's callout let through unconfirmed before the last whole sweep.
        self.caught_up = 0
        self._next_sweep = self.last_sweep = system.monotonic()
        #: Not at once: the start waits for the status that follows the first sweep.
        self._next_status = system.monotonic() + _STATUS_PAUSE
        self._stale = True
        self._told: tuple[object, ...] = ()

    def reload(self, config: params.Config) -> None:
        """Take over changed parameters."""
        self.config = self.announcement.config = config
        self._stale = True

    def _watch(self) -> None:
        try:
            inotify = Inotify()
            inotify.add(self.system.path(f"{self.statd_dir}/sm"))
            inotify.add(self.system.path(os.path.dirname(self.system.etab)))
        except OSError as error:
            self._found_by_sweeps("records", error)
            return
        self.inotify = inotify
        self.loop.listen(inotify, self._files_changed)

    def _watch_store(self, directory: str) -> None:
        if self.inotify is None:
            return
        self.system.make_directory(directory)
        try:
            self.inotify.add(self.system.path(directory), created=True)
        except OSError as error:
            self._found_by_sweeps("clients", error)

    def _found_by_sweeps(self, what: str, error: OSError) -> None:
        ocf.logger.warning(
            "inotify does not work (%s): new %s are found by the sweep only, every %g s; "
            "raise fs.inotify.max_user_watches", error.strerror, what,
            self.config.propagate_interval)

    def _answer_callouts(self) -> None:
        try:
            self.callouts = CalloutServer(self.system, self.runtime, self.statd_dir, self._keep)
            self.callouts.set_timeout(self.config.callout_timeout)
        except (errors.Error, OSError) as error:
            ocf.logger.error(
                "statd's callout cannot be answered (%s): a lock that is granted within about a "
                "millisecond before a crash may be lost", error)
            return
        self.loop.listen(self.callouts, self._callouts_came)

    # -- events ----------------------------------------------------------------------------

    def _addresses_changed(self) -> None:
        self.addresses.drain()
        self.announcement.addresses_changed(self.addresses.current())

    def _files_changed(self) -> None:
        assert self.inotify is not None
        sm = self.system.path(f"{self.statd_dir}/sm")
        changed = self.inotify.read()
        names = {name for directory, name in changed if directory == sm}
        if "" in names:
            self._next_sweep = 0.0
            self.mirror.distrust()
        elif names:
            self._guarded(lambda: self.mirror.touch(names))
        if self.recovery is not None and any(
                directory == self.system.path(self.recovery.directory) for directory, _ in changed):
            self._guarded(self.recovery.touch)

    def _watched(self) -> bool:
        """Whether inotify tells of statd's directory: it may be another one by now (one call)."""
        try:
            if self.inotify is not None:
                self.inotify.add(self.system.path(f"{self.statd_dir}/sm"))
        except OSError:
            return False
        return self.inotify is not None

    def _stands(self) -> None:
        """The service stands from now on; the neighbours hear of it before the clients do."""
        self.tickler.advertise()
        soon = self.system.monotonic() + _STAND_BACK
        self._due_by = self._next_sweep = min(self._next_sweep, soon)
        if self.recovery is not None:
            self.recovery.stands()

    def _settled(self) -> bool:
        """Whether the service stands, with the addresses as they are now."""
        self._addresses_changed()
        return self.announcement.ready_since is not None

    def _callouts_came(self) -> None:
        assert self.callouts is not None
        try:
            self._guarded(self.callouts.serve)
        except ValueError as error:
            ocf.logger.warning("statd monitors a client that no record can hold: %s", error)

    def _keep(self, mon_name: str, my_name: str) -> None:
        """What a callout asks for: the record of this client is durable when this returns."""
        if self.inotify is not None:
            self._files_changed()
        self.mirror.keep(mon_name, my_name)

    def _guarded(self, work: Callable[[], object]) -> bool:
        """Run; a failure is noted for monitor and tried again with the next sweep."""
        try:
            work()
        except errors.Fenced:
            raise
        except (errors.Error, OSError) as error:
            if str(error) != self.problem:
                ocf.logger.error("%s", error)
            self.problem = str(error)
            return False
        return True

    def _sweep(self) -> Iterator[object]:
        """One sweep and what is due with it, in steps."""
        missed, self._due_by = 0, float("inf")
        if self.callouts is not None:
            missed = self.callouts.missed()
            self.callouts.set_timeout(self.config.callout_timeout)
        self.holding.check_owner()
        # After a callout that was not confirmed in time nothing is taken for granted.
        yield from self.mirror.steps(self._watched() and missed == self.caught_up)
        self.caught_up = missed
        self.lockd.check()
        if self.recovery is not None:
            yield from self.recovery.sweep()
        self.mirror.expire(
            plan.patience(self.config.propagate_interval), self.announcement.ready_since)
        self.announcement.flush()
        self.holding.keep_reserve()
        if self.recovery is not None:
            self.recovery.note_birthday()

    def _advance(self, now: float) -> None:
        """Go on with the sweep for a slice of time."""
        def step() -> None:
            for _ in self._sweeping or ():
                if self.system.monotonic() - now >= _SLICE:
                    return
            self._sweeping, self.problem = None, ""
            if not self._swept:
                collect_rarely()
                self._next_status, self._prepare_at = 0.0, now + _STAND_BACK
            self._swept = True

        if not self._guarded(step):
            self._sweeping = None
        self.last_sweep = self.system.monotonic()
        # A long one is told of on its way, or monitor would take us for stuck.
        self._stale |= self.last_sweep >= self._next_status + self.config.propagate_interval
        if self._sweeping is None:
            pause = self.config.propagate_interval
            if self.recovery is not None and self.recovery.is_waiting:
                pause = min(pause, _SECOND_SWEEP)
            self._next_sweep = min(self._due_by, now + pause)
            self._stale = True

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> int:
        """Propagate until told to stop; returns the exit code."""
        gc.disable()  # until the first sweep has read all records
        try:
            while not self.stopping:
                self._round()
        except errors.Fenced as error:
            ocf.logger.error("%s", error)
            self.problem = str(error)
            self._guarded(lambda: self._write_status("fenced"))
            self._leave()
            return supervise.FINAL
        finally:
            self.announcement.close()
            self.tickler.close()
        self._leave()
        return 0

    def _leave(self) -> None:
        """The service goes, or is another node's by now: no callout shall wait for us."""
        if self.callouts is not None:
            self.callouts.close()

    def _round(self) -> None:
        now = self.system.monotonic()
        if self._sweeping is None and now >= self._next_sweep:
            if os.getppid() != self._parent:
                raise Orphaned
            self._sweeping = self._sweep()
        if self._sweeping is not None:
            self._advance(now)
        pause: list[float | None] = []
        now = self.system.monotonic()
        self._guarded(lambda: pause.append(self.announcement.tick(now)))
        self._guarded(lambda: self.tickler.record(self.announcement.ready_since))
        pause.append(self.tickler.tick(now, self.announcement.ready_since))
        sender = self.announcement.sender
        self.loop.follow(sender.filenos() if sender is not None else ())
        told = (self.announcement.ready_since, self.announcement.waiting_for,
                len(self.announcement.pending), self.announcement.phase(),
                self.announcement.silent)
        self._stale |= told != self._told
        self._told = told
        now = self.system.monotonic()
        if self._stale and now >= self._next_status:
            # A full /run is no reason to leave: monitor notices that the status grows old.
            self._guarded(lambda: self._write_status(
                self.announcement.phase() if self._swept else "comparing"))
        if now >= self._prepare_at:
            self._prepare()
        waits = [self._next_sweep - now if self._sweeping is None else 0.0,
                 self._prepare_at - now, *(wait for wait in pause if wait is not None)]
        if self._stale:
            waits.append(self._next_status - now)
        # A look for nfsd that finds nothing new is no news.
        self._stale |= self.loop.wait(min(waits))

    def _prepare(self) -> None:
        """Load what will be needed when the service stands, and for the first NFSv4 client.

        And tell the administrator what this node lacks, which is in no hurry.
        """
        from . import setup_node

        self._prepare_at = float("inf")
        self.announcement.prepare()
        self._guarded(lambda: setup_node.advise(self.system))
        if self.recovery is not None:
            self._guarded(self.recovery.prepare)

    def _write_status(self, phase: str) -> None:
        self._next_status = self.system.monotonic() + _STATUS_PAUSE
        self.runtime.write("status", report.pairs(self, phase))
        self._written()
        self._stale = False
