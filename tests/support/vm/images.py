# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the machines' disk image, kernel and initramfs from Debian packages, once for each input.

`python3 -m tests.support.vm.images SUITE` prints the folder of the image, and builds it when it is
not there. The folder's name ends in a hash of everything that the image is made from (this file,
`guest/` and the suite): a changed input gives a new image, an unchanged one costs nothing. The
product is *not* in the image: tests send it to the running machines.

Everything that mounts runs in a mount and a process namespace of its own: no mount, process or
half-built image is left behind, whatever stops the build.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[3]
GUEST = Path(__file__).resolve().parent / "guest"
CACHE = Path(os.environ.get("NFSLOCK_VM_CACHE", str(REPOSITORY / ".cache" / "vm")))
MIRROR = "http://deb.debian.org/debian"
SUITES = {"bookworm": "bookworm", "trixie": "trixie", "unstable": "sid"}

#: Debian packages that a bare host needs to build images and to run the machines.
HOST_PACKAGES = (
    "debootstrap", "debian-archive-keyring", "e2fsprogs", "qemu-system-x86", "qemu-utils",
    "lz4", "util-linux", "xz-utils", "zstd",
)  # fmt: skip
HOST_COMMANDS = (
    "debootstrap", "mkfs.ext4", "qemu-system-x86_64", "qemu-img", "lz4", "unshare", "xz",
    "zstd",
)  # fmt: skip
#: How a kernel's payload begins, and what takes it apart.
UNPACKERS = {
    b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz", b"\x02\x21\x4c\x18": "lz4",
}  # fmt: skip

#: Modules that the initramfs loads, in this order, before the root disk can be mounted.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "ext4")
APT = (
    "apt-get", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io",
    "-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Languages=none",
)  # fmt: skip
DPKG_EXCLUDES = """\
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*
"""
#: Started by the cluster manager or by a test, never at boot.
NOT_AT_BOOT = (
    "corosync.service", "pacemaker.service", "nfs-server.service", "nfs-kernel-server.service",
    "rpc-statd.service",
    "rpc-statd-notify.service",
    "nfsdcld.service",
    "fsidd.service",
    "krb5-kdc.service",
    "krb5-admin-server.service",
)  # fmt: skip


class Image(NamedTuple):
    """A built image: `folder` holds root.ext4, vmlinux, initrd and manifest.json (versions)."""

    suite: str
    folder: Path

    @property
    def versions(self) -> dict[str, str]:
        manifest: dict[str, str] = json.loads((self.folder / "manifest.json").read_text())
        return manifest


