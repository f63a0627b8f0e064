# SPDX-License-Identifier: GPL-2.0-or-later
"""start, reload-agent and validate-all: observe, plan, execute.

Every action may be repeated and killed at any instant; the next one observes and plans anew.
"""

from __future__ import annotations

import os

from . import (
    errors,
    kernel,
    mark,
    neighbours,
    params,
    plain_json,
    plan,
    signals,
    statd,
    supervise,
    tracking_takeover,
)
from ._vendor import ocf
from .holding import Holding, examine_place
from .owner import Owner
from .runtime import STATD_DOWN, Runtime
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Start:
    """One start of the service: what it observes, and how each planned step is done."""

    def __init__(self, system: System, config: params.Config, service: str) -> None:
        self.system, self.config = system, config
        self.supervisor: supervise.Supervisor | None = None
        self.runtime = Runtime(system, service)
        self.holding = Holding(system, config.holding_dir, service)
        self.statd_dir = statd.find_directory(system, config.statd_dir)
        self.v4 = tracking_takeover.Takeover(system, config, self.holding)

    def already(self) -> bool:
        """Whether the service runs here already; an error when it runs under an old claim."""
        started, status = self.runtime.read("started"), self.runtime.read("status")
        if started is None or not self.runtime.process(status):
            return False
        owner = self.holding.examine()
        if owner is not None and str(owner.generation) == started.get("generation"):
            return (status or {}).get("phase") != "fenced"
        other = f"{owner.generation} on node {owner.node}" if owner else "none, owner.json is gone"
        raise errors.Error(
            f"{self.config.holding_dir} is owned by a newer generation ({other}) than the one "
            f"running here ({started.get('generation')}): stop the resource here first")

    def observe(self) -> plan.Observed:
        """The holding directory and statd's, as they are now."""
        exists = examine_place(self.system, self.config.holding_dir, self.statd_dir)
        seen = plan.Observed(
            node_state=statd.read_state(self.system, self.statd_dir),
            local=statd.scan(self.system, self.statd_dir).files)
        if not exists:
            self.v4.examine(None)
            return seen
        owner = self.holding.examine()
        self.v4.examine(owner)
        if self.holding.foreign:
            ocf.logger.warning("%s: not of nfslock, and left alone: %s",
                               self.config.holding_dir, ", ".join(self.holding.foreign[:5]))
        held, skipped = self.holding.records()
        if skipped:
            ocf.logger.warning(
                "%s/sm: %d files are no monitor records and are left alone",
                self.config.holding_dir, skipped)
        return seen._replace(
            exists=True, owner=owner, state=self.holding.read_state(), held=held,
            pending=frozenset(self.holding.pending()), standing=self._stands(owner))

    def _stands(self, owner: Owner | None) -> bool:
        """Whether the service's own nfsd runs, with the lockd that its last propagator saw."""
        return (bool(kernel.serving(self.system)) and self.v4.is_ours(owner)
                and self.runtime.process(self.runtime.read("status"), "lockd") != 0)

    def wanted(self) -> plan.Wanted:
        """Who we are."""
        return plan.Wanted(self.runtime.service, self.system.node(), self.system.boot_id(),
                           self.system.epoch(), 4 in self.config.nfs_versions)

    def execute(self, step: plan.Step, raw: Mapping[str, str]) -> None:
        """Do one step of the plan."""
        if step.text:
            ocf.logger.debug("start: %s", step.text)
        todo: dict[str, Callable[..., None]] = {
            "create": lambda _: self.system.make_directory(self.config.holding_dir),
            "claim": self.holding.claim,
            "write_state": self.holding.write_state,
            "seed": self.holding.put,
            "enlist": self.holding.enlist,
            "hold_off_sm_notify": lambda _: statd.hold_off_sm_notify(self.system),
            "stop_statd": lambda _: self._stop_statd(),
            "stop_nfsd": self.v4.stop_nfsd,
            "merge_v4": self._merge_v4,
            "start_nfsd": lambda _: self.v4.start_nfsd(),
            "merge": self._merge,
            "start_statd": lambda _: self._start_statd(),
            "start_propagator": lambda owner: self._propagate(owner, raw),
            "await_propagator": self._await,
        }
        todo[step.name](step.what)

    def _stop_statd(self) -> None:
        # Who is killed from here on leaves the node without statd, and others may need it: a stop
        # brings it up again then.
        found = statd.pids(self.system)
        if found:
            self.runtime.write(
                STATD_DOWN, {"statd_dir": self.statd_dir, "name": self.config.ip[0]})
        statd.stop(self.system, found)

    def _start_statd(self) -> None:
        statd.start(self.system, self.statd_dir, self.config.ip[0], besides=self.v4.daemons())
        self.runtime.remove(STATD_DOWN)

    def _merge(self, held: Mapping[str, bytes]) -> None:
        # Looked at again: statd is down only now, nothing newer can be overwritten any more.
        local = statd.scan(self.system, self.statd_dir).files
        statd.merge(self.system, self.statd_dir, plan.merges(local, held))

    def _merge_v4(self, before: Owner | None) -> None:
        # A stop after a start that gets no further has to know what to take back.
        self.runtime.write("starting", {
            **(self.runtime.read("starting") or {}), "holding_dir": self.config.holding_dir,
            "v4_store": self.v4.store})
        self.v4.prepare(before)

    def _propagate(self, owner: Owner, raw: Mapping[str, str]) -> None:
        if not supervise.end(self.runtime):
            raise errors.Error("the old propagator does not end: is its filesystem hanging?")
        self.runtime.remove("status")
        known = {p.name: raw[p.name] for p in params.PARAMETERS if p.name in raw}
        self.runtime.write("parameters", {
            **known, "statd_dir": self.statd_dir, "generation": owner.generation,
            "v4_store": self.v4.store})
        assert self.supervisor is not None
        self.supervisor.begin()

    def _await(self, owner: Owner) -> None:
        assert self.supervisor is not None
        while True:
            self.supervisor.wait()
            status = self.runtime.read("status") or {}
            if status.get("problem"):
                raise errors.Error(status["problem"])
            if (status.get("generation") == str(owner.generation)
                    and status.get("phase") != "comparing" and self.runtime.process(status)):
                return


