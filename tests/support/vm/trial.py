# SPDX-License-Identifier: GPL-2.0-or-later
"""One scenario under way: who serves, who holds locks, what was done to it, and when.

A trial starts from a steady state: the service runs on node-a, `client` holds a byte-range lock
and a whole-file lock and writes through them, `rival` keeps trying to take both. The steady state
is made once per run and kind, saved, and restored for each scenario.
"""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, TypeVar

from ..wait import wait_until
from . import audits, frames, kerberos, layout, locks, service
from .control import Failed, Gone
from .machine import Machine
from .rig import Rig

BYTES, WHOLE = "byte-range", "whole-file"
KINDS = {BYTES: "posix", WHOLE: "flock"}
NFSV4 = ("4.0", "4.1", "4.2")
#: A protocol: each client machine mounts the service as every version, and locks through each.
TOGETHER = "+".join(("3", *NFSV4))
#: Seconds between two looks into a machine, or through the whole recording.
LOOK = 0.2


class Setting(NamedTuple):
    """How the servers and the clients of a trial are set up."""

    times: service.Grace = service.USUAL
    #: In which form nfsd keeps its NFSv4 recovery records.
    tracking: str = service.TRACKING
    #: The clients mount with sec=krb5.
    kerberos: bool = False
    #: nfsd may give out delegations, whatever nfslock does.
    delegations: bool = False

    def words(self) -> list[str]:
        """What is not as usual, for the name of a saved state."""
        words = ["_".join(map(str, self.times))] if self.times != PLAIN.times else []
        words += [self.tracking] if self.tracking != PLAIN.tracking else []
        return words + [word for word in ("kerberos", "delegations") if getattr(self, word)]


PLAIN = Setting()


class Times(NamedTuple):
    """Seconds from the fault; None for what was not seen."""

    address: float | None
    notified: float | None
    held: float | None
    io: float | None


