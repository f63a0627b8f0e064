# SPDX-License-Identifier: GPL-2.0-or-later
"""Restarting a unit; that systemd does it is seen in the cluster tier, where there is one."""

from __future__ import annotations

import pytest

from nfslock import units
from nfslock.errors import Error
from nfslock.system import System


def test_a_unit_that_does_not_restart_is_an_error() -> None:
    """Whether systemd refuses it or there is none."""
    with pytest.raises(Error, match="nfslock-none.service"):
        units.start(System(), [], restart="nfslock-none.service")
