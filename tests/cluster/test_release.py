# SPDX-License-Identifier: GPL-2.0-or-later
"""Stop frees the service's filesystem although clients hold locks on it and nfsd goes on running.

Driven by hand, one node and one client: the address leaves, the export goes, nfslock stops, umount
is tried once. The control takes unlock_filesystem away from the agent: then umount must fail, and
the exit reason must have named why.
"""

from __future__ import annotations

import os

import pytest

from tests.support.vm import layout, locks, service
from tests.support.vm.control import Done
from tests.support.vm.rig import Rig
from tests.support.vm.trial import Trial, equipped, saved

SUITE = os.environ.get("SUITE", "trixie")
UNLOCK = "/proc/fs/nfsd/unlock_filesystem"
FILES = ["one", "two"]
RESOURCES = service.group(versions="3,4")
BEFORE = [resource for resource in RESOURCES if resource.name in ("vip", "export")]
NFSLOCK = service.nfslock(RESOURCES)


def held(rig: Rig, protocol: str) -> None:
    """The service on node-a, two files locked by the client."""

    def make() -> Trial:
        equipped(rig)
        trial = Trial(rig, protocol, RESOURCES)
        trial.start(rig["node-a"])
        trial.end_grace()
        locks.mount(rig["client"], protocol)
        trial.owners = [locks.owner(rig["client"], FILES)]
        return trial

    saved(rig, f"held-{protocol}", make)
    wanted = "lockd" if protocol == "3" else "nfsd"
    assert f"({wanted})" in holders(rig)


def holders(rig: Rig) -> str:
    """Who holds locks on the shared filesystem, one "KIND (COMMAND)" to a line."""
    return rig["node-a"].out(
        "sh",
        "-c",
        "for p in $(awk '$2 != \"FLOCK\" && $5 > 0 {print $5}' /proc/locks); do "
        'echo "lock ($(cat /proc/$p/comm))"; done',
    )


def unexport(rig: Rig) -> None:
    """Address and export go."""
    for resource in reversed(BEFORE):
        rig["node-a"].run(service.COMMANDS[resource.name][1])


def leave(rig: Rig, timeout: float = 20) -> service.Step:
    """Address and export go, then nfslock stops; nfsd goes on running."""
    unexport(rig)
    assert int(rig["node-a"].read("/proc/fs/nfsd/threads")) > 0
    return service.call(rig["node-a"], NFSLOCK, "stop", timeout)


def umount(rig: Rig) -> Done:
    """One try."""
    return rig["node-a"].run(f"umount {layout.EXPORT}", check=False)


@pytest.mark.parametrize("protocol", ["3", "4.0", "4.2"])
def test_a_stop_frees_the_filesystem_while_nfsd_runs(rig: Rig, protocol: str) -> None:
    held(rig, protocol)
    step = leave(rig)
    assert step.rc == 0 and "ocf-exit-reason" not in step.output, step.output
    done = umount(rig)
    assert done.rc == 0, done.err
    print(f"\n{SUITE} {protocol}: stop {step.seconds:.2f} s")


@pytest.mark.parametrize(
    ("protocol", "words"), [("3", "NLM lock left on inode"), ("4.2", "NFSv4 client 10.9.0.21 left")]
)
def test_control_without_the_release_it_stays_busy(rig: Rig, protocol: str, words: str) -> None:
    """unlock_filesystem, and what expires a client, take every word and do nothing."""
    held(rig, protocol)
    rig["node-a"].run(
        f"touch /run/deaf && for file in {UNLOCK} /proc/fs/nfsd/clients/*/ctl; do "
        "! test -e $file || mount --bind /run/deaf $file; done"
    )
    unexport(rig)
    if protocol != "3" and SUITE == "unstable" and not holders(rig):
        pytest.skip("exportfs -u revokes NFSv4 state here (nfs-utils 2.9.2, Linux 7.2)")
    step = service.call(rig["node-a"], NFSLOCK, "stop", 20)
    assert step.rc == 0, step.output
    assert words in step.output
    assert umount(rig).rc != 0


def test_a_stop_that_was_killed_and_run_again_frees_it_too(rig: Rig) -> None:
    held(rig, "3")
    rig["node-a"].run(
        "sh", "-c", f"mount --bind $(mktemp -p /run) {UNLOCK}; (sleep 3; umount {UNLOCK}) & true"
    )
    environment = " ".join(f"OCF_RESKEY_{k}={v}" for k, v in NFSLOCK.parameters.items())
    unexport(rig)
    rig["node-a"].run(
        "sh",
        "-c",
        f"OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=locks {environment} timeout "
        "-s KILL 2 /usr/lib/ocf/resource.d/flm/nfslock stop",
        check=False,
    )
    rig["node-a"].wait_until(f"! mountpoint -q {UNLOCK}")
    step = service.call(rig["node-a"], NFSLOCK, "stop", 20)
    assert step.rc == 0 and "ocf-exit-reason" not in step.output, step.output
    assert umount(rig).rc == 0


def neighbours_lock(rig: Rig) -> str:
    """A lock on the node's own disk, which its own address exports; the file as in /proc/locks."""
    node, client = rig["node-a"], rig["client"]
    address = layout.NODE_A.addresses["data"]
    node.run(
        "mkdir -m 777 -p /srv/other && "
        "exportfs -o rw,no_root_squash,fsid=7 10.9.0.0/24:/srv/other"
    )
    client.run(f"mkdir -p /mnt/other && mount -t nfs -o vers=3 {address}:/srv/other /mnt/other")
    locks.Program(client, "owner", "posix", ["/mnt/other/lock"], 1.0).wait_for("locked")
    disk, inode = node.out("stat -c '%Hd:%Ld %i' /srv/other/lock").split()
    major, minor = map(int, disk.split(":"))
    file = f"{major:02x}:{minor:02x}:{inode}"
    assert still_locked(rig, file)
    return file


def still_locked(rig: Rig, file: str) -> bool:
    """Whether somebody holds a lock on the neighbour's file."""
    lines = rig["node-a"].read("/proc/locks").splitlines()
    return any("POSIX" in line and f" {file} " in line for line in lines)


def test_a_neighbours_locks_are_left_alone(rig: Rig) -> None:
    held(rig, "3")
    file = neighbours_lock(rig)
    step = leave(rig)
    assert step.rc == 0 and "ocf-exit-reason" not in step.output, step.output
    assert umount(rig).rc == 0
    assert still_locked(rig, file)


def test_a_stop_whose_disk_is_gone(rig: Rig) -> None:
    """It succeeds within its time, and nobody else's locks go."""
    held(rig, "3")
    file = neighbours_lock(rig)
    rig["node-a"].lose_disk()
    step = leave(rig, timeout=60)
    assert step.rc == 0, step.output
    assert still_locked(rig, file)


@pytest.mark.parametrize("protocol", ["3", "4.2"])
def test_the_whole_group_in_order(rig: Rig, protocol: str) -> None:
    """nfsd has stopped before nfslock: nothing is left, and unlock_filesystem's EIO is no fault."""
    held(rig, protocol)
    steps = service.by_hand(rig["node-a"], RESOURCES, "stop")
    assert not [step for step in steps if "ocf-exit-reason" in step.output], steps
    (stop,) = [step for step in steps if step.resource == "locks"]
    print(f"\n{SUITE} {protocol}: group stop, nfslock {stop.seconds:.2f} s")
