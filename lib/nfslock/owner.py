# SPDX-License-Identifier: GPL-2.0-or-later
"""owner.json: who claimed the holding directory last (pure).

The generation is the fencing token: it grows with every claim, and whoever finds a larger one
than its own writes nothing more.
"""

from __future__ import annotations

from . import plain_json
from .named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1


class Owner(NamedTuple):
    """What owner.json says: who claimed the directory last, and how that ended."""

    service: str
    node: str
    boot_id: str
    generation: int
    state: int
    clean_stop: bool = False

    def encode(self) -> bytes:
        """The file's content: JSON, a key to a line, for people too."""
        text = plain_json.dumps({"format": FORMAT, **self._asdict()}, ",\n ")
        return text.encode() + b"\n"


def decode_owner(data: bytes) -> Owner:
    """Owner from the file's content; ValueError says what is wrong with it."""
    try:
        raw = plain_json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(raw, dict):
        raise ValueError("is no JSON object")
    if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise ValueError(f"has format {raw['format']}, newer than this release's {FORMAT}")
    values: dict[str, Any] = {}
    for name, kind in zip(Owner._fields, (str, str, str, int, int, bool)):
        value = raw.get(name)
        if type(value) is not kind:
            raise ValueError(f"has no usable {name!r}")
        values[name] = value
    owner = Owner(**values)
    if owner.generation < 1 or not 0 < owner.state < 1 << 31:
        raise ValueError("has an impossible generation or state number")
    return owner
