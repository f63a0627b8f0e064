# SPDX-License-Identifier: GPL-2.0-or-later
"""nfs.conf(5): what the administrator has told nfs-utils on this node. Reading only.

Read as nfs-utils reads it (support/nfs/conffile.c), which is not as configparser does: names do not
care for case, a line that is no assignment is skipped alone, an empty value is none, files include
others, and $NAME is a variable of the section [environment].
"""

from __future__ import annotations

import os

from .system import System

TYPE_CHECKING = False
if TYPE_CHECKING:
    Settings = dict[tuple[str, str], str]

#: How deep files may include each other.
_DEEPEST = 8


def setting(system: System, section: str, key: str) -> str | None:
    """The value of a key, None when it is not set."""
    return settings(system).get((section, key))


def settings(system: System) -> Settings:
    """Every value by section and key, in lower case; what is read later wins.

    A file that cannot be read is skipped, as nfs-utils skips it.
    """
    found: Settings = {}
    for main, drop_ins in system.nfs_conf:
        names = sorted(name for name in system.names(drop_ins)
                       if name.endswith(".conf") and not name.startswith("."))
        for path in (main, *(f"{drop_ins}/{name}" for name in names)):
            _read(system, path, "", found, _DEEPEST)
    variables = {key: value for (section, key), value in found.items() if section == "environment"}
    for place, value in found.items():
        if value.startswith("$"):
            found[place] = variables.get(value[1:].lower(), "")
    return {place: value for place, value in found.items() if value}


def seconds(text: str | None) -> int | None:
    """A value as a whole number of seconds; None when it is not set or no number."""
    return int(text) if text and text.isascii() and text.isdigit() else None


def _read(system: System, path: str, section: str, found: Settings, depth: int) -> None:
    """Add what a file sets; it begins in the section of the file that includes it."""
    try:
        text = system.read(path).decode(errors="replace")
    except (OSError, ValueError):
        return
    for line in map(str.strip, text.split("\n")):
        if not line or line[0] in "#;":
            continue  # most of the file, as distributions ship it
        if line[0] == "[":
            # A second word is a subsection, which nothing here asks for.
            section = line[1:].partition("]")[0].strip().lower()
            continue
        name, assigned, value = line.partition("=")
        name, value = name.strip().lower(), _plain(value)
        if not (assigned and name and value):
            continue
        if name != "include":
            if section:
                found[section, name] = value
        elif depth:
            for other in _included(system, os.path.join(
                    os.path.dirname(path), value.removeprefix("-"))):
                _read(system, other, section, found, depth - 1)


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
