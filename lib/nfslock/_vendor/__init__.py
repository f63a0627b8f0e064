# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that stand on their own: they import nothing of nfslock and could be used without it."""
