# SPDX-License-Identifier: GPL-2.0-or-later
"""The release against a tree that looks and answers like /proc of an NFS server."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfslock import clients, holders, release
from nfslock.release_plan import Wanted
from nfslock.system import System

POINT, DEVICE = "/srv/nfs", "8:17"
MOUNTINFO = """22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 8:17 / /srv/nfs rw - ext4 /dev/sdb1 rw
"""
NLM = "1: POSIX  ADVISORY  WRITE 700 08:11:131 0 EOF\n"
OTHERS = "2: POSIX  ADVISORY  WRITE 700 08:21:12 0 EOF\n"
STATE = '- 0x1: { type: open, superblock: "08:11:131", filename: "db/data", owner: "x" }\n'
WANTED = Wanted(((POINT, DEVICE),), frozenset({"192.0.2.10"}))


class Node:
    """The tree, and threads that answer what is written to the kernel's files."""

    def __init__(self, root: Path) -> None:
        self.root, self.told = root, list[tuple[str, str]]()
        self.system = System(str(root))
        self.put("proc/self/mountinfo", MOUNTINFO)
        self.put("proc/locks", NLM + OTHERS)
        self.put("proc/fs/nfsd/threads", "8\n")
        for name, comm in ((700, "lockd"), (701, "nfsd")):
            self.put(f"proc/{name}/comm", f"{comm}\n")
            self.put(f"proc/{name}/cmdline", "")
            self.put(f"proc/{name}/stat", f"{name} ({comm}) S {'1 ' * 40}")
            self.put(f"proc/{name}/status", "SigIgn:\tffffffffffffffff\nSigCgt:\t0\n")
        self._files: dict[str, Callable[[], object]] = {}
        self._threads: list[threading.Thread] = []
        self.stopping = False
        self.answer("fs/nfsd/unlock_filesystem", lambda: self.put("proc/locks", OTHERS))
        for cache in ("auth.unix.ip", "nfsd.fh", "nfsd.export"):
            self.answer(f"net/rpc/{cache}/flush", lambda: None)

    def put(self, path: str, text: str) -> None:
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        temporary = where.with_name(f".{where.name}")
        temporary.write_text(text)
        temporary.rename(where)

    def answer(self, path: str, action: Callable[[], object]) -> None:
        """Have whatever is written to the file remembered and followed by the action."""
        first = path not in self._files
        self._files[path] = action
        where = self.root / "proc" / path
        if first:
            where.parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(where)
            self._threads.append(threading.Thread(target=self._serve, args=(path, where)))
            self._threads[-1].start()

    def _serve(self, path: str, where: Path) -> None:
        while True:
            text = where.read_text()
            if text:
                self._files[path]()
                self.told.append((path, text))
            if self.stopping:
                return

    def client(self, number: int, states: str) -> None:
        self.put(f"proc/fs/nfsd/clients/{number}/info", 'address: "10.0.0.7:1021"\n')
        self.put(f"proc/fs/nfsd/clients/{number}/states", states)
        self.answer(f"fs/nfsd/clients/{number}/ctl",
                    lambda: self.put(f"proc/fs/nfsd/clients/{number}/states", ""))

    def release(self, wanted: Wanted = WANTED, patience: float = 10.0) -> list[str]:
        return release.release(self.system, wanted, self.system.monotonic() + patience)

    def asked(self) -> set[str]:
        """What was written in all, without the flushes, whose numbers are times."""
        self.end()
        return {f"{path}: {text}" for path, text in self.told if "flush" not in path}

    def end(self) -> None:
        self.stopping = True
        for path, thread in zip(self._files, self._threads):
            while thread.is_alive():  # an open for writing that nobody reads yet is refused
                try:
                    os.close(os.open(self.root / "proc" / path, os.O_WRONLY | os.O_NONBLOCK))
                except OSError:
                    pass
                thread.join(0.01)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.end()


def test_locks_go_and_only_ours(node: Node) -> None:
    assert node.release() == []
    assert node.asked() == {"fs/nfsd/unlock_filesystem: /srv/nfs\n"}
    flushed = {path.split("/")[2] for path, text in node.told if text.strip().isdigit()}
    assert flushed == {"auth.unix.ip", "nfsd.fh", "nfsd.export"}
    assert (node.root / "proc/locks").read_text() == OTHERS


def test_a_mount_point_with_blanks_is_written_as_the_kernel_reads_it(node: Node) -> None:
    node.put("proc/self/mountinfo", MOUNTINFO.replace("/srv/nfs", "/srv/n\\040f"))
    assert node.release(Wanted((("/srv/n f", DEVICE),))) == []
    assert node.asked() == {"fs/nfsd/unlock_filesystem: /srv/n\\040f\n"}


def test_an_address_that_is_still_here(node: Node) -> None:
    """127.0.0.1 is always here: it stands for the service's."""
    (reason,) = node.release(Wanted(((POINT, DEVICE),), frozenset({"127.0.0.1"})))
    assert "127.0.0.1 is still on this node" in reason
    assert not node.asked() and not node.told


def test_a_kernel_that_does_not_unlock(node: Node) -> None:
    node.answer("fs/nfsd/unlock_filesystem", lambda: None)
    (reason,) = node.release(patience=0.0)
    assert reason == "/srv/nfs: 1 NLM lock left on inode 131 (lockd)"
    assert "fs/nfsd/unlock_filesystem: /srv/nfs\n" in node.asked()


def test_it_is_tried_again_until_it_works(node: Node) -> None:
    def second() -> None:
        if node.told.count(("fs/nfsd/unlock_filesystem", "/srv/nfs\n")):
            node.put("proc/locks", OTHERS)

    node.answer("fs/nfsd/unlock_filesystem", second)
    assert node.release() == []


