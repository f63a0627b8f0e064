# SPDX-License-Identifier: GPL-2.0-or-later
"""An action that runs out of time says so and fails: above all, an unfinished stop is no stop."""

from __future__ import annotations

import pytest

from tests.support.service import Cluster

#: The stop is held up for three seconds where it ends the propagator.
SLOW = ["strace", "-o", "/dev/null", "-e", "trace=kill", "-e", "inject=kill:delay_enter=3000000"]


@pytest.mark.parametrize(("limit", "code"), [(1.5, 1), (15, 0)], ids=["in-vain", "control"])
def test_a_stop_that_is_held_up(pair: Cluster, limit: float, code: int) -> None:
    service, a = pair.service, pair.a
    service.mount(a)
    service.start(a)
    outcome = service.agent(a, "stop", timeout=limit, wrapper=SLOW)
    assert outcome.code == code, outcome
    if code:
        assert f"stop did not end within {limit:g} s" in outcome.reason
    service.stop(a)
    service.umount(a)