class Trial:
    """See the module. `protocol` is "3", "4.0", "4.1", "4.2" or TOGETHER."""

    def __init__(
        self, rig: Rig, protocol: str, resources: tuple[service.Resource, ...],
        delegations: bool = False,
    ) -> None:  # fmt: skip
        self.rig = rig
        self.protocol = protocol
        self.versions = tuple(protocol.split("+"))
        self.made_with = resources
        #: Whether nfsd may give out delegations; see service.keep_delegations.
        self.delegations = delegations
        #: The programs that run in the saved state.
        self.saved: tuple[tuple[locks.Program, ...], tuple[locks.Program, ...]] = ((), ())
        self.reset()

    def reset(self) -> None:
        """The values of a trial that nothing was done to yet."""
        for machine in self.rig.machines.values():
            machine.listeners.clear()
        self.owners, self.rivals = list(self.saved[0]), list(self.saved[1])
        clocks: dict[str, float] = {}  # asked once: a machine with 50 clients takes its time
        for program in (*self.owners, *self.rivals):
            machine = program.machine
            if machine.name not in clocks:
                clocks[machine.name] = machine.control.clock()
            program.rewind(clocks[machine.name])
        self.resources = self.made_with
        #: Whether nfslock keeps the locks; if not, or when a test sees to it that it cannot, the
        #: trial is a control.
        self.protected = any(r.parameters.get("lock_migration") == "yes" for r in self.resources)
        self.active = self.rig["node-a"]
        self.allowed: list[str] = []
        self.fault_at = 0.0
        self.started_at = 0.0
        self.taken_over_at = 0.0
        self.takeovers = 0
        self.last_state = 0
        #: Of files of the export that were asked for: stat is a program of its own on the machine.
        self.inodes: dict[str, str] = {}
        self.locked_at = time.monotonic()

    @property
    def origin(self) -> float:
        """The host's monotonic time from which seconds are counted."""
        return self.fault_at or self.locked_at

    def other(self) -> Machine:
        """The node that does not serve."""
        return self.rig[layout.NODES[self.active.name == layout.NODES[0]]]

    def living_nodes(self) -> list[Machine]:
        nodes = [self.rig[name] for name in layout.NODES]
        return [node for node in nodes if node.alive and not node.frozen]

    def living_owners(self) -> list[locks.Program]:
        return [owner for owner in self.owners if not owner.died_at]

    def held_files(self) -> list[str]:
        """Files of the export whose lock a living client holds and has not given back."""
        files = []
        for owner in self.living_owners():
            gone = {entry.file for entry in owner.entries("releasing")}
            files += [path.rsplit("/", 1)[1] for path in owner.paths if path not in gone]
        return files

    # -- what is done

    def fault(self) -> float:
        """Now is the instant of the fault; times are counted from here."""
        self.fault_at = time.monotonic()
        return self.fault_at

    def power_cut(self) -> None:
        """The active node loses its power."""
        self.active.crash()
        self.fault_at = self.active.ended_at

    def client_dies(self, machine: Machine, reboot: bool = False) -> None:
        """A client loses its power, and with it its claim to its locks; reboot: and boots again."""
        if reboot:
            machine.reset()
        else:
            machine.crash()
        self.forget(machine)

    def forget(self, machine: Machine) -> None:
        """From now on nobody owes the programs on this machine a lock."""
        for program in (*self.owners, *self.rivals):
            if program.machine is machine:
                program.died_at = time.monotonic()
                program.ended = True

    def thaw(self, machine: Machine) -> None:
        """Let a frozen client go on; what it logs has the right times again."""
        machine.thaw()
        for program in (*self.owners, *self.rivals):
            if program.machine is machine:
                program.set_clock()

    def start(
        self, node: Machine, scope: str = layout.SERVICE,
        before_address: Callable[[], object] = lambda: None, first: int = 0,
    ) -> list[service.Step]:
        """Start the group by hand on a node, which becomes the active one.

        before_address: is called when all but the address, the last resource, is there.
        first: the resources before this one run already.
        """
        self.last_state = max([self.last_state, *(n.state for n in audits.told(self))])
        self.active = node
        self.started_at = time.monotonic()
        steps = service.by_hand(node, self.resources[first:-1], "start", scope)
        before_address()
        steps += service.by_hand(node, self.resources[-1:], "start", scope)
        self.takeovers += 1
        self.taken_over_at = time.monotonic()
        return steps

    def stop(self) -> list[service.Step]:
        """Stop the group by hand on the active node."""
        return service.by_hand(self.active, self.resources, "stop")

    def move_by_hand(self) -> None:
        """Move the group to the other node, as planned; this is the fault."""
        self.fault()
        self.stop()
        self.start(self.other())

    def restart_server(self) -> None:
        """Stop nfsserver and what comes after it in the group by hand, and start it again."""
        server = [resource.name for resource in self.resources].index("server")
        self.fault()
        service.by_hand(self.active, self.resources[server:], "stop")
        self.start(self.active, first=server)

    def folder(self, version: str) -> str:
        """Where a client mounts the service as this version."""
        return layout.MOUNT if len(self.versions) == 1 else f"{layout.MOUNT}-{version}"

    def mount(self, *machines: Machine, options: str = "") -> None:
        """These clients mount the service, as each version of the trial."""
        for machine in machines:
            for version in self.versions:
                locks.mount(machine, version, options, self.folder(version))

    def umount(self, machine: Machine) -> None:
        """A client leaves the service."""
        for version in self.versions:
            locks.umount(machine, self.folder(version))

    def own(self, machine: Machine, file: str, kind: str = "posix") -> None:
        """A client takes the lock of a file, of another one through each version, and writes."""
        for version, name, pause in self._places(file):
            self.owners.append(locks.owner(
                machine, [name], kind, 0.25 * pause, self.folder(version), version))

    def want(self, machine: Machine, file: str, kind: str = "posix") -> None:
        """A client keeps trying to take what another one owns."""
        for version, name, pause in self._places(file):
            self.rivals.append(locks.rival(
                machine, [name], kind, 0.5 * pause, self.folder(version), version))

    def _places(self, file: str) -> list[tuple[str, str, int]]:
        """Each version, the name of its file, and by how much its programs are slower: together
        they load the machines as those of a single version do."""
        number = len(self.versions)
        return [(version, file if number == 1 else f"{file}-{version}", number)
                for version in self.versions]

    def take_locks(self) -> None:
        """`client` takes its locks, and `rival` has found that it does not get them."""
        self.owners, self.rivals = [], []
        for file, kind in KINDS.items():
            self.own(self.rig["client"], file, kind)
        for file, kind in KINDS.items():
            self.want(self.rig["rival"], file, kind)
        self.wait_rivals("denied")

    # -- what is waited for

    def wait_recorded(self, timeout: float = 60) -> None:
        """Wait until nfslock knows the clients' connections, as after some seconds of service.

        Of the list an older one may be left that the client has no more: all present ones count.
        """

        def all_recorded() -> bool:
            lines = self.active.out("ss", "-4Htn", "state", "established", "sport = 2049")
            present = {" ".join(line.split()[2:]).replace(":", " ") for line in lines.splitlines()}
            clients = {connection.split()[2] for connection in present}
            if layout.CLIENT.addresses["data"] not in clients:
                return False
            recorded = self.active.run(f"cat {layout.HOLDING}/connections", check=False).out
            return present <= set(recorded.splitlines())  # no file yet: none

        wait_until(all_recorded, "connections on record", timeout, pause=LOOK)

    def wait_held(self, timeout: float = 90) -> None:
        """Wait until the active server knows every lock that a living client holds.

        A client whose last request was received and not answered any more, on a connection too new
        to be on record for a tickle, has nothing to repeat: it asks again after 60 s (timeo of
        nfs(5)), which is within the grace period.
        """

        def all_held() -> bool:
            try:
                return not audits.not_held(self)
            except (Failed, Gone):
                return False

        wait_until(
            all_held, f"locks held on {self.active.name}", timeout, lambda: audits.held(self), LOOK
        )

    def wait_io(self, timeout: float = 90) -> None:
        """Wait until every living owner has written since the fault."""
        for owner in self.living_owners():
            owner.wait_for("wrote", after=self.fault_at + 0.5, timeout=timeout)

    def wait_reclaimed(self, only: Machine | None = None, timeout: float = 200) -> None:
        """Wait until every living NFSv4 client has reclaimed what it had, or can no more.

        Until then a client's lock may be known to nobody but itself: only grace keeps others off,
        and a test that ends it by hand has broken the lock itself.
        only: the clients on this machine.
        """
        if self.protocol == "3":
            return
        programs = [
            program
            for program in (*self.owners, *self.rivals)
            if program.machine.alive and program.machine.name not in layout.NODES
            and only in (None, program.machine) and program.version != "3"
        ]  # fmt: skip
        wait_until(
            lambda: not self.v4_in_grace() or self._all_reclaimed(programs),
            "NFSv4 clients reclaim", timeout, self._reclaims, LOOK,
        )  # fmt: skip

    def reclaimed_by(self, machine: Machine) -> set[str]:
        """What the server has let the clients on this machine reclaim: OPEN, LOCK."""
        sources = {p.address for p in self.owners if p.machine is machine}
        return {r.what for r in self._reclaims() if r.source in sources} - {"RECLAIM_COMPLETE"}

    def _reclaims(self) -> list[frames.Reclaim]:
        """What the server has granted of what clients reclaimed since the start."""
        recent = [f for f in list(self.rig.switch.frames) if f.at > self.started_at]
        return frames.granted(frames.calls(recent))

    def _all_reclaimed(self, programs: list[locks.Program]) -> bool:
        """Whether these programs' clients have nothing more to reclaim.

        4.1 and later say so (RFC 8881 18.51); of 4.0 each open file and each held lock is counted,
        and as what is recorded of a reclaim does not tell its version, all others', too.
        """
        granted = self._reclaims()
        wanted: dict[tuple[str, str], set[str]] = {}
        for program in programs:
            version = program.version or self.protocol
            if version != "4.0":
                wanted.setdefault((program.address, "RECLAIM_COMPLETE"), set()).add(version)
            if "4.0" in self.versions:
                wanted.setdefault((program.address, "OPEN"), set()).update(program.paths)
                if program in self.owners:
                    wanted.setdefault((program.address, "LOCK"), set()).update(program.paths)
        return all(
            len([r for r in granted if (r.source, r.what) == key]) >= len(what)
            for key, what in wanted.items()
        )

    def v4_in_grace(self) -> bool:
        """Whether nfsd on the active node is in its grace period."""
        return self.active.read("/proc/fs/nfsd/v4_end_grace").startswith("N")

    def in_grace(self) -> bool:
        """Whether lockd on the active node is in its grace period."""
        return self.active.read("/proc/fs/lockd/nlm_end_grace").startswith("N")

    def end_grace(self) -> None:
        """End the grace periods of lockd and nfsd: from here on only held locks keep rivals off."""
        self.active.run(
            "echo Y > /proc/fs/lockd/nlm_end_grace; echo Y > /proc/fs/nfsd/v4_end_grace || true",
            check=False,
        )

    def local_rival(self) -> locks.Program:
        """A program on the active node itself that wants the held locks, from now on.

        A local process is not held back by a grace period: start it when the locks are held again.
        """
        program = locks.rival(self.active, self.held_files(), folder=layout.DATA)
        self.rivals.append(program)
        return program

    def dismiss_local_rivals(self) -> None:
        """End the programs on the active node: they would keep its filesystem busy."""
        for rival in self.rivals:
            if rival.machine is self.active and not rival.ended:
                rival.tell("end")
                wait_until(lambda r=rival: r.ended, f"{rival.name} ends", 30)  # type: ignore[misc]

    def wait_rivals(self, *what: str, timeout: float = 90) -> None:
        """Wait until every rival on a living machine got one of these answers after now."""
        now = time.monotonic()
        for rival in self.rivals:
            if rival.machine.alive and not rival.ended:
                rival.wait_for(*what, after=now, timeout=timeout, count=len(rival.paths))

    def judge(self) -> None:
        """All audits, now; raises AssertionError with every complaint."""
        complaints = audits.complaints(self)
        assert not complaints, "\n".join(complaints)

    def wait_grace(self, timeout: float = 300) -> None:
        """Wait until both grace periods have ended by themselves."""
        wait_until(
            lambda: not (self.in_grace() or self.v4_in_grace()), "grace ends", timeout, pause=1)

    def recover(self, by_itself: bool = False) -> None:
        """The active node has just started: every lock comes back, nobody else gets one.

        by_itself: the grace periods are not ended by hand.
        """
        self.wait_held()
        self.wait_io()
        self.wait_reclaimed()
        self.local_rival()
        if by_itself:
            self.wait_grace()
        else:
            self.end_grace()
        self.wait_rivals("denied")
        self.judge()

    def lose(self) -> None:
        """The control: without lock migration the adoptive node does not know the locks, and a
        process that wants them gets them while their owner goes on writing.

        An NFSv4 client reclaims by itself as soon as it is connected again, if it may: it gets the
        time to do so.
        """
        if self.protocol != "3":
            for owner in self.living_owners():
                owner.wait_for("wrote", "error", after=self.fault_at + 0.5, timeout=240)
            self.wait_reclaimed()
        files = self.held_files()
        unknown = audits.not_held(self)
        if self.in_grace() or self.v4_in_grace():  # so it was then: nobody else could have them
            assert unknown == files
            self.end_grace()
        if len(audits.exclusion(self)) < len(files):  # else the rivals have had them
            self.local_rival().wait_for("granted", count=len(files))
        assert len(audits.exclusion(self)) >= len(files)

    def verdict(self) -> str:
        """Judge a takeover, or with the protection off its loss; the outcome in a few words."""
        if self.protected:
            self.recover()
            return "kept"
        self.lose()
        return "lost, as it must be"

    def times(self) -> Times:
        """Seconds from the fault, from the recording and the owners' logs."""
        recording = list(self.rig.switch.frames)
        seen = [call for call in frames.calls(recording) if call.at > self.fault_at]
        says = [
            a.at
            for a in frames.announcements(recording, layout.VIP)
            if a.at > self.fault_at and a.port == f"{self.active.name}/data"
        ]
        told = [n.at for n in frames.notifications(seen)]
        granted = [r.granted_at for r in frames.granted(seen)]
        wrote = [owner.entries("wrote", after=self.fault_at + 0.5) for owner in self.owners]
        firsts = [entries[0].at for entries in wrote if entries]

        def since(values: list[float], pick: int = 0) -> float | None:
            return round(sorted(values)[pick] - self.fault_at, 1) if values else None

        return Times(since(says), since(told), since(granted, -1), since(firsts, -1))


