# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine and what can be done to it: QEMU in software emulation, no /dev/kvm needed.

A machine knows nothing about NFS or clusters. Its power cut is SIGKILL of its QEMU: what its kernel
had not yet written is gone, what the host had received is kept, as with a disk that keeps its word.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable

from ..wait import wait_until
from . import processes
from .control import Control, Done, Event, Failed, Gone
from .images import Image
from .layout import Role, mac
from .qmp import Monitor
from .switch import Switch


def tsc_khz(cpuinfo: str) -> int:
    """The frequency (kHz) of this machine's time-stamp counter by /proc/cpuinfo; 0: not known.

    The emulated one runs at the same. Linux's delay loop is timed by it: bogomips is twice its MHz
    (init/calibrate.c, arch/x86/kernel/tsc.c).
    """
    found = re.search(r"^bogomips\s*:\s*([\d.]+)$", cpuinfo, re.M)
    steady = re.search(r"^flags\s*:.* constant_tsc( |$)", cpuinfo, re.M)
    return round(500 * float(found[1])) if found and steady else 0


KERNEL_WORDS = (
    "console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=1 apparmor=0 selinux=0 "
    "audit=0 no_timer_check tsc=reliable panic=1 nowatchdog rcupdate.rcu_expedited=1 "
    "systemd.show_status=0 init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off "
    "cgroup_disable=memory psi=0 "
    # QEMU keeps what it has translated by virtual address: with programs at another place each time
    # it translates them anew, and /bin/true takes 36 ms instead of 6.
    "norandmaps"
)
#: A kernel that measures the counter while the host is busy may be wrong by a factor of seven, and
#: so are its clock and all its time limits from then on.
if _khz := tsc_khz(Path("/proc/cpuinfo").read_text()):
    KERNEL_WORDS += f" tsc_early_khz={_khz}"
#: Without cmpxchg16b: QEMU 7.2's emulation of it leaves wrong flags behind, and one boot in four
#: of a 6.12 kernel died of it (double fault after this_cpu_cmpxchg128; without it none of 24).
CPU = "qemu64,-cx16"
BOOT_PATIENCE = 180.0


