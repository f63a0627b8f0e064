#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""The `nfslock` command: finds the library beside itself and calls it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from nfslock.cli import main

sys.exit(main())
