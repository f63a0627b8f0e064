# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, and the OCF exit code that goes with it (pure; imports nothing).

The codes are those of the OCF resource agent API 1.1. The class says who has to act: a wrong
parameter is wrong on every node, a missing mount only on this one, a full disk only for now.
"""

OK = 0
GENERIC = 1
ARGS = 2
UNIMPLEMENTED = 3
PERM = 4
INSTALLED = 5
CONFIGURED = 6
NOT_RUNNING = 7
DEGRADED = 190


class Error(Exception):
    """A failure with a reason for the administrator; recovery may help (OCF 1, soft)."""

    code = GENERIC


class NodeError(Error):
    """Something on this node prevents the service; another node may do (OCF 2, hard)."""

    code = ARGS


class MissingError(Error):
    """A program or kernel facility is not installed on this node (OCF 5, hard)."""

    code = INSTALLED


class ConfigError(Error):
    """The configuration is wrong wherever it is used (OCF 6, fatal)."""

    code = CONFIGURED


class NotRunning(Error):
    """The service is cleanly stopped here (OCF 7; monitor only)."""

    code = NOT_RUNNING


class Degraded(Error):
    """Locks are protected, but a person should look (OCF 190; monitor only)."""

    code = DEGRADED


class Fenced(Error):
    """Another start has claimed the holding directory since: this owner may write nothing more."""