def _listens(path: Path) -> bool:
    """Whether a Unix socket takes connections (/proc/net/unix: flag __SO_ACCEPTCON)."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f" {path}") and line.split()[3] == "00010000" for line in lines)


class Machine:
    """`folder` holds the overlay disk, sockets, console and journal of this machine."""

    def __init__(
        self, role: Role, image: Image, folder: Path, switch: Switch, shared: Path | None
    ) -> None:
        self.role = role
        self.name = role.name
        self.image = image
        self.folder = folder
        self.switch = switch
        self.shared = shared
        #: Where the writes and flushes of the shared disk are recorded from the next power-on on.
        self.recorder: Path | None = None
        self.listeners: list[Callable[[Event], None]] = []
        self.on_fence: Callable[[str], str] = lambda request: "error nobody fences here"
        self.frozen = False
        #: When the power was cut last (host's monotonic time).
        self.ended_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._monitor: Monitor | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for network in role.addresses:
            switch.port(f"{self.name}/{network}", self.folder / f"{network}.sock")

    # -- power

    @property
    def overlay(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def control(self) -> Control:
        if self._control is None:
            raise Gone(f"{self.name} is switched off")
        return self._control

    @property
    def monitor(self) -> Monitor:
        if self._monitor is None:
            raise Gone(f"{self.name} is switched off")
        return self._monitor

    def boot(self, wait: bool = True) -> None:
        """Switch on, from the overlay disk as it is (a fresh one when there is none)."""
        if not self.overlay.exists():
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
                 "-b", str(self.image.folder / "root.ext4"), str(self.overlay)], check=True,
            )  # fmt: skip
        self.power_on([])
        if wait:
            self.wait_booted()

    def wait_booted(self) -> None:
        """Wait until systemd has reached its default target."""
        try:
            self.control.hello(BOOT_PATIENCE)
        except Gone as error:
            raise Gone(f"{error}\n{self.last_words()}") from error
        self.wait_until("systemctl -q is-active multi-user.target", BOOT_PATIENCE)

    def power_on(self, more: list[str]) -> None:
        """Start QEMU and connect to its monitor and channels; the machine may still be stopped."""
        assert not self.alive, f"{self.name} is on"
        for name in ("monitor", "control", "fence"):
            (self.folder / f"{name}.sock").unlink(missing_ok=True)
        self.frozen = False
        self._process = processes.start(self._argv() + more, self.folder / "qemu.log")
        sockets = [self.folder / f"{name}.sock" for name in ("monitor", "control", "fence")]
        wait_until(
            lambda: not self.alive or all(_listens(path) for path in sockets),
            f"{self.name}: QEMU makes its sockets",
        )
        if not self.alive:
            raise Gone(f"{self.name}: QEMU ended\n{self.last_words()}")
        self._monitor = Monitor(sockets[0])
        self._control = Control(self.name, sockets[1], self._heard)
        threading.Thread(
            target=self._serve_fence, args=(sockets[2],), name=f"fence {self.name}", daemon=True
        ).start()

    def last_words(self) -> str:
        """The ends of QEMU's own output and of the machine's console."""
        files = [self.folder / name for name in ("qemu.log", "console.log")]
        return "\n".join(f.read_text(errors="replace")[-2000:] for f in files if f.exists())

    def _argv(self) -> list[str]:
        role, folder = self.role, self.folder
        words = f"{KERNEL_WORDS} systemd.hostname={self.name} systemd.machine_id={self._machine_id}"
        devices = []
        for number, (network, address) in enumerate(role.addresses.items()):
            words += f" rig.eth{number}={address}/24"
            path = folder / f"{network}.sock"
            devices += [
                "-netdev", f"stream,id={network},server=off,addr.type=unix,addr.path={path}",
                "-device",
                f"virtio-net-pci,netdev={network},mac={mac(self.name, network)},romfile=",
            ]  # fmt: skip
        if self.shared is not None:
            drive = f"file={self.shared},format=raw"
            if self.recorder is not None:
                # A recording lives as long as this process: nobody needs it on the host's disk.
                self.recorder.write_bytes(b"")
                drive = (f"driver=blklogwrites,file.driver=file,file.filename={self.shared},"
                         f"log.driver=file,log.filename={self.recorder},log.locking=off,"
                         "log.cache.direct=off,log.cache.no-flush=on")
            devices += [
                "-drive", f"{drive},if=none,id=shared,cache=none,file.locking=off,discard=unmap",
                "-device", "virtio-blk-pci,drive=shared,share-rw=on",
            ]  # fmt: skip
        return [
            "qemu-system-x86_64", "-name", self.name, "-M", "q35", "-cpu", CPU, "-smp", "1",
            "-m", str(role.memory), "-accel", "tcg,thread=multi,tb-size=192",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(self.image.folder / "vmlinux"),
            "-initrd", str(self.image.folder / "initrd"), "-append", words,
            "-drive", f"file={self.overlay},format=qcow2,if=none,id=root,cache=unsafe",
            "-device", "virtio-blk-pci,drive=root",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"file,id=console,path={folder}/console.log,append=on",
            "-serial", "chardev:console",
            "-chardev", f"file,id=journal,path={folder}/journal.log,append=on",
            "-device", "virtconsole,chardev=journal",
            "-chardev", f"socket,id=control,path={folder}/control.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=control,name=rig.control",
            "-chardev", f"socket,id=fence,path={folder}/fence.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=fence,name=rig.fence",
            "-qmp", f"unix:{folder}/monitor.sock,server=on,wait=off",
            *devices,
        ]  # fmt: skip

    @property
    def _machine_id(self) -> str:
        return f"{int(mac(self.name, 'data').replace(':', ''), 16):032x}"

    def crash(self) -> None:
        """Power cut: QEMU gets SIGKILL; returns when it is gone."""
        if self._process is not None:
            processes.end(self._process)
            self._process = None
            self.ended_at = time.monotonic()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def reset(self) -> None:
        """The reset button: memory is lost, and the kernel boots again from the disk as it is."""
        # For good: the firmware resets the machine once more by itself.
        self.monitor.command("set-action", reboot="reset")
        self.monitor.command("system_reset")

    def freeze(self) -> None:
        """Stop the machine's processor between two instructions."""
        self.monitor.command("stop")
        self.frozen = True

    def thaw(self) -> None:
        """Let a frozen machine go on; it does not know that time has passed."""
        self.monitor.command("cont")
        self.frozen = False

    def lose_disk(self) -> None:
        """Take the shared disk away, frozen or not: every request to it fails from now on."""
        self.monitor.command("human-monitor-command", **{"command-line": "drive_del shared"})

    # -- networks

    def cut(self, network: str = "data") -> None:
        """Drop every frame from and to this machine on a network ("data" or "cluster")."""
        self.switch.cut(f"{self.name}/{network}")

    def heal(self, network: str = "data") -> None:
        """Undo cut()."""
        self.switch.heal(f"{self.name}/{network}")

    # -- commands and files

    def run(
        self, *argv: str, timeout: float = 60, check: bool = True, env: dict[str, str] | None = None
    ) -> Done:
        """Run a command (one word: a shell line) to its end; raises Failed unless that is rc 0."""
        done = self.control.run(*argv, timeout=timeout, env=env)
        if check and done.rc != 0:
            raise Failed(
                f"{self.name}: {' '.join(argv)}: rc {done.rc}\n{done.out[-2000:]}{done.err[-2000:]}"
            )
        return done

    def begin(
        self, *argv: str, timeout: float = 60, env: dict[str, str] | None = None
    ) -> Future[dict[str, Any]]:
        """Start a command and do not wait for it."""
        words = list(argv) if len(argv) > 1 else ["sh", "-c", argv[0]]
        return self.control.begin("run", argv=words, env=env or {}, limit=timeout)

    def out(self, *argv: str, timeout: float = 60) -> str:
        """What a command prints, without the white space around it."""
        return self.run(*argv, timeout=timeout).out.strip()

    def wait_until(self, condition: str, timeout: float = 60) -> None:
        """Wait, within the machine, until a shell condition is true."""
        loop = f"until {{ {condition}; }} >/dev/null 2>&1; do sleep 0.1; done"
        if self.control.run(loop, timeout=timeout).rc != 0:
            last = self.control.run(condition, timeout=30)
            raise AssertionError(
                f"{self.name}: not within {timeout:g} s: {condition}\n{last.out}{last.err}"
            )

    def read(self, path: str) -> str:
        return self.control.read(path).decode("utf-8", "replace")

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        self.control.write(path, data.encode() if isinstance(data, str) else data, mode)

    def spawn(self, name: str, *argv: str) -> None:
        """Start a program whose lines and end reach the listeners as events."""
        self.control.request("spawn", name=name, argv=list(argv))

    def kill9(self, pattern: str) -> int:
        """SIGKILL every process whose command line matches; returns how many there were."""
        pids = self.control.run("pgrep", "-f", "--", pattern).out.split()
        if pids:
            self.control.run("kill", "-9", *pids)
        return len(pids)

    def fill_disk(self, path: str) -> None:
        """Leave no free block on the file system of `path`; remove PATH/.filler to undo it."""
        # Closing gives unused preallocated blocks back, so once is not enough. ext4 keeps some free
        # blocks for itself: it is full when it takes no more, not even one of its smallest.
        self.run(
            f"cd {path} && while head -c 1024 /dev/zero >> .filler; do "
            "cat /dev/zero >> .filler; sync -f .; done 2>/dev/null; true",
            timeout=120,
        )

    def journal(self, *more: str) -> list[dict[str, Any]]:
        """Journal entries of a running machine, with their priorities."""
        lines = self.run(
            "journalctl", "-q", "-b", "-o", "json", *more, timeout=120
        ).out.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def journal_text(self) -> str:
        """Everything that the machine's journal sent to the host, also after a power cut."""
        path = self.folder / "journal.log"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    # -- channels

    def _heard(self, event: Event) -> None:
        for listener in list(self.listeners):
            listener(event)

    def _serve_fence(self, path: Path) -> None:
        """Answer the fence agent's requests, one line each, as long as this machine lives."""
        with socket.socket(socket.AF_UNIX) as channel:
            try:
                channel.connect(str(path))
                with channel.makefile("rwb") as file:
                    for line in file:
                        file.write(self.on_fence(line.decode().strip()).encode() + b"\n")
                        file.flush()
            except OSError:
                return