def bare(rig: Rig) -> None:
    """Be in the state in which the machines have booted and the shared disk is formatted."""

    def make() -> None:
        rig.boot()
        rig.format_shared()
        node = rig["node-a"]
        node.run(
            f"mount {layout.SHARED_DEVICE} {layout.EXPORT} && mkdir -m 777 {layout.DATA} && "
            f"umount {layout.EXPORT}"
        )

    rig.state("bare", make)


def equipped(rig: Rig, setup: bool = True) -> None:
    """Be in the state in which the machines have the product and the lock programs.

    setup: the nodes have been prepared with `nfslock setup-node`.
    """
    name = "equipped" if setup else "equipped-only"
    if rig.has(name):
        rig.restore(name)
        return
    bare(rig)
    service.equip(rig, setup)
    rig.save(name)


_saved: dict[tuple[int, str], Trial] = {}
T = TypeVar("T", bound=Trial)


def saved(rig: Rig, name: str, make: Callable[[], T]) -> T:
    """The trial of a saved state, made and saved at the first call, and restored for each."""
    key = (id(rig), name)
    if key not in _saved:
        made = make()
        made.saved = (tuple(made.owners), tuple(made.rivals))
        rig.save(name)
        _saved[key] = made
    trial = _saved[key]
    rig.restore(name)
    trial.reset()
    return trial  # type: ignore[return-value]


