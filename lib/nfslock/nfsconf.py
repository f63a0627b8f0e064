# SPDX-License-Identifier: GPL-2.0-or-later
"""nfs.conf(5): what the administrator has told nfs-utils on this node. Reading only."""

from __future__ import annotations

import os

from .system import System

#: How deep files may include each other.
_DEEPEST = 8


def setting(system: System, section: str, key: str) -> str | None:
    """The value of a key, None when it is not set; drop-ins win over the main file.

    A file that cannot be read or parsed is skipped, as nfs-utils skips it.
    """
    main, drop_ins = system.nfs_conf
    extra = sorted(name for name in system.names(drop_ins) if name.endswith(".conf"))
    value = None
    for name in (main, *(f"{drop_ins}/{name}" for name in extra)):
        lines = _lines(system, name, "", _DEEPEST)
        if any(line.lower().startswith(key) for line in lines):
            value = _parsed("\n".join(lines), section, key, value)
    return _plain(value) if value else None


def seconds(system: System, section: str, key: str) -> int | None:
    """The value of a key as a whole number of seconds; None when it is not set or no number."""
    text = setting(system, section, key)
    return int(text) if text and text.isascii() and text.isdigit() else None


def _lines(system: System, path: str, header: str, depth: int) -> list[str]:
    """The lines of a file, with those of the files that it includes in their places.

    To nfs-utils an indented line is one like the others, to configparser it goes on with the one
    before it. An included file begins in the section of the including one, which then goes on with
    its own (nfs-utils support/nfs/conffile.c); "-" before the name: it need not exist.
    """
    try:
        text = system.read(path).decode(errors="replace")
    except (OSError, ValueError):
        return []
    found = []
    for line in map(str.strip, text.split("\n")):
        name, _, value = line.partition("=")
        if line.startswith("["):
            header = line
        if name.strip().lower() != "include":
            found.append(line)
        elif depth:
            pattern = os.path.join(os.path.dirname(path), _plain(value).removeprefix("-"))
            for other in _included(system, pattern):
                found += [*_lines(system, other, header, depth - 1), header]
    return found


def _included(system: System, pattern: str) -> list[str]:
    """The files that an include names: one, or in newer nfs-utils those of a shell pattern."""
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    import fnmatch

    place, name = os.path.split(pattern)
    try:
        names = system.names(place)
    except OSError:
        return []
    return [f"{place}/{found}" for found in sorted(fnmatch.filter(names, name))]


def _plain(value: str) -> str:
    """A value without its quotes, or else without the comment behind it."""
    value = value.strip()
    if value[:1] in ('"', "'"):
        return value[1:].partition(value[0])[0]
    return value.partition("#")[0].partition(";")[0].rstrip()


def _parsed(text: str, section: str, key: str, otherwise: str | None) -> str | None:
    """The value of a key in one file."""
    import configparser  # long to load, and most files set nothing that a start asks for

    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, comment_prefixes=("#", ";"))
    try:
        parser.read_string(text)
    except configparser.Error:
        return otherwise
    return parser.get(section, key, fallback=otherwise)
