# SPDX-License-Identifier: GPL-2.0-or-later
"""What the text of a parameter can be: a parser for each kind, which raises ValueError with advice.

Addresses in the kernel's tables and on the network are read by the same two functions.

Pure, and read by every monitor: it may import nothing but `_socket` (for inet_pton).
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TRUE = ("yes", "true", "on", "1", "y", "t")
_FALSE = ("no", "false", "off", "0", "n", "f")
_UNITS = (("ms", 0.001), ("min", 60.0), ("sec", 1.0), ("s", 1.0), ("m", 60.0), ("h", 3600.0))


def parse_bool(text: str) -> bool:
    """True or False for the words that OCF's ocf_is_true knows and their opposites."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("use yes or no")


def parse_seconds(text: str) -> float:
    """Seconds in `5`, `5s`, `500ms`, `1m` or `1h`: more than 0, at most one day."""
    word = text.strip().lower()
    factor = 1.0
    for unit, seconds in _UNITS:
        if word.endswith(unit):
            word, factor = word[: -len(unit)].strip(), seconds
            break
    whole, _, fraction = word.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit():
        raise ValueError("use a time such as 5, 5s, 500ms or 1m")
    value = float(word) * factor
    if not 0.05 <= value <= 86400:
        raise ValueError("must be at least 50ms and at most 24h")
    return value


def parse_callout_timeout(text: str) -> float:
    """Seconds, at most 30: lockd gives up on statd after 60 s and serves nobody meanwhile."""
    value = parse_seconds(text)
    if value > 30:
        raise ValueError("must be at most 30s: all NFSv3 locking on the node waits meanwhile")
    return value


def address_family(text: str) -> int:
    """AF_INET or AF_INET6 for a numeric address, 0 for anything else (inet_pton(3))."""
    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return family
    return 0


def canonical_address(text: str) -> str:
    """The one spelling of a numeric address (RFC 5952); ValueError for anything else."""
    family = address_family(text)
    if not family:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address")
    return inet_ntop(family, inet_pton(family, text))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def parse_addresses(text: str) -> tuple[str, ...]:
    """The VIPs, in order, each once, in canonical spelling."""
    found: list[str] = []
    for word in _words(text):
        # IPaddr2 users paste "192.0.2.10/24": the prefix length is no part of the address.
        address = canonical_address(word.partition("/")[0])
        packed = inet_pton(address_family(address), address)
        if not any(packed) or packed[:1] == b"\x7f" or address == "::1" or packed[0] == 0xFF:
            raise ValueError(f"{word!r} cannot be a floating address")
        if address not in found:
            found.append(address)
    return tuple(found)


def parse_versions(text: str) -> tuple[int, ...]:
    """The NFS versions whose locks are kept; minor versions of 4 are all or none."""
    versions = set()
    for word in _words(text):
        if word not in ("3", "4", "4.0", "4.1", "4.2"):
            raise ValueError(f"{word!r} is no NFS version with locks, use 3 or 3,4")
        versions.add(int(word[0]))
    if 3 not in versions:
        raise ValueError("use 3 or 3,4: NFSv4 alone is not supported yet")
    return tuple(sorted(versions))


def parse_scope(text: str) -> str:
    """A server scope: what can be a host name of at most 64 bytes (nfsd keeps it as one)."""
    allowed = "".join(sorted(set(text)))
    if len(text) > 64 or not text.isascii() or not all(c.isalnum() or c in "._:-" for c in allowed):
        raise ValueError("use at most 64 letters, digits, dots, colons, dashes or underscores")
    return text


def parse_window(text: str) -> int:
    """A number of datagrams, 1 to 65536."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65536:
        raise ValueError("use a number of clients from 1 to 65536")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for one of these words."""
    def parse_word(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(f"use {' or '.join(words)}")
        return text.strip().lower()
    return parse_word


def parse_directory(text: str) -> str:
    """An absolute path without `..`, without a trailing slash."""
    path = text.rstrip("/")
    if not path.startswith("/") or ".." in path.split("/") or "\n" in path or "\0" in path:
        raise ValueError("use an absolute path of a directory below /")
    while "//" in path:
        path = path.replace("//", "/")
    return path


def parse_directories(text: str) -> tuple[str, ...]:
    """Absolute paths, comma or blank separated, each once."""
    return tuple(dict.fromkeys(parse_directory(word) for word in _words(text)))


def parse_names(text: str) -> tuple[str, ...]:
    """Host names to announce: printable ASCII, at most 255 bytes each (RFC 1035 2.3.4)."""
    names = _words(text)
    for name in names:
        if not name.isascii() or not name.isprintable() or "/" in name or len(name) > 255:
            raise ValueError(f"{name!r} is no host name")
    return tuple(dict.fromkeys(names))
