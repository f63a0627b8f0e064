# SPDX-License-Identifier: GPL-2.0-or-later
"""nfs.conf(5): what the administrator has told nfs-utils on this node. Reading only."""

from __future__ import annotations

import configparser

from .system import System


def setting(system: System, section: str, key: str) -> str | None:
    """The value of a key, None when it is not set; drop-ins win over the main file.

    A file that cannot be read or parsed is skipped, as nfs-utils skips it.
    """
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, comment_prefixes=("#", ";"))
    main, drop_ins = system.nfs_conf
    extra = sorted(name for name in system.names(drop_ins) if name.endswith(".conf"))
    for name in (main, *(f"{drop_ins}/{name}" for name in extra)):
        try:
            lines = system.read(name).decode(errors="replace").split("\n")
            # To nfs-utils an indented line is one like the others, to configparser it goes on with
            # the one before it.
            parser.read_string("\n".join(line.strip() for line in lines))
        except (OSError, ValueError, configparser.Error):
            continue
    value = parser.get(section, key, fallback=None)
    return value.strip().strip('"') if value else None


def seconds(system: System, section: str, key: str) -> int | None:
    """The value of a key as a whole number of seconds; None when it is not set or no number."""
    text = setting(system, section, key)
    return int(text) if text and text.isascii() and text.isdigit() else None
