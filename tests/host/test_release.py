# SPDX-License-Identifier: GPL-2.0-or-later
"""Stop names what keeps the filesystem in use, and start refuses a second service on a node.

What needs locks in the kernel is in tests/cluster; here is what namespaces can show.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.service import ARGS, HOLDING, MOUNT_POINT, NOT_RUNNING, OK, Agent, Cluster
from tests.support.wait import wait_until


@pytest.fixture
def started(pair: Cluster) -> Cluster:
    """The service started on A."""
    pair.service.mount(pair.a)
    pair.service.start(pair.a)
    return pair


def test_nothing_in_the_way(started: Cluster) -> None:
    """The control of what follows: no reason is given, and umount agrees."""
    assert started.service.stop(started.a).reason == ""
    started.service.umount(started.a)


def test_the_question_unmounts_nothing(started: Cluster) -> None:
    """Stop asks whether umount would succeed; asked again and again it stays mounted."""
    service, a = started.service, started.a
    for _ in range(3):
        service.stop(a)
        assert a.run("findmnt", MOUNT_POINT).stdout
        service.start(a)
    service.stop(a)
    assert service.owner(a)["clean_stop"] is True
    service.umount(a)


@pytest.mark.parametrize(("words", "how"), [
    (f"exec sleep 1000 < {HOLDING}/owner.json", f"has open {HOLDING}/owner.json"),
    (f"cd {HOLDING} && exec sleep 1000", f"works in {HOLDING}"),
])  # fmt: skip
def test_a_process_is_named(started: Cluster, words: str, how: str) -> None:
    service, a = started.service, started.a
    a.spawn("sh", "-c", words)
    (holder,) = wait_until(lambda: a.find("sleep", "1000"), "the holder")
    pid = a.local_pid(holder)
    reason = service.stop(a).reason
    assert f"{MOUNT_POINT}: sleep (pid {pid}) {how}" in reason
    with pytest.raises(AssertionError, match="busy"):
        service.umount(a)
    holder.kill()
    wait_until(lambda: not a.find("sleep", "1000"), "the holder gone")
    assert service.stop(a).reason == ""
    service.umount(a)


def test_a_mount_on_top_is_named(started: Cluster) -> None:
    service, a = started.service, started.a
    a.path(f"{MOUNT_POINT}/sub").mkdir()
    a.run("mount", "-t", "tmpfs", "tmpfs", f"{MOUNT_POINT}/sub")
    assert f"{MOUNT_POINT}/sub (tmpfs) is mounted on top of it" in service.stop(a).reason
    a.run("umount", f"{MOUNT_POINT}/sub")
    service.umount(a)


def test_a_loop_device_is_named(started: Cluster) -> None:
    service, a = started.service, started.a
    a.run("truncate", "-s", "1M", f"{MOUNT_POINT}/disk")
    device = a.run("losetup", "--find", "--show", f"{MOUNT_POINT}/disk").stdout.strip()
    try:
        reason = service.stop(a).reason
    finally:
        a.run("losetup", "-d", device)
    assert f"{device} is a loop device over {MOUNT_POINT}/disk" in reason
    service.umount(a)


def test_a_bind_mount_is_named(started: Cluster) -> None:
    """umount would succeed, and the filesystem stay in use: the other node must not mount it."""
    service, a = started.service, started.a
    a.path("/mnt/elsewhere").mkdir()
    a.run("mount", "--bind", MOUNT_POINT, "/mnt/elsewhere")
    assert "is mounted on /mnt/elsewhere too" in service.stop(a).reason
    a.run("umount", "/mnt/elsewhere")
    service.umount(a)


def test_an_address_that_has_not_left_is_named(started: Cluster) -> None:
    service, a = started.service, started.a
    service.address(a)
    assert f"{service.vips[0]} is still on this node" in service.stop(a).reason
    service.unaddress(a)
    service.umount(a)


def test_a_filesystem_mounted_over_is_not_taken_for_ours(started: Cluster) -> None:
    """A holder of what covers the mount point is somebody else's."""
    service, a = started.service, started.a
    a.run("mount", "-t", "tmpfs", "tmpfs", MOUNT_POINT)
    a.spawn("sh", "-c", f"cd {MOUNT_POINT} && exec sleep 1000")
    (holder,) = wait_until(lambda: a.find("sleep", "1000"), "the holder")
    assert service.stop(a).reason == ""
    holder.kill()
    wait_until(lambda: not a.find("sleep", "1000"), "the holder gone")
    a.run("umount", MOUNT_POINT)
    service.umount(a)


