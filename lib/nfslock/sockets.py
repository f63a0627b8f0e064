# SPDX-License-Identifier: GPL-2.0-or-later
"""`socket` for programs that wait for their modules: the original loads selectors, and enum to give
numbers names, and every takeover would wait for both.

Type checkers see the original. A socket knows `with` and accept(), but not makefile() and the like.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import *  # noqa: F403
else:
    import _socket
    from _socket import *  # noqa: F403

    class socket(_socket.socket):
        """One socket (socket(7)), closed by `with`."""

        __slots__ = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def accept(self):
            """The next connection, and who has made it."""
            fd, address = self._accept()
            return socket(fileno=fd), address
