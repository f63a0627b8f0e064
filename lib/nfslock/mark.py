# SPDX-License-Identifier: GPL-2.0-or-later
"""What the started mark keeps for the stop, which may find the filesystems hanging or gone."""

from __future__ import annotations

import os

from . import errors, holders, kernel_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .params import Config
    from .system import System


def noted(system: System, config: Config) -> dict[str, str]:
    """What a start notes; its `filesystems` are DEVICE:MOUNT_POINT words, holding_dir's first.

    NodeError when one that is named in the parameter is no mount point here.
    """
    every = holders.mounts(system)
    found: dict[str, str] = {}
    for path in (config.holding_dir, *config.filesystems):
        mount = kernel_tables.mount_of(every, os.path.realpath(path))
        if path in config.filesystems and (mount is None or mount.point != os.path.realpath(path)):
            raise errors.NodeError(
                f"filesystems: {path} is no mount point here: is it mounted? It must start before "
                "this resource")
        if mount is not None and mount.point != "/":
            found[mount.point] = mount.device
    words = (f"{device}:{kernel_tables.escape(point)}" for point, device in found.items())
    return {"filesystems": " ".join(words), "ip": ",".join(config.ip),
            "lockd_kill": config.lockd_kill}


def places(mark: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The filesystems of a mark again: mount point and device of each."""
    found = []
    for word in mark.get("filesystems", "").split():
        major, minor, point = word.split(":", 2)
        found.append((kernel_tables.unescape(point), f"{major}:{minor}"))
    return tuple(found)
