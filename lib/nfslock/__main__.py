#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""The `nfslock` command: finds the library beside itself and calls it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

if sys.argv[1:2] == ["propagate"] and len(sys.argv) == 3:  # a takeover waits: no parser is needed
    from nfslock import errors, propagator

    try:
        sys.exit(propagator.main(sys.argv[2]))
    except errors.Error as error:
        print(f"nfslock: {error}", file=sys.stderr)
        sys.exit(error.code)

from nfslock.cli import main

sys.exit(main())
