# SPDX-License-Identifier: GPL-2.0-or-later
"""Monitor records for tests: lines as rpc.statd writes them."""

from hypothesis import strategies as st

names = st.text("abcxyz0189.:-", min_size=1, max_size=12).filter(
    lambda name: name[0] not in ".-" and not name.endswith(".new"))


def line(mon_name: str, my_name: str, cookie: int = 1) -> bytes:
    """One record line; the cookie stands for the kernel that asked."""
    return b"0100007f 000186b5 00000004 00000010 %032x %s %s\n" % (
        cookie, mon_name.encode(), my_name.encode())
