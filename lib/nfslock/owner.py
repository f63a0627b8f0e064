# SPDX-License-Identifier: GPL-2.0-or-later
"""owner.json: who claimed the holding directory last (pure).

The generation is the fencing token: it grows with every claim, and whoever finds a larger one
than its own writes nothing more.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Owner:
    """What owner.json says: who claimed the directory last, and how that ended."""

    service: str
    node: str
    boot_id: str
    generation: int
    state: int
    clean_stop: bool = False

    def encode(self) -> bytes:
        """The file's content: JSON, a key to a line, for people too."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
        return text.encode() + b"\n"


def decode_owner(data: bytes) -> Owner:
    """Owner from the file's content; ValueError says what is wrong with it."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(raw, dict):
        raise ValueError("is no JSON object")
    if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise ValueError(f"has format {raw['format']}, newer than this release's {FORMAT}")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Owner):
        value = raw.get(field.name)
        if type(value).__name__ != field.type:
            raise ValueError(f"has no usable {field.name!r}")
        values[field.name] = value
    owner = Owner(**values)
    if owner.generation < 1 or not 0 < owner.state < 1 << 31:
        raise ValueError("has an impossible generation or state number")
    return owner