def steady(
    rig: Rig, protocol: str, lock_migration: bool = True, fresh: bool = False,
    setting: Setting = PLAIN, **more: str,
) -> Trial:  # fmt: skip
    """A trial in the steady state of this kind.

    fresh: the clients have mounted the service and taken no lock yet, nor has a rival tried.
    more: further parameters of nfslock.
    """

    def make() -> Trial:
        if fresh:
            trial = served(rig, protocol, lock_migration, setting, **more)
            options = "sec=krb5" if setting.kerberos else ""
            trial.mount(rig["client"], rig["rival"], options=options)
            trial.end_grace()
            return trial
        before = steady(rig, protocol, lock_migration, True, setting, **more)
        trial = Trial(rig, protocol, before.made_with, setting.delegations)
        trial.take_locks()
        return trial

    parameters = [f"{key}={value}" for key, value in sorted(more.items())]
    state = ["fresh" if fresh else "steady", protocol, "on" if lock_migration else "off"]
    return saved(rig, "-".join([*state, *parameters, *setting.words()]), make)


def crowd(
    rig: Rig, protocol: str, lock_migration: bool = True, clients: int = 20, files: int = 10
) -> Trial:
    """A trial with many clients, each of which holds many locks; a rival wants them all.

    TOGETHER: each client has one of the versions, the rival the newest.
    """

    def make() -> Trial:
        trial = served(rig, protocol, lock_migration)
        version = trial.versions[-1]
        locks.mount(rig["rival"], version)
        trial.end_grace()
        trial.owners = locks.crowd(rig["client"], trial.versions, clients, files)
        trial.rivals = [locks.rival(rig["rival"], trial.held_files(), version=version)]
        trial.wait_rivals("denied")
        return trial

    return saved(rig, f"crowd-{protocol}-{'on' if lock_migration else 'off'}", make)


def served(
    rig: Rig, protocol: str, lock_migration: bool, setting: Setting = PLAIN, **more: str,
) -> Trial:  # fmt: skip
    """The service on node-a, and no client of it yet."""
    equipped(rig)
    if setting.kerberos:
        kerberos.set_up(rig)
    versions = "3" if protocol == "3" else "3,4"
    resources = service.group(lock_migration, versions, **more)
    trial = Trial(rig, protocol, resources, setting.delegations)
    for node in (rig[name] for name in layout.NODES):
        service.set_times(node, setting.times)
        service.set_tracking(node, setting.tracking)
        if setting.delegations:
            service.keep_delegations(node)
        elif not lock_migration and protocol != "3":
            # As with it: the records shall be the only difference.
            node.run("sysctl -q fs.leases-enable=0")
    trial.start(rig["node-a"])
    return trial