def entries(name: str) -> list[str]:
    """The lines of a list below guest/, without comments."""
    lines = (GUEST / name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def digest(paths: Iterable[Path], *texts: str) -> str:
    """A short hash of these files' names and contents, and of these texts."""
    found = hashlib.sha256("\0".join(texts).encode())
    for path in paths:
        found.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def sources(*patterns: str) -> list[Path]:
    """The files of the checkout that match these patterns."""
    return [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]


def fingerprint(suite: str) -> str:
    """Hash of every input of the image of `suite`."""
    guest = [p for p in GUEST.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return digest([Path(__file__), *sorted(guest)], suite)


def missing_commands() -> list[str]:
    """Commands of the host packages that this machine does not have."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in HOST_COMMANDS if shutil.which(name, path=search) is None]


def image(suite: str) -> Image:
    """The image of `suite`, built when there is none for its inputs (one builder at a time).

    Raises RuntimeError with the failed command's last lines.
    """
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}: one of {', '.join(SUITES)}")
    folder = CACHE / "images" / f"{suite}-{fingerprint(suite)}"
    if (folder / "manifest.json").exists():
        return Image(suite, folder)
    if missing_commands():
        raise RuntimeError(
            f"missing on this host: {', '.join(missing_commands())}: "
            f"apt-get install {' '.join(HOST_PACKAGES)}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "manifest.json").exists():
            for old in folder.parent.glob(f"{suite}-*"):
                shutil.rmtree(old)
            work = folder.parent / f"{suite}-building"
            command = [
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                sys.executable, "-m", "tests.support.vm.images",
                "--build", suite, str(work),
            ]  # fmt: skip
            try:
                subprocess.run(command, cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL)
                work.rename(folder)
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"the image of {suite} could not be built") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Image(suite, folder)


def execute(*argv: str, **more: object) -> str:
    """Run a command of the build; its output is shown only when it fails."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive",
    }  # fmt: skip
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, text=True, errors="replace", **more,  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(f"{' '.join(argv)}\n{done.stdout[-4000:]}\n")
        raise SystemExit(f"rc {done.returncode}: {argv[0]}")
    return str(done.stdout)


def root_tree(suite: str, tree: Path) -> None:
    """debootstrap and apt: the packages, none of their services started."""
    execute("debootstrap", "--variant=minbase", SUITES[suite], str(tree), MIRROR)
    for name in ("proc", "sys"):
        execute("mount", "-t", {"proc": "proc", "sys": "sysfs"}[name], name, str(tree / name))
    (tree / "etc/dpkg/dpkg.cfg.d/excludes").write_text(DPKG_EXCLUDES)
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    execute("chroot", str(tree), *APT, "update")
    execute("chroot", str(tree), *APT, "install", *entries("packages"))


def kernel(tree: Path, work: Path) -> str:
    """Unpack the stock kernel beside the tree, copy the modules wanted; returns its version."""
    chroot = ("chroot", str(tree))
    depends = execute(*chroot, "apt-cache", "depends", "linux-image-cloud-amd64")
    package = re.findall(r"Depends: (linux-image-\S+)", depends)[0]
    more = re.findall(
        r"Depends: (linux-(?:binary|modules)-\S+)",
        execute(*chroot, "apt-cache", "depends", package),
    )
    execute(*chroot, "sh", "-c", f"cd /tmp && apt-get -q download {' '.join([package, *more])}")
    unpacked = work / "kernel"
    for archive in (tree / "tmp").glob("*.deb"):
        execute("dpkg-deb", "-x", str(archive), str(unpacked))
        archive.unlink()
    modules = next(
        p for base in ("lib/modules", "usr/lib/modules") for p in (unpacked / base).glob("*")
    )
    version = modules.name
    compressed = next(
        p for p in (unpacked / f"boot/vmlinuz-{version}", modules / "vmlinuz") if p.exists()
    )
    (work / "out/vmlinux").write_bytes(uncompressed_kernel(compressed.read_bytes()))
    target = tree / "usr/lib/modules" / version
    for name in entries("modules"):
        source, copy = modules / "kernel" / name, target / "kernel" / name
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            for one in source.parent.glob(source.name + "*"):
                shutil.copy(one, copy.parent)
    for listing in modules.glob("modules.builtin*"):
        shutil.copy(listing, target)
    if (modules / "modules.order").exists():
        shutil.copy(modules / "modules.order", target)
    if not (target / "modules.builtin").exists():
        # From 7.x on Debian's packages do not list what is built in. The boot proves the guess.
        there = {path.name.partition(".")[0].replace("-", "_") for path in modules.rglob("*.ko*")}
        (target / "modules.builtin").write_text(
            "".join(f"kernel/{name}.ko\n" for name in BOOT_MODULES if name not in there)
        )
    for packed in target.rglob("*.ko.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    execute(*chroot, "depmod", version)
    return version


def uncompressed_kernel(bzimage: bytes) -> bytes:
    """The ELF image within a bzImage, so that no machine has to decompress it under emulation.

    Payload offset and length stand in the setup header (Documentation/arch/x86/boot.rst, 0x248).
    """
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    tool = UNPACKERS.get(payload[:4])
    if tool is None:
        raise SystemExit(f"the kernel is packed in an unknown way: {payload[:8].hex()}")
    # The last four bytes are the uncompressed size, which no tool takes for its own.
    done = subprocess.run([tool, "-dc"], input=payload[:-4], stdout=subprocess.PIPE, check=False)
    if done.stdout[:4] != b"\x7fELF":
        raise SystemExit(f"no kernel came out of {tool}: {len(done.stdout)} bytes")
    return done.stdout


def configure(tree: Path) -> None:
    """What makes a machine of the rig: control agent, fence agent, units, names, journal."""
    units = tree / "etc/systemd/system"
    for name in entries("masked-units"):
        link = units / name
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to("/dev/null")
    # Each generator runs at every daemon-reload, and agents reload: 3 s then, 1 s without them.
    for generator in (tree / "usr/lib/systemd/system-generators").iterdir():
        if not generator.name.startswith(("nfs", "rpc")):
            mask = tree / "etc/systemd/system-generators" / generator.name
            mask.parent.mkdir(exist_ok=True)
            mask.symlink_to("/dev/null")
    installed = execute("chroot", str(tree), "systemctl", "list-unit-files", "--no-legend")
    for name in NOT_AT_BOOT:
        if name in installed:
            execute("chroot", str(tree), "systemctl", "disable", name)
    files = GUEST / "files"
    for source in sorted(p for p in files.rglob("*") if p.is_file()):
        target = tree / source.relative_to(files)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        target.chmod(0o755 if source.read_bytes()[:2] == b"#!" else 0o644)
    execute("chroot", str(tree), "systemctl", "enable", "rig-control.service")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").write_text("")
    (tree / "etc/machine-id").write_text("")  # anything else would be a first boot, with presets
    (tree / "etc/fstab").write_text("")
    for name in ("srv/nfs", "mnt/nfs"):
        (tree / name).mkdir(parents=True, exist_ok=True)


def initramfs(tree: Path, version: str, work: Path) -> None:
    """busybox, the modules in modprobe's order and `guest/init`; uncompressed, about 3 MiB."""
    base = tree / "tmp/initrd"
    for name in ("bin", "modules", "proc", "sys", "dev", "root"):
        (base / name).mkdir(parents=True)
    shutil.copy(
        next(p for p in (tree / "bin/busybox", tree / "usr/bin/busybox") if p.exists()),
        base / "bin/busybox",
    )
    order: list[str] = []
    for module in BOOT_MODULES:
        shown = execute("chroot", str(tree), "modprobe", "-S", version, "--show-depends", module)
        for path in re.findall(r"^insmod (\S+)", shown, re.M):
            if os.path.basename(path) not in order:
                order.append(os.path.basename(path))
                shutil.copy(tree / path.lstrip("/"), base / "modules")
    (base / "modules/order").write_text("".join(f"{name}\n" for name in order))
    shutil.copy(GUEST / "init", base / "init")
    (base / "init").chmod(0o755)
    pack = "cd /tmp/initrd && find . | busybox cpio -o -H newc > /tmp/initrd.cpio"
    execute("chroot", str(tree), "busybox", "sh", "-c", pack)
    shutil.move(str(tree / "tmp/initrd.cpio"), work / "out/initrd")
    shutil.rmtree(base)


def versions(tree: Path, release: str) -> dict[str, str]:
    """Versions that the table of results names."""
    names = ("nfs-kernel-server", "pacemaker", "corosync", "resource-agents", "systemd", "python3")
    shown = execute(
        "chroot", str(tree), "dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names
    )
    found = dict(line.split() for line in shown.splitlines())
    return {"kernel": release, **found, "built": time.strftime("%Y-%m-%d", time.gmtime())}


def build(suite: str, work: Path) -> None:
    """Everything, in `work`; runs inside the namespaces that image() made."""
    start = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    (work / "out").mkdir(parents=True)
    root_tree(suite, tree)
    release = kernel(tree, work)
    configure(tree)
    initramfs(tree, release, work)
    manifest = versions(tree, release)
    for name in ("proc", "sys"):
        execute("umount", str(tree / name))
    for litter in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        for path in (tree / litter).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tree / "usr/sbin/policy-rc.d").unlink()
    # No mount is needed to fill it; the machines write to overlays only.
    execute("mkfs.ext4", "-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,nodiscard",
            "-d", str(tree), str(work / "out/root.ext4"), "1536M")  # fmt: skip
    shutil.rmtree(tree)
    shutil.rmtree(work / "kernel")
    for path in (work / "out").iterdir():
        path.rename(work / path.name)
    (work / "out").rmdir()
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    sys.stderr.write(f"image of {suite}: {time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build(sys.argv[2], Path(sys.argv[3]))
    else:
        for wanted in sys.argv[1:] or ["trixie"]:
            print(image(wanted).folder)
