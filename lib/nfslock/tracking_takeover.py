# SPDX-License-Identifier: GPL-2.0-or-later
"""NFSv4 at a start and a stop: records in place before nfsd, safe times, the service's scope.

All of it happens before nfsd starts, since nfsd reads its records at that moment and never again.
An nfsd that runs already is refused, or restarted where that was asked for; the one exception is
the nfsd under which this very service has been running without a stop.
"""

from __future__ import annotations

from . import (
    birthday,
    clients,
    delegations,
    grace,
    kernel,
    recovery,
    scope,
    tracking,
    tracking_direct,
)
from ._vendor import ocf
from .errors import ConfigError, NodeError
from .holding import Holding
from .owner import Owner
from .params import Config
from .runtime import Runtime
from .system import System
from .tracking_mirror import DATABASE, Held
from .tracking_nfsdcld import Nfsdcld

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .recovery import Clients
    from .tracking import Store


class Takeover:
    """What one start does about nfsd, and for NFSv4 when nfs_versions names it."""

    def __init__(self, system: System, config: Config, holding: Holding) -> None:
        self.system, self.config, self.holding = system, config, holding
        self.active = 4 in config.nfs_versions
        self.direct = config.v4_records == "direct"
        self._threads = 0
        self._held = Held(system, holding)
        self._found: Store | None = None
        self._scope = ""
        if self.active:
            # Before the propagator is forked: what is loaded by then need not be loaded again.
            from . import sqlite  # noqa: F401

    @property
    def store(self) -> str:
        """Where nfsd's records stand while the service runs: "KIND DIRECTORY", "" without NFSv4."""
        if not self.active:
            return ""
        if self.direct:
            return f"nfsdcld {self.holding.path}/{DATABASE}"
        found = self._local()
        return f"{found.kind} {found.directory}"

    def _local(self) -> Store:
        """The node's own store, as examine() or validate() has found it.

        To find it takes a look at every process of the node.
        """
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> Store:
        """The node's own store; with v4_records=direct only the very first start reads it."""
        if self.direct and self.config.v4_tracking not in ("auto", "nfsdcld"):
            raise ConfigError(
                f"v4_records=direct works with nfsdcld only, not with {self.config.v4_tracking}")
        wanted = "nfsdcld" if self.direct else self.config.v4_tracking
        found = tracking.find(self.system, wanted)
        if self.direct and found.directory == f"{self.holding.path}/{DATABASE}":
            return tracking.at(self.system, "nfsdcld", "/var/lib/nfs/nfsdcld")
        return found

    def _find_again(self) -> Store:
        """The same once more: nfsdcld may have come up meanwhile."""
        before, found = self._local(), self._find()
        if isinstance(before, Nfsdcld) and isinstance(found, Nfsdcld) and (
                (before.path, before.live) == (found.path, found.live)):
            return before  # which remembers what it has read
        self._found = found
        return found

    def is_ours(self, before: Owner | None) -> bool:
        """Whether a running nfsd is the one that has served the service up to now."""
        return (before is not None and not before.clean_stop
                and (before.node, before.boot_id) == (self.system.node(), self.system.boot_id()))

    def scope(self) -> str:
        """The server scope of this service, as it is first asked for."""
        if not self._scope:
            self._scope = scope.wanted(self.system, self.config.server_scope, self.config.ip[0])
        return self._scope

    # -- before anything is changed --------------------------------------------------------

    def examine(self, before: Owner | None) -> None:
        """Refuse what can be seen to go wrong; nothing has been changed yet."""
        running = kernel.serving(self.system)
        if running and not self.is_ours(before) and (
                self.config.takeover_running_nfsd != "restart"):
            raise NodeError(
                "nfsd already runs on this node: it gives a grace period and reads the NFSv4 "
                "recovery records when it starts only, so clients could not reclaim here. Put this "
                "resource before nfsserver in the group and keep nfs-server.service disabled at "
                "boot, or set takeover_running_nfsd=restart (every client of the node gets a grace "
                "period)")
        if not self.active:
            return
        self.scope()
        self._local().read()
        self._held.read()
        if running:
            grace.check(self.system)
        else:
            grace.repairable(self.system)
        if not (running and self.is_ours(before)):
            birthday.avoid(self.system, self.holding)

    def validate(self, before: Owner | None) -> None:
        """What validate-all looks at on this node, whether the service runs or not."""
        if not self.active:
            return
        self.scope()
        self._local().read()
        if kernel.serving(self.system):
            grace.check(self.system)
        else:
            grace.repairable(self.system)
        if before is not None:
            self._held.read()

    # -- the steps -------------------------------------------------------------------------

    def stop_nfsd(self, before: Owner | None) -> None:
        """End an nfsd that is not the service's own, to be started again; others' state goes.

        statd is down: kernels from 6.4 on have every client unmonitored otherwise.
        """
        if kernel.serving(self.system) and not self.is_ours(before):
            threads = f"{self.system.proc}/fs/nfsd/threads"
            self._threads = int(self.system.read(threads).split()[0])
            ocf.logger.warning("nfsd is restarted: every client of this node gets a grace period")
            self.system.checked("rpc.nfsd", "0")

    def prepare(self, before: Owner | None) -> None:
        """Records, times and scope as the next nfsd shall find them. Durable."""
        if kernel.serving(self.system):
            return  # our own: it knows its clients, and the copy follows it
        changed = grace.prepare(self.system)
        if changed:
            ocf.logger.warning("%s", changed)
        heirs = self._merge(before)
        delegations.prepare(
            Runtime(self.system, self.holding.service), self._held.database, len(heirs))
        self._held.is_served_on(self.system.node())
        if self.direct:
            tracking_direct.place(self.system, f"{self.holding.path}/{DATABASE}")
        ocf.logger.info("%d NFSv4 clients may reclaim (%s)", len(heirs), self.store)
        if not scope.install(self.system, self.scope()):
            ocf.logger.info("the NFSv4 server scope %s has to be set by what starts nfsd here "
                            "(nfsserver's nfs_server_scope, [nfsd] scope)", self.scope())

    def _merge(self, before: Owner | None) -> Clients:
        """The held records and the node's, so that exactly the right clients can reclaim.

        The holding directory first: it is durable before the node's store loses anything.
        """
        held, store = self._held, self._find_again()
        known = held.read()
        others = self._threads > 0
        there = None if self.direct and known is not None and not others else store.read()
        node = self.system.node()
        was_here = before is not None and before.node == node and held.was_served_on(node)
        if others:  # they have clients of their own in the node's store
            merged = recovery.union(known or {}, there or {})
        else:
            merged = recovery.heirs(
                known, there, held.database.removed() if was_here else (), was_here=was_here)
        # What is held is what every takeover but the first finds there: one durable write less.
        if self.direct or merged != held.database.read():
            held.replace(merged)
        if self.direct:
            store = held.database
        placeholder = {recovery.PLACEHOLDER: b""} if self._needs_placeholder(store) else {}
        if merged or placeholder or store.read() is not None:
            store.replace({**merged, **placeholder})
        if store.kind == "nfsdcld":
            self._fall_back_on(merged, known is not None)
        return merged

    def _fall_back_on(self, merged: Clients, has_history: bool) -> None:
        """Have the records also where nfsd looks when nfsdcld is not ready within a second.

        What an earlier stay has left there must let nobody reclaim; a first start leaves it for
        nfsdcld to import.
        """
        other = tracking.fallback(self.system)
        if other is not None and has_history:
            other.replace(merged)

    def _needs_placeholder(self, store: Store) -> bool:
        """Whether NFSv3 clients can reclaim under nfsd's grace period only.

        lockd enters grace when its first user in the node comes; an NFSv2/3 mount of the node
        itself is one. nfsd's own grace period covers NLM, too (fs/nfs_common/grace.c), but with
        nfsdcld nfsd skips it when nobody may reclaim, and ends it early when all have.
        """
        found = clients.through_lockd(self.system) if store.kind == "nfsdcld" else []
        if found:
            ocf.logger.warning(
                "%s is mounted over NFSv3 on this server: lockd keeps running, so NFSv4's whole "
                "grace period is used for NFSv3 clients, too", found[0].point)
        return bool(found)

    def daemons(self) -> list[str]:
        """The units to be started ahead of nfsd: nfsdcld may take longer than nfsd waits for it.

        With v4_records=direct it runs by now.
        """
        if not self.active or self.direct or kernel.serving(self.system):
            return []
        return tracking.daemons(self.system, self._local())

    def start_nfsd(self) -> None:
        """Start nfsd again if it was stopped for this, with a grace period for everybody."""
        if self._threads:
            self.system.checked(
                "unshare", "--uts", "/bin/sh", "-c",
                'echo "$0" > /proc/sys/kernel/hostname && exec rpc.nfsd "$1"',
                self.scope(), str(self._threads))


def leave(system: System, holding_dir: str) -> None:
    """Undo on this node what the service has set here; the records stay."""
    scope.uninstall(system)
    tracking_direct.take_back(system, f"{holding_dir}/{DATABASE}")
