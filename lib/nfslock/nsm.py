# SPDX-License-Identifier: GPL-2.0-or-later
"""The status monitor's own formats: monitor records and the NSM state number (pure).

A record file (nfs-utils support/nsm/file.c, nsm_create_monitor_record) holds a line for each
(mon_name, my_name): address, program, version, procedure and the kernel's cookie in fixed-width
hexadecimal, then the two names. Only the names matter to a notification; the cookie belongs to
the kernel that gave it. A file that does not parse as a whole is no record: statd may be writing
it.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: A file of ours or statd's may not be larger (bytes); some hundred lines fit.
MAX_FILE = 65536
#: Largest number of bytes of a file name, so of a mon_name here (limits.h NAME_MAX).
MAX_NAME = 255
_HEX = b"0123456789abcdefABCDEF"
_PREFIX = 36 + 32 + 1
#: State numbers of nodes above this are not trusted: stock agents write random bytes there.
SANE_STATE = 1 << 30


def valid_name(name: str) -> bool:
    """Whether a host name or address may become a file name: no path, no blank, no dot in front."""
    return (
        0 < len(name) <= MAX_NAME and name[0] not in ".-" and name.isascii()
        and name.isprintable() and "/" not in name and " " not in name
    )


def is_record_file(name: str) -> bool:
    """Whether a file of this name in sm can be a record; statd's temporary files are not.

    statd writes `HOST.new` up to nfs-utils 2.8.1 and `.HOST.new` since (nsm_atomic_write).
    """
    return valid_name(name) and not name.endswith(".new")


def parse_line(line: bytes) -> tuple[str, str]:
    """(mon_name, my_name) of one record line without its newline; ValueError if it is none."""
    # Five blanks, the first four where they belong; the fifth is the last of the prefix.
    numbers = line[:_PREFIX]
    if (len(numbers) != _PREFIX or numbers[8:36:9] != b"    " or numbers[-1:] != b" "
            or numbers.translate(None, _HEX) != b"     "):
        raise ValueError("no monitor record")
    mon_name, _, my_name = line[_PREFIX:].decode("ascii").partition(" ")
    if not valid_name(mon_name) or not valid_name(my_name):
        raise ValueError("monitor record with an unusable name")
    return mon_name, my_name


def format_line(mon_name: str, my_name: str, cookie: bytes = bytes(16)) -> bytes:
    """A record line as statd writes it for lockd (prog 100021, vers 3, proc 16), loopback address.

    For a client whose record cannot be found: only the names matter to a notification. ValueError
    for names that no record can hold.
    """
    if not valid_name(mon_name) or not valid_name(my_name):
        raise ValueError("a name that no monitor record can hold")
    (loopback,) = struct.unpack("=I", bytes((127, 0, 0, 1)))
    numbers = f"{loopback:08x} {100021:08x} {3:08x} {16:08x} {cookie.hex()}"
    return f"{numbers} {mon_name} {my_name}\n".encode()


def is_made(data: bytes) -> bool:
    """Whether a record was made by format_line alone: lockd's own cookies are addresses."""
    return all(line.split(b" ")[4:5] == [b"0" * 32] for line in data.splitlines())


def parse_record(data: bytes) -> dict[tuple[str, str], bytes]:
    """The lines of a record file by (mon_name, my_name), each with its newline.

    ValueError for a file that is empty, cut short, oversized or not made of record lines.
    """
    if not data.endswith(b"\n") or len(data) > MAX_FILE:
        raise ValueError("monitor record is empty, cut short or oversized")
    return {parse_line(line): line + b"\n" for line in data[:-1].split(b"\n")}


def by_client(files: Iterable[dict[tuple[str, str], bytes]]) -> dict[str, bytes]:
    """Record files as the holding directory keeps them: one for each mon_name.

    statd names its files by reverse DNS; here mon_name is the name, so that a takeover needs no
    resolver. Lines of several files for one client are united, the last of equal names wins.
    """
    clients: dict[str, dict[str, bytes]] = {}
    for lines in files:
        for (mon_name, my_name), line in lines.items():
            clients.setdefault(mon_name, {})[my_name] = line
    return {name: b"".join(lines[key] for key in sorted(lines)) for name, lines in clients.items()}


def missing_lines(have: Iterable[tuple[str, str]], data: bytes) -> bytes:
    """The lines of record file `data` whose (mon_name, my_name) are not in `have`."""
    known = frozenset(have)
    return b"".join(line for key, line in parse_record(data).items() if key not in known)


def decode_state(data: bytes) -> int:
    """The number in a `state` file: a native int, odd, positive; ValueError otherwise."""
    if len(data) != 4:
        raise ValueError(f"state file of {len(data)} bytes instead of 4")
    (number,) = struct.unpack("=i", data)
    if number <= 0 or number % 2 == 0:
        raise ValueError(f"state number {number} is not odd and positive")
    return int(number)


def encode_state(number: int) -> bytes:
    """A `state` file for the number (the form that statd and sm-notify read)."""
    return struct.pack("=i", number)


def next_state(seen: Iterable[int], epoch: int) -> int:
    """The number to announce: odd and larger than every one of the service's own `seen`.

    A client ignores a number that it has already seen from this server (statd's monitor.c and the
    kernel's next_host_state test inequality only). With nothing seen, seconds since the epoch
    (reduced, odd) make a repetition unlikely. The field is a signed 32 bit integer (XDR int).
    """
    known = [number for number in seen if number > 0]
    number = max(known) + 2 if known else epoch % SANE_STATE
    return (number | 1) if number < 0x7FFFFFFD else 1
