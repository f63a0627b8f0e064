# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to the operating system: files, durable writes, commands, processes, clocks.

Everything below a `System` is found from its `root` and its values, so that the same code runs on
a fake tree, in a mount namespace and for real, and a service can later live in namespaces of its
own. Monitor loads this module: subprocess and ctypes are imported only by the functions that
need them.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Our temporary files start like this: statd and sm-notify skip names with a dot in front.
TEMPORARY = ".nfslock."
#: From this many files on, one syncfs(2) is cheaper than an fsync(2) for each.
_MANY = 32
_NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


class Like:
    """Owner, mode and security label that new files take over from a directory."""

    __slots__ = ("gid", "label", "mode", "uid")

    def __init__(
        self, mode: int = 0o600, uid: int = -1, gid: int = -1, label: bytes | None = None
    ) -> None:
        self.mode, self.uid, self.gid, self.label = mode, uid, gid, label


class System:
    """Where the NFS stack of this node (or of one service) lives."""

    __slots__ = ("boot_id_file", "etab", "nfs_conf", "nonce", "proc", "root", "run_dir",
                 "sm_notify_pids", "statd_dirs", "statd_pids")

    def __init__(self, root: str = "") -> None:
        self.root = root
        self.run_dir = "/run/nfslock"
        self.proc = "/proc"
        self.boot_id_file = "/proc/sys/kernel/random/boot_id"
        self.statd_dirs = ("/var/lib/nfs/statd", "/var/lib/nfs")
        self.statd_pids = ("/run/rpc.statd.pid", "/var/run/rpc.statd.pid")
        self.sm_notify_pids = ("/run/sm-notify.pid", "/var/run/sm-notify.pid")
        self.etab = "/var/lib/nfs/etab"
        self.nfs_conf = ("/etc/nfs.conf", "/etc/nfs.conf.d")
        self.nonce = os.urandom(4).hex()

    # -- reading ---------------------------------------------------------------------------

    def path(self, path: str) -> str:
        """The real path of `path` below this system's root."""
        return self.root + path

    def read(self, path: str, limit: int = 65536) -> bytes:
        """The content of a regular file of at most `limit` bytes.

        Never follows a symbolic link and never blocks on a FIFO or device. Raises OSError as the
        kernel gives it, and ValueError for what is no regular file or is larger.
        """
        fd = os.open(self.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _NOFOLLOW)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path} is no regular file")
            data = b""
            while len(data) <= limit:
                piece = os.read(fd, limit + 1 - len(data))
                data += piece
                # One call for most files; those of proc(5) have no size.
                if not piece or 0 < len(data) == status.st_size <= limit:
                    return data
        finally:
            os.close(fd)
        raise ValueError(f"{path} is larger than {limit} bytes")

    def names(self, directory: str) -> list[str]:
        """The names in a directory; none when it does not exist."""
        try:
            return os.listdir(self.path(directory))
        except FileNotFoundError:
            return []

    def portions(self, directory: str, size: int) -> Iterator[list[str]]:
        """The names in a directory, some at a time: a large one takes long.

        Names that come or go meanwhile may be among them or not. OSError as the kernel gives it.
        """
        with os.scandir(self.path(directory)) as entries:
            names: list[str] = []
            for entry in entries:
                names.append(entry.name)
                if len(names) == size:
                    yield names
                    names = []
            yield names

    def identity(self, path: str) -> tuple[int, ...] | None:
        """What changes when the file is replaced or written: device, inode, size, times."""
        try:
            status = os.stat(self.path(path), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
                status.st_ctime_ns)

    def status(self, path: str) -> os.stat_result | None:
        """lstat(2) of the path, or None where there is nothing."""
        try:
            return os.stat(self.path(path), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def like(self, directory: str, mode: int = 0o600) -> Like:
        """What a new file in the directory should look like: its owner, group and label."""
        status = os.stat(self.path(directory))
        try:
            label: bytes | None = os.getxattr(self.path(directory), "security.selinux")
        except OSError:
            label = None
        return Like(mode, status.st_uid, status.st_gid, label)

    # -- writing ---------------------------------------------------------------------------

    def write(
        self, directory: str, files: Mapping[str, bytes], like: Like | None = None,
        durable: bool = True,
    ) -> None:
        """Put files into a directory, each whole or not at all; durable when this returns.

        Temporary file, fsync, rename, then one fsync of the directory for all of them (a batch
        uses one syncfs). Raises errors.Error that names the file and the reason.
        """
        if not files:
            return
        where = self.path(directory)
        like = like or Like()
        foreign = like.uid >= 0 and (like.uid, like.gid) != (os.geteuid(), os.getegid())
        temporaries: list[tuple[str, str]] = []
        name = ""
        try:
            for number, (name, data) in enumerate(files.items()):
                temporary = f"{where}/{TEMPORARY}{self.nonce}.{number}"
                temporaries.append((temporary, name))
                self._write_one(temporary, data, like, foreign, durable and len(files) < _MANY)
            if durable and len(files) >= _MANY:
                self._syncfs(where)
            for temporary, name in temporaries:
                os.rename(temporary, f"{where}/{name}")
            if durable:
                self.fsync(directory)
        except OSError as error:
            for temporary, _ in temporaries:
                self._discard(temporary)
            raise errors.Error(
                f"{directory}: cannot write {name}: {error.strerror or error}") from error

    @staticmethod
    def _write_one(temporary: str, data: bytes, like: Like, foreign: bool, sync: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
        try:
            fd = os.open(temporary, flags, like.mode)
        except FileExistsError:
            System._discard(temporary)
            fd = os.open(temporary, flags, like.mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view):]
            os.fchmod(fd, like.mode)
            if foreign:
                os.fchown(fd, like.uid, like.gid)
            if like.label is not None:
                os.setxattr(fd, "security.selinux", like.label)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def _discard(path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass

    @staticmethod
    def _syncfs(directory: str) -> None:
        import ctypes

        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(fd):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(fd)

    def fsync(self, directory: str) -> None:
        """Make the directory's entries durable (fsync(2) of the directory)."""
        fd = os.open(self.path(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, directory: str, name: str, size: int) -> None:
        """Make a file of so many bytes whose blocks are there, durably (posix_fallocate(3))."""
        temporary = self.path(f"{directory}/{TEMPORARY}{self.nonce}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | _NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, self.path(f"{directory}/{name}"))
            self.fsync(directory)
        except OSError as error:
            self._discard(temporary)
            raise errors.Error(
                f"{directory}: cannot allocate {name}: {error.strerror or error}") from error

    def shrink(self, path: str, size: int) -> None:
        """Cut a file short, durably: some filesystems free its blocks no sooner."""
        try:
            fd = os.open(self.path(path), os.O_WRONLY | _NOFOLLOW)
            try:
                os.ftruncate(fd, size)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise errors.Error(f"{path}: cannot be shortened: {error.strerror}") from error

    def link(self, source: str, directory: str, names: Iterable[str]) -> None:
        """Give the durable files source/NAME a second, durable entry in `directory`."""
        name = ""
        try:
            for name in names:
                try:
                    os.link(self.path(f"{source}/{name}"), self.path(f"{directory}/{name}"))
                except FileExistsError:
                    continue
            self.fsync(directory)
        except OSError as error:
            raise errors.Error(f"{directory}: cannot enter {name}: {error.strerror}") from error

    def remove(self, directory: str, names: Iterable[str]) -> None:
        """Remove files, durably; what is already gone is as good."""
        name = ""
        try:
            for name in names:
                try:
                    os.unlink(self.path(f"{directory}/{name}"))
                except FileNotFoundError:
                    continue
            self.fsync(directory)
        except OSError as error:
            raise errors.Error(f"{directory}: cannot remove {name}: {error.strerror}") from error

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        """Create one directory, durably; an existing one is left as it is.

        Its entry is made durable even then: who created it may have been killed before that.
        """
        try:
            try:
                os.mkdir(self.path(path), mode)
            except FileExistsError:
                pass
            self.fsync(os.path.dirname(path))
        except OSError as error:
            raise errors.Error(f"{path}: cannot create the directory: {error.strerror}") from error

    # -- the node --------------------------------------------------------------------------

    def node(self) -> str:
        """The node's name (uname -n)."""
        return os.uname().nodename

    def boot_id(self) -> str:
        """The kernel's identity of this boot (random(4))."""
        return self.read(self.boot_id_file).decode().strip()

    def monotonic(self) -> float:
        """Seconds on the clock that nothing sets (CLOCK_MONOTONIC)."""
        return time.monotonic()

    def age(self) -> float:
        """Seconds since this process was started, to a clock tick (proc_pid_stat(5), starttime)."""
        born = self.start_time(os.getpid()) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - born

    def epoch(self) -> int:
        """Seconds since 1970."""
        return int(time.time())

    def start_time(self, pid: int) -> int:
        """When the process started, in clock ticks since boot (proc(5), stat field 22); 0: gone.

        With the pid this identifies a process; a zombie counts as gone.
        """
        try:
            fields = self.read(f"{self.proc}/{pid}/stat").rpartition(b")")[2].split()
        except (OSError, ValueError):
            return 0
        return 0 if not fields or fields[0] in b"ZX" else int(fields[19])

    def end(self, pid: int, born: int, patience: float) -> bool:
        """End that very process (pid and start time) and wait for it: SIGTERM, then SIGKILL.

        `patience`: seconds in all, half of them for SIGTERM. False when it is still there then.
        """
        import signal

        began = self.monotonic()
        for number, limit in ((signal.SIGTERM, patience / 2), (signal.SIGKILL, patience)):
            if not born or self.start_time(pid) != born:
                return True
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return True
            while self.start_time(pid) == born and self.monotonic() - began < limit:
                time.sleep(0.01)
        return self.start_time(pid) != born

    def run(self, *argv: str, timeout: float = 30.0) -> tuple[int, str]:
        """Run a command to its end: (exit code, its output and errors together).

        No shell, closed stdin, an environment from scratch. MissingError when there is no such
        program, Error with a line that can be pasted into a shell when it takes too long.
        """
        import shlex
        import subprocess

        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment, timeout=timeout, check=False)
        except FileNotFoundError:
            raise errors.MissingError(f"{argv[0]} is not installed on this node") from None
        except subprocess.TimeoutExpired:
            raise errors.Error(
                f"`{shlex.join(argv)}` did not end within {timeout:g} s") from None
        return done.returncode, done.stdout.decode(errors="replace").strip()

    def checked(self, *argv: str, timeout: float = 60.0) -> None:
        """Run a command that must succeed; Error with its last line when it does not."""
        code, out = self.run(*argv, timeout=timeout)
        if code:
            raise errors.Error(
                f"`{' '.join(argv)}` failed ({code}): {out.splitlines()[-1] if out else ''}")


def is_missing(error: OSError) -> bool:
    """Whether the error says that the file or its directory does not exist."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
