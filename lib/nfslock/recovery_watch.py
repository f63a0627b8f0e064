# SPDX-License-Identifier: GPL-2.0-or-later
"""The propagator's NFSv4 part: the records that nfsd keeps now, delegations, and nfsd's birthday.

Nothing of it can change before nfsd runs, and a start has just put all of it in place. So where
nfsd does not run yet, the start does not wait for the first look: that comes with the second sweep,
or when nfsd writes to its store or the service stands before it.
"""

from __future__ import annotations

from . import birthday, delegations, kernel, tracking_mirror
from ._vendor import ocf
from .holding import Holding
from .runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class RecoveryWatch:
    """The recovery records of one service, from its start on."""

    def __init__(
        self, runtime: Runtime, holding: Holding, store: str, settled: Callable[[], bool],
        watch: Callable[[str], None],
    ) -> None:
        """store: what the start has found, "KIND DIRECTORY"; settled: whether the service stands.

        watch: has inotify tell of a directory; the caller calls touch() then.
        """
        self.runtime, self.holding = runtime, holding
        self._store, self._settled, self._watch = store, settled, watch
        self._mirror: tracking_mirror.RecoveryMirror | None = None
        self._may_wait = not kernel.serving(runtime.system)
        #: Whether the last sweep has left the first look to the next one.
        self.is_waiting = False
        #: Whether nfsd may have chosen anew where it keeps its records.
        self._nfsd_is_new = False
        #: Whether no client has a delegation any more.
        self._no_delegations = False
        watch(self.directory)

    @property
    def directory(self) -> str:
        """Where the records stand that are followed."""
        return (self._mirror.store.directory if self._mirror is not None
                else self._store.partition(" ")[2])

    def status(self) -> dict[str, object]:
        """What the status file says of it."""
        mirror = self._mirror
        return {
            "v4_records": "" if mirror is None else len(mirror.clients),
            "v4_store": self._store if mirror is None else str(mirror),
            "v4_fallback": "" if mirror is None else mirror.fallen_back,
        }

    def _begun(self) -> tracking_mirror.RecoveryMirror:
        if self._mirror is None:
            self._mirror = tracking_mirror.from_text(
                self.runtime.system, self._store, self.holding)
        return self._mirror

    def touch(self) -> None:
        """Take in at once what has changed in the store. Error: the next sweep tries again."""
        # nfsdcld's own start, beside that of the service, is no news.
        if self._mirror is not None or kernel.serving(self.runtime.system):
            self._begun().touch(self._settled)

    def stands(self) -> None:
        """The service has come to stand: the next sweep looks at what nfsd has made of it."""
        self._nfsd_is_new, self._may_wait = True, False

    def sweep(self) -> Iterator[None]:
        """One sweep in short steps."""
        self.is_waiting, self._may_wait = self._may_wait, False
        if self.is_waiting:
            return
        mirror = self._begun()
        if self._nfsd_is_new:
            self._find_store(mirror)
        yield from mirror.steps(self._settled)
        if self._settled():
            self._no_delegations = delegations.follow(
                self.runtime, mirror.held.database, self._no_delegations)

    def _find_store(self, mirror: tracking_mirror.RecoveryMirror) -> None:
        if mirror.find_nfsd():
            ocf.logger.warning("nfsd keeps its NFSv4 records in %s now%s", mirror.store.path,
                               ": nfsdcld was not ready in time" if mirror.fallen_back else "")
            self._watch(self.directory)
        self._nfsd_is_new = False

    def note_birthday(self) -> None:
        """Write down when nfsd was started, for the next owner."""
        if self._settled():
            birthday.note(self.runtime.system, self.holding)

    def prepare(self) -> None:
        """Do once what the first client needs."""
        self._begun().prepare()
