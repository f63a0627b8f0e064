# SPDX-License-Identifier: GPL-2.0-or-later
"""Files below one root: reading that never blocks, and writes that are durable when they return.

All names are found from `root`, so that the same code runs on a fake tree, in a mount namespace and
for real. Monitor loads this module: what calls C is imported only by the function that needs it.
"""

from __future__ import annotations

import os
import stat

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Our temporary files start like this: statd and sm-notify skip names with a dot in front.
TEMPORARY = ".nfslock."
#: From this many files on, one syncfs(2) is cheaper than an fsync(2) for each.
_MANY = 32
_NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


def finished(names: Iterable[str]) -> list[str]:
    """The names that are not those of temporary files of ours."""
    return [name for name in names if not name.startswith(TEMPORARY)]


class Like:
    """Owner, mode and security label that new files take over from a directory."""

    __slots__ = ("gid", "label", "mode", "uid")

    def __init__(
        self, mode: int = 0o600, uid: int = -1, gid: int = -1, label: bytes | None = None
    ) -> None:
        self.mode, self.uid, self.gid, self.label = mode, uid, gid, label


class Files:
    """The files of one tree. What is written gets a name of this process's own first."""

    __slots__ = ("nonce", "root")

    def __init__(self, root: str = "") -> None:
        self.root = root
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
            Files._discard(temporary)
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
        from . import libraries

        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc = libraries.CDLL(None, use_errno=True)
            if libc.syncfs(fd):
                code = libraries.get_errno()
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
