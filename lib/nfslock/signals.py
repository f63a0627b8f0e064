# SPDX-License-Identifier: GPL-2.0-or-later
"""`signal` for programs that wait for their modules: the original loads enum to give numbers names,
and every takeover would wait for it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    from _signal import *  # noqa: F403
