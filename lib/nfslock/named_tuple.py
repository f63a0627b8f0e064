# SPDX-License-Identifier: GPL-2.0-or-later
"""typing.NamedTuple for programs that wait for their modules: `typing` alone is as long to load as
twenty modules of ours, and every takeover would wait for it.

Type checkers see the original. As there, a class body has fields with annotations, defaults for the
last of them, and methods.
"""

from __future__ import annotations

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import namedtuple

    class _Maker(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.pop("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Maker):
        pass