def test_nfsd_has_stopped(node: Node) -> None:
    """unlock_filesystem gives EIO then, as /proc/self/mem does at address 0; lockd has let go."""
    node.put("proc/locks", OTHERS)
    where = node.root / "proc/fs/nfsd/unlock_filesystem"
    where.rename(where.with_name("fifo"))
    where.symlink_to("/proc/self/mem")
    assert node.release(patience=0.0) == []
    where.with_name("fifo").rename(where)


def test_no_nfs_in_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTINFO)
    assert release.release(System(str(tmp_path)), WANTED, 0.0) == []


def test_a_kernel_that_keeps_nfsv4_state(node: Node) -> None:
    node.client(5, STATE)
    node.client(6, STATE.replace("08:11", "08:21"))
    assert node.release(Wanted(((POINT, DEVICE),), records_kept=True)) == []
    assert "fs/nfsd/clients/5/ctl: expire\n" in node.asked()
    assert "fs/nfsd/clients/6/ctl: expire\n" not in node.asked()


def test_nfsv4_state_without_a_record_stays(node: Node) -> None:
    """Expiring deletes the client's recovery record: its lock would be lost for good."""
    node.client(5, STATE)
    node.put("proc/locks", OTHERS)
    (reason,) = node.release(patience=0.0)
    assert reason == "/srv/nfs: NFSv4 client 10.0.0.7 left 1 open on db/data"
    assert not [line for line in node.asked() if "ctl" in line]


def test_lockd_is_killed_where_it_helps(node: Node) -> None:
    """A program stands for the kernel thread of a kernel that has no unlock_filesystem."""
    node.answer("fs/nfsd/unlock_filesystem", lambda: None)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as lockd:
        node.put(f"proc/{lockd.pid}/comm", "lockd\n")
        node.put(f"proc/{lockd.pid}/cmdline", "")
        node.put(f"proc/{lockd.pid}/stat", f"{lockd.pid} (lockd) S {'1 ' * 40}")
        node.put(f"proc/{lockd.pid}/status", "SigIgn:\tfffffffffffffeff\nSigCgt:\t100\n")
        node.put("proc/700/comm", "nfsd\n")
        node.put("proc/locks", NLM.replace("700", str(lockd.pid)))
        assert node.release(Wanted(((POINT, DEVICE),), others=("mail",)), 0.0)
        assert node.release(Wanted(((POINT, DEVICE),), lockd_kill="never"), 0.0)
        assert lockd.poll() is None
        assert node.release(Wanted(((POINT, DEVICE),)), 0.0)
        assert lockd.wait() == -9


def test_processes_that_use_the_mount(tmp_path: Path) -> None:
    """Open file, working directory, mapped file; and nobody who is elsewhere."""
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").write_text("x")
    inside = tmp_path / "in/file"
    inside.write_text("x" * 4096)
    programs = {
        "has open": f"f = open({str(inside)!r})", "works in": f"os.chdir({str(inside.parent)!r})",
        "has mapped": f"import mmap; f = open({str(inside)!r}); m = mmap.mmap(f.fileno(), 0, "
                      "prot=mmap.PROT_READ); f.close()",
        "nothing": f"f = open({str(tmp_path / 'outside')!r})"}
    started = {}
    for use, text in programs.items():
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os; {text}; print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        started[use] = process
    found = holders.processes(System(), str(inside.parent))
    for process in started.values():
        process.communicate()
    for use in ("has open", "works in"):
        assert [line for line in found if f"(pid {started[use].pid}) {use} {inside.parent}" in line]
    # mmap.mmap keeps a descriptor of its own: open or mapped, the process is found.
    assert [line for line in found if f"(pid {started['has mapped'].pid}) " in line]
    assert not [line for line in found if f"(pid {started['nothing'].pid})" in line]


NFS = "40 22 0:50 / /mnt/{0} rw - nfs{1} nas:/x rw,{2},addr={3}\n"


@pytest.mark.parametrize(("kind", "options", "address", "words"), [
    ("", "vers=3,local_lock=none", "10.0.0.9", "NFSv3 mount of nas:/x (2 locks)"),
    ("", "vers=3,nolock,local_lock=all", "10.0.0.9", ""),
    ("", "vers=3,local_lock=posix", "10.0.0.9", "NFSv3 mount of nas:/x (2 locks)"),
    ("4", "vers=4.2", "10.0.0.9", ""), ("4", "vers=4.2", "192.0.2.10", "own address 192.0.2.10"),
    ("", "vers=3,nolock", "192.0.2.10", "own address 192.0.2.10"),
    ("4", "vers=4.2", "2001:db8:0::10", "own address 2001:db8:0::10")])
def test_the_nodes_own_nfs_mounts(
    node: Node, kind: str, options: str, address: str, words: str
) -> None:
    node.put("proc/self/mountinfo", MOUNTINFO + NFS.format("a", kind, options, address))
    node.put("proc/locks", NLM + "".join(
        f"{number}: POSIX  ADVISORY  WRITE 77 00:32:{number} 0 EOF\n" for number in (8, 9)))
    found = clients.complaints(node.system, ("192.0.2.10", "2001:db8::10"))
    assert words in "".join(found)
    assert bool(found) is bool(words)
    assert clients.own_locks(node.system) == (2 if "NFSv3" in words else 0)


def test_exports_that_are_still_there(node: Node) -> None:
    node.put("var/lib/nfs/etab", "/srv/nfs/a\\040b\t*(rw)\n/srv/nfs/a\\040b\tx(ro)\n/home\t*(rw)\n")
    assert holders.exports(node.system, POINT) == ["/srv/nfs: /srv/nfs/a b is still exported"]
