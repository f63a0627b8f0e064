# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process of a test machine: makes its root filesystem, then reaps orphans for ever.

Runs as PID 1 of new mount, network, UTS, IPC and PID namespaces; argv[1] is a JSON object, made in
machine.py. The root is an overlay of the host's root with a tmpfs above it: nothing that is written
on the machine, wherever it is, reaches the host. Standard library only: it runs before there is a
checkout to import from.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys

NSSWITCH = (
    "passwd: files\ngroup: files\nhosts: files\nprotocols: files\nservices: files\nrpc: files\n"
)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def make_root(scratch: str, keep: list[str], read_only: list[str]) -> str:
    """Mount the new root below scratch and return its path."""
    root = f"{scratch}/root"
    for name in ("upper", "work", "root"):
        os.makedirs(f"{scratch}/{name}")
    layers = f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work"
    mount("-t", "overlay", "overlay", "-o", layers, root)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("-t", "sysfs", "sysfs", f"{root}/sys")
    mount("--rbind", "/dev", f"{root}/dev")
    for path in ("/run", "/tmp", "/mnt", "/var/lib/nfs"):
        os.makedirs(root + path, exist_ok=True)
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root + path)
    os.chmod(f"{root}/tmp", 0o1777)
    for path in keep + read_only:
        os.makedirs(root + path, exist_ok=True)
        mount("--bind", path, root + path)
    for path in read_only:
        mount("-o", "remount,bind,ro", root + path)
    return root


def enter(root: str) -> None:
    """Make root the root of this mount namespace and forget the old one."""
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    subprocess.run(["umount", "-l", "."], check=True)
    os.chdir("/")


def furnish(hosts: str) -> None:
    """Write the files that a freshly installed node has, with the owners that Debian gives them.

    /var/lib/nfs itself is root's (nfs-common.postinst; CVE-2019-3689), and so is what nfsdcld needs
    below it: that daemon has no capabilities. The empty state file is Debian's, too.
    """
    statd = pwd.getpwnam("statd")
    for path, text in {
        "/etc/hosts": hosts,
        "/etc/nsswitch.conf": NSSWITCH,
        "/etc/resolv.conf": "",
        "/etc/nfs.conf": "",
        "/var/lib/nfs/etab": "",
        "/var/lib/nfs/rmtab": "",
        "/var/lib/nfs/state": "",
    }.items():
        if os.path.islink(path):
            os.unlink(path)
        with open(path, "w") as file:
            file.write(text)
    os.makedirs("/run/rpcbind", exist_ok=True)
    os.chmod("/var/lib/nfs", 0o755)
    os.chown("/var/lib/nfs/state", statd.pw_uid, statd.pw_gid)
    for name in ("sm", "sm.bak"):
        os.mkdir(f"/var/lib/nfs/{name}", 0o700)
        os.chown(f"/var/lib/nfs/{name}", statd.pw_uid, statd.pw_gid)


#: Switches of the whole kernel that the product may set: each machine gets files of its own.
SWITCHES = {"/proc/sys/fs/leases-enable": "1\n"}


def separate() -> None:
    """Put files in the places of the kernel's switches."""
    for path, text in SWITCHES.items():
        own = "/var/tmp/" + os.path.basename(path)
        with open(own, "w") as file:
            file.write(text)
        mount("--bind", own, path)


def reap() -> None:
    """Wait for children for ever, as the first process of a PID namespace must."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait([signal.SIGCHLD])


def main() -> None:
    config = json.loads(sys.argv[1])
    mount("--make-rprivate", "/")
    if config.get("world"):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", config["world"])
        mount("-t", "proc", "proc", "/proc")
        os.mkdir(config["images"])
    else:
        enter(make_root(config["scratch"], config["keep"], config["read_only"]))
        furnish(config["hosts"])
        separate()
    socket.sethostname(config["name"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    quiet = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(quiet, descriptor)
    reap()


if __name__ == "__main__":
    main()
