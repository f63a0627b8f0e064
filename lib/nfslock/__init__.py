# SPDX-License-Identifier: GPL-2.0-or-later
"""NFS file locks that survive a failover: the library behind ocf:flm:nfslock.

Importing the package loads nothing else: monitor and meta-data pay for every import.
"""

__version__ = "0.1.0"
