# SPDX-License-Identifier: GPL-2.0-or-later
"""C functions for programs that wait for their modules: `ctypes` brings every C type, and one of
each for the other byte order, an eighth of what a takeover loads.

Type checkers see the original. Arguments are numbers, bytes, None or byref() of a c_void_p, the
result is an int; errno is kept for get_errno().
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import CDLL, byref, c_void_p, get_errno
else:
    try:
        import _ctypes
        from _ctypes import byref, get_errno

        class c_int(_ctypes._SimpleCData):
            """int."""

            _type_ = "i"

        class c_void_p(_ctypes._SimpleCData):
            """void *."""

            _type_ = "P"

        class _Function(_ctypes.CFuncPtr):
            _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
            _restype_ = c_int

        class CDLL:
            """A shared library by its name, or what this process has (None); OSError without it."""

            def __init__(self, name, use_errno=True):
                self._handle = _ctypes.dlopen(name, 0)

            def __getattr__(self, name):
                return _Function((name, self))

    except (ImportError, AttributeError):  # a Python that is made otherwise
        from ctypes import CDLL, byref, c_void_p, get_errno

__all__ = ["CDLL", "byref", "c_void_p", "get_errno"]