def test_a_disk_that_hangs_ends_neither_the_stop_nor_in_a_late_release(started: Cluster) -> None:
    """Every write waits for ever: stop gives the last copy up and leaves the rest alone."""
    service, a = started.service, started.a
    a.run("fsfreeze", "--freeze", MOUNT_POINT)
    try:
        outcome = service.agent(a, "stop", timeout=60)
    finally:
        a.run("fsfreeze", "--unfreeze", MOUNT_POINT)
    assert outcome.code == OK
    assert "the last copy did not end within" in service.log(a)
    assert service.agent.probe(a).code == NOT_RUNNING
    wait_until(lambda: not a.find("nfslock", "stop"), "the child that hung is gone")
    assert service.owner(a)["clean_stop"] is False
    service.umount(a)


def second(cluster: Cluster) -> Agent:
    """Another service, with a filesystem of its own, on node A."""
    image = cluster.world.image()
    cluster.a.mount(image, "/srv/mail")
    return Agent("mail", holding_dir="/srv/mail/.locks", ip="192.0.2.11")


def test_a_second_service_is_refused(started: Cluster) -> None:
    service, a = started.service, started.a
    mail = second(started)
    outcome = mail.start(a)
    assert outcome.code == ARGS
    assert "locks with lock migration is on this node already" in outcome.reason
    assert not a.path("/srv/mail/.locks").exists()
    # Its stop, which the cluster calls next, ends nothing of the first service.
    assert mail.stop(a).code == OK
    assert service.agent.monitor(a).code == OK
    service.stop(a)
    assert mail.start(a).code == OK
    assert mail.stop(a).code == OK
    service.umount(a)


def test_without_lock_migration_it_is_not(started: Cluster) -> None:
    """The control: lock_migration=no on either side."""
    a, mail = started.a, second(started)
    assert mail.start(a, lock_migration="no").code == OK
    assert mail.stop(a, lock_migration="no").code == OK
    started.service.stop(a)
    assert started.service.agent.start(a, lock_migration="no").code == OK
    assert mail.start(a).code == OK
    assert mail.stop(a).code == OK
    assert started.service.agent.stop(a, lock_migration="no").code == OK


def test_of_two_at_once_one_is_refused(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    service.mount(a)
    mail = second(pair)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda agent: agent.start(a), (service.agent, mail)))
    assert sorted(outcome.code for outcome in outcomes) == [OK, ARGS]
    for agent in (service.agent, mail):
        assert agent.stop(a).code == OK


def test_a_start_that_was_killed_holds_the_node_no_longer(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    service.mount(a)
    mail = second(pair)
    trap = "--inject=rename,renameat,renameat2:signal=KILL:when=3"
    killed = mail(a, "start", wrapper=("strace", "-f", "-qq", "-o", "/dev/null", trap))
    assert killed.code != OK
    assert a.path("/run/nfslock/mail/starting").exists()
    assert not a.find("propagate")
    service.start(a)
    assert mail.stop(a).code == OK
    service.stop(a)


def test_filesystems_must_be_mounted(pair: Cluster) -> None:
    service, a = pair.service, pair.a
    service.mount(a)
    outcome = service.agent.start(a, filesystems=f"{MOUNT_POINT}, /var/tmp")
    assert outcome.code == ARGS
    assert "/var/tmp is no mount point here" in outcome.reason
    assert service.agent.start(a, filesystems=MOUNT_POINT, nfs_client="refuse").code == OK
    assert service.agent.stop(a).code == OK