def start(system: System, config: params.Config, service: str, raw: Mapping[str, str],
          load_propagator: supervise.Load) -> None:
    """Claim the records, put them in place, and start to keep them. Returns when all is durable."""
    if os.geteuid():
        raise errors.Error("start needs root")
    runtime = Runtime(system, service)
    if not config.lock_migration:
        runtime.write("started", {"lock_migration": "no"})
        return
    this = Start(system, config, service)
    if this.already():
        return
    took: dict[str, int] = {}
    last = system.monotonic() - system.age()

    def lap(name: str) -> None:
        nonlocal last
        now = system.monotonic()
        took[name], last = round(1000 * (now - last)), now

    lap("load the program")
    this.supervisor = supervise.Supervisor(service, load_propagator)
    neighbours.enter(system, service)
    neighbours.check_clients(system, config)
    noted = mark.noted(system, config)
    lap("look at the node")
    steps = plan.start(this.observe(), this.wanted())
    lap("read the records")
    for step in steps:
        this.execute(step, raw)
        lap(step.name)
    owner = this.holding.owner
    this.holding.check_owner()
    runtime.write("started", {
        "lock_migration": "yes", "generation": owner.generation if owner else 0,
        "statd_dir": this.statd_dir, "holding_dir": config.holding_dir, **noted,
        "v4_store": this.v4.store, "start_ms": plain_json.dumps(took)})


def reload(system: System, config: params.Config, service: str, raw: Mapping[str, str]) -> None:
    """Take over changed reloadable parameters without touching anything else."""
    runtime = Runtime(system, service)
    given, status = runtime.read("parameters"), runtime.read("status")
    pid = runtime.process(status)
    if given is None or not pid:
        raise errors.Error(f"{service} is not running here: nothing to reload")
    reloadable = {p.name for p in params.PARAMETERS if p.reloadable}
    runtime.write("parameters", {
        **{name: text for name, text in given.items() if name not in reloadable},
        **{name: raw[name] for name in raw.keys() & reloadable}})
    started = runtime.read("started")
    if started is not None:
        runtime.write("started", {**started, "lockd_kill": config.lockd_kill})
    os.kill(pid, signals.SIGHUP)


def validate(system: System, config: params.Config, service: str, level: int) -> None:
    """Level 0: the parameters alone (they are parsed already). Level 10: this node, too."""
    if level < 10 or not config.lock_migration:
        return
    from . import setup_node

    setup_node.advise(system)
    statd_dir = statd.find_directory(system, config.statd_dir)
    holding = Holding(system, config.holding_dir, service)
    owner = holding.examine() if examine_place(system, config.holding_dir, statd_dir) else None
    neighbours.check_clients(system, config)
    tracking_takeover.Takeover(system, config, holding).validate(owner)
