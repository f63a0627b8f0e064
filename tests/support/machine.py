# SPDX-License-Identifier: GPL-2.0-or-later
"""Test machines: namespaces with a root, a network, a hostname and processes of their own.

`World` is the outer set of namespaces: a bridge, and a tmpfs for the disk images. Its first process
dies with the process that made it, and with it everything else: machines, daemons, mounts, loop
devices. `Machine` is one machine in it. Nothing here knows about NFS.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from .wait import PATIENCE, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = (
    "ip", "losetup", "mkfs.ext4", "mount", "nsenter", "pivot_root", "rpc.statd", "rpcbind",
    "setpriv", "sm-notify", "strace", "umount", "unshare",
)  # fmt: skip

_MEDIA = "/media"  # in the world's mount namespace: a tmpfs, gone with it
_IMAGES = f"{_MEDIA}/images"
_INIT = str(CHECKOUT / "tests/support/machine_init.py")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_libc = ctypes.CDLL(None, use_errno=True)
#: Runs a command that is killed when its parent dies (prctl(2), PR_SET_PDEATHSIG).
_LEASH = ("setpriv", "--pdeathsig", "KILL", "--")
_CLONE_NEWNET = 0x40000000
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2


def missing_tools() -> list[str]:
    """Return the names of the commands that are needed here and not installed."""
    return [name for name in NEEDED if shutil.which(name, path=_PATH) is None]


@contextmanager
def inside_network(pid: int) -> Iterator[None]:
    """Run the body in the network namespace of pid: sockets made there stay in it."""
    with open("/proc/self/ns/net") as here, open(f"/proc/{pid}/ns/net") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(here.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _boot(prefix: Sequence[str], config: Mapping[str, object]) -> tuple[subprocess.Popen[str], int]:
    """Start an init in new namespaces; return (outermost process, PID of the init here)."""
    argv = [
        *_LEASH, *prefix, "unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork",
        "--kill-child", "/usr/bin/python3", "-I", _INIT, json.dumps(config),
    ]  # fmt: skip
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
    )
    assert process.stdout and process.stderr
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"{config['name']} did not start: {process.stderr.read().strip()}")
    chain = psutil.Process(process.pid)
    while children := chain.children():
        (chain,) = children
    return process, chain.pid


class World:
    """The outer namespaces: one per test run."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("the host tests need root: they make namespaces and mounts")
        if missing := missing_tools():
            raise RuntimeError(f"commands missing: {', '.join(missing)}; see `make deps`")
        config = {"name": "world", "world": _MEDIA, "images": _IMAGES}
        self._process, self.pid = _boot([], config)
        self._serial = 0
        self.ip("link", "add", "bridge", "type", "bridge")
        self.ip("link", "set", "bridge", "up")

    def ip(self, *arguments: str) -> None:
        """Run ip(8) in the world's network namespace; PIDs are the runner's."""
        argv = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", *arguments]
        subprocess.run(argv, check=True)

    def next_serial(self) -> int:
        """Return a number not used before in this world."""
        self._serial += 1
        return self._serial

    def end(self) -> None:
        """Kill everything in the world."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.communicate()

    def image(self, megabytes: int = 16) -> Image:
        """Return a new ext4 image, to be mounted on one machine at a time."""
        image = self.place()
        shown = self.seen(image.path)
        with open(shown, "wb") as file:
            file.truncate(megabytes << 20)
        options = ["-q", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0"]
        subprocess.run(["mkfs.ext4", *options, str(shown)], check=True, env={"PATH": _PATH})
        return image

    def place(self) -> Image:
        """Return a path for a new image, which is to be written."""
        return Image(self, f"{_IMAGES}/disk{self.next_serial()}")

    def seen(self, path: str) -> Path:
        """Return a path by which the runner reaches a file of the world."""
        return Path(f"/proc/{self.pid}/root{path}")


class Image:
    """The shared disk. `path` is the same on every machine; `loop` its device while mounted."""

    def __init__(self, world: World, path: str) -> None:
        self.world = world
        self.path = path
        self.loop: str | None = None

    def busy(self) -> bool:
        """Return whether the kernel still has the image attached, that is: mounted somewhere."""
        try:
            backing = Path(f"/sys/block/{self.loop}/loop/backing_file").read_text()
        except OSError:
            return False
        return backing.strip().endswith(os.path.basename(self.path))


class Machine:
    """One machine. Its processes, files and addresses are gone when it is killed."""

    def __init__(self, world: World, name: str, addresses: Sequence[str], hosts: str = "") -> None:
        self.world = world
        self.name = name
        self.addresses = tuple(addresses)
        serial = world.next_serial()
        config = {
            "name": name,
            "scratch": f"{_MEDIA}/{name}.{serial}",
            "keep": [_IMAGES],
            "read_only": sorted({str(CHECKOUT), sys.prefix} - {"/usr"}),
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n{hosts}",
        }
        outer = ["nsenter", "-t", str(world.pid), "--all", "--"]
        self._process, self.pid = _boot(outer, config)
        self._spawned: list[subprocess.Popen[str]] = []
        self._mounts: dict[str, Image] = {}
        peer = f"v{serial}"
        end = ["type", "veth", "peer", "name", "eth0", "netns", str(self.pid)]
        world.ip("link", "add", peer, "master", "bridge", "up", *end)
        batch = [f"address add {one} dev eth0 {_no_dad(one)}" for one in addresses]
        self.run("ip", "-batch", "-", input="\n".join(["link set eth0 up", *batch]))

    # Processes

    def run(
        self,
        *argv: str,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine and return what it said.

        env: the whole environment but PATH. Raises AssertionError on failure if check is set.
        """
        done = subprocess.run(
            self._enter(argv),
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8", **(env or {})},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise AssertionError(f"{self.name}# {' '.join(argv)}: exit {done.returncode}\n{said}")
        return done

    def spawn(
        self, *argv: str, log: str = "/dev/null", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in the foreground; its output is appended to log on the machine."""
        with open(self.path(log), "a") as out:
            process = subprocess.Popen(
                [*_LEASH, *self._enter(argv)],
                env={"PATH": _PATH, "LC_ALL": "C.UTF-8", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
            )
        self._spawned.append(process)
        return process

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--all", "--", *argv]

    def processes(self) -> list[psutil.Process]:
        """Return the machine's live processes but its init and zombies, PIDs as seen here."""
        namespace = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        return [p for p in psutil.process_iter() if p.pid != self.pid and _in(p, namespace)]

    def find(self, *words: str) -> list[psutil.Process]:
        """Return the processes whose command line has all the words as parts of it."""
        found = []
        for process in self.processes():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def local_pid(self, process: psutil.Process) -> int:
        """Return the PID that the machine itself has for the process."""
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
        raise AssertionError(f"no NSpid for {process}")

    def alive(self) -> bool:
        """Return whether the machine is powered on."""
        return self._process.poll() is None

    def power_off(self) -> None:
        """Cut the power: everything on the machine ends at once, with no word to anybody.

        What was not yet durable on the shared disk is lost, as it would be.
        """
        for where in self._mounts:
            if self.path(where).is_mount():
                _drop_unwritten(self.path(where))
        os.kill(self.pid, signal.SIGKILL)
        # nsenter stops itself with a child that is stopped; it must run to reap the dead child.
        for process in self._spawned:
            process.send_signal(signal.SIGCONT)
        self._process.communicate()
        for process in self._spawned:
            process.wait()

    # Files

    def path(self, inside: str) -> Path:
        """Return a path by which the runner reaches a file of the machine."""
        assert inside.startswith("/")
        return Path(f"/proc/{self.pid}/root{inside}")

    def read(self, inside: str) -> str:
        """Return a text file's content, empty if there is none."""
        try:
            return self.path(inside).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def mount(
        self, image: Image, where: str, options: str = "noatime", patience: float = PATIENCE
    ) -> None:
        """Mount the shared image here; raises AssertionError while it is mounted elsewhere."""
        wait_until(lambda: not image.busy(), f"{image.path} free for {self.name}", patience)
        self.path(where).mkdir(parents=True, exist_ok=True)
        self.run("mount", "-o", f"loop,{options}", image.path, where)
        source = self.run("findmnt", "-n", "-o", "SOURCE", where).stdout
        image.loop = os.path.basename(source.strip())
        self._mounts[where] = image

    def fill(self, where: str) -> None:
        """Leave no free block on the filesystem; see empty()."""
        self.run("mkdir", f"{where}/ballast")
        self.run("sh", "-c", f"cat /dev/zero > {where}/ballast/big", check=False)
        self.run("sync", "-f", where)
        small = "n=0; while echo full > $0/$n; do n=$((n + 1)); done"
        self.run("sh", "-c", small, f"{where}/ballast", check=False)
        free = os.statvfs(self.path(where)).f_bavail
        assert not free, f"{free} blocks of {where} are still free"

    def empty(self, where: str) -> None:
        """Undo fill()."""
        self.run("rm", "-r", f"{where}/ballast")
        self.run("sync", "-f", where)

    def lose_disk(self, where: str) -> None:
        """Make every further access to the mounted image fail with EIO."""
        _drop_unwritten(self.path(where))

    def umount(self, where: str) -> None:
        """Unmount. Raises AssertionError if something is open on the filesystem."""
        self.run("umount", where)
        image = self._mounts.pop(where)
        wait_until(lambda: not image.busy(), f"{where} gone from {self.name}")

    # Network

    def add_ip(self, address: str) -> None:
        """Take over an address, and say so to the neighbours, as IPaddr2 does."""
        plain = ipaddress.ip_interface(address)
        self.run("ip", "address", "add", address, "dev", "eth0", *_no_dad(address).split())
        if plain.version == 4:
            with self.network():
                announce("eth0", plain.ip.packed)

    def del_ip(self, address: str) -> None:
        """Give an address away."""
        self.run("ip", "address", "del", address, "dev", "eth0")

    def mac(self) -> str:
        """The Ethernet address of eth0."""
        return self.run("cat", "/sys/class/net/eth0/address").stdout.strip()

    def network(self) -> object:
        """Return a context in which new sockets are the machine's."""
        return inside_network(self.pid)

    def socket(self, family: int, kind: int) -> socket.socket:
        """Return a socket in the machine's network namespace."""
        with inside_network(self.pid):
            return socket.socket(family, kind)


def _drop_unwritten(mounted: Path) -> None:
    """Shut an ext4 filesystem down at once, without writing its log (fs/ext4/ioctl.c)."""
    descriptor = os.open(mounted, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
    finally:
        os.close(descriptor)


def _in(process: psutil.Process, namespace: int) -> bool:
    try:
        inside = os.stat(f"/proc/{process.pid}/ns/pid").st_ino == namespace
        return inside and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _no_dad(address: str) -> str:
    return "nodad" if ":" in address else ""


def announce(device: str, address: bytes) -> None:
    """Send a gratuitous ARP request for an IPv4 address (RFC 5227 section 3)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0x0806))
        mac = sock.getsockname()[4]
        head = b"\xff" * 6 + mac + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
        sock.send(head + mac + address + bytes(6) + address)
