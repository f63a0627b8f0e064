# SPDX-License-Identifier: GPL-2.0-or-later
"""What only NFSv4 has: delegations, times that must fit together, the server scope, an nfsd that
already runs. The scenarios that all protocols share are in test_by_hand.py.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Callable

import pytest

from tests.support.vm import audits, frames, kerberos, layout, locks, service
from tests.support.vm.machine import Machine
from tests.support.vm.report import Record
from tests.support.vm.rig import Rig
from tests.support.vm.service import Grace
from tests.support.vm.trial import BYTES, KINDS, NFSV4, PLAIN, Setting, Trial, steady

SUITE = os.environ.get("SUITE", "trixie")
with_sessions = pytest.mark.parametrize(
    "protocol", ["4.1", pytest.param("4.2", marks=pytest.mark.full)]
)
#: lockd's grace period, rounded up to a multiple of its timeout, is 40 s.
UNSAFE = Grace(21, 21, 20)
each_version = pytest.mark.parametrize("protocol", [
    pytest.param("4.0", marks=pytest.mark.full), "4.1", pytest.param("4.2", marks=pytest.mark.full)
])


def rival_first(
    rig: Rig, protocol: str, then: Callable[[Trial], object] = lambda trial: None,
    setting: Setting = PLAIN,
) -> Trial:  # fmt: skip
    """A power cut after which the owner comes back only when the rival has reclaimed its opens.

    then: what is done before the owner is back.
    """
    trial = steady(rig, protocol, setting=setting)
    owner, rival = rig["client"], rig["rival"]
    owner.freeze()
    trial.power_cut()
    trial.start(trial.other())
    trial.wait_reclaimed(rival)
    then(trial)
    trial.thaw(owner)
    return trial


def delegations_on_reclaim(trial: Trial) -> list[str]:
    """What nfsd gave to the clients that reclaimed an open, after the fault."""
    calls = frames.calls([f for f in list(trial.rig.switch.frames) if f.at > trial.fault_at])
    return [o.delegation for o in frames.opens(calls) if o.claim == "previous"]


@pytest.mark.scenario("power cut, the rival is back before the owner")
@with_sessions
def test_rival_is_back_first(rig: Rig, record: Record, protocol: str) -> None:
    trial = rival_first(rig, protocol)
    trial.recover()
    assert set(delegations_on_reclaim(trial)) == {"none"}
    record.finish(trial, "kept")


@pytest.mark.scenario("control: the rival is back before the owner, delegations kept on")
@pytest.mark.skipif(SUITE == "bookworm", reason="Linux 6.1 gives no delegation on a reclaim")
@with_sessions
def test_rival_is_back_first_control(rig: Rig, record: Record, protocol: str) -> None:
    """With its opens the rival gets a write delegation, and grants itself the owner's locks."""
    def granted_in_grace(trial: Trial) -> None:
        trial.wait_rivals("granted")
        assert trial.v4_in_grace(), "nfsd itself gave the locks away, after its grace period"

    trial = rival_first(rig, protocol, granted_in_grace, Setting(delegations=True))
    assert audits.exclusion(trial)
    assert "write" in delegations_on_reclaim(trial)
    record.finish(trial, "two owners, as it must be")


@pytest.mark.scenario("power cut, grace period and lease of {times.grace} s")
@pytest.mark.parametrize("times", [
    pytest.param(Grace(15, 15, 5), id="15"),
    pytest.param(Grace(90, 90, 10), id="90", marks=pytest.mark.full),
])
@with_sessions
def test_times(rig: Rig, record: Record, protocol: str, times: Grace) -> None:
    trial = steady(rig, protocol, setting=Setting(times))
    trial.power_cut()
    trial.start(trial.other())
    trial.recover(by_itself=True)
    record.finish(trial, "kept")


