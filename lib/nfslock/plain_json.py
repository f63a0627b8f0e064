# SPDX-License-Identifier: GPL-2.0-or-later
"""`json` for programs that wait for their modules: its C half, without what it loads for the rest.

The module `json` compiles its patterns when it is loaded and brings `re` and `enum` along: a sixth
of what a takeover would wait for. Where the C half is another one than this expects, it is `json`
itself that does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class _Rules:
    """How to read: what the C scanner asks of a json.JSONDecoder."""

    strict, memo = True, {}  # type: ignore[var-annotated]
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, float


_scan: Callable[[str, int], tuple[Any, int]] | None = None
_quoted: Callable[[str], str] | None = None
try:
    from _json import encode_basestring_ascii, make_scanner

    _scan, _quoted = make_scanner(_Rules), encode_basestring_ascii  # type: ignore[arg-type]
except (ImportError, AttributeError, TypeError):
    pass


def loads(data: bytes) -> Any:
    """The value that stands in UTF-8 text; ValueError, from `json` itself, when it is no JSON."""
    text = data.decode().strip(" \t\n\r")
    try:
        value, end = _scan(text, 0) if _scan is not None else (None, -1)
    # SystemError: before Python 3.13 it cannot say what is wrong unless `json` is loaded.
    except (StopIteration, ValueError, SystemError):
        end = -1
    if end == len(text):
        return value
    import json

    return json.loads(text)


def dumps(pairs: Mapping[str, str | int], separator: str = ", ") -> str:
    """An object of texts, numbers and truth values, in one line or with `separator`."""
    if _quoted is None:
        import json

        return json.dumps(pairs, separators=(separator, ": "))
    words = ((key, _quoted(value) if isinstance(value, str) else str(value).lower())
             for key, value in pairs.items())
    return "{" + separator.join(f"{_quoted(key)}: {word}" for key, word in words) + "}"
