# SPDX-License-Identifier: GPL-2.0-or-later
"""rpc.statd on this node: where it keeps its records, reading and adding them, restarting it.

statd(8), sm-notify(8), nfs.conf(5). Reading is tolerant of a directory that statd is writing to at
the same moment: what does not parse as a whole is skipped now and seen again at the next event.
"""

from __future__ import annotations

import errno
import os

from . import nfsconf, nsm, processes, units
from .errors import Error, MissingError
from .files import Like, finished
from .named_tuple import NamedTuple
from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Lines = dict[tuple[str, str], bytes]

UNIT, _NAME = "rpc-statd.service", "rpc.statd"
#: Seconds that statd may take to end.
_PATIENCE = 15.0


class Scan(NamedTuple):
    """The records in an sm directory: lines by file name, and the names that are no records."""

    files: dict[str, Lines]
    skipped: tuple[str, ...] = ()


def find_directory(system: System, configured: str | None) -> str:
    """statd's state directory: the parameter, nfs.conf's, or the first that has an sm directory."""
    candidates = [configured] if configured else [
        nfsconf.setting(system, "statd", "state-directory-path"), *system.statd_dirs]
    for candidate in candidates:
        if candidate and os.path.isdir(system.path(f"{candidate}/sm")):
            return candidate
    tried = ", ".join(f"{candidate}/sm" for candidate in candidates if candidate)
    raise MissingError(
        f"rpc.statd's directory is not there (tried {tried}): install nfs-common (nfs-utils on Red "
        "Hat) or set statd_dir")


def read_one(system: System, directory: str, name: str) -> Lines | None:
    """The lines of one record file; None when it is gone; ValueError when it is no record.

    A symbolic link, FIFO or device is never followed or waited for. Other trouble is OSError.
    """
    if not nsm.is_record_file(name):
        raise ValueError(f"{name!r} is no record name")
    try:
        return nsm.parse_record(system.read(f"{directory}/sm/{name}", nsm.MAX_FILE))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError(f"{name} is a link or device") from None
        raise


def scan(system: System, directory: str) -> Scan:
    """All records in the sm directory; Error when one cannot be read for a reason of the disk."""
    files: dict[str, Lines] = {}
    skipped = []
    for name in finished(system.names(f"{directory}/sm")):
        try:
            lines = read_one(system, directory, name)
        except ValueError:
            skipped.append(name)
            continue
        except OSError as error:
            raise Error(f"{directory}/sm/{name}: {error.strerror}") from error
        if lines:
            files[name] = lines
    return Scan(files, tuple(skipped))


def merge(system: System, directory: str, files: Mapping[str, bytes]) -> None:
    """Put whole record files into sm as statd itself would own them: owner, label, mode 0600."""
    system.write(f"{directory}/sm", files, system.like(f"{directory}/sm"))


def read_state(system: System, directory: str) -> int | None:
    """The node's own state number; None when there is none worth trusting.

    Debian ships an empty file, and the stock nfsserver agent writes four random bytes into it.
    """
    try:
        number = nsm.decode_state(system.read(f"{directory}/state"))
    except (OSError, ValueError):
        return None
    return number if number < nsm.SANE_STATE else None


def hold_off_sm_notify(system: System) -> None:
    """Keep a stock sm-notify from using the records up and from ending lockd's grace.

    sm-notify exits at once when its pid file exists (it leaves it behind on purpose, so that it
    runs once a boot); nfs-utils utils/statd/sm-notify.c, record_pid().
    """
    for path in system.sm_notify_pids:
        if os.path.isdir(os.path.dirname(system.path(path))):
            try:
                fd = os.open(system.path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return
            except OSError as error:
                raise Error(f"{path}: cannot hold off sm-notify: {error.strerror}") from error
            os.write(fd, b"0 nfslock\n")
            os.close(fd)
            return


def pids(system: System) -> list[int]:
    """The rpc.statd processes in this network namespace."""
    return processes.named(system, _NAME)


def _arguments_file(system: System) -> str:
    return f"{system.run_dir}-statd.env"


def drop_in(system: System) -> str:
    """The part of statd's unit that lets its arguments come from a file.

    So systemd need not read all units of the node again whenever they change. `nfslock setup-node`
    puts it there for good.
    """
    program = processes.program(system, _NAME) or "/usr/sbin/rpc.statd"
    return ("[Service]\nEnvironment=RPC_STATD_NO_NOTIFY=1\n"
            f"EnvironmentFile=-{_arguments_file(system)}\n"
            f"ExecStart=\nExecStart={program} $NFSLOCK_STATD\n")


def stop(system: System, found: Iterable[int]) -> None:
    """End rpc.statd, as pids() has found it, so that sm can be changed without racing it.

    Locks are not touched: the kernel keeps its own list of monitored clients. A new client's
    first lock is refused (ENOLCK) until statd is back.
    """
    # Not through systemd, which takes many times as long: start() restarts the unit, whatever state
    # it is in by then.
    for pid in found:
        if not system.end(pid, system.start_time(pid), _PATIENCE):
            raise Error(f"rpc.statd (pid {pid}) does not end: is its disk hanging?")


def start(system: System, directory: str, name: str, afresh: bool = False,
          besides: Sequence[str] = ()) -> None:
    """Start rpc.statd with the records now in sm; it notifies nobody itself (statd -L).

    `name` is the service's (statd -n). Without systemd, the daemon itself. Where systemd runs,
    through its unit, and without waiting: whoever needs statd does (nfsserver, which comes next in
    the group; the announcement, see statd_watch). `afresh`: have systemd read our drop-in again.
    `besides`: units to be started with it.
    """
    argv = _command(system, directory, name)
    if not units.exists(system, UNIT):
        system.checked(*argv)
        units.start(system, besides)
        return
    place, file_name = os.path.split(_arguments_file(system))
    text = f"NFSLOCK_STATD={' '.join(argv[1:])}\n"
    system.write(place, {file_name: text.encode()}, Like(0o644), durable=False)
    if afresh or not units.has_drop_in(system, UNIT, drop_in(system)):
        units.put_drop_in(system, UNIT, drop_in(system))
    units.start(system, besides, restart=UNIT)


def is_as_asked(system: System, directory: str, name: str) -> bool:
    """Whether a running rpc.statd, if there is one, has the arguments that start() gives it."""
    if not units.exists(system, UNIT):
        return True
    argv = _command(system, directory, name)
    running = [processes.arguments(system, pid) for pid in pids(system)]
    return not running or argv in running


def _command(system: System, directory: str, name: str) -> list[str]:
    program = processes.program(system, _NAME)
    if program is None:
        raise MissingError("rpc.statd is not installed: install nfs-common (nfs-utils on Red Hat)")
    argv = [program, "--no-notify", "--name", name]
    if directory not in system.statd_dirs:
        argv += ["--state-directory-path", directory]
    return argv
