# SPDX-License-Identifier: GPL-2.0-or-later
"""nfs.conf(5): what the administrator has told nfs-utils on this node. Reading only."""

from __future__ import annotations

from .system import System


def setting(system: System, section: str, key: str) -> str | None:
    """The value of a key, None when it is not set; drop-ins win over the main file.

    A file that cannot be read or parsed is skipped, as nfs-utils skips it.
    """
    main, drop_ins = system.nfs_conf
    extra = sorted(name for name in system.names(drop_ins) if name.endswith(".conf"))
    value = None
    for name in (main, *(f"{drop_ins}/{name}" for name in extra)):
        try:
            text = system.read(name).decode(errors="replace")
        except (OSError, ValueError):
            continue
        # To nfs-utils an indented line is one like the others, to configparser it goes on with the
        # one before it.
        lines = [line.strip() for line in text.split("\n")]
        if any(line.lower().startswith(key) for line in lines):
            value = _parsed("\n".join(lines), section, key, value)
    return value.strip().strip('"') if value else None


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


def seconds(system: System, section: str, key: str) -> int | None:
    """The value of a key as a whole number of seconds; None when it is not set or no number."""
    text = setting(system, section, key)
    return int(text) if text and text.isascii() and text.isdigit() else None
