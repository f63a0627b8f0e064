# SPDX-License-Identifier: GPL-2.0-or-later
"""typing.NamedTuple for programs that wait for their modules: every takeover would wait for it.

`typing` alone is as long to load as twenty modules of ours, and collections.namedtuple compiles a
constructor for each class. Type checkers see the original. As there, a class body has fields with
annotations, defaults for the last of them, and methods.
"""

from __future__ import annotations

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from _operator import itemgetter

    class _Tuple(tuple):
        __slots__ = ()

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            given = dict(zip(cls._fields, values))
            both, unknown = given.keys() & named.keys(), named.keys() - set(cls._fields)
            every = {**cls._field_defaults, **given, **named}
            missing = [field for field in cls._fields if field not in every]
            if len(values) > len(cls._fields) or both or unknown or missing:
                raise TypeError(
                    f"{cls.__name__}({', '.join(cls._fields)}): {len(values)} values by place, "
                    f"missing {missing}, twice {sorted(both)}, unknown {sorted(unknown)}")
            return [every[field] for field in cls._fields]

        def _asdict(self):
            return dict(zip(self._fields, self))

        def _replace(self, **changes):
            return type(self)(**{**self._asdict(), **changes})

        def __repr__(self):
            pairs = (f"{field}={value!r}" for field, value in zip(self._fields, self))
            return f"{type(self).__name__}({', '.join(pairs)})"

    class _Maker(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            getters = {field: property(itemgetter(place)) for place, field in enumerate(fields)}
            return type(name, (_Tuple,), {
                **body, **getters, "__slots__": (), "_fields": fields, "_field_defaults": defaults})

    class NamedTuple(metaclass=_Maker):
        pass
