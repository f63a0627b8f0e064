# SPDX-License-Identifier: GPL-2.0-or-later
"""`_sqlite3` for programs that wait for their modules: it takes one function from functools, which
loads collections and compiles a named tuple, a tenth of what a takeover with NFSv4 loads.

Type checkers see the original. The Python half of sqlite3, which converts dates, is left out, too.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Error, connect
elif "functools" in sys.modules:
    from _sqlite3 import Error, connect
else:
    def _lru_cache(size):
        """What a connection keeps its statements in (functools.lru_cache)."""
        return lambda function: _lru_cache_wrapper(function, size, False, tuple)

    try:
        from _functools import _lru_cache_wrapper

        sys.modules["functools"] = type(sys)("functools")
        sys.modules["functools"].lru_cache = _lru_cache
        from _sqlite3 import Error, connect
    except (ImportError, AttributeError):  # a Python that is made otherwise
        sys.modules.pop("functools", None)
        from _sqlite3 import Error, connect
    else:
        del sys.modules["functools"]

__all__ = ["Error", "connect"]
