# SPDX-License-Identifier: GPL-2.0-or-later
"""How hard the property tests try: quickly by default, HYPOTHESIS_PROFILE=thorough for long.

Temporary directories are in memory where there is one: the tests make much durable, and none of
them asks whether it outlives a power cut.
"""

import os

from hypothesis import settings

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

MEMORY = "/dev/shm"
if os.access(MEMORY, os.W_OK | os.X_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