@pytest.mark.scenario("times with which a delegation could be revoked: refused or repaired")
@pytest.mark.parametrize("protocol", ["4.1"])
def test_unsafe_times(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    node = trial.other()
    nfslock = service.nfslock(trial.resources)
    trial.power_cut()
    node.run(service.COMMANDS["fs"][0])
    service.set_times(node, Grace(15, 10, 5))
    refused = service.call(node, nfslock, "start")
    assert refused.rc != 0 and "lease (10 s) is shorter" in refused.output, refused
    assert service.call(node, nfslock, "stop").rc == 0
    service.set_times(node, Grace(15, 15, 10))
    assert service.call(node, nfslock, "start").rc == 0
    assert node.read("/proc/sys/fs/nfs/nlm_timeout").strip() == "5"
    record.finish(trial, "lease refused, nlm_timeout repaired")


@pytest.mark.full
@pytest.mark.scenario("power cut, {opener} opens the file in a grace period that is too long")
@pytest.mark.skipif(SUITE == "bookworm", reason="Linux 6.1 gives no write delegations")
@pytest.mark.parametrize(("protocol", "opener", "kind"), [
    ("4.1", opener, kind) for opener in ("a local process", "an NFSv3 client")
    for kind in ("on", "off")
])
def test_conflicting_open(
    rig: Rig, record: Record, protocol: str, opener: str, kind: str
) -> None:
    """The control: with a write delegation the owner keeps its lock to itself. The open recalls it,
    the owner asks for its lock and is put off until lockd's period is over, too; by then nfsd has
    revoked the delegation, and a process on the server has the lock."""
    trial = steady(rig, protocol, fresh=True, setting=Setting(delegations=kind == "off"))
    trial.owners = [locks.owner(rig["client"], [BYTES])]
    delegated = "DELEG" in "".join(audits.server_locks(trial, [BYTES])[BYTES])
    assert delegated == (kind == "off")
    rival = rig["rival"]
    if opener == "an NFSv3 client":
        locks.umount(rival)
        locks.mount(rival, "3")
    trial.power_cut()
    node = trial.other()
    service.set_times(node, UNSAFE)
    if kind == "off":  # what start has repaired is made unsafe again
        before_nfsd(node, f"sysctl -q fs.nfs.nlm_timeout={UNSAFE.nlm_timeout}")
    trial.start(node)
    trial.wait_held()
    assert trial.in_grace()
    if opener == "an NFSv3 client":
        rival.begin(f"printf x | dd of={layout.MOUNT}/{BYTES} bs=1 seek=999 conv=notrunc")
    if kind == "on":
        trial.recover(by_itself=True)
        record.finish(trial, "kept")
        return
    trial.local_rival().wait_for("granted", timeout=120)
    put_off = [at for at in frames.held_off(frames.calls(list(rig.switch.frames)))
               if at > trial.started_at]
    assert put_off and audits.exclusion(trial)
    record.finish(trial, "two owners, as it must be; the owner's LOCK was put off until "
                         f"{put_off[-1] - trial.started_at:.0f} s after the start")


@pytest.mark.full
@pytest.mark.scenario("delegations are switched off under a client that has one; power cut")
@pytest.mark.skipif(SUITE == "bookworm", reason="Linux 6.1 gives no write delegations")
@pytest.mark.parametrize(("protocol", "kind"), [("4.1", "on"), ("4.1", "off")])
def test_delegations_from_before(
    rig: Rig, record: Record, protocol: str, kind: str
) -> None:
    """Its lock is nowhere else, so it gets the delegation back once more. The control: it does not.
    """
    trial = steady(rig, protocol, fresh=True, setting=Setting(delegations=True))
    trial.owners = [locks.owner(rig["client"], [BYTES])]
    if kind == "off":
        stop_mirroring(trial)
    for node in (trial.other(), trial.active):
        service.let_delegations_go(node)
    if kind == "on":
        trial.active.wait_until("test $(sysctl -n fs.leases-enable) = 0", 60)
    assert "DELEG" in "".join(audits.server_locks(trial, [BYTES])[BYTES])
    trial.power_cut()
    trial.start(trial.other())
    trial.protected = kind == "on"
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("control: power cut, the adoptive node announces another scope")
@with_sessions
def test_other_scope_control(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol)
    trial.power_cut()
    trial.start(trial.other(), scope="elsewhere")
    nfslock = service.nfslock(trial.resources)
    monitor = service.call(trial.active, nfslock, "monitor", level=10)
    assert monitor.rc == 1 and "server scope elsewhere" in monitor.output, monitor
    trial.lose()
    record.finish(trial, "lost, as it must be; monitor said so")


@pytest.mark.scenario("the thread count is changed by hand, which resets the scope; power cut")
@pytest.mark.parametrize("protocol", ["4.1"])
def test_scope_reset(rig: Rig, record: Record, protocol: str) -> None:
    """Who mounted before knows the right scope and can reclaim; monitor warns of those to come."""
    trial = steady(rig, protocol)
    trial.active.run("rpc.nfsd 8")
    nfslock = service.nfslock(trial.resources)
    monitor = service.call(trial.active, nfslock, "monitor", level=10)
    assert monitor.rc == 1 and "server scope node-a instead" in monitor.output, monitor
    trial.power_cut()
    trial.start(trial.other())
    trial.recover()
    record.finish(trial, "monitor said so; kept")


def before_nfsd(node: Machine, command: str) -> None:
    """Have the node run a shell command each time before rpc.nfsd."""
    node.write("/usr/local/sbin/rpc.nfsd",
               f'#!/bin/sh\n{command}\nexec /usr/sbin/rpc.nfsd "$@"\n', 0o755)


def stop_mirroring(trial: Trial) -> None:
    """From now on the active node writes nothing to the holding directory."""
    trial.active.run("pkill -STOP -f '^nfslock (supervise|propagate)'")


@pytest.mark.full
@pytest.mark.scenario("power cut, by the adoptive node's clock nfsd starts in the same second")
@pytest.mark.parametrize(("protocol", "kind"), [("4.0", "on"), ("4.0", "off")])
def test_same_second(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """By that second an NFSv4.0 client id is told from another nfsd's. The control: nothing is on
    record of it."""
    trial = steady(rig, protocol)
    on_record = f"{layout.HOLDING}/nfsd_started"
    trial.active.wait_until(f"test -s {on_record}")
    second = int(trial.active.read(on_record))
    if kind == "off":
        stop_mirroring(trial)
        trial.active.run(f"rm {on_record} && sync")
    trial.power_cut()
    node = trial.other()
    node.run(f"date -s @{second - 10}")
    # nfsd is started in that second, unless it is over.
    before_nfsd(node, f"test $(date +%s) -gt {second} || date -s @{second}")
    trial.allowed = ["this node's clock is about to pass the second"]
    trial.start(node)
    trial.protected = kind == "on"
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("power cut, the clients' machines have Kerberos credentials")
@pytest.mark.parametrize(("protocol", "kind"), [("4.0", "on"), ("4.1", "on"), ("4.1", "off")])
def test_kerberos(rig: Rig, record: Record, protocol: str, kind: str) -> None:
    """Who reclaims must be the principal on record. The control: another one is."""
    trial = steady(rig, protocol, setting=Setting(kerberos=True))
    database = f"{layout.HOLDING}/nfsdcld/main.sqlite"
    tables = trial.active.out("sqlite3", database, ".tables rec-%").split()
    hashes = [trial.active.out("sqlite3", database, f'SELECT hex(princhash) FROM "{table}"')
              for table in tables]
    expected = [sha256(f"host@{name}".encode()).hexdigest().upper() for name in kerberos.CLIENTS]
    assert sorted("".join(hashes).split()) == sorted(expected)
    if kind == "off":
        stop_mirroring(trial)
        for table in tables:
            change = f'UPDATE "{table}" SET princhash = zeroblob(32)'
            trial.active.run("sqlite3", database, change)
        trial.active.run("sync")
    trial.power_cut()
    trial.start(trial.other())
    trial.protected = kind == "on"
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("power cut, nfsd already runs on the adoptive node")
@pytest.mark.parametrize("protocol", ["4.1"])
def test_running_nfsd(rig: Rig, record: Record, protocol: str) -> None:
    """The control is the default, takeover_running_nfsd=refuse: nothing is served."""
    trial = steady(rig, protocol)
    trial.allowed = ["nfsd already runs on this node"]
    node = trial.other()
    node.run("systemctl start rpc-statd nfsdcld && rpc.nfsd 4", timeout=90)
    trial.power_cut()
    with pytest.raises(service.AgentFailed, match="nfsd already runs"):
        trial.start(node)
    node.run(service.COMMANDS["fs"][1])
    trial.resources = service.changed(trial.resources, takeover_running_nfsd="restart")
    trial.start(node)
    trial.recover()
    record.finish(trial, "refused by default; with restart kept")


@pytest.mark.full
@pytest.mark.scenario("power cut, the adoptive node offers NFSv4 alone")
@pytest.mark.parametrize("protocol", NFSV4)
def test_a_server_without_nfsv3(rig: Rig, record: Record, protocol: str) -> None:
    """The service stands without lockd: what clients give up is mirrored, and they are tickled."""
    trial = steady(rig, protocol)
    trial.power_cut()
    node = trial.other()
    node.write("/etc/nfs.conf.d/v4.conf", "[nfsd]\nvers3=n\n")
    trial.start(node)
    assert "-3" in node.read("/proc/fs/nfsd/versions").split()
    outcome = trial.verdict()
    node.wait_until("nfslock status locks | grep -q settled", 30)
    record.finish(trial, outcome)


@pytest.mark.scenario("away for longer than its lease, its locks are another's; power cut")
@pytest.mark.parametrize(
    ("protocol", "kind"), [("4.1", "on"), pytest.param("4.1", "off", marks=pytest.mark.full)]
)
def test_who_lost_its_lease_reclaims_nothing(
    rig: Rig, record: Record, protocol: str, kind: str
) -> None:
    """It is back first, in the grace period. The control: nothing is mirrored while it is away."""
    trial = steady(rig, protocol, setting=Setting(Grace(45, 45, 15)))
    away, heir = rig["client"], rig["rival"]
    if kind == "off":
        stop_mirroring(trial)
    away.freeze()
    trial.forget(away)
    trial.wait_rivals("granted", timeout=120)
    trial.owners += [locks.owner(heir, [file], how) for file, how in KINDS.items()]
    if kind == "on":
        trial.active.wait_until("nfslock status | grep -q 'v4_records *1$'", 60)
    trial.allowed = ["lost [0-9]+ locks", "reclaim failed"]
    trial.power_cut()
    heir.freeze()
    trial.start(trial.other())
    away.thaw()
    trial.wait_reclaimed(away)
    back = trial.reclaimed_by(away)
    trial.thaw(heir)
    if kind == "off":
        assert back, "the control does not show what the records are for"
        record.finish(trial, "reclaimed what was another's, as it must be")
        return
    assert not back
    record.finish(trial, trial.verdict())


@pytest.mark.full
@pytest.mark.scenario("power cut, v4_records=direct")
@pytest.mark.parametrize("protocol", ["4.0", "4.1", "4.2"])
def test_direct(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, v4_records="direct")
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("planned move, then a power cut within the grace period, v4_records=direct")
@each_version
def test_direct_move(rig: Rig, record: Record, protocol: str) -> None:
    trial = steady(rig, protocol, v4_records="direct")
    trial.move_by_hand()
    trial.wait_held()
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("power cut, nfsd without nfsdcld: {tracking}")
@pytest.mark.skipif(SUITE != "bookworm", reason="Linux 6.1 is the last here with the older forms")
@pytest.mark.parametrize(("tracking", "protocol", "kind"), [
    pytest.param("nfsdcltrack", "4.1", "on", marks=pytest.mark.quick),
    pytest.param("nfsdcltrack", "4.1", "off", marks=pytest.mark.full),
    pytest.param("nfsdcltrack", "4.0", "on", marks=pytest.mark.full),
    pytest.param("v4recovery", "4.0", "on", marks=pytest.mark.quick),
    pytest.param("v4recovery", "4.0", "off", marks=pytest.mark.full),
    pytest.param("v4recovery", "4.2", "on", marks=pytest.mark.full),
])
def test_older_forms(
    rig: Rig, record: Record, tracking: str, protocol: str, kind: str
) -> None:
    trial = steady(rig, protocol, kind == "on", setting=Setting(tracking=tracking))
    if trial.protected:
        assert f"v4_tracking  {tracking}" in trial.active.out("nfslock", "status")
    trial.power_cut()
    trial.start(trial.other())
    record.finish(trial, trial.verdict())


@pytest.mark.scenario("planned move, nfsdcld is not ready when nfsd starts: {elsewhere}")
@pytest.mark.skipif(SUITE == "unstable", reason="its kernel keeps the records nowhere else")
@pytest.mark.parametrize(("protocol", "elsewhere"), [
    ("4.1", "records where nfsd looks then"), ("4.1", "control, without"),
    pytest.param("4.0", "records where nfsd looks then", marks=pytest.mark.full),
])  # fmt: skip
def test_nfsdcld_is_not_ready(rig: Rig, record: Record, protocol: str, elsewhere: str) -> None:
    """nfsd turns to an older form without a word. The next move, from what it keeps there."""
    trial = steady(rig, protocol)
    trial.protected = "control" not in elsewhere
    trial.allowed.append("did not find nfsdcld ready")
    trial.fault()
    trial.stop()
    node, before = trial.other(), trial.resources[:2]
    service.by_hand(node, before, "start")
    node.wait_until("grep -qs inotify /proc/$(pgrep -x nfsdcld)/fdinfo/*", 30)  # started ahead
    node.run("pkill -STOP -x nfsdcld")
    if not trial.protected:
        node.run("rm -rf /var/lib/nfs/v4recovery/* /var/lib/nfs/nfsdcltrack")
    trial.start(node, first=len(before))
    node.run("pkill -CONT -x nfsdcld")
    assert "Using nfsdcld" not in node.out("journalctl", "-b", "-k")
    if trial.protected:
        trial.wait_held()
        ours = service.nfslock(trial.resources)
        node.wait_until("nfslock status | grep -Eq 'v4_tracking  (nfsdcltrack|v4recovery)'", 30)
        said = service.call(node, ours, "monitor")
        assert said.rc == 190 and "nfsdcld ready" in said.output, said
        trial.move_by_hand()
    record.finish(trial, trial.verdict())
